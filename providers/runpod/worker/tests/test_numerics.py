"""The vectors of `tests/vectors`, and the program's own curves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases.files import read_case
from reference import features

from outboard_worker import augment, draws, layers, optim
from outboard_worker.checkpoint import Checkpoint, Position
from outboard_worker.dataset import Dataset
from outboard_worker.device import Device
from outboard_worker.hyperparameters import Train
from outboard_worker.losses import Loss
from outboard_worker.model import build, set_step
from outboard_worker.network import Network
from outboard_worker.trainer import Trainer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VECTORS = Path(__file__).parents[4] / "tests" / "vectors"
GRADIENTS = sorted(VECTORS.glob("gradients/*.safetensors"))
OPTIMIZERS = sorted(VECTORS.glob("optimizers/*.safetensors"))
CURVES = sorted(VECTORS.glob("curves/*.toml"))

assert len(GRADIENTS) > 50 and len(OPTIMIZERS) > 10 and len(CURVES) > 5


def name(path: Path) -> str:
    return path.stem


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    norm = float(exact.norm())
    difference = float((found.double() - exact.double()).norm())
    return difference / norm if norm > 0 else difference


@pytest.mark.parametrize("path", GRADIENTS, ids=name)
def test_every_layer_and_loss(path: Path, device: Device) -> None:
    case, arrays = read_case(path)
    found = {key: torch.from_numpy(array) for key, array in arrays.items()}
    shape = list(found["x"].shape[1:])
    weights = {k.removeprefix("param."): t for k, t in found.items() if k.startswith("param.")}
    drawn = build(case["layers"], shape, int(case["seed"])).state_dict()
    # NumPy's files have no tensors without dimensions.
    weights = {key: tensor.view(drawn[key].shape) for key, tensor in weights.items()}
    assert all(torch.equal(drawn[key], weights[key]) for key in weights)

    network = Network(
        {"layers": case["layers"], "input": shape}, weights, device, int(case["seed"])
    )
    model = network.model.train()
    set_step(model, case["step"])
    is_tokens = case["layers"][0]["type"] == "embedding"
    x = found["x"].clone().requires_grad_(not is_tokens)
    loss = Loss(case["loss"]).of_batch(network.forward(x), found["y"], found.get("weights"))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(case["loss64"], rel=1e-5)
    named = dict(model.named_parameters(), x=x)
    gradients = [key for key in found if key.startswith("grad64.")]
    assert gradients
    for key in gradients:
        parameter = key.removeprefix("grad64.")
        allowed = max(2 * case["error32"][parameter], 1e-6)
        gradient = named[parameter].grad
        assert gradient is not None and error(gradient, found[key]) <= allowed, parameter
    if "eval64" in found:
        with torch.no_grad():
            assert error(model.eval()(x), found["eval64"]) <= 1e-6
        for key, buffer in model.named_buffers():
            if buffer.dim():
                assert error(buffer, found[f"after64.{key}"]) <= 1e-6, key


@pytest.mark.parametrize("path", OPTIMIZERS, ids=name)
def test_every_optimizer(path: Path) -> None:
    case, arrays = read_case(path)
    names = [key.removeprefix("start.") for key in arrays if key.startswith("start.")]
    weights = {key: torch.from_numpy(arrays[f"start.{key}"]).requires_grad_() for key in names}
    parameters: list[torch.Tensor] = list(weights.values())
    optimizer = optim.optimizer(case["optimizer"], parameters)
    for step, lr in enumerate(case["lr"]):
        for key, tensor in weights.items():
            tensor.grad = torch.from_numpy(arrays[f"grads.{key}"][step]).clone()
        optim.clip(parameters, case["clip_value"], case["clip_norm"])
        optim.set_learning_rate(optimizer, lr)
        optimizer.step()
    for key, tensor in weights.items():
        assert error(tensor.detach(), torch.from_numpy(arrays[f"end64.{key}"])) <= 1e-6


def test_schedules() -> None:
    for case in json.loads((VECTORS / "schedules.json").read_text()):
        shape = (case["epochs"], case["steps_per_epoch"], case["warmup_steps"])
        for step, expected in enumerate(case["values"]):
            lr = optim.learning_rate(case["schedule"], case["lr"], step, *shape)
            assert lr == pytest.approx(expected, rel=1e-12)


def test_draws() -> None:
    recorded = json.loads((VECTORS / "random.json").read_text())
    for case in recorded["mix"]:
        seed, stream, i = (int(case[key]) for key in ("seed", "stream", "i"))
        assert int(draws.mix(seed, stream, i)[0]) == int(case["value"])
    for case in recorded["order"]:
        order = draws.batch_order(int(case["seed"]), case["epoch"], case["rows"])
        assert order.tolist() == case["order"]
    for case in recorded["dropout"]:
        where = (int(case["seed"]), case["layer"], case["step"], case["p"], len(case["kept"]))
        assert layers.dropout_kept(*where).int().tolist() == case["kept"]


def test_images_of_several_rows_are_changed_as_recorded() -> None:
    cases = json.loads((VECTORS / "augment.json").read_text())
    for case in cases:
        image = torch.arange(1, 31, dtype=torch.float32).view(1, *case["shape"])
        rows = np.array([case["row"], case["row"] + 1])
        both = torch.cat([image, image])
        found = augment.apply(case["changes"], int(case["seed"]), case["epoch"], rows, both)
        assert found[0].flatten().int().tolist() == case["image"]


@pytest.mark.parametrize("path", CURVES, ids=name)
def test_curves(path: Path, device: Device) -> None:
    job: dict[str, Any] = tomllib.loads(path.read_text())
    train = Train.read(job["train"])
    data = job["data"]
    table = features.read_csv(path.parent / data["train"], data["target"], data.get("features"))
    training, validation = features.split(train.seed, len(table.x), data["validation"])
    x = table.x.astype(np.float32)
    if data.get("normalize", "standard") == "standard":
        x = features.standardise(table.x, training)
    shape = job["model"].get("input", [x.shape[1]])
    both = [
        Dataset(torch.from_numpy(x[rows]).view(-1, *shape), torch.from_numpy(table.y[rows]))
        for rows in (training, validation)
    ]
    state = build(job["model"]["layers"], shape, train.seed).state_dict()
    start = Checkpoint(Position("", train.seed), {f"model.{k}": t for k, t in state.items()})
    model = {"layers": job["model"]["layers"], "input": shape}
    trainer = Trainer(model, train, both[0], both[1], start, device)
    expected = json.loads(path.with_suffix(".json").read_text())
    epochs = []
    while not trainer.is_done():
        epoch = trainer.step(lambda: None)
        if epoch is not None:
            epochs.append(epoch)
    assert len(epochs) == len(expected["loss"])
    for kind in ("loss", "validation_loss"):
        limits = expected["tolerance" if kind == "loss" else "validation_tolerance"]
        for epoch, value, limit in zip(epochs, expected[kind], limits, strict=True):
            assert abs(epoch[kind] - value) <= limit, (kind, epoch["epoch"])
