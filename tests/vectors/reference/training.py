"""Sections 5, 8 and 9: schedules, optimizers, clipping, and a whole training run."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reference import draws, features
from reference.model import Spec, build, loss_function, set_step

Curve = dict[str, list[float]]


def learning_rate(
    schedule: Spec, lr: float, step: int, epochs: int, steps_per_epoch: int, warmup_steps: int
) -> float:
    """The learning rate of one step."""
    if step < warmup_steps:
        return lr * ((step + 1) / (warmup_steps + 1))
    match schedule["type"]:
        case "constant":
            factor = 1.0
        case "step":
            epoch = step // steps_per_epoch
            factor = schedule.get("gamma", 0.1) ** (epoch // schedule["every"])
        case "cosine":
            least = schedule.get("min_lr", 0.0) / lr
            done = (step - warmup_steps) / (epochs * steps_per_epoch - warmup_steps)
            factor = least + (1 - least) * (1 + math.cos(math.pi * done)) / 2
        case other:
            raise ValueError(f"unknown schedule {other}")
    return lr * factor


def optimizer(spec: Spec, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """PyTorch's optimizer of that name; the options have PyTorch's names."""
    options: dict[str, Any] = {key: value for key, value in spec.items() if key != "type"}
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    return kinds[spec["type"]](parameters, **options)


def clip(parameters: list[Tensor], value: float | None, norm: float | None) -> None:
    """Clips the gradients, by value first."""
    if value is not None:
        nn.utils.clip_grad_value_(parameters, value)
    if norm is not None:
        nn.utils.clip_grad_norm_(parameters, norm)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr


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
    loss_of = loss_function(options["loss"])
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
