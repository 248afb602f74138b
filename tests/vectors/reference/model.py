"""Sections 4, 6 and 8: layers, initial weights and losses as PyTorch modules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from reference import draws, layers

Spec = dict[str, Any]


# Added to the number of a dropout for the next one inside of the same layer.
NEXT_DROPOUT = 1 << 16

KEEP_POSITIONS = {
    *("linear", "relu", "gelu", "silu", "tanh", "sigmoid", "softmax", "dropout", "layer_norm"),
    *("positional_embedding", "residual", "transformer_encoder", "lstm", "gru"),
}


def sides(value: Any) -> Any:
    """A size as PyTorch takes it."""
    return tuple(value) if isinstance(value, list) else value


@dataclass
class Builder:
    """Makes the modules of a list of layers."""

    seed: int
    shape: tuple[int, ...]
    padded: list[layers.Padded] = field(default_factory=list)
    # Whether positions may be padding at this point.
    has_padding: bool = False
    # Number of the next dropout inside of a layer.
    inner: int = 0

    def list(self, specs: Sequence[Spec | str], is_inner: bool) -> list[nn.Module]:
        """The modules of layers that follow each other."""
        modules = []
        for index, spec in enumerate(specs):
            if isinstance(spec, str):
                spec = {"type": spec}
            if not is_inner:
                self.inner = index + NEXT_DROPOUT
            before = self.has_padding
            module = self.layer(spec, None if is_inner else index)
            modules.append(module)
            if before and isinstance(module, layers.Padded):
                self.padded.append(module)
            if spec["type"] == "embedding":
                self.has_padding = "padding_index" in spec and len(self.shape) == 1
            else:
                self.has_padding = before and spec["type"] in KEEP_POSITIONS
            with torch.no_grad():
                self.shape = tuple(module.eval()(torch.zeros(2, *self.shape)).shape[1:])
        return modules

    def next_dropout(self, count: int) -> int:
        """The number of the first of some dropouts inside of a layer."""
        number = self.inner
        self.inner += count * NEXT_DROPOUT
        return number

    def conv(self, kind: type[nn.Conv1d | nn.Conv2d], spec: Spec) -> nn.Module:
        return kind(
            self.shape[0],
            spec["out"],
            sides(spec["kernel"]),
            stride=sides(spec.get("stride", 1)),
            padding=sides(spec.get("padding", 0)),
            dilation=sides(spec.get("dilation", 1)),
            groups=spec.get("groups", 1),
            bias=spec.get("bias", True),
        )

    def pool(self, kind: Any, spec: Spec) -> nn.Module:
        module: nn.Module = kind(
            sides(spec["kernel"]), sides(spec.get("stride")), sides(spec.get("padding", 0))
        )
        return module

    def norm(self, kind: type[nn.BatchNorm1d | nn.BatchNorm2d], spec: Spec) -> nn.Module:
        return kind(self.shape[0], eps=spec.get("eps", 1e-5), momentum=spec.get("momentum", 0.1))

    def layer(self, spec: Spec, index: int | None) -> nn.Module:
        """One layer; `index` is its place in the model, if it isn't inside of another."""
        features = self.shape[-1] if self.shape else 1
        match spec["type"]:
            case "linear":
                return nn.Linear(features, spec["out"], bias=spec.get("bias", True))
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
                number = self.next_dropout(1) if index is None else index
                return layers.Dropout(spec.get("p", 0.5), self.seed, number)
            case "conv1d":
                return self.conv(nn.Conv1d, spec)
            case "conv2d":
                return self.conv(nn.Conv2d, spec)
            case "max_pool1d":
                return self.pool(nn.MaxPool1d, spec)
            case "max_pool2d":
                return self.pool(nn.MaxPool2d, spec)
            case "avg_pool1d":
                return self.pool(nn.AvgPool1d, spec)
            case "avg_pool2d":
                return self.pool(nn.AvgPool2d, spec)
            case "adaptive_avg_pool1d":
                return nn.AdaptiveAvgPool1d(spec["out"])
            case "adaptive_avg_pool2d":
                return nn.AdaptiveAvgPool2d(sides(spec["out"]))
            case "batch_norm1d":
                return self.norm(nn.BatchNorm1d, spec)
            case "batch_norm2d":
                return self.norm(nn.BatchNorm2d, spec)
            case "layer_norm":
                return nn.LayerNorm(features, eps=spec.get("eps", 1e-5))
            case "embedding":
                padding = spec.get("padding_index")
                return layers.Embedding(spec["tokens"], spec["out"], padding_idx=padding)
            case "positional_embedding":
                return layers.PositionalEmbedding(*self.shape)
            case "residual":
                return layers.Residual(nn.Sequential(*self.list(spec["layers"], True)))
            case "transformer_encoder":
                return layers.TransformerEncoder(
                    features,
                    spec["heads"],
                    spec.get("ff", 2048),
                    spec.get("dropout", 0.1),
                    spec.get("activation", "relu"),
                    spec.get("norm_first", False),
                    self.seed,
                    self.next_dropout(4),
                )
            case "lstm":
                bias = spec.get("bias", True)
                return layers.Lstm(features, spec["out"], bias=bias, batch_first=True)
            case "gru":
                bias = spec.get("bias", True)
                return layers.Gru(features, spec["out"], bias=bias, batch_first=True)
            case "mean_pool":
                return layers.MeanPool()
            case "last_pool":
                return layers.LastPool()
            case other:
                raise ValueError(f"unknown layer {other}")


def modules(specs: Sequence[Spec | str], sample: Sequence[int], seed: int) -> layers.Model:
    """The model for samples of a shape, with PyTorch's own initial weights."""
    builder = Builder(seed, tuple(sample))
    return layers.Model(builder.list(specs, False), builder.padded)


def build(specs: Sequence[Spec | str], sample: Sequence[int], seed: int) -> layers.Model:
    """The model for samples of a shape, with the protocol's initial weights."""
    model = modules(specs, sample, seed)
    for number, (name, tensor) in enumerate(model.named_parameters()):
        path, _, leaf = name.rpartition(".")
        values = initial(seed, number, model.get_submodule(path), leaf, tuple(tensor.shape))
        tensor.data.copy_(torch.from_numpy(values))
    return model


def initial(
    seed: int, number: int, owner: nn.Module, name: str, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """The values of a parameter of a module."""
    constant = {"weight": 1.0, "bias": 0.0}
    match owner:
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.LayerNorm():
            return np.full(shape, constant[name], dtype=np.float32)
        case nn.Embedding():
            return draws.normal_values(seed, number, shape, owner.padding_idx)
        case layers.PositionalEmbedding():
            return draws.normal_values(seed, number, shape)
        case nn.MultiheadAttention() if name == "in_proj_bias":
            return np.zeros(shape, dtype=np.float32)
        case nn.MultiheadAttention():
            return draws.uniform_values(seed, number, shape, math.sqrt(6 / sum(shape)))
        case NonDynamicallyQuantizableLinear() if name == "bias":
            return np.zeros(shape, dtype=np.float32)
        case nn.RNNBase():
            return draws.initial_values(seed, number, shape, owner.hidden_size)
        case nn.Linear() | nn.Conv1d() | nn.Conv2d():
            return draws.initial_values(seed, number, shape, owner.weight[0].numel())
        case other:
            raise ValueError(f"{other} has no initial values")


def set_step(model: nn.Module, step: int) -> None:
    """Tells every dropout layer the optimizer step."""
    for module in model.modules():
        if isinstance(module, layers.Dropout):
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


def weighted_loss(spec: Spec, output: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
    """The batch loss of rows that count by their weights."""
    of_batch = loss_function(spec, output.dtype)
    if weights is None:
        value: Tensor = of_batch(output, y)
        return value
    of_batch.reduction = "none"
    losses: Tensor = of_batch(output, y)
    weights = weights.to(output.dtype)
    if spec["type"] != "cross_entropy":
        return (losses.mean(dim=1) * weights).sum() / weights.sum()
    by_class = torch.tensor(spec.get("class_weights", [1.0] * output.shape[1]), dtype=output.dtype)
    return (losses * weights).sum() / (by_class[y] * weights).sum()
