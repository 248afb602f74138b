"""One call, one reply: epochs of training without envelope and store."""

from __future__ import annotations

import base64
import binascii
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outboard_worker import PROTOCOL, model, tensors
from outboard_worker.checkpoint import Checkpoint, Position
from outboard_worker.dataset import Dataset
from outboard_worker.failure import Failure, Json, corrupt, invalid
from outboard_worker.fields import REQUIRED, anything, read, whole
from outboard_worker.hyperparameters import Train
from outboard_worker.plain_request import OPERATION
from outboard_worker.tensors import Tensors
from outboard_worker.trainer import Trainer

if TYPE_CHECKING:
    from outboard_worker.execute import Task

_KEYS = {
    "operation": (OPERATION, anything),
    "model_config": (REQUIRED, anything),
    "training_data": (REQUIRED, anything),
    "hyperparameters": (REQUIRED, anything),
    "epochs": (1, whole(1, 2**31)),
}
_MODEL = {"layers": (REQUIRED, anything), "input": (None, anything)}
_DATA = {
    "x": (REQUIRED, anything),
    "y": (REQUIRED, anything),
    "weights": (None, anything),
    "validation": (None, anything),
}


def numbers(value: Any, dtype: torch.dtype, key: str) -> Tensor:
    """Lists in lists as a tensor."""
    try:
        found = torch.tensor(value, dtype=torch.float64)
    except (ValueError, TypeError, RuntimeError) as error:
        text = f"`{key}` is no list of equally long rows of numbers: {error}"
        raise invalid(text, key, "give one list of numbers for each row") from error
    if not found.isfinite().all():
        raise invalid(f"`{key}` has a number that is not finite", key, "take it out, or replace it")
    if dtype == torch.int64 and (found != found.round()).any():
        raise invalid(f"`{key}` has a class that is no whole number", key, "number classes from 0")
    return found.to(dtype)


def dataset(value: Any, loss: str, task: Task, key: str = "training_data") -> Dataset:
    """Rows as lists, or as the base64 text of a safetensors file with `x` and `y`."""
    if isinstance(value, str):
        try:
            data = base64.b64decode(value, validate=True)
        except binascii.Error as error:
            text = f"`{key}` is a text, but not base64: {error}"
            raise invalid(text, key, "encode a safetensors file with `x` and `y`") from error
        return task.load(Dataset.read, task.store.write(data))
    found = read(value, _DATA, f"`{key}`", key)
    is_class = loss == "cross_entropy"
    x = numbers(found["x"], torch.float32, f"{key}.x")
    y = numbers(found["y"], torch.int64 if is_class else torch.float32, f"{key}.y")
    if x.dim() < 2:
        text = f"`{key}.x` has {x.dim()} dimension, but must have rows"
        raise invalid(text, f"{key}.x", "give one list of numbers for each row")
    parts: Tensors = {"x": x, "y": y if is_class or y.dim() > 1 else y.unsqueeze(1)}
    if found["weights"] is not None:
        parts["weights"] = numbers(found["weights"], torch.float32, f"{key}.weights")
    try:
        return Dataset.of(parts)
    except Failure as error:
        raise invalid(error.message, key, "give as many targets as rows") from error


def start_of(found: tuple[Tensors, Json | None], seed: int, steps: int) -> tuple[Checkpoint, bool]:
    """Where to go on from, and whether the optimizer begins anew."""
    given, facts = found
    if facts is not None and facts.get("kind") == "checkpoint":
        return Checkpoint.of(given, facts), False
    # What we hand back says how far it is: the order of rows and the dropout go on.
    epoch = (facts or {}).get("epoch", 0)
    if whole(0, 2**31)(epoch):
        raise corrupt("the metadata of `model_state` name no epoch")
    state = {f"model.{name}": t for name, t in tensors.weights(given).items()}
    return Checkpoint(Position(OPERATION, seed, epoch=epoch, step=epoch * steps), state), True


def train_epoch(operation: Json, task: Task) -> Json:
    """Trains for some epochs; loss, accuracy, and the weights under PyTorch's names."""

    def parse(path: Path) -> Any:
        return json.loads(path.read_bytes())

    asked = read(task.load(parse, operation["request"]), _KEYS, "the request")
    hyperparameters = asked["hyperparameters"]
    if not isinstance(hyperparameters, dict):
        raise invalid("`hyperparameters` is no table", "hyperparameters", 'write {"loss": ..}')
    table = {"epochs": asked["epochs"], **hyperparameters}
    train = Train.read(table)
    data = dataset(asked["training_data"], train.loss["type"], task)
    held_out = None
    if isinstance(asked["training_data"], dict) and asked["training_data"].get("validation"):
        key = "training_data.validation"
        held_out = dataset(asked["training_data"]["validation"], train.loss["type"], task, key)
    config = read(asked["model_config"], _MODEL, "`model_config`", "model_config")
    if config["input"] is None:
        config["input"] = list(data.shape)
    for rows in filter(None, (data, held_out)):
        if isinstance(config["input"], list) and math.prod(config["input"]) == math.prod(
            rows.shape
        ):
            rows.x = rows.x.reshape(rows.rows, *config["input"])
    begins = True
    if operation["state"] is None:
        weights = model.build(config["layers"], config["input"], train.seed).state_dict()
        start = Checkpoint(
            Position(OPERATION, train.seed), {f"model.{name}": t for name, t in weights.items()}
        )
    else:
        given = task.load(tensors.read, operation["state"])
        start, begins = start_of(given, train.seed, train.check_steps(data.rows))
    until = start.position.epoch + asked["epochs"]
    if "epochs" not in hyperparameters:
        train = Train.read({**hyperparameters, "epochs": until})
    trainer = Trainer(config, train, data, held_out, start, task.device, begins)
    epochs: list[Json] = []
    say = task.say

    def listen(event: Json | None) -> None:
        if event is not None and event["event"] == "epoch":
            epochs.append({name: value for name, value in event.items() if name != "event"})
        say(event)

    task.say = listen
    ended = task.epochs(trainer, until, math.inf)
    if not epochs:
        raise Failure("cancelled", "the task was cancelled before an epoch was complete")
    facts = {"protocol": PROTOCOL, "kind": "weights", "epoch": trainer.position.epoch}
    state = tensors.encode(trainer.network.weights(), facts)
    outcome = {
        "operation": OPERATION,
        "loss": epochs[-1]["loss"],
        "model_state": task.store.write(state),
        "metrics": {
            **epochs[-1],
            "epochs": epochs,
            "ended": ended,
            "numerics": task.device.numerics,
        },
    }
    if "accuracy" in epochs[-1]:
        outcome["accuracy"] = epochs[-1]["accuracy"]
    if operation["resumable"]:
        outcome["training_state"] = task.store.write(trainer.checkpoint().encode())
    return outcome
