"""optimizers/: where PyTorch's optimizers end in float64 when they are fed given gradients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cases.files import write_case
from outboard_worker.optim import clip, learning_rate, optimizer, set_learning_rate
from outboard_worker.specs import Spec

STEPS = 20
SHAPES = {"a.weight": (5, 7), "b.bias": (9,)}


def case(spec: Spec, **options: Any) -> dict[str, Any]:
    constant = [spec["lr"]] * STEPS
    return {"optimizer": spec, "clip_norm": None, "clip_value": None, "lr": constant} | options


SGD: Spec = {"type": "sgd", "lr": 0.1}
MOMENTUM: Spec = SGD | {"momentum": 0.9}
ADAM: Spec = {"type": "adam", "lr": 1e-2}
CHANGING = [
    learning_rate({"type": "cosine", "min_lr": 1e-4}, 1e-2, t, 4, 5, 3) for t in range(STEPS)
]

CASES = {
    "sgd": case(SGD),
    "sgd_momentum": case(MOMENTUM),
    "sgd_dampening": case(MOMENTUM | {"dampening": 0.3}),
    "sgd_nesterov": case(MOMENTUM | {"nesterov": True}),
    "sgd_weight_decay": case(MOMENTUM | {"weight_decay": 0.05}),
    "adam": case(ADAM),
    "adam_options": case(ADAM | {"betas": [0.8, 0.95], "eps": 1e-4, "weight_decay": 0.05}),
    "adamw": case({"type": "adamw", "lr": 1e-2, "weight_decay": 0.05}),
    "adamw_default": case({"type": "adamw", "lr": 1e-2}),
    "adam_clip_norm": case(ADAM, clip_norm=1.0),
    "sgd_clip_value": case(SGD, clip_value=0.25),
    "sgd_clip_both": case(MOMENTUM, clip_value=0.25, clip_norm=1.0),
    "adam_changing_lr": case(ADAM, lr=CHANGING),
}


def gradients(shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
    """Gradients of changing size, so that only some are clipped; one element never has any."""
    values = random.standard_normal((STEPS, math.prod(shape)))
    values *= np.geomspace(2.0, 0.02, STEPS)[:, None]
    values[:, -1] = 0.0
    return torch.from_numpy(values.astype(np.float32).reshape(STEPS, *shape))


def generate(out: Path) -> None:
    """Writes every optimizer case."""
    for number, (name, description) in enumerate(CASES.items()):
        random = np.random.default_rng([11, number])
        start = {
            key: torch.from_numpy(random.standard_normal(shape).astype(np.float32))
            for key, shape in SHAPES.items()
        }
        grads = {key: gradients(shape, random) for key, shape in SHAPES.items()}
        end = {key: tensor.double().requires_grad_() for key, tensor in start.items()}
        parameters: list[Tensor] = list(end.values())
        optimise = optimizer(description["optimizer"], parameters)
        for step, lr in enumerate(description["lr"]):
            for key, tensor in end.items():
                tensor.grad = grads[key][step].double()
            clip(parameters, description["clip_value"], description["clip_norm"])
            set_learning_rate(optimise, lr)
            optimise.step()
        tensors = {f"start.{key}": tensor.numpy() for key, tensor in start.items()}
        tensors |= {f"grads.{key}": tensor.numpy() for key, tensor in grads.items()}
        tensors |= {f"end64.{key}": tensor.detach().numpy() for key, tensor in end.items()}
        write_case(out / "optimizers" / f"{name}.safetensors", description, tensors)
