"""Rows and targets (section 10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from outboard_worker import tensors
from outboard_worker.failure import corrupt, invalid
from outboard_worker.specs import Shape, Spec


@dataclass
class Dataset:
    """Rows of features with their targets and weights; bytes with how they are scaled."""

    x: Tensor
    y: Tensor | None
    weights: Tensor | None = None
    offset: Tensor | None = None
    scale: Tensor | None = None

    @classmethod
    def read(cls, path: Path) -> Dataset:
        """Reads a file, and refuses what doesn't fit together."""
        return cls.of(tensors.read(path)[0])

    @classmethod
    def of(cls, found: tensors.Tensors) -> Dataset:
        """The data set of some tensors."""
        if "x" not in found:
            raise corrupt("a data set has no tensor `x`")
        x = found["x"]
        if x.dim() == 0 or 0 in x.shape:
            raise corrupt(f"tensor `x` of a data set is empty: {list(x.shape)}")
        data = cls(x, found.get("y"), found.get("weights"))
        if x.dtype == torch.uint8:
            data.offset, data.scale = found.get("offset"), found.get("scale")
            data.check_scaling()
        elif x.dtype != torch.float32:
            raise corrupt(f"tensor `x` is {x.dtype}, but must be torch.float32 or torch.uint8")
        data.check_targets()
        return data

    def check_scaling(self) -> None:
        numbers = {"offset": self.offset, "scale": self.scale}
        for name, tensor in numbers.items():
            if tensor is None or tensor.dtype != torch.float64:
                raise corrupt(f"a data set of bytes has no F64 tensor `{name}`")
        assert self.offset is not None and self.scale is not None
        offsets, scales, width = self.offset.numel(), self.scale.numel(), math.prod(self.shape)
        if offsets != scales or scales == 0 or width % scales:
            text = f"a data set has {offsets} offsets and {scales} scales for rows of {width} bytes"
            raise corrupt(text)
        ends = torch.tensor([[0.0], [255.0]], dtype=torch.float64)
        if not ((ends - self.offset.flatten()) / self.scale.flatten()).float().isfinite().all():
            raise corrupt("an offset or a scale of a data set is not usable")

    def check_targets(self) -> None:
        rows, y, weights = len(self.x), self.y, self.weights
        if y is not None:
            is_class = y.dtype == torch.int64 and y.shape == (rows,)
            is_value = y.dtype == torch.float32 and y.dim() == 2 and len(y) == rows and y.shape[1]
            if not is_class and not is_value:
                text = f"tensor `y` of a data set is {y.dtype} {list(y.shape)} for {rows} rows"
                raise corrupt(text)
        if weights is not None:
            fits = weights.dtype == torch.float32 and weights.shape == (rows,)
            if not fits or not (weights.isfinite() & (weights > 0)).all():
                text = "tensor `weights` of a data set is not a number above 0 for each of "
                raise corrupt(f"{text}{rows} rows")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.x)

    @property
    def shape(self) -> Shape:
        """Shape of a row."""
        return tuple(self.x.shape[1:])

    def check(self, layers: list[Spec], shape: Shape) -> None:
        """Refuses rows that the model doesn't take."""
        if self.shape != shape:
            text = f"the data's rows are {list(self.shape)}, but the model takes {list(shape)}"
            raise invalid(text, "model.input", "set it to the shape of a row")
        first = layers[0]
        if not isinstance(first, dict) or first.get("type") != "embedding":
            return
        tokens = first["tokens"]
        x = self.inputs(slice(None)).flatten(1)
        stray = ~((x >= 0) & (x < tokens) & (x.frac() == 0))
        if stray.any():
            row, place = stray.nonzero()[0].tolist()
            text = f"number {place + 1} of row {row + 1} is {x[row, place].item():g}, but layer 0 "
            text += f"(embedding) takes whole numbers from 0 to {tokens - 1}"
            raise invalid(text, "model.layers[0].tokens", "set `tokens` above the largest number")

    def check_loss(self, loss: Spec, outputs: int) -> None:
        """Refuses targets that suit neither the loss nor the model's outputs."""
        if self.y is None or (self.y.dim() == 1) != (loss["type"] == "cross_entropy"):
            raise invalid(
                "the data's target does not suit the loss", "train.loss", "choose another"
            )
        if self.y.dim() == 2:
            if self.y.shape[1] != outputs:
                found = f"{self.y.shape[1]} targets for each row"
                text = f"the data has {found}, but the model {outputs} outputs"
                raise invalid(text, "model.layers", "let the last layer have as many outputs")
            return
        wrong = self.y[(self.y < 0) | (self.y >= outputs)]
        if len(wrong):
            text = f"class {wrong[0].item()} in the data, but the model has {outputs} outputs"
            raise invalid(text, "model.layers", "let the last layer have an output for each class")
        weights = loss["class_weights"]
        if weights is not None and len(weights) != outputs:
            text = f"`train.loss.class_weights` has {len(weights)} weights for {outputs} classes"
            hint = "give one weight for each class, in the order of the classes"
            raise invalid(text, "train.loss.class_weights", hint)

    def inputs(self, rows: Tensor | slice) -> Tensor:
        """Some rows as the model takes them."""
        x = self.x[rows]
        if self.offset is None or self.scale is None:
            return x
        parts = x.reshape(len(x), self.scale.numel(), -1).double()
        scaled = (parts - self.offset.view(1, -1, 1)) / self.scale.view(1, -1, 1)
        return scaled.float().view(x.shape)

    def to(self, device: torch.device) -> Dataset:
        """The same on a device."""
        moved = (self.x, self.y, self.weights, self.offset, self.scale)
        return Dataset(*(None if t is None else t.to(device) for t in moved))  # type: ignore[arg-type]
