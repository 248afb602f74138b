"""A model with its weights on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from outboard_worker.dataset import Dataset
from outboard_worker.device import Device, is_out_of_memory
from outboard_worker.failure import corrupt, invalid
from outboard_worker.fields import whole
from outboard_worker.losses import Loss
from outboard_worker.model import modules
from outboard_worker.specs import Shape, Spec, check
from outboard_worker.tensors import Tensors

# Numbers of all layers together that rows may have which are evaluated at a time, and such rows.
ELEMENTS = 2**26
ROWS = 256


class Network:
    """A model whose weights were checked before memory was taken for them."""

    def __init__(self, model: Any, weights: Tensors, device: Device, seed: int = 0) -> None:
        specs, shape = model.get("layers"), model.get("input")
        if not isinstance(shape, list) or not shape or any(map(whole(1), shape)):
            what = f"`model.input` is {shape!r}, but must be the shape of a row"
            raise invalid(what, "model.input", "write `input = [1, 28, 28]`, say")
        self.shape: Shape = tuple(shape)
        with torch.device("meta"):
            self.model = modules(specs, self.shape, seed)
        self.layers: list[Spec] = [
            check(spec, str(i), f"model.layers[{i}]") for i, spec in enumerate(specs)
        ]
        wanted = self.model.state_dict()
        for name, tensor in wanted.items():
            if name not in weights:
                raise corrupt(f"the weights lack the tensor `{name}`")
            if weights[name].shape != tensor.shape:
                found, right = list(weights[name].shape), list(tensor.shape)
                text = f"tensor `{name}` of the weights is {found}, but the model needs {right}"
                raise corrupt(text)
        self.device = device
        self.model = self.model.to_empty(device=device.device)
        self.model.load_state_dict({name: weights[name] for name in wanted})
        self.norms = [
            module
            for module in self.model.modules()
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        ]

    def precision(self) -> AbstractContextManager[Any]:
        """Mixed precision, if the settings ask for it."""
        if self.device.bf16:
            return torch.autocast(self.device.device.type, torch.bfloat16)
        return nullcontext()

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of some rows, a list of numbers for each."""
        with self.precision():
            outputs: Tensor = self.model(x)
        return outputs.float().flatten(1)

    def weights(self) -> Tensors:
        """A copy of the state dict, beside the GPU."""
        state = self.model.state_dict().items()
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state}

    def batches(self, data: Dataset, alive: Callable[[], None]) -> Iterator[tuple[slice, Tensor]]:
        """The outputs of all rows, as many at a time as there is memory for."""
        most = max(1, min(ROWS, ELEMENTS // max(1, self.model.width)))
        self.model.eval()
        first = 0
        while first < data.rows:
            rows = slice(first, min(first + most, data.rows))
            alive()
            try:
                with torch.no_grad():
                    found = self.forward(data.inputs(rows).to(self.device.device))
            except (RuntimeError, MemoryError) as error:
                if most == 1 or not is_out_of_memory(error):
                    raise
                most //= 2
                continue
            yield rows, found
            first = rows.stop

    def evaluate(self, data: Dataset, loss: Loss, alive: Callable[[], None]) -> tuple[float, int]:
        """The loss over all rows, and the right answers."""
        assert data.y is not None
        total = torch.zeros(3, dtype=torch.float64, device=self.device.device)
        for rows, found in self.batches(data, alive):
            with torch.no_grad():
                total += loss.sums(found, data.y[rows].to(self.device.device))
        losses, counted, correct = total.tolist()
        return losses / counted if counted else float("nan"), int(correct)
