"""Files that NumPy and safetensors write are read as they are meant."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from program import Program
from safetensors.numpy import save_file
from torch import nn

from outboard_worker import augment

JOB = """
[model]
layers = ["flatten", {{ type = "linear", out = 3 }}]
[data]
train = "{train}"
{labels}
[train]
loss = "cross_entropy"
epochs = 2
"""

RANDOM = np.random.default_rng(0)
X = RANDOM.integers(0, 256, size=(30, 4, 5), dtype=np.uint8)
Y = RANDOM.permutation(np.arange(30) % 3)


def idx(path: Path, array: np.ndarray) -> None:
    """Writes bytes as MNIST has them."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def loss(outboard: Program, train: str, labels: str = "") -> float:
    """The loss of the last epoch, and that of the model on the same files."""
    key = f'labels = "{labels}"' if labels else ""
    (outboard.folder / "job.toml").write_text(JOB.format(train=train, labels=key))
    epochs, model = outboard.train("job.toml")
    flag = ["--labels", labels] if labels else []
    metrics = outboard.run("evaluate", model, train, *flag)[-1]["metrics"]
    assert len(outboard.run("predict", model, train)) == 31
    assert metrics["loss"] > 0
    found: float = epochs[-1]["loss"]
    return found


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i2", ">i8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_same_curve_from_every_file(outboard: Program, dtype: str, order: str) -> None:
    np.save(outboard.folder / "bytes.npy", X)
    np.save(outboard.folder / "y.npy", Y)
    expected = loss(outboard, "bytes.npy", "y.npy")
    x = np.asarray(X.astype(dtype), order=order)
    np.save(outboard.folder / "x.npy", x)
    assert loss(outboard, "x.npy", "y.npy") == expected
    np.savez_compressed(outboard.folder / "a.npz", x=x, y=Y.astype(np.uint8))
    assert loss(outboard, "a.npz") == expected
    little = np.ascontiguousarray(x.astype(np.dtype(dtype).newbyteorder("<")))
    save_file({"x": little, "y": Y}, outboard.folder / "a.safetensors")
    assert loss(outboard, "a.safetensors") == expected
    idx(outboard.folder / "x-idx3-ubyte.gz", X)
    idx(outboard.folder / "y-idx1-ubyte.gz", Y)
    assert loss(outboard, "x-idx3-ubyte.gz", "y-idx1-ubyte.gz") == expected


AUGMENTED = """
[model]
layers = ["flatten", { type = "linear", out = 3 }]
input = [2, 4, 5]
weights = "start.safetensors"
[data]
train = "a.npz"
normalize = "none"
[train]
loss = "cross_entropy"
epochs = 2
batch_size = 30
seed = 11
optimizer = { type = "sgd", lr = 1e-30 }
augment = ["flip", { crop = 2 }, { shift = 1 }]
"""


def test_images_are_changed_as_numpy_changes_them(outboard: Program) -> None:
    x = RANDOM.normal(size=(30, 2, 4, 5)).astype(np.float32)
    np.savez(outboard.folder / "a.npz", x=x, y=Y)
    linear = nn.Linear(40, 3)
    start = {"1.weight": linear.weight.detach().numpy(), "1.bias": linear.bias.detach().numpy()}
    save_file(start, outboard.folder / "start.safetensors")
    (outboard.folder / "job.toml").write_text(AUGMENTED)
    epochs, model = outboard.train("job.toml")
    changes = ["flip", {"crop": 2}, {"shift": 1}]
    for number, epoch in enumerate(epochs):
        changed = augment.apply(changes, 11, number, np.arange(len(x)), torch.from_numpy(x))
        logits = linear(changed.flatten(1))
        expected = nn.functional.cross_entropy(logits, torch.from_numpy(Y)).item()
        assert epoch["loss"] == pytest.approx(expected, rel=1e-5)
    # Only training changes them.
    metrics = outboard.run("evaluate", model, "a.npz")[-1]["metrics"]
    plain = nn.functional.cross_entropy(
        linear(torch.from_numpy(x).flatten(1)), torch.from_numpy(Y)
    ).item()
    assert metrics["loss"] == pytest.approx(plain, rel=1e-5)
