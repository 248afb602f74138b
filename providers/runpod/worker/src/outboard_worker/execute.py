"""The operations: blobs in, events and an outcome out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from outboard_worker import environment, plain, plain_request, tensors
from outboard_worker.checkpoint import Checkpoint
from outboard_worker.dataset import Dataset
from outboard_worker.device import Device
from outboard_worker.failure import Failure, Json, same
from outboard_worker.hyperparameters import Train, loss
from outboard_worker.losses import Loss
from outboard_worker.network import Network
from outboard_worker.store import Store
from outboard_worker.tensors import Tensors
from outboard_worker.trainer import Trainer

Read = TypeVar("Read")

# Seconds between two progress events, and between two other signs of life.
PROGRESS_EVERY = 0.2
ALIVE_EVERY = 1.0


def cancelled() -> Failure:
    """The client stopped it."""
    return Failure("cancelled", "the task was cancelled")


class Task:
    """One task on a device. `say` hears of events, `None` being a mere sign of life."""

    def __init__(
        self,
        device: Device,
        store: Store,
        stop: threading.Event,
        say: Callable[[Json | None], None],
    ) -> None:
        self.device, self.store, self.stop, self.say = device, store, stop, say
        self.loading = 0.0
        self.last_sign = time.monotonic()

    def alive(self) -> None:
        """A sign of life, unless there was one just now."""
        if time.monotonic() - self.last_sign >= ALIVE_EVERY:
            self.last_sign = time.monotonic()
            self.say(None)

    def run(self, operation: Json) -> Json:
        """The outcome."""
        name = operation.get("operation")
        if self.stop.is_set() and name != "train":
            raise cancelled()
        match name:
            case "train":
                return self.train(operation)
            case "evaluate":
                return self.evaluate(operation)
            case "predict":
                return self.predict(operation)
            case "describe":
                return self.describe()
            case plain_request.OPERATION:
                return plain.train_epoch(operation, self)
        raise Failure("unsupported", f"the operation `{name}` is unknown to this worker")

    def verify(self, digest: str) -> Path:
        """The file of a blob. Where it isn't whole, whoever sends the task again sends it too."""
        try:
            return self.store.verify(digest)
        except Failure as failure:
            if failure.kind in ("corrupt_payload", "not_found"):
                self.store.remove(digest)
                failure.retry = same()
            raise

    def load(self, read: Callable[[Path], Read], digest: str) -> Read:
        """A blob, verified and read."""
        began = time.monotonic()
        try:
            return read(self.verify(digest))
        finally:
            self.loading += time.monotonic() - began
            self.say(None)

    def train(self, operation: Json) -> Json:
        start = self.load(Checkpoint.read, operation["checkpoint"])
        position = start.position
        if position.step > 0 and position.numerics != self.device.numerics:
            classes = f"{position.numerics}; here {self.device.numerics}"
            text = f"going on from a checkpoint of another numerics class ({classes}): "
            self.say({"event": "warning", "message": f"{text}same curve, but not the same bytes"})
        data = self.load(Dataset.read, operation["data"])
        held_out = operation.get("validation")
        validation = None if held_out is None else self.load(Dataset.read, held_out)
        train = Train.read(operation["train"])
        trainer = Trainer(operation["model"], train, data, validation, start, self.device)
        every = operation["checkpoint_every"]
        ended = self.epochs(trainer, operation["until_epoch"], every["secs"] + every["nanos"] / 1e9)
        return {"operation": "train", "checkpoint": self.keep(trainer), "ended": ended}

    def epochs(self, trainer: Trainer, until: int, every: float) -> str:
        """Trains until so many epochs are complete; why it ended."""
        position, saved = trainer.position, time.monotonic()
        meter, steps = saved, position.step
        while True:
            if position.stopped:
                return "early_stopping"
            if trainer.is_done() or position.epoch >= until:
                return "complete"
            if self.stop.is_set():
                return "cancelled"
            epoch = trainer.step(self.alive)
            now = time.monotonic()
            if epoch is not None:
                self.say({"event": "epoch", **epoch})
            elif now - meter >= PROGRESS_EVERY:
                self.say(progress(trainer, (position.step - steps) / (now - meter)))
                meter, steps = now, position.step
            if now - saved >= every:
                self.keep(trainer)
                saved = time.monotonic()

    def keep(self, trainer: Trainer) -> Json:
        """Stores a checkpoint and tells of it."""
        position = trainer.position
        digest = self.store.write(trainer.checkpoint().encode())
        where = {"epoch": position.epoch, "step_in_epoch": position.step_in_epoch}
        self.say({"event": "checkpoint", "digest": digest, **where})
        return {"digest": digest, **where}

    def weights(self, digest: str) -> Tensors:
        """The weights of a model file or a checkpoint."""
        found = tensors.weights(self.load(tensors.read, digest)[0])
        return tensors.section(found, "model") or found

    def evaluate(self, operation: Json) -> Json:
        data = self.load(Dataset.read, operation["data"])
        spec = loss(operation["loss"], "loss")
        network = Network(operation["model"], self.weights(operation["weights"]), self.device)
        data.check(network.layers, network.shape)
        data.check_loss(spec, network.model.outputs)
        judge = Loss(spec, device=self.device.device)
        value, correct = network.evaluate(data, judge, self.check)
        found: Json = {"operation": "evaluate", "loss": value}
        if spec["type"] in ("cross_entropy", "bce_with_logits"):
            assert data.y is not None
            found["accuracy"] = correct / data.y.numel()
        return {**found, "rows": data.rows}

    def predict(self, operation: Json) -> Json:
        data = self.load(Dataset.read, operation["data"])
        network = Network(operation["model"], self.weights(operation["weights"]), self.device)
        data.check(network.layers, network.shape)
        found = [outputs.cpu() for _, outputs in network.batches(data, self.check)]
        outputs = self.store.write(tensors.encode({"outputs": torch.cat(found)}))
        return {"operation": "predict", "outputs": outputs}

    def describe(self) -> Json:
        facts = environment.describe(str(self.store.folder))
        facts["program.numerics"] = self.device.numerics
        return {"operation": "describe", "facts": facts}

    def check(self) -> None:
        """A sign of life between two batches, unless the task was stopped."""
        self.alive()
        if self.stop.is_set():
            raise cancelled()


def progress(trainer: Trainer, steps_per_second: float) -> Json:
    """How far the epoch has come."""
    position, train = trainer.position, trainer.train
    left = train.epochs * trainer.steps - position.step
    return {
        "event": "progress",
        "epoch": position.epoch + 1,
        "step": position.step_in_epoch,
        "steps": trainer.steps,
        "loss": position.sums["loss"] / max(position.sums["rows"], 1),
        "samples_per_second": steps_per_second * train.batch_size,
        "eta_seconds": left / steps_per_second if steps_per_second else 0.0,
    }
