"""The worker for PyTorch under RunPod's own SDK, on RunPod's stand-in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from program import REPOSITORY, Program
from test_runpod import ENDPOINT, KEY, LONG, Testbed, final, until

PACKAGE = REPOSITORY / "providers" / "runpod" / "worker"
COMMAND = [sys.executable, "-m", "outboard_worker"]

PLAIN: dict[str, Any] = json.loads((PACKAGE / "test_input.json").read_text())["input"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The worker's settings."""
    return {
        "PYTHONPATH": str(PACKAGE / "src"),
        "OUTBOARD_WORKER_STORE": str(tmp_path / "worker"),
        "OUTBOARD_WORKER_DEVICE": "cpu",
        "OUTBOARD_WORKER_THREADS": "1",
    }


def with_worker(tmp_path: Path, environment: dict[str, str]) -> Testbed:
    """The stand-in with the worker."""
    program = os.environ.get("TEST_RUNPOD_TESTBED_BIN")
    if not program:
        pytest.skip("the variable TEST_RUNPOD_TESTBED_BIN names no program")
    log = {"RUNPOD_TESTBED_LOG": str(tmp_path / "worker.log")}
    return Testbed(REPOSITORY / program, ["--", *COMMAND], environment | log)


@pytest.fixture
def testbed(tmp_path: Path, environment: dict[str, str]) -> Iterator[Testbed]:
    """The stand-in with the worker, for one test."""
    found = with_worker(tmp_path, environment)
    yield found
    found.close()


def task_process(tmp_path: Path) -> int | None:
    """The id of the task process over the store of this test."""
    store = str(tmp_path / "worker").encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--stdio" in words and store in words:
            return int(folder.name)
    return None


def worker_process(tmp_path: Path) -> int:
    """The id of the worker: the task process is its child."""
    facts = Path(f"/proc/{task_process(tmp_path)}/stat").read_text()
    return int(facts.rpartition(")")[2].split()[1])


def endless() -> dict[str, Any]:
    return {**PLAIN, "epochs": 1_000_000}


def test_epochs_in_one_call(testbed: Testbed) -> None:
    first = testbed.endpoint.run_sync(PLAIN, timeout=120)
    assert set(first) == {"loss", "accuracy", "model_state", "metrics"}
    second = testbed.endpoint.run_sync({**PLAIN, "model_state": first["model_state"]}, timeout=120)
    assert second["loss"] < first["loss"]
    wrong = final(testbed, testbed.endpoint.run({**PLAIN, "model_state": "UEsDBA=="}))
    assert wrong["status"] == "FAILED"
    assert "`model_state` is a pickle" in wrong["error"] and "save_file" in wrong["error"]
    unknown = final(testbed, testbed.endpoint.run({"prompt": "hello"}))
    assert "has neither `envelope` nor `operation`" in unknown["error"]


def test_progress_a_stop_and_a_death(testbed: Testbed, tmp_path: Path) -> None:
    job = testbed.endpoint.run(endless())
    seen = until(job.output)
    assert seen["event"] == "progress" and seen["loss"] > 0
    assert job.status() == "IN_PROGRESS"
    first = task_process(tmp_path)
    assert job.cancel()["status"] == "CANCELLED"
    # The worker lives on, with the same task process.
    assert testbed.endpoint.run_sync(PLAIN, timeout=120)["loss"] > 0
    assert task_process(tmp_path) == first

    for number, text in (
        (signal.SIGABRT, "the task process died (signal: 6 (SIGABRT))"),
        (signal.SIGKILL, "the task process was killed, probably for memory"),
    ):
        job = testbed.endpoint.run(endless())
        until(job.output)
        found, worker = task_process(tmp_path), worker_process(tmp_path)
        assert found is not None
        os.kill(found, number)
        assert text in final(testbed, job)["error"]
        assert testbed.endpoint.run_sync(PLAIN, timeout=120)["loss"] > 0
        assert task_process(tmp_path) != found
        # After a lack of memory it is another worker.
        assert (worker_process(tmp_path) != worker) == (number == signal.SIGKILL)


def test_a_worker_that_is_ended_says_so(testbed: Testbed, tmp_path: Path) -> None:
    job = testbed.endpoint.run(endless())
    until(job.output)
    os.kill(worker_process(tmp_path), signal.SIGTERM)
    state = final(testbed, job)
    assert state["status"] == "FAILED" and "the worker is shutting down" in state["error"]


def test_a_library_that_aborts_makes_the_worker_unhealthy(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """The job stays in the queue, and the reason is in the worker's log."""
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(
        "import os, sys\n"
        "sys.stderr.write('what():  random_device could not be read\\n')\n"
        "sys.stderr.flush()\n"
        "os.abort()\n"
    )
    paths = f"{broken.parent}{os.pathsep}{environment['PYTHONPATH']}"
    testbed = with_worker(tmp_path, environment | {"PYTHONPATH": paths})
    try:
        job = testbed.endpoint.run(PLAIN)
        until(lambda: testbed.endpoint.health()["workers"]["unhealthy"])
        assert job.status() == "IN_QUEUE"
        log = (tmp_path / "worker.log").read_text()
        assert "the task process died in libstdc++ (signal: 6 (SIGABRT)" in log
        assert "random_device could not be read" in log
    finally:
        testbed.close()


def test_the_first_remote_epoch(testbed: Testbed, outboard: Program) -> None:
    """A whole job of the program runs there, without a store, with the curve that it has here."""
    if "[providers.runpod]" not in (REPOSITORY / "config" / "default.toml").read_text():
        pytest.skip("the program doesn't offer the provider `runpod` yet")
    examples = REPOSITORY / "examples"
    shutil.copy(examples / "data" / "digits.csv", outboard.folder)
    job = (examples / "digits.toml").read_text().replace("data/digits.csv", "digits.csv")
    (outboard.folder / "job.toml").write_text(job.replace("epochs = 20", "epochs = 2"))
    here, _ = outboard.train("job.toml")
    assert len(here) == 2
    (outboard.folder / "outboard.toml").write_text(f"""
[providers.runpod]
enabled = true
api_key = "{KEY}"
endpoints = [{{ id = "{ENDPOINT}", gpu = "RTX 4090" }}]
base_url = "{testbed.base}"
rest_url = "{testbed.base.removesuffix("/v2")}/rest/v2"
""")
    lines = outboard.run("train", outboard.folder / "job.toml", "--on", "runpod")
    there = [line for line in lines if line["event"] == "epoch"]
    assert lines[-1]["status"] == "succeeded" and "runpod" in json.dumps(lines)
    for found, expected in zip(there, here, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert found["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-3)


def test_the_sdks_local_mode(tmp_path: Path, environment: dict[str, str]) -> None:
    shutil.copy(PACKAGE / "test_input.json", tmp_path)
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("RUNPOD_", "OUTBOARD_"))}
    done = subprocess.run(
        COMMAND,
        cwd=tmp_path,
        env=plain | environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=3 * LONG,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "completed successfully" in done.stdout
