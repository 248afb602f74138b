"""Sections 4 and 6: models as PyTorch modules, and their initial weights."""

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

from outboard_worker import draws, layers
from outboard_worker.failure import invalid
from outboard_worker.specs import MAX_ELEMENTS, Place, Shape, Spec, check, sides

# Added to the number of a dropout for the next one inside of the same layer.
NEXT_DROPOUT = 1 << 16

KEEP_POSITIONS = {
    *("linear", "relu", "gelu", "silu", "tanh", "sigmoid", "softmax", "dropout", "layer_norm"),
    *("positional_embedding", "residual", "transformer_encoder", "lstm", "gru"),
}


@dataclass
class Builder:
    """Makes the modules of a list of layers."""

    seed: int
    shape: Shape
    padded: list[layers.Padded] = field(default_factory=list)
    # Numbers that a row becomes, layer by layer.
    width: int = 0
    # Whether positions may be padding at this point.
    has_padding: bool = False
    # Number of the next dropout inside of a layer.
    inner: int = 0

    def list(self, specs: Any, name: str = "", key: str = "model.layers") -> list[nn.Module]:
        """The modules of layers that follow each other, at the top or inside of another."""
        if not isinstance(specs, list) or not specs:
            where = f"layer {name[:-6]}" if name else "the model"
            raise invalid(f"{where} has no layer", key, 'write `layers = ["relu"]`, say')
        modules = []
        for index, given in enumerate(specs):
            place = Place({}, self.shape, f"{name}{index}", f"{key}[{index}]")
            spec = place.spec = check(given, place.name, place.key)
            if not name:
                self.inner = index + NEXT_DROPOUT
            before = self.has_padding
            after = place.output()
            if math.prod(after) > MAX_ELEMENTS:
                raise place.wrong(f"a row of shape {list(after)} after it is too large", "check it")
            module = self.layer(place, None if name else index)
            for parameter in module.parameters():
                if parameter.numel() > MAX_ELEMENTS:
                    what = f"a weight of {list(parameter.shape)} is too large"
                    raise place.wrong(what, "at most 2^32 weights fit in one tensor")
            modules.append(module)
            if before and isinstance(module, layers.Padded):
                self.padded.append(module)
            if spec["type"] == "embedding":
                self.has_padding = spec["padding_index"] is not None and len(self.shape) == 1
            else:
                self.has_padding = before and spec["type"] in KEEP_POSITIONS
            self.shape = after
            self.width += math.prod(after)
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
            stride=sides(spec["stride"]),
            padding=sides(spec["padding"]),
            dilation=sides(spec["dilation"]),
            groups=spec["groups"],
            bias=spec["bias"],
        )

    def pool(self, kind: Any, spec: Spec) -> nn.Module:
        module: nn.Module = kind(
            sides(spec["kernel"]), sides(spec["stride"]), sides(spec["padding"])
        )
        return module

    def norm(self, kind: type[nn.BatchNorm1d | nn.BatchNorm2d], spec: Spec) -> nn.Module:
        return kind(self.shape[0], eps=spec["eps"], momentum=spec["momentum"])

    def residual(self, place: Place) -> nn.Module:
        body = self.list(place.spec["layers"], f"{place.name}.body.", f"{place.key}.layers")
        if self.shape != place.shape:
            what = (
                f"its layers turn {list(place.shape)} into {list(self.shape)}, but both are added"
            )
            raise place.wrong(what, f"make its last layer give {list(place.shape)}")
        return layers.Residual(nn.Sequential(*body))

    def layer(self, place: Place, index: int | None) -> nn.Module:
        """One layer; `index` is its place in the model, if it isn't inside of another."""
        spec = place.spec
        features = self.shape[-1] if self.shape else 1
        match spec["type"]:
            case "linear":
                return nn.Linear(features, spec["out"], bias=spec["bias"])
            case "relu":
                return nn.ReLU()
            case "gelu":
                return nn.GELU(approximate=spec["approximate"])
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
                return layers.Dropout(spec["p"], self.seed, number)
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
                return nn.LayerNorm(features, eps=spec["eps"])
            case "embedding":
                padding = spec["padding_index"]
                return layers.Embedding(spec["tokens"], spec["out"], padding_idx=padding)
            case "positional_embedding":
                return layers.PositionalEmbedding(*self.shape)
            case "residual":
                return self.residual(place)
            case "transformer_encoder":
                return layers.TransformerEncoder(
                    features,
                    spec["heads"],
                    spec["ff"],
                    spec["dropout"],
                    spec["activation"],
                    spec["norm_first"],
                    self.seed,
                    self.next_dropout(4),
                )
            case "lstm":
                return layers.Lstm(features, spec["out"], bias=spec["bias"], batch_first=True)
            case "gru":
                return layers.Gru(features, spec["out"], bias=spec["bias"], batch_first=True)
            case "mean_pool":
                return layers.MeanPool()
            case "last_pool":
                return layers.LastPool()
            case other:
                raise ValueError(f"the layer {other} has no module")


def modules(specs: Any, sample: Sequence[int], seed: int) -> layers.Model:
    """The model for samples of a shape, with PyTorch's own initial weights."""
    builder = Builder(seed, tuple(sample))
    model = layers.Model(builder.list(specs), builder.padded)
    model.outputs, model.width = math.prod(builder.shape), builder.width
    return model


def build(specs: Any, sample: Sequence[int], seed: int) -> layers.Model:
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
