"""gradients/: float64 gradients of one batch, and how far float32 PyTorch is from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cases.files import write_case
from cases.models import MODELS
from outboard_worker.losses import Loss
from outboard_worker.model import build, set_step
from outboard_worker.specs import Spec

SEED, STEP = 7, 3
CROSS_ENTROPY: Spec = {"type": "cross_entropy"}
WEIGHTS = [0.5, 1.0, 2.0, 1.5]


@dataclass(frozen=True)
class Case:
    """A model, a loss and the shape of a batch; `reach` asks for logits of that size.

    With `evaluates`, what the model gives and knows after the step is recorded too. With
    `weighted`, rows have weights.
    """

    name: str
    shape: tuple[int, ...]
    layers: list[Spec]
    loss: Spec
    reach: float | None = None
    evaluates: bool = False
    weighted: bool = False


def linear(out: int, **options: Any) -> Spec:
    return {"type": "linear", "out": out, **options}


def between(*middle: Spec) -> list[Spec]:
    """Layers between two linear ones."""
    return [linear(8), *middle, linear(4)]


def activation(name: str, kind: str, **options: Any) -> Case:
    return Case(name, (16, 12), between({"type": kind, **options}), CROSS_ENTROPY)


def loss(name: str, kind: str, reach: float | None = None, **options: Any) -> Case:
    # Inputs scale the outputs only where the activation does not saturate.
    middle = {"type": "tanh" if reach is None else "relu"}
    return Case(name, (24, 10), between(middle), {"type": kind, **options}, reach)


def dropout(name: str, *layers: Spec) -> Case:
    return Case(name, (32, 12), list(layers), CROSS_ENTROPY)


RELU: Spec = {"type": "relu"}
TANH: Spec = {"type": "tanh"}
FLATTEN: Spec = {"type": "flatten"}
HALF: Spec = {"type": "dropout", "p": 0.5}
TENTH: Spec = {"type": "dropout", "p": 0.1}

CASES = [
    activation("relu", "relu"),
    activation("gelu", "gelu"),
    activation("gelu_tanh", "gelu", approximate="tanh"),
    activation("silu", "silu"),
    activation("tanh", "tanh"),
    activation("sigmoid", "sigmoid"),
    activation("softmax", "softmax"),
    dropout("dropout_half", linear(20), RELU, HALF, linear(4)),
    dropout("dropout_tenth", TENTH, linear(20), TANH, TENTH, linear(4)),
    Case("flatten", (9, 2, 3, 4), [FLATTEN, linear(6), TANH, linear(3)], CROSS_ENTROPY),
    Case("last_dimension", (9, 3, 6), [linear(5), TANH, FLATTEN, linear(4)], CROSS_ENTROPY),
    Case("no_bias", (16, 12), [linear(8, bias=False), TANH, linear(4)], CROSS_ENTROPY),
    loss("cross_entropy", "cross_entropy"),
    loss("cross_entropy_smoothing", "cross_entropy", label_smoothing=0.1),
    loss("cross_entropy_weights", "cross_entropy", class_weights=WEIGHTS),
    loss(
        "cross_entropy_smoothing_weights",
        "cross_entropy",
        label_smoothing=0.1,
        class_weights=WEIGHTS,
    ),
    loss("cross_entropy_extreme", "cross_entropy", reach=80.0),
    loss("mse", "mse"),
    loss("l1", "l1"),
    loss("huber", "huber"),
    loss("huber_half", "huber", delta=0.5),
    loss("bce", "bce_with_logits"),
    loss("bce_positive_weight", "bce_with_logits", positive_weight=2.0),
    loss("bce_extreme", "bce_with_logits", reach=80.0),
    Case("one_row", (1, 12), between(RELU), CROSS_ENTROPY),
    Case("37_rows", (37, 12), between(RELU), CROSS_ENTROPY),
    Case("wide", (64, 96), [linear(130), RELU, linear(70), RELU, linear(11)], CROSS_ENTROPY),
]
CASES += [Case(name, shape, specs, CROSS_ENTROPY, evaluates=True) for name, shape, specs in MODELS]
CASES += [
    Case(f"weighted_{name}", (24, 10), between(TANH), spec, weighted=True)
    for name, spec in [
        ("cross_entropy", CROSS_ENTROPY),
        (
            "cross_entropy_smoothing_weights",
            {"type": "cross_entropy", "label_smoothing": 0.1, "class_weights": WEIGHTS},
        ),
        ("mse", {"type": "mse"}),
        ("l1", {"type": "l1"}),
        ("huber", {"type": "huber", "delta": 0.5}),
        ("bce", {"type": "bce_with_logits", "positive_weight": 2.0}),
    ]
]


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass, and an evaluation after it."""

    output: Tensor
    loss: float
    gradients: dict[str, Tensor]
    evaluation: Tensor
    statistics: dict[str, Tensor]


def weights(case: Case) -> Tensor | None:
    """How much each row of a batch counts."""
    if not case.weighted:
        return None
    random = np.random.default_rng(SEED)
    return torch.from_numpy(random.uniform(0.1, 3.0, case.shape[0]).astype(np.float32))


def run(case: Case, x: Tensor, y: Tensor, dtype: torch.dtype) -> Pass:
    """Differentiates the case in a precision, on the same 32-bit values."""
    model = build(case.layers, case.shape[1:], SEED).to(dtype).train()
    set_step(model, STEP)
    # Tokens have no gradient.
    x = x.to(dtype).requires_grad_(case.layers[0]["type"] != "embedding")
    output = model(x)
    y = y.to(dtype) if y.is_floating_point() else y
    value = Loss(case.loss, dtype).of_batch(output, y, weights(case))
    value.backward()
    named = dict(model.named_parameters(), x=x)
    gradients = {name: tensor.grad for name, tensor in named.items() if tensor.grad is not None}
    with torch.no_grad():
        evaluation = model.eval()(x)
    statistics = {name: tensor for name, tensor in model.named_buffers() if tensor.dim() > 0}
    return Pass(output.detach(), value.item(), gradients, evaluation, statistics)


def relative_error(found: Tensor, exact: Tensor) -> float:
    norm = float(exact.norm())
    difference = float((found.double() - exact).norm())
    return difference / norm if norm > 0 else difference


def batch(case: Case, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and targets."""
    match case.layers[0]:
        case {"type": "embedding", "tokens": tokens}:
            # Rows end in padding of all lengths: none, some, nothing else.
            rows, positions = case.shape
            numbers = random.integers(tokens, size=case.shape)
            lengths = np.linspace(0, positions, rows).round()
            numbers[np.arange(positions) >= lengths[:, None]] = 0
            x = torch.from_numpy(numbers.astype(np.float32))
        case _:
            x = torch.from_numpy(random.standard_normal(case.shape).astype(np.float32))
    model = build(case.layers, case.shape[1:], SEED).double()
    with torch.no_grad():
        if case.reach is not None:
            # A whole factor: a last bit of the model's output does not change the inputs.
            factor = 1
            for _ in range(8):
                reached = model((factor * x).double()).abs().max().item()
                factor = round(factor * case.reach / reached)
            x *= factor
        shape = tuple(model.eval()(x.double()).shape)
    match case.loss["type"]:
        case "cross_entropy":
            return x, torch.from_numpy(random.integers(shape[1], size=shape[0]))
        case "bce_with_logits":
            return x, torch.from_numpy(random.integers(2, size=shape).astype(np.float32))
        case _:
            return x, torch.from_numpy(random.standard_normal(shape).astype(np.float32))


def generate(out: Path) -> None:
    """Writes every gradient case."""
    for number, case in enumerate(CASES):
        x, y = batch(case, np.random.default_rng([SEED, number]))
        exact, single = run(case, x, y, torch.float64), run(case, x, y, torch.float32)
        parameters = build(case.layers, case.shape[1:], SEED).state_dict()
        description = {
            "layers": case.layers,
            "loss": case.loss,
            "seed": str(SEED),
            "step": STEP,
            "loss64": exact.loss,
            "error32": {
                name: relative_error(single.gradients[name], gradient)
                for name, gradient in exact.gradients.items()
            },
        }
        tensors = {"x": x, "y": y, "out64": exact.output}
        if (of_rows := weights(case)) is not None:
            tensors["weights"] = of_rows
        tensors |= {f"param.{name}": tensor for name, tensor in parameters.items()}
        tensors |= {f"grad64.{name}": tensor for name, tensor in exact.gradients.items()}
        if case.evaluates:
            tensors["eval64"] = exact.evaluation
            tensors |= {f"after64.{name}": tensor for name, tensor in exact.statistics.items()}
        write_case(
            out / "gradients" / f"{case.name}.safetensors",
            description,
            {name: tensor.detach().numpy() for name, tensor in tensors.items()},
        )
