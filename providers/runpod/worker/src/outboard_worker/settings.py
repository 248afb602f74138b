"""What environment variables say; nothing here needs PyTorch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from outboard_worker.failure import Failure
from outboard_worker.fields import unknown

PREFIX = "OUTBOARD_WORKER_"

_KNOWN = {
    "STORE": ("a folder", r".+"),
    "CACHE_BYTES": ("a number of bytes", r"[0-9]{1,18}"),
    "DEVICE": ("auto, cpu, cuda or cuda:N", r"auto|cpu|cuda(:[0-9]+)?"),
    "PRECISION": ("float32 or bf16", r"float32|bf16"),
    "TF32": ("0 or 1", r"[01]"),
    "THREADS": ("a number of threads, 0 for all cores", r"[0-9]{1,4}"),
}


@dataclass(frozen=True)
class Settings:
    """A worker's settings."""

    store: Path = Path("/tmp/outboard-worker")
    cache_bytes: int = 20 << 30
    device: str = "auto"
    bf16: bool = False
    tf32: bool = False
    threads: int = 0

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """The settings, each variable checked; one that isn't known is refused."""
        given = {k.removeprefix(PREFIX): v for k, v in environment.items() if k.startswith(PREFIX)}
        for name, value in given.items():
            if name not in _KNOWN:
                names = {PREFIX + known: None for known in _KNOWN}
                failure = unknown(f"the variable {PREFIX}{name}", PREFIX + name, names)
                raise Failure("invalid_config", failure.message, hint=failure.hint)
            right, pattern = _KNOWN[name]
            if not re.fullmatch(pattern, value):
                text = f"{PREFIX}{name} is `{value}`, but must be {right}"
                raise Failure("invalid_config", text, hint=f"set it to {right}, or unset it")
        usual = cls()
        return cls(
            store=Path(given.get("STORE", usual.store)),
            cache_bytes=int(given.get("CACHE_BYTES", usual.cache_bytes)),
            device=given.get("DEVICE", usual.device),
            bf16=given.get("PRECISION") == "bf16",
            tf32=given.get("TF32") == "1",
            threads=int(given.get("THREADS", usual.threads)),
        )
