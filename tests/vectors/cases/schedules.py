"""schedules.json: the learning rate of every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.optim import lr_scheduler

from cases.files import write_records
from outboard_worker.optim import learning_rate
from outboard_worker.specs import Spec

STEP: Spec = {"type": "step", "every": 2, "gamma": 0.5}
COSINE: Spec = {"type": "cosine", "min_lr": 1e-5}

# schedule, lr, epochs, steps per epoch, warm-up steps
CASES: list[tuple[Spec, float, int, int, int]] = [
    ({"type": "constant"}, 1e-3, 2, 5, 0),
    ({"type": "constant"}, 1e-3, 2, 5, 4),
    ({"type": "step", "every": 2}, 0.05, 5, 3, 0),
    (STEP, 0.1, 7, 4, 0),
    (STEP, 0.1, 7, 4, 9),
    ({"type": "cosine"}, 1e-3, 4, 6, 0),
    (COSINE, 2e-3, 5, 7, 0),
    (COSINE, 2e-3, 5, 7, 6),
    (COSINE, 2e-3, 1, 3, 5),
]


def pytorch(schedule: Spec, lr: float, epochs: int, steps: int) -> list[float]:
    """The values of PyTorch's scheduler, moved per epoch for StepLR, else per step."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    scheduler: lr_scheduler.LRScheduler
    match schedule["type"]:
        case "step":
            gamma = schedule.get("gamma", 0.1)
            scheduler = lr_scheduler.StepLR(optimizer, schedule["every"], gamma)
        case "cosine":
            least = schedule.get("min_lr", 0.0)
            scheduler = lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps, least)
        case _:
            scheduler = lr_scheduler.ConstantLR(optimizer, 1.0)
    values = []
    for step in range(epochs * steps):
        values.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        if schedule["type"] != "step" or (step + 1) % steps == 0:
            scheduler.step()
    return values


def record(schedule: Spec, lr: float, epochs: int, steps: int, warmup: int) -> dict[str, Any]:
    values = [learning_rate(schedule, lr, t, epochs, steps, warmup) for t in range(epochs * steps)]
    if warmup == 0:
        theirs = pytorch(schedule, lr, epochs, steps)
        # CosineAnnealingLR multiplies its way from step to step and gathers rounding errors.
        if any(abs(a - b) > 1e-9 * lr for a, b in zip(values, theirs, strict=True)):
            raise AssertionError(f"{schedule} differs from PyTorch: {values} and {theirs}")
    return {
        "schedule": schedule,
        "lr": lr,
        "epochs": epochs,
        "steps_per_epoch": steps,
        "warmup_steps": warmup,
        "values": values,
    }


def generate(out: Path) -> None:
    """Writes schedules.json."""
    write_records(out / "schedules.json", [record(*case) for case in CASES])
