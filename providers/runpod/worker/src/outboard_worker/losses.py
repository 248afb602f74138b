"""Section 8: losses, and right answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from outboard_worker.specs import Spec


def loss_function(
    spec: Spec,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    reduction: str = "mean",
) -> nn.Module:
    """The batch loss, as PyTorch has it."""
    match spec["type"]:
        case "cross_entropy":
            weights = spec.get("class_weights")
            return nn.CrossEntropyLoss(
                None if weights is None else torch.tensor(weights, dtype=dtype, device=device),
                label_smoothing=spec.get("label_smoothing", 0.0),
                reduction=reduction,
            )
        case "mse":
            return nn.MSELoss(reduction=reduction)
        case "l1":
            return nn.L1Loss(reduction=reduction)
        case "huber":
            return nn.HuberLoss(reduction, spec.get("delta", 1.0))
        case "bce_with_logits":
            weight = torch.tensor(spec.get("positive_weight", 1.0), dtype=dtype, device=device)
            return nn.BCEWithLogitsLoss(reduction=reduction, pos_weight=weight)
        case other:
            raise ValueError(f"unknown loss {other}")


class Loss:
    """A loss with all that is asked of it."""

    def __init__(
        self, spec: Spec, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        self.kind: str = spec["type"]
        self.mean = loss_function(spec, dtype, device)
        self.each = loss_function(spec, dtype, device, "none")
        by_class = self.mean.weight if isinstance(self.mean, nn.CrossEntropyLoss) else None
        self.by_class: Tensor | None = by_class

    def of_batch(self, output: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
        """The batch loss of rows that may count by weights."""
        if weights is None:
            value: Tensor = self.mean(output, y)
            return value
        losses: Tensor = self.each(output, y)
        weights = weights.to(output.dtype)
        if self.kind != "cross_entropy":
            return (losses.mean(dim=1) * weights).sum() / weights.sum()
        each = weights if self.by_class is None else weights * self.by_class[y]
        return (losses * weights).sum() / each.sum()

    def sums(self, output: Tensor, y: Tensor) -> Tensor:
        """Over some rows, in 64-bit floats: losses, what they count together, right answers."""
        losses: Tensor = self.each(output, y)
        counted = torch.tensor(losses.numel(), dtype=torch.float64, device=output.device)
        if self.by_class is not None:
            counted = self.by_class[y].double().sum()
        return torch.stack([losses.double().sum(), counted, self.correct(output, y).double()])

    def correct(self, output: Tensor, y: Tensor) -> Tensor:
        """How many answers are right; 0 where no answer is."""
        match self.kind:
            case "cross_entropy":
                return (output.argmax(dim=1) == y).sum()
            case "bce_with_logits":
                return ((output > 0) == (y > 0.5)).sum()
        return torch.zeros((), dtype=torch.int64, device=output.device)
