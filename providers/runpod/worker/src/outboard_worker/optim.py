"""Section 9: optimizers, schedules, clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from outboard_worker.specs import Spec


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


def state_names(spec: Spec) -> list[str]:
    """What an optimizer keeps of each parameter, as a checkpoint has it."""
    if spec["type"] == "sgd":
        return ["momentum_buffer"] if spec.get("momentum", 0.0) else []
    return ["exp_avg", "exp_avg_sq"]


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
