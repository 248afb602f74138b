"""A job moves between the program's own task process and this one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import REPOSITORY
from jobs import Job, curve, envelope
from outboard_worker import tensors
from outboard_worker.store import Store
from outboard_worker.supervisor import Stop, Supervisor

Json = dict[str, Any]

TRAINS: list[Json] = [
    {},
    {"optimizer": {"type": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True}},
    {"keep": "best", "schedule": {"type": "cosine"}, "warmup_steps": 3, "clip_norm": 1.0},
]
# The gradient of a bias before a batch norm is noise, which Adam would make much of.
LAYERS = [
    {"type": "linear", "out": 16, "bias": False},
    {"type": "batch_norm1d"},
    {"type": "gelu"},
    {"type": "residual", "layers": [{"type": "linear", "out": 16}, {"type": "dropout", "p": 0.1}]},
    {"type": "linear", "out": 3},
]


@pytest.fixture(scope="module")
def rust(store: Store) -> Iterator[Supervisor]:
    """The program's task process, over the same store."""
    program = os.environ.get("TEST_OUTBOARD_BIN")
    if not program:
        pytest.skip("the variable TEST_OUTBOARD_BIN names no program")
    flags = ["--stdio", "--store", str(store.folder), "--threads", "1"]
    # It takes this worker's variables for keys of its own.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OUTBOARD_")}
    found = Supervisor([str(REPOSITORY / program), "worker", *flags], environment)
    yield found
    found.close()


def run(supervisor: Supervisor, operation: Json) -> tuple[Json, list[Json]]:
    events: list[Json] = []
    result = supervisor.run(envelope("k", operation), Stop(), events.append)
    assert "finished" in result["ended"], result
    return result["ended"]["finished"], events


@pytest.mark.parametrize("train", TRAINS, ids=["adam", "sgd", "cosine"])
@pytest.mark.parametrize("layers", [None, LAYERS], ids=["plain", "norms"])
def test_a_moved_job_has_the_curve_of_an_unmoved_one(
    store: Store, supervisor: Supervisor, rust: Supervisor, train: Json, layers: Any
) -> None:
    job = Job(store, epochs=6, layers=layers, **train)
    _, unmoved = run(rust, job.training())
    moved: list[Json] = []
    at = job.start
    for place, until in ((rust, 2), (supervisor, 4), (rust, 6)):
        outcome, events = run(place, job.training(at, until))
        moved += events
        at = outcome["checkpoint"]["digest"]
    warnings = [event["message"] for event in moved if event["event"] == "warning"]
    assert len(warnings) == 2 and all("another numerics class" in text for text in warnings)
    assert len(curve(unmoved)) == 6
    for found, expected in zip(curve(moved), curve(unmoved), strict=True):
        assert set(found) == set(expected)
        for key in ("loss", "validation_loss"):
            assert found[key] == pytest.approx(expected[key], rel=1e-3)
        assert found["learning_rate"] == pytest.approx(expected["learning_rate"], rel=1e-12)
    metrics = [run(place, job.evaluation(at))[0] for place in (rust, supervisor)]
    assert set(metrics[0]) == set(metrics[1]) and metrics[0]["rows"] == metrics[1]["rows"]
    assert metrics[1]["loss"] == pytest.approx(metrics[0]["loss"], rel=1e-5)
    files = [run(place, job.prediction(at))[0]["outputs"] for place in (rust, supervisor)]
    ours, theirs = (tensors.read(store.path(digest))[0]["outputs"] for digest in files)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_files_have_the_same_layout(store: Store, supervisor: Supervisor, rust: Supervisor) -> None:
    """Where a step changes nothing that shows, both write the same bytes but for `numerics`."""
    job = Job(
        store, epochs=1, layers=LAYERS, optimizer={"type": "sgd", "lr": 1e-30, "momentum": 0.5}
    )
    headers = []
    for place in (rust, supervisor):
        digest = run(place, job.training())[0]["checkpoint"]["digest"]
        data = store.path(digest).read_bytes()
        found, facts = tensors.read(Path(store.path(digest)))
        assert facts is not None
        headers.append((list(facts), {n: (t.dtype, t.shape) for n, t in found.items()}))
        length = int.from_bytes(data[:8], "little")
        assert data[8 : 8 + length].rstrip().endswith(b"}")
    assert headers[0] == headers[1]
