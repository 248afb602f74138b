"""RunPod's stand-in is true to RunPod: its own client and worker SDK can't tell the difference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from program import REPOSITORY

KEY = "rpa_0123456789"
ENDPOINT = "ep1"
WORKER = Path(__file__).parent / "runpod_worker.py"
LONG = 60.0

runpod = pytest.importorskip("runpod")


class Testbed:
    """The stand-in, and the SDK's client of it."""

    __test__ = False

    def __init__(self, program: Path, arguments: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [program, KEY, ENDPOINT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
            text=True,
        )
        assert self.process.stdout
        self.base = self.process.stdout.readline().strip()
        # What `RUNPOD_ENDPOINT_BASE_URL` sets when the SDK is loaded.
        runpod.endpoint_url_base = self.base
        self.endpoint = runpod.Endpoint(ENDPOINT, api_key=KEY)

    def get(self, path: str, key: str = KEY) -> Any:
        """A request beside the SDK."""
        import requests

        return requests.get(
            f"{self.base}{path}", headers={"Authorization": f"Bearer {key}"}, timeout=LONG
        )

    def close(self) -> None:
        """Ends it, with its workers."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(LONG)


Start = Callable[..., Testbed]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts stand-ins."""
    program = os.environ.get("TEST_RUNPOD_TESTBED_BIN")
    if not program:
        pytest.skip("the variable TEST_RUNPOD_TESTBED_BIN names no program")
    running = []

    def starts(*arguments: str, works: bool = True, **environment: str) -> Testbed:
        worker = ["--", sys.executable, str(WORKER)] if works else []
        log = {"RUNPOD_TESTBED_LOG": str(tmp_path / "worker.log")}
        running.append(Testbed(REPOSITORY / program, [*arguments, *worker], environment | log))
        return running[-1]

    yield starts
    for testbed in running:
        testbed.close()


def until(holds: Callable[[], Any]) -> Any:
    """The first answer that is true."""
    deadline = time.monotonic() + LONG
    while not (found := holds()):
        assert time.monotonic() < deadline, "it never holds"
        time.sleep(0.05)
    return found


def final(testbed: Testbed, job: Any) -> dict[str, Any]:
    """The last state of a job, whole."""
    until(lambda: job.status() not in ("IN_QUEUE", "IN_PROGRESS"))
    return testbed.get(f"/{ENDPOINT}/status/{job.job_id}").json()


def test_results_and_errors(start: Start) -> None:
    testbed = start()
    job = testbed.endpoint.run({"do": "echo", "say": [1, "ä"]})
    assert job.output(timeout=60) == {"said": [1, "ä"]}
    state = final(testbed, job)
    assert state["status"] == "COMPLETED"
    assert state["executionTime"] >= 0 and state["delayTime"] > 0 and state["workerId"]

    assert testbed.endpoint.run_sync({"do": "echo", "say": 2}, timeout=60) == {"said": 2}
    assert "output" not in final(testbed, testbed.endpoint.run({"do": "nothing"}))

    refused = final(testbed, testbed.endpoint.run({"do": "refuse"}))
    assert (refused["status"], refused["error"]) == ("FAILED", "handler said no")
    assert refused["input"] == {"do": "refuse"}

    failed = final(testbed, testbed.endpoint.run({"do": "raise"}))
    told = json.loads(failed["error"])
    assert failed["status"] == "FAILED" and told["error_message"] == "a handler that fails"
    assert "ValueError" in told["error_type"] and told["worker_id"] == failed["workerId"]
    health = testbed.endpoint.health()
    assert (health["jobs"]["completed"], health["jobs"]["failed"]) == (3, 2)
    assert set(health["workers"]) == {
        "idle",
        "initializing",
        "ready",
        "running",
        "throttled",
        "unhealthy",
    }


def test_progress_cancel_and_purge(start: Start, tmp_path: Path) -> None:
    testbed = start()
    go = tmp_path / "go"
    job = testbed.endpoint.run({"do": "progress", "go": str(go)})
    until(lambda: job.output() == "half")
    assert job.status() == "IN_PROGRESS"
    go.touch()
    assert job.output(timeout=60) == "whole"

    began, stopped = tmp_path / "began", tmp_path / "stopped"
    job = testbed.endpoint.run(
        {"do": "wait", "go": "/nowhere", "began": str(began), "stopped": str(stopped)}
    )
    until(began.exists)
    assert job.cancel() == {"id": job.job_id, "status": "CANCELLED"}
    until(stopped.exists)
    assert final(testbed, job)["status"] == "CANCELLED"
    # The worker lives on.
    assert testbed.endpoint.run_sync({"do": "echo", "say": 3}, timeout=60) == {"said": 3}

    idle = start(works=False)
    jobs = [idle.endpoint.run({"do": "echo", "say": n}) for n in range(2)]
    assert jobs[0].status() == "IN_QUEUE"
    assert idle.endpoint.purge_queue() == {"removed": 2, "status": "completed"}
    assert jobs[1].status() == "CANCELLED"


def test_streams(start: Start) -> None:
    testbed = start(TEST_STREAM="1")
    job = testbed.endpoint.run({"do": "count", "to": 3})
    assert list(job.stream()) == [0, 1, 2]
    assert final(testbed, job)["output"] == [0, 1, 2]


def test_a_worker_that_wants_several_jobs_gets_them(start: Start, tmp_path: Path) -> None:
    testbed = start(TEST_TOGETHER="2")
    go = tmp_path / "go"
    began = [tmp_path / str(n) for n in range(2)]
    ask = {"do": "wait", "go": str(go), "stopped": str(tmp_path / "stopped")}
    jobs = [testbed.endpoint.run(ask | {"began": str(path)}) for path in began]
    until(lambda: all(path.exists() for path in began))
    go.touch()
    assert [job.output(timeout=60) for job in jobs] == ["waited"] * 2


def test_a_worker_that_asks_for_it_is_renewed(start: Start) -> None:
    testbed = start()
    first = testbed.endpoint.run_sync({"do": "renew"}, timeout=60)
    second = testbed.endpoint.run_sync({"do": "renew"}, timeout=60)
    assert first["pid"] != second["pid"]


def test_an_unfit_worker_is_unhealthy_and_its_job_waits(start: Start) -> None:
    testbed = start(TEST_UNFIT="1")
    job = testbed.endpoint.run({"do": "echo", "say": 1})
    until(lambda: testbed.endpoint.health()["workers"]["unhealthy"])
    assert job.status() == "IN_QUEUE"


def test_limits_and_keys(start: Start) -> None:
    import requests

    testbed = start(works=False)
    assert testbed.get(f"/{ENDPOINT}/health", key="wrong").status_code == 401
    with pytest.raises(RuntimeError):
        runpod.Endpoint(ENDPOINT, api_key="wrong").run({"do": "echo"})
    with pytest.raises(requests.HTTPError, match="404"):
        runpod.Endpoint("other", api_key=KEY).run({"do": "echo"})
    with pytest.raises(requests.HTTPError, match="413"):
        testbed.endpoint.run({"do": "x" * 10_000_000})
    with pytest.raises(requests.HTTPError, match="400"):
        testbed.endpoint.run({"input": {"do": "echo"}, "policy": {"ttl": 9_999}})
    assert testbed.get(f"/{ENDPOINT}/status/unknown").status_code == 404


def test_times_pass_as_there(start: Start, tmp_path: Path) -> None:
    """A thousand times as fast: what would take a day takes a minute and a half."""
    testbed = start("--speed", "1000", works=False)
    job = testbed.endpoint.run({"input": {"do": "echo"}, "policy": {"ttl": 100_000}})
    until(lambda: testbed.get(f"/{ENDPOINT}/status/{job.job_id}").status_code == 404)

    testbed = start("--speed", "100")
    ask = {
        "do": "wait",
        "go": "/nowhere",
        "began": str(tmp_path / "b"),
        "stopped": str(tmp_path / "s"),
    }
    job = testbed.endpoint.run(
        {"input": ask, "policy": {"executionTimeout": 50_000, "ttl": 86_400_000}}
    )
    state = final(testbed, job)
    assert state["status"] == "TIMED_OUT" and state["executionTime"] >= 50_000
