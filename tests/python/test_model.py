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

from outboard_worker import draws, layers
from outboard_worker.model import build, modules
from reference import features

DIGITS = REPOSITORY / "examples" / "data" / "digits.csv"

JOB = """
[model]
layers = [{layers}]
{model}
[data]
train = "digits.csv"
target = "label"
validation = 0.2
{data}
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
    defaults = {"model": "", "data": "", "lr": 1e-3, "epochs": 1, "batch_size": 64, "seed": 7}
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
    said = facts(model)
    with torch.no_grad():
        found: Tensor = modules(inputs(data, said["schema"]).view(-1, *said["input"]))
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


IMAGES = (
    """
    { type = "conv2d", out = 8, kernel = 3, padding = 1, bias = false }, "batch_norm2d", "relu",
    { type = "residual", layers = [
      { type = "conv2d", out = 8, kernel = [1, 3], padding = [0, 1], groups = 2 }, "batch_norm2d",
    ] },
    { type = "conv2d", out = 12, kernel = 3, dilation = 2, padding = 2 }, "relu",
    { type = "max_pool2d", kernel = 2 },
    { type = "avg_pool2d", kernel = 3, stride = 1, padding = 1 },
    { type = "adaptive_avg_pool2d", out = [3, 2] }, "flatten", { type = "linear", out = 32 },
    "batch_norm1d", "tanh", { type = "linear", out = 10 },
    """,
    {"model": "input = [1, 8, 8]", "epochs": 5},
    nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        layers.Residual(
            nn.Sequential(
                nn.Conv2d(8, 8, (1, 3), padding=(0, 1), groups=2),
                nn.BatchNorm2d(8),
            )
        ),
        *(nn.Conv2d(8, 12, 3, dilation=2, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten()),
        *(nn.Linear(72, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 10)),
    ),
)
SERIES = (
    """
    { type = "conv1d", out = 16, kernel = 3, padding = 1 }, "batch_norm1d", "relu",
    { type = "max_pool1d", kernel = 3, stride = 1, padding = 1 },
    { type = "conv1d", out = 24, kernel = 3 }, { type = "avg_pool1d", kernel = 2 },
    { type = "adaptive_avg_pool1d", out = 2 }, "flatten", { type = "linear", out = 10 },
    """,
    {"model": "input = [8, 8]", "epochs": 10},
    nn.Sequential(
        *(nn.Conv1d(8, 16, 3, padding=1), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(3, 1, 1)),
        *(nn.Conv1d(16, 24, 3), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(2)),
        *(nn.Flatten(), nn.Linear(48, 10)),
    ),
)
SEQUENCES = (
    """
    { type = "lstm", out = 24 }, "layer_norm", { type = "gru", out = 24 },
    { type = "transformer_encoder", heads = 4, ff = 32, activation = "gelu", norm_first = true },
    "last_pool", { type = "linear", out = 10 },
    """,
    {"model": "input = [8, 8]", "epochs": 10},
    nn.Sequential(
        *(layers.Lstm(8, 24, batch_first=True), nn.LayerNorm(24)),
        layers.Gru(24, 24, batch_first=True),
        nn.TransformerEncoderLayer(
            *(24, 4, 32), activation="gelu", batch_first=True, norm_first=True
        ),
        *(layers.LastPool(), nn.Linear(24, 10)),
    ),
)


class Tokens(nn.Sequential):
    """Tells PyTorch's own encoder layers where the padding is, and the pooling too."""

    def forward(self, x: Tensor) -> Tensor:
        embedding, positions, *encoders, pool, head = self
        padding = x == embedding.padding_idx
        x = positions(embedding(x.long()))
        for encoder in encoders:
            x = encoder(x, src_key_padding_mask=padding)
        pool.padding = padding
        found: Tensor = head(pool(x))
        return found


TOKENS = (
    """
    { type = "embedding", tokens = 17, out = 16, padding_index = 0 }, "positional_embedding",
    { type = "transformer_encoder", heads = 2, ff = 32 },
    { type = "transformer_encoder", heads = 4, ff = 24, dropout = 0.0 },
    "mean_pool", { type = "linear", out = 10 },
    """,
    {"data": 'normalize = "none"', "epochs": 10, "lr": 3e-3},
    Tokens(
        *(nn.Embedding(17, 16, padding_idx=0), layers.PositionalEmbedding(64, 16)),
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        nn.TransformerEncoderLayer(16, 4, 24, 0.0, batch_first=True),
        *(layers.MeanPool(), nn.Linear(16, 10)),
    ),
)


@pytest.mark.parametrize(
    ("specs", "job", "modules"),
    [IMAGES, SERIES, SEQUENCES, TOKENS],
    ids=["images", "series", "sequences", "tokens"],
)
def test_pytorch_has_the_same_composite_layers(
    outboard: Program, specs: str, job: dict[str, Any], modules: nn.Sequential
) -> None:
    _, model = outboard.train(write_job(outboard.folder, **({"layers": specs, "lr": 1e-2} | job)))
    # Far from chance, so that the comparison is not one of constants.
    assert check_classifier(outboard, modules, model) >= 0.6
    counts = [tensor for name, tensor in load_file(model).items() if "num_batches" in name]
    batches = job["epochs"] * 23
    assert all(tensor.dtype == torch.int64 and tensor.item() == batches for tensor in counts)


EVERY_LAYER = [
    *({"type": "linear", "out": 300}, {"type": "linear", "out": 4000}),
    {"type": "conv1d", "out": 300, "kernel": 9},
    {"type": "conv2d", "out": 40, "kernel": [7, 9], "groups": 2},
    {"type": "embedding", "tokens": 500, "out": 200, "padding_index": 3},
    {"type": "transformer_encoder", "heads": 4, "ff": 500},
    *({"type": "lstm", "out": 150}, {"type": "gru", "out": 150}),
    *({"type": "layer_norm"}, {"type": "batch_norm2d"}),
]
SHAPES = [(400,), (100,), (20, 30), (10, 20, 20), (5,), (5, 200), (5, 30), (5, 30), (9,), (6, 4, 4)]


@pytest.mark.parametrize(("spec", "shape"), list(zip(EVERY_LAYER, SHAPES, strict=True)), ids=str)
def test_initial_weights_are_distributed_as_those_of_pytorch(
    spec: dict[str, Any], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    ours, theirs = (make([spec], shape, 7) for make in (build, modules))
    for (name, a), (same, b) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == same and a.shape == b.shape
        if b.unique().numel() == 1:
            assert torch.equal(a, b), name
            continue
        # Each is off by about its share of the deviation over the root of its elements.
        noise = 6 / a.numel() ** 0.5
        scale = b.std().item()
        assert a.std().item() == pytest.approx(scale, rel=noise), name
        assert a.mean().item() == pytest.approx(b.mean().item(), abs=noise * scale), name
        assert (a == 0).sum() == (b == 0).sum(), name
        if "embedding" not in spec["type"]:
            assert a.abs().max().item() == pytest.approx(b.abs().max().item(), rel=0.05), name


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
