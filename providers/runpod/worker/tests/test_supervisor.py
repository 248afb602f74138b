"""Tasks in a task process, and what becomes of them when it dies, hangs or is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest

from jobs import ENDLESS, Job, curve, envelope
from outboard_worker import tensors
from outboard_worker.checkpoint import Checkpoint
from outboard_worker.store import Store
from outboard_worker.supervisor import Stop, Supervisor

Json = dict[str, Any]


def run(supervisor: Supervisor, key: str, operation: Json, **more: Any) -> tuple[Json, list[Json]]:
    events: list[Json] = []
    result = supervisor.run(envelope(key, operation, **more), Stop(), events.append)
    return result, events


def finished(result: Json) -> Json:
    assert "finished" in result["ended"], result
    found: Json = result["ended"]["finished"]
    return found


def failure(result: Json) -> Json:
    assert "failed" in result["ended"], result
    found: Json = result["ended"]["failed"]
    return found


def when_running(act: Callable[[], None]) -> Callable[[Json], None]:
    """Acts once, when the first event comes."""
    done = threading.Event()

    def observe(_: Json) -> None:
        if not done.is_set():
            done.set()
            act()

    return observe


def test_train_evaluate_predict(store: Store, supervisor: Supervisor) -> None:
    job = Job(store)
    result, events = run(supervisor, "a", job.training())
    outcome = finished(result)
    assert outcome["ended"] == "complete"
    assert [event["epoch"] for event in curve(events)] == [1, 2, 3, 4]
    assert curve(events)[3]["loss"] < curve(events)[0]["loss"]
    assert set(curve(events)[0]) == {
        *("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate")
    }
    assert events[-1] == {"event": "checkpoint", **outcome["checkpoint"]}
    digest = outcome["checkpoint"]["digest"]
    position = Checkpoint.read(store.verify(digest)).position
    assert (position.epoch, position.step_in_epoch, position.step) == (4, 0, 52)
    assert position.job == "job" and position.numerics.startswith("torch ")
    timings = result["timings"]
    assert timings["boot"] > 0 and timings["compute"] > 0 and timings["load"] > 0

    metrics = finished(run(supervisor, "b", job.evaluation(digest))[0])
    last = curve(events)[3]
    assert metrics["rows"] == 60 and metrics["accuracy"] == last["validation_accuracy"]
    assert metrics["loss"] == pytest.approx(last["validation_loss"], rel=1e-6)
    outputs = finished(run(supervisor, "c", job.prediction(digest))[0])["outputs"]
    found = tensors.read(store.path(outputs))[0]["outputs"]
    assert found.shape == (60, 3)
    right = (found.argmax(dim=1) == job.tensors["y"][:60]).sum().item() / 60
    assert right == metrics["accuracy"]


def test_moved_at_every_epoch_it_ends_with_the_same_bytes(
    store: Store, supervisor: Supervisor
) -> None:
    options = {"optimizer": {"type": "sgd", "lr": 0.1, "momentum": 0.9}, "keep": "best"}
    for train in ({}, options, {"early_stopping": {"patience": 1, "min_delta": 10.0}}):
        job = Job(store, **train)
        whole, events = run(supervisor, "whole", job.training())
        moved: list[Json] = []
        at = job.start
        for until in range(1, 5):
            result, part = run(supervisor, f"part-{until}", job.training(at, until))
            moved += part
            at = finished(result)["checkpoint"]["digest"]
        assert curve(moved) == curve(events)
        assert at == finished(whole)["checkpoint"]["digest"]
        reason = "early_stopping" if "early_stopping" in train else "complete"
        assert finished(whole)["ended"] == reason


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (signal.SIGKILL, "out_of_memory", "the task process was killed, probably for memory"),
        (signal.SIGABRT, "worker_unhealthy", "the task process died (signal: 6 (SIGABRT))"),
    ],
)
def test_a_process_that_dies_is_told_and_replaced(
    store: Store, supervisor: Supervisor, number: signal.Signals, kind: str, text: str
) -> None:
    job = Job(store, ENDLESS)

    def die() -> None:
        assert supervisor.process
        os.kill(supervisor.process.child.pid, number)

    told = supervisor.run(envelope("a", job.training()), Stop(), when_running(die))
    found = failure(told)
    assert (found["kind"], found["retry"], found["message"]) == (kind, "other", text)
    context = dict(found["context"])
    assert context["exit status"] == f"signal: {number.value} ({number.name})"
    assert re.fullmatch(r"[1-9]\d* MiB of [\d.]+ [GM]iB", context["peak memory"])
    if number == signal.SIGABRT:
        assert "Fatal Python error: Aborted" in context["last log lines"]
    finished(run(supervisor, "b", Job(store).training())[0])


def test_a_process_that_dies_while_idle_costs_nothing(store: Store, supervisor: Supervisor) -> None:
    supervisor.start()
    assert supervisor.process
    # Stopped before it is killed, it takes the task and its death comes when it should begin.
    os.kill(supervisor.process.child.pid, signal.SIGKILL)
    finished(run(supervisor, "a", Job(store).training())[0])


def test_a_process_that_hangs_is_ended(store: Store, supervisor: Supervisor) -> None:
    job = Job(store, ENDLESS)

    def hang() -> None:
        assert supervisor.process
        os.kill(supervisor.process.child.pid, signal.SIGSTOP)

    task = envelope("a", job.training(), patience_seconds=2.0)
    found = failure(supervisor.run(task, Stop(), when_running(hang)))
    assert found["kind"] == "worker_unhealthy" and found["retry"] == "other"
    assert found["message"] == "the task process hung: nothing was heard of it for 2 s"
    finished(run(supervisor, "b", Job(store).training())[0])


def test_a_stopped_task_leaves_a_checkpoint_to_go_on_from(
    store: Store, supervisor: Supervisor
) -> None:
    job = Job(store, ENDLESS)
    stop = Stop()
    told = supervisor.run(envelope("a", job.training()), stop, when_running(stop.set))
    outcome = finished(told)
    assert outcome["ended"] == "cancelled"
    at = outcome["checkpoint"]
    result, _ = run(supervisor, "b", job.training(at["digest"], at["epoch"] + 1))
    assert finished(result)["ended"] == "complete"
    # One that came too late stops nothing else.
    stop.set()
    finished(run(supervisor, "c", Job(store).training())[0])


def test_what_is_stopped_while_it_waits_never_begins(
    store: Store, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = MagicMock()
    taken.locked.return_value = True
    monkeypatch.setattr(supervisor, "lock", taken)
    stop = Stop()
    stop.set()
    task = envelope("a", Job(store, ENDLESS).training())
    assert supervisor.run(task, stop, lambda _: pytest.fail("it began"))["ended"] == "cancelled"
    taken.locked.return_value = False
    # One whose turn it is leaves a checkpoint, as it would later.
    assert finished(supervisor.run(task, stop, lambda _: None))["ended"] == "cancelled"


def test_a_limit_ends_training(store: Store, supervisor: Supervisor) -> None:
    job = Job(store, ENDLESS)
    limit = {"secs": 0, "nanos": 300_000_000}
    assert finished(run(supervisor, "a", job.training(), limit=limit)[0])["ended"] == "limit"


def test_a_program_that_is_none_is_told(store: Store) -> None:
    job = Job(store)
    for command, text in [
        (["/nowhere/worker"], "cannot be started"),
        (["false"], "the task process died (exit status: 1)"),
        (["echo", "{}"], "does not speak as a task process should"),
    ]:
        found = failure(run(Supervisor(command), "a", job.training())[0])
        assert found["kind"] == "worker_unhealthy" and text in found["message"]


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"loss": "mse"}, "invalid_request", "the data's target does not suit the loss"),
        ({"lr": 1}, "invalid_request", "[train]: the key `lr` is unknown"),
        ({"batch_size": 0}, "invalid_request", "`batch_size` is 0, but must be a whole number"),
        ({"batch_size": 300, "drop_last": True}, "invalid_request", "no batch is complete"),
        ({"freeze": ["9"]}, "invalid_request", "`9` in `train.freeze` names no layer"),
        ({"seed": 8}, "corrupt_payload", "the checkpoint belongs to another job"),
        ({"optimizer": {"type": "sgd", "lr": 1e30}}, "job_failed", "the loss became nan"),
    ],
)
def test_a_wrong_job_is_told(
    store: Store, supervisor: Supervisor, change: Json, kind: str, text: str
) -> None:
    job = Job(store)
    job.train |= change
    found = failure(run(supervisor, "a", job.training())[0])
    assert found["kind"] == kind and text in found["message"], found
    assert found["hint"] or kind == "corrupt_payload"


@pytest.mark.parametrize(
    ("layers", "kind", "text"),
    [
        (["warp"], "unsupported", "layer 0 (warp) is unknown here"),
        (["relu", "embedding"], "invalid_request", "layer 1 (embedding): `tokens` is missing"),
        ([{"type": "linear", "out": 3, "biass": True}], "invalid_request", "`biass` is unknown"),
        ([{"type": "linear", "out": 2**40}], "invalid_request", "is too large"),
        ([{"type": "conv1d", "out": 2, "kernel": 3}], "invalid_request", "it takes [channels"),
        ([{"type": "linear", "out": 2**28}, "relu"], "corrupt_payload", "but the model needs"),
        (["relu"], "invalid_request", "the model has no parameter to train"),
        ([], "invalid_request", "the model has no layer"),
    ],
)
def test_a_wrong_or_hostile_model_is_told(
    store: Store, supervisor: Supervisor, layers: Any, kind: str, text: str
) -> None:
    job = Job(store)
    job.model["layers"] = layers
    found = failure(run(supervisor, "a", job.training())[0])
    assert found["kind"] == kind and text in found["message"], found


def test_a_wrong_blob_is_told(store: Store, supervisor: Supervisor) -> None:
    job = Job(store)
    text = store.write(b"neither rows nor weights")
    for operation in (
        {**job.training(), "data": text},
        job.training(checkpoint=text),
        job.training(checkpoint=job.data),
    ):
        assert failure(run(supervisor, "a", operation)[0])["kind"] == "corrupt_payload"
    store.path(job.data).write_bytes(b"damaged")
    found = failure(run(supervisor, "b", job.training())[0])
    assert found["message"] == "a blob does not match its digest: the file was damaged"
    found = failure(run(supervisor, "b", job.training())[0])
    assert (found["kind"], found["retry"]) == ("not_found", {"same": {"after": None}})


def test_a_supervisor_does_not_load_pytorch() -> None:
    """What may abort or hang when it is loaded does so in the task process."""
    program = "import sys, outboard_worker.serverless, outboard_worker.server; "
    program += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
