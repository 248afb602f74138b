"""A small job, its data and its tasks."""

from __future__ import annotations

import time
from typing import Any

import torch

from outboard_worker import tensors
from outboard_worker.checkpoint import Checkpoint, Position
from outboard_worker.envelope import Envelope
from outboard_worker.failure import duration
from outboard_worker.model import build
from outboard_worker.store import Store

LAYERS: list[Any] = [
    {"type": "linear", "out": 16},
    {"type": "relu"},
    {"type": "dropout", "p": 0.2},
    {"type": "linear", "out": 3},
]
TRAIN = {
    "loss": "cross_entropy",
    "optimizer": {"type": "adam", "lr": 1e-2},
    "batch_size": 16,
    "seed": 7,
}
ENDLESS = 300_000


class Job:
    """Three clusters of rows, told apart by a small model; its blobs are in a store."""

    def __init__(self, store: Store, epochs: int = 4, layers: Any = None, **train: Any) -> None:
        self.model = {"layers": LAYERS if layers is None else layers, "input": [8]}
        self.train = {**TRAIN, "epochs": epochs, **train}
        random = torch.Generator().manual_seed(3)
        centres = torch.rand(3, 8, generator=random)
        y = torch.arange(200) % 3
        x = centres[y] + torch.rand(200, 8, generator=random)
        self.tensors = {"x": x, "y": y}
        self.data = store.write(tensors.encode(self.tensors))
        held_out = {"x": x[:60] + 0.01, "y": y[:60]}
        self.validation = store.write(tensors.encode(held_out))
        state = build(self.model["layers"], [8], self.train["seed"]).state_dict()
        found = {f"model.{name}": tensor for name, tensor in state.items()}
        start = Checkpoint(Position("job", self.train["seed"]), found)
        self.start = store.write(start.encode())

    def training(
        self, checkpoint: str | None = None, until: int | None = None, every: float = 3600
    ) -> dict[str, Any]:
        """Training from a checkpoint, or from the start."""
        return {
            "operation": "train",
            "model": self.model,
            "train": self.train,
            "data": self.data,
            "validation": self.validation,
            "checkpoint": checkpoint or self.start,
            "until_epoch": until or self.train["epochs"],
            "checkpoint_every": duration(every),
        }

    def evaluation(self, weights: str) -> dict[str, Any]:
        parts = {"model": self.model, "weights": weights, "data": self.validation}
        return {"operation": "evaluate", **parts, "loss": {"type": "cross_entropy"}}

    def prediction(self, weights: str) -> dict[str, Any]:
        parts = {"model": self.model, "weights": weights, "data": self.validation}
        return {"operation": "predict", **parts}


def message(key: str, operation: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An envelope, as a client sends it."""
    task = {"key": key, "job": "job", "attempt": f"{key}#1", "operation": operation}
    task |= {name: more.pop(name) for name in ("attempt", "limit") if name in more}
    not_after = int((time.time() + 600) * 1000)
    return {"protocol": 1, "task": task, "not_after": not_after, "patience_seconds": 60.0, **more}


def envelope(key: str, operation: dict[str, Any], **more: Any) -> Envelope:
    """An envelope, read."""
    return Envelope.read(message(key, operation, **more))


def curve(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The epochs among events, without what depends on the time they took."""
    timed = ("event", "seconds", "samples_per_second")
    epochs = [event for event in events if event["event"] == "epoch"]
    return [{k: v for k, v in event.items() if k not in timed} for event in epochs]
