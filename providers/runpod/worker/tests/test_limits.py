"""Memory that doesn't suffice, settings, precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import Job
from outboard_worker.checkpoint import Checkpoint
from outboard_worker.dataset import Dataset
from outboard_worker.device import Device
from outboard_worker.failure import Failure
from outboard_worker.hyperparameters import Train
from outboard_worker.network import Network
from outboard_worker.settings import Settings
from outboard_worker.store import Store
from outboard_worker.trainer import Trainer

Forward = Callable[[Network, torch.Tensor], torch.Tensor]


def trainer(store: Store, device: Device, **train: Any) -> Trainer:
    job = Job(store, **train)
    data, validation = (Dataset.read(store.path(digest)) for digest in (job.data, job.validation))
    start = Checkpoint.read(store.path(job.start))
    return Trainer(job.model, Train.read(job.train), data, validation, start, device)


def with_room_for(monkeypatch: pytest.MonkeyPatch, rows: int) -> list[int]:
    """Makes passes of more rows fail as a GPU's allocator does; the sizes that were tried."""
    tried: list[int] = []
    real: Forward = Network.forward

    def forward(network: Network, x: torch.Tensor) -> torch.Tensor:
        tried.append(len(x))
        if len(x) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return real(network, x)

    monkeypatch.setattr(Network, "forward", forward)
    return tried


def test_a_batch_that_fits_is_found_by_halving(
    store: Store, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(store, device, batch_size=64)
    tried = with_room_for(monkeypatch, 10)
    with pytest.raises(Failure) as raised:
        run.step(lambda: None)
    failure = raised.value
    assert (failure.kind, failure.retry) == ("out_of_memory", "other")
    assert failure.message == "a step of 64 rows does not fit in memory"
    assert failure.hint == "set `batch_size` to at most 8: found by halving, it fits"
    assert dict(failure.context)["fits"] == "8" and tried == [64, 32, 16, 8]


def test_not_even_one_row_fits(
    store: Store, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(store, device)
    with_room_for(monkeypatch, 0)
    with pytest.raises(Failure) as raised:
        run.step(lambda: None)
    assert raised.value.hint and "not even one row fits" in raised.value.hint


def test_an_evaluation_takes_fewer_rows_at_a_time(
    store: Store, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(store, device)
    assert run.validation is not None
    whole = run.network.evaluate(run.validation, run.loss, lambda: None)
    tried = with_room_for(monkeypatch, 20)
    parts = run.network.evaluate(run.validation, run.loss, lambda: None)
    assert parts[1] == whole[1] and parts[0] == pytest.approx(whole[0], rel=1e-6)
    assert (
        tried[0] == 60 and max(tried[-4:]) <= 20 and sum(size for size in tried if size <= 20) == 60
    )


def test_mixed_precision_is_asked_for_and_has_a_class_of_its_own(
    store: Store, device: Device
) -> None:
    mixed = Device(Settings(device="cpu", threads=1, bf16=True))
    assert mixed.numerics == device.numerics + " bf16"
    losses = []
    for where in (device, mixed):
        run = trainer(store, where)
        while (epoch := run.step(lambda: None)) is None:
            pass
        losses.append(epoch["loss"])
        assert run.checkpoint().position.numerics == where.numerics
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(Failure) as raised:
        Device(Settings(device="cuda"))
    assert raised.value.kind == "worker_unhealthy"
    assert "PyTorch sees no GPU here" in raised.value.message


@pytest.mark.parametrize(
    ("name", "value", "text", "hint"),
    [
        ("TF23", "1", "the variable OUTBOARD_WORKER_TF23 is unknown", "`OUTBOARD_WORKER_TF32`?"),
        ("TF32", "yes", "OUTBOARD_WORKER_TF32 is `yes`, but must be 0 or 1", "set it to 0 or 1"),
        ("DEVICE", "gpu", "must be auto, cpu, cuda or cuda:N", "set it to auto"),
        ("PRECISION", "fp16", "must be float32 or bf16", "set it to float32"),
        ("CACHE_BYTES", "20GB", "must be a number of bytes", "set it to"),
    ],
)
def test_wrong_settings_are_told(name: str, value: str, text: str, hint: str) -> None:
    with pytest.raises(Failure) as raised:
        Settings.read({f"OUTBOARD_WORKER_{name}": value, "OUTBOARD_HOME": "x"})
    assert text in raised.value.message and hint in (raised.value.hint or "")


def test_settings() -> None:
    assert Settings.read({}) == Settings(Path("/tmp/outboard-worker"), 20 << 30, "auto")
    variables = {
        "STORE": "/s",
        "CACHE_BYTES": "7",
        "DEVICE": "cuda:1",
        "PRECISION": "bf16",
        "TF32": "1",
    }
    found = Settings.read({f"OUTBOARD_WORKER_{name}": value for name, value in variables.items()})
    assert found == Settings(Path("/s"), 7, "cuda:1", bf16=True, tf32=True)
