"""Named tensors as safetensors files, never pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from outboard_worker import PROTOCOL
from outboard_worker.failure import Failure, Json, corrupt

Tensors = dict[str, Tensor]

# The metadata key of our facts.
KEY = "outboard"


def read(path: Path) -> tuple[Tensors, Json | None]:
    """The tensors of a file and our facts in it; sizes are checked against its bytes first."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            text = (file.metadata() or {}).get(KEY)
    except (SafetensorError, ValueError, TypeError) as error:
        raise corrupt(f"not a whole safetensors file: {error}") from error
    if text is None:
        return tensors, None
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise corrupt(f"its `{KEY}` metadata is wrong: {error}") from error
    if not isinstance(facts, dict):
        raise corrupt(f"its `{KEY}` metadata is no object")
    return tensors, facts


def encode(tensors: Tensors, facts: Json | None = None) -> bytes:
    """The bytes of a file; the same tensors and facts give the same."""
    packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = None if facts is None else json.dumps(facts, separators=(",", ":"), allow_nan=False)
    return save(packed, None if text is None else {KEY: text})


def weights(tensors: Tensors) -> Tensors:
    """Refuses all but 32-bit floats, and counts of batches."""
    for name, tensor in tensors.items():
        wanted = torch.int64 if name.endswith(".num_batches_tracked") else torch.float32
        if tensor.dtype not in (wanted, torch.float32):
            raise corrupt(f"tensor `{name}` is {tensor.dtype}, but must be {wanted}")
    return tensors


def section(tensors: Tensors, prefix: str) -> Tensors:
    """Those whose names begin with `prefix` and a dot, under the rest of their names."""
    start = f"{prefix}."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def check_version(facts: dict[str, Any], what: str = "file") -> None:
    """Refuses another version, naming both."""
    found = facts.get("protocol")
    if isinstance(found, bool) or not isinstance(found, int):
        raise corrupt(f"a {what} does not name its protocol version")
    if found != PROTOCOL:
        text = f"the {what} is of protocol version {found}, but this worker speaks {PROTOCOL}"
        raise Failure("unsupported", text, hint="use the version of outboard that wrote it")
