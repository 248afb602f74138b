"""Sections 4, 6, 7 and 8: layers, initial weights and losses as PyTorch modules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reference import draws

Spec = dict[str, Any]


class Dropout(nn.Module):
    """Dropout with the protocol's mask; `step` is set before each batch."""

    def __init__(self, p: float, seed: int, layer: int) -> None:
        super().__init__()
        self.p, self.seed, self.layer, self.step = p, seed, layer, 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = draws.dropout_kept(self.seed, self.layer, self.step, self.p, x.numel())
        # Rounded to f32 first: the factor is part of the definition, in float64 too.
        scale = torch.tensor(1.0 / (1.0 - self.p), dtype=torch.float32).to(x.dtype)
        return torch.where(torch.from_numpy(kept).view(x.shape), x * scale, 0)


def layer(spec: Spec, index: int, inputs: int, seed: int) -> nn.Module:
    """One layer on a last dimension of `inputs`."""
    match spec["type"]:
        case "linear":
            return nn.Linear(inputs, spec["out"], bias=spec.get("bias", True))
        case "relu":
            return nn.ReLU()
        case "gelu":
            return nn.GELU(approximate=spec.get("approximate", "none"))
        case "silu":
            return nn.SiLU()
        case "tanh":
            return nn.Tanh()
        case "sigmoid":
            return nn.Sigmoid()
        case "softmax":
            return nn.Softmax(dim=-1)
        case "flatten":
            return nn.Flatten()
        case "dropout":
            return Dropout(spec.get("p", 0.5), seed, index)
        case other:
            raise ValueError(f"unknown layer {other}")


def build(layers: Sequence[Spec], sample: Sequence[int], seed: int) -> nn.Sequential:
    """The model for samples of a shape, with its initial weights."""
    shape, modules = list(sample), []
    for index, spec in enumerate(layers):
        modules.append(layer(spec, index, shape[-1], seed))
        if spec["type"] == "linear":
            shape[-1] = spec["out"]
        elif spec["type"] == "flatten":
            shape = [math.prod(shape)]
    model = nn.Sequential(*modules)
    for parameter, (name, tensor) in enumerate(model.named_parameters()):
        owner = model.get_submodule(name.rpartition(".")[0])
        assert isinstance(owner, nn.Linear)
        values = draws.initial_values(seed, parameter, tuple(tensor.shape), owner.in_features)
        tensor.data.copy_(torch.from_numpy(values))
    return model


def set_step(model: nn.Module, step: int) -> None:
    """Tells every dropout layer the optimizer step."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.step = step


def loss_function(spec: Spec | str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The batch loss."""
    if isinstance(spec, str):
        spec = {"type": spec}
    match spec["type"]:
        case "cross_entropy":
            weights = spec.get("class_weights")
            return nn.CrossEntropyLoss(
                weight=None if weights is None else torch.tensor(weights, dtype=dtype),
                label_smoothing=spec.get("label_smoothing", 0.0),
            )
        case "mse":
            return nn.MSELoss()
        case "l1":
            return nn.L1Loss()
        case "huber":
            return nn.HuberLoss(delta=spec.get("delta", 1.0))
        case "bce_with_logits":
            weight = torch.tensor(spec.get("positive_weight", 1.0), dtype=dtype)
            return nn.BCEWithLogitsLoss(pos_weight=weight)
        case other:
            raise ValueError(f"unknown loss {other}")
