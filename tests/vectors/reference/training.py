"""A whole training run."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from outboard_worker import draws
from outboard_worker.fields import typed
from outboard_worker.losses import loss_function
from outboard_worker.model import build, set_step
from outboard_worker.optim import clip, learning_rate, optimizer, set_learning_rate
from outboard_worker.specs import Spec
from reference import features

Curve = dict[str, list[float]]


def correct(output: Tensor, y: Tensor) -> int:
    """How many rows have their largest output at the target class."""
    return int((output.argmax(dim=1) == y).sum())


def train(path: Path) -> Curve:
    """Runs a job file of a classifier and returns its values per epoch."""
    job = tomllib.loads(path.read_text())
    data, options = job["data"], job["train"]
    seed: int = options["seed"]

    table = features.read_csv(path.parent / data["train"], data["target"], data.get("features"))
    training, validation = features.split(seed, len(table.x), data["validation"])
    match data.get("normalize", "standard"):
        case "standard":
            x = torch.from_numpy(features.standardise(table.x, training))
        case "none":
            x = torch.from_numpy(table.x.astype(np.float32))
        case other:
            raise ValueError(f"normalize = {other} is not implemented")
    x = x.view(-1, *job["model"].get("input", [x.shape[1]]))
    y = torch.from_numpy(table.y)
    x_train, y_train, x_val, y_val = x[training], y[training], x[validation], y[validation]

    model = build(job["model"]["layers"], x.shape[1:], seed)
    loss_of = loss_function(typed(options["loss"]))
    parameters: list[Tensor] = list(model.parameters())
    optimise = optimizer(options["optimizer"], parameters)
    lr: float = options["optimizer"]["lr"]
    schedule: Spec = options.get("schedule", {"type": "constant"})
    warmup: int = options.get("warmup_steps", 0)
    epochs, size, rows = options["epochs"], options["batch_size"], len(training)
    steps = rows // size if options.get("drop_last", False) else math.ceil(rows / size)

    curve: Curve = {
        key: [] for key in ("loss", "accuracy", "validation_loss", "validation_accuracy")
    }
    for epoch in range(epochs):
        order = torch.from_numpy(draws.batch_order(seed, epoch, rows))
        loss_sum, hits, seen = 0.0, 0, 0
        model.train()
        for k in range(steps):
            step = epoch * steps + k
            batch = order[k * size : (k + 1) * size]
            set_step(model, step)
            optimise.zero_grad()
            output = model(x_train[batch])
            loss = loss_of(output, y_train[batch])
            loss.backward()
            clip(parameters, options.get("clip_value"), options.get("clip_norm"))
            now = learning_rate(schedule, lr, step, epochs, steps, warmup)
            set_learning_rate(optimise, now)
            optimise.step()
            loss_sum += loss.item() * len(batch)
            hits += correct(output, y_train[batch])
            seen += len(batch)
        model.eval()
        with torch.no_grad():
            output = model(x_val)
            curve["validation_loss"].append(loss_of(output, y_val).item())
        curve["validation_accuracy"].append(correct(output, y_val) / len(y_val))
        curve["loss"].append(loss_sum / seen)
        curve["accuracy"].append(hits / seen)
    return curve
