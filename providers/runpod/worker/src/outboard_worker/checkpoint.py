"""Everything needed to go on elsewhere (section 10)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from outboard_worker import PROTOCOL, tensors
from outboard_worker.failure import Failure, Json, corrupt
from outboard_worker.fields import REQUIRED, anything, flag, number, read, whole
from outboard_worker.tensors import Tensors

_ANY = number("a number", lambda _: True)
_SUMS = {"loss": (REQUIRED, _ANY), "correct": (REQUIRED, whole()), "rows": (REQUIRED, whole())}
_BEST = {"epoch": (REQUIRED, whole()), "value": (REQUIRED, _ANY), "stale": (REQUIRED, whole())}
_POSITION: dict[str, Any] = {
    "job": ("", anything),
    "seed": (REQUIRED, whole(0, 2**64 - 1)),
    "epoch": (REQUIRED, whole()),
    "step_in_epoch": (REQUIRED, whole()),
    "step": (REQUIRED, whole()),
    "sums": (REQUIRED, anything),
    "best": (None, anything),
    "stopped": (REQUIRED, flag),
    "numerics": (REQUIRED, anything),
}


@dataclass
class Position:
    """Where a training run stands."""

    job: str
    seed: int
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    sums: Json = field(default_factory=lambda: {"loss": 0.0, "correct": 0, "rows": 0})
    best: Json | None = None
    stopped: bool = False
    numerics: str = ""


@dataclass
class Checkpoint:
    """A position with weights (`model.NAME`), optimizer state and the weights of the best epoch."""

    position: Position
    tensors: Tensors

    def encode(self) -> bytes:
        """The file; the same checkpoint gives the same bytes."""
        facts = {"protocol": PROTOCOL, "kind": "checkpoint", **asdict(self.position)}
        return tensors.encode(self.tensors, facts)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Reads a file."""
        found, facts = tensors.read(path)
        if facts is None:
            raise corrupt("the file is no checkpoint: it has no `outboard` metadata")
        return cls.of(found, facts)

    @classmethod
    def of(cls, found: Tensors, facts: Json) -> Checkpoint:
        """The checkpoint of some tensors and facts."""
        tensors.check_version(facts)
        if facts.get("kind") != "checkpoint":
            raise corrupt(f"the file is a {facts.get('kind')}, not a checkpoint")
        known = {name: value for name, value in facts.items() if name in _POSITION}
        try:
            position = read(known, _POSITION, "the checkpoint")
            position["sums"] = read(position["sums"], _SUMS, "the checkpoint's sums")
            if position["best"] is not None:
                position["best"] = read(position["best"], _BEST, "the checkpoint's best")
        except Failure as error:
            raise corrupt(error.message) from error
        return cls(Position(**position), tensors.weights(found))
