"""PyTorch takes the models of the program, and the program takes PyTorch's weights."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from program import REPOSITORY, Program
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reference import draws, features

DIGITS = REPOSITORY / "examples" / "data" / "digits.csv"

JOB = """
[model]
layers = [{layers}]
{model}
[data]
train = "digits.csv"
target = "label"
validation = 0.2
[train]
loss = "cross_entropy"
optimizer = {{ type = "adam", lr = {lr} }}
epochs = {epochs}
batch_size = {batch_size}
seed = {seed}
"""


def write_job(folder: Path, **values: object) -> str:
    """Writes a job file and its data; its name."""
    shutil.copy(DIGITS, folder)
    defaults = {"model": "", "lr": 1e-3, "epochs": 1, "batch_size": 64, "seed": 7}
    (folder / "job.toml").write_text(JOB.format(**(defaults | values)))
    return "job.toml"


def facts(model: Path) -> dict[str, Any]:
    """What a model file says of its weights."""
    with safe_open(model, framework="pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["outboard"])
    return found


def inputs(data: Path, schema: dict[str, Any]) -> Tensor:
    """The rows of a file, scaled as the schema says."""
    with data.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = []
    for feature in schema["features"]:
        cells = [row[feature["name"]] for row in rows]
        if feature["type"] == "numeric":
            numbers = np.array(cells, dtype=np.float64)
            columns.append((numbers - feature["offset"]) / feature["scale"])
        else:
            columns += [np.array(cells) == category for category in feature["categories"]]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def labels(data: Path, schema: dict[str, Any]) -> Tensor:
    """The class of each row of a file."""
    target = schema["target"]
    with data.open(newline="") as file:
        return torch.tensor(
            [target["classes"].index(row[target["name"]]) for row in csv.DictReader(file)]
        )


def outputs(modules: nn.Sequential, model: Path, data: Path) -> Tensor:
    """What PyTorch makes of a file with the weights of a model file."""
    modules.load_state_dict(load_file(model), strict=True)
    modules.eval()
    with torch.no_grad():
        found: Tensor = modules(inputs(data, facts(model)["schema"]))
    return found


def check_classifier(outboard: Program, modules: nn.Sequential, model: Path) -> float:
    """Holds predictions and metrics against PyTorch's; the accuracy."""
    logits = outputs(modules, model, DIGITS)
    schema = facts(model)["schema"]
    target = labels(DIGITS, schema)

    *predictions, _ = outboard.run("predict", model, DIGITS)
    classes = schema["target"]["classes"]
    ours = torch.tensor([[line["probabilities"][name] for name in classes] for line in predictions])
    torch.testing.assert_close(ours, logits.softmax(dim=1), rtol=0, atol=1e-5)

    metrics = outboard.run("evaluate", model, DIGITS)[-1]["metrics"]
    loss = nn.functional.cross_entropy(logits, target).item()
    accuracy = (logits.argmax(dim=1) == target).double().mean().item()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5, abs=1e-6)
    # Two outputs may be as good as equal.
    assert metrics["accuracy"] == pytest.approx(accuracy, abs=1.5 / len(target))
    return accuracy


def test_pytorch_takes_the_model_of_the_example(outboard: Program) -> None:
    shutil.copytree(REPOSITORY / "examples", outboard.folder / "examples")
    _, model = outboard.train("examples/digits.toml")
    modules = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    assert check_classifier(outboard, modules, model) >= 0.95


SMOOTH = (
    """
    "flatten", { type = "linear", out = 64 }, "gelu", { type = "dropout", p = 0.2 },
    { type = "linear", out = 48, bias = false }, { type = "gelu", approximate = "tanh" },
    { type = "linear", out = 32 }, "silu", { type = "linear", out = 10 },
    """,
    nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 64), nn.GELU(), nn.Dropout(0.2)),
        *(nn.Linear(64, 48, bias=False), nn.GELU(approximate="tanh")),
        *(nn.Linear(48, 32), nn.SiLU(), nn.Linear(32, 10)),
    ),
)
SATURATING = (
    """
    { type = "linear", out = 64 }, "tanh", { type = "linear", out = 48 }, "sigmoid",
    { type = "linear", out = 32 }, "dropout", "softmax", { type = "linear", out = 10 },
    """,
    nn.Sequential(
        *(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 48), nn.Sigmoid()),
        *(nn.Linear(48, 32), nn.Dropout(), nn.Softmax(dim=-1), nn.Linear(32, 10)),
    ),
)


@pytest.mark.parametrize(("layers", "modules"), [SMOOTH, SATURATING], ids=["smooth", "saturating"])
def test_pytorch_has_the_same_layers(
    outboard: Program, layers: str, modules: nn.Sequential
) -> None:
    _, model = outboard.train(write_job(outboard.folder, layers=layers, epochs=40, lr=1e-2))
    # Far from chance, so that the comparison is not one of constants.
    assert check_classifier(outboard, modules, model) >= 0.8


def test_pytorch_predicts_numbers_from_categories(outboard: Program) -> None:
    data = outboard.folder / "prices.csv"
    colours = ["red", "blue", "green"]
    rows = [f"{i * 37 % 101},{colours[i % 3]},{i * 7 % 50}" for i in range(200)]
    data.write_text("\n".join(["size,colour,price", *rows]) + "\n")
    (outboard.folder / "prices.toml").write_text("""
[model]
layers = [{ type = "linear", out = 16 }, "relu", { type = "linear", out = 1 }]
[data]
train = "prices.csv"
target = "price"
categorical = ["colour"]
normalize = "min_max"
[train]
loss = "mse"
epochs = 5
""")
    _, model = outboard.train("prices.toml")
    modules = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    theirs = outputs(modules, model, data).flatten()
    *predictions, _ = outboard.run("predict", model, data)
    ours = torch.tensor([line["prediction"] for line in predictions])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_training_starts_from_weights_of_pytorch(outboard: Program) -> None:
    seed, size, lr = 11, 48, 3e-3
    torch.manual_seed(seed)
    modules = nn.Sequential(nn.Linear(64, 40), nn.GELU(), nn.Linear(40, 10))
    save_file(modules.state_dict(), outboard.folder / "start.safetensors")
    job = write_job(
        outboard.folder,
        layers='{ type = "linear", out = 40 }, "gelu", { type = "linear", out = 10 }',
        model='weights = "start.safetensors"',
        **{"seed": seed, "batch_size": size, "lr": lr},
    )
    [epoch], _ = outboard.train(job)

    table = features.read_csv(DIGITS, "label")
    training, validation = features.split(seed, len(table.x), 0.2)
    x = torch.from_numpy(features.standardise(table.x, training))
    y = torch.from_numpy(table.y)
    optimizer = torch.optim.Adam(modules.parameters(), lr=lr)
    loss_of = nn.CrossEntropyLoss()
    total = 0.0
    order = torch.from_numpy(training[draws.batch_order(seed, 0, len(training))])
    for first in range(0, len(order), size):
        batch = order[first : first + size]
        optimizer.zero_grad()
        loss = loss_of(modules(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    with torch.no_grad():
        held_out = loss_of(modules(x[validation]), y[validation]).item()
    assert epoch["loss"] == pytest.approx(total / len(training), rel=1e-3)
    assert epoch["validation_loss"] == pytest.approx(held_out, rel=1e-3)
