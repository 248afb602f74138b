"""The worker over HTTP, by hand and as the program uses it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import urllib3

from conftest import REPOSITORY
from jobs import ENDLESS, Job, curve, message
from outboard_worker.store import Store, compress, digest_of

Json = dict[str, Any]
TOKEN = "0123456789abcdef"


class Worker:
    """A worker that listens."""

    def __init__(
        self, folder: Path, *flags: str, program: Sequence[str] = ("-m", "outboard_worker")
    ) -> None:
        self.folder = folder
        token = folder / "token"
        token.write_text(TOKEN + "\n")
        token.chmod(0o600)
        command = [sys.executable, *program, "--listen", "127.0.0.1:0"]
        paths = ["--store", str(folder / "served"), "--token-file", str(token)]
        self.process = subprocess.Popen(
            [*command, *paths, *flags], stderr=subprocess.PIPE, text=True
        )
        self.pool = urllib3.PoolManager(retries=False, ca_certs=str(folder / "cert.pem"))
        assert self.process.stderr
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            found = re.search(r"listening on (\S+) \(", line)
            if found:
                self.url = found[1]
                return
        pytest.fail("".join(lines))

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {TOKEN}", **headers}
        return self.pool.request(method, self.url + path, body=body, headers=headers)

    def submit(self, task: Json) -> urllib3.BaseHTTPResponse:
        return self.ask("POST", "/v1/tasks", json.dumps(task).encode())

    def put(self, store: Store, *digests: str) -> None:
        for digest in digests:
            data = store.path(digest).read_bytes()
            assert self.ask("PUT", f"/v1/blobs/{digest}", data).status in (200, 201)

    def until_ended(self, key: str) -> tuple[Json, list[Json]]:
        """The result of a task, and its events."""
        seen, events = 0, []
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            state = self.ask("GET", f"/v1/tasks/{key}?seen={seen}&wait_ms=10000").json()
            seen = state["revision"]
            events += state["events"]
            if isinstance(state["phase"], dict):
                result: Json = state["phase"]["ended"]
                return result, events
        pytest.fail("it never ends")

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0
        assert self.process.stderr
        self.process.stderr.close()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    found = Worker(tmp_path_factory.mktemp("worker"))
    yield found
    found.close()


def test_a_task_runs_and_is_found_again(worker: Worker, store: Store) -> None:
    job = Job(store)
    task = message("a/b 1", job.training())
    missing = worker.submit(task)
    assert missing.status == 424
    assert dict(missing.json()["context"])["blob"] in (job.data, job.validation, job.start)
    worker.put(store, job.data, job.validation, job.start)
    accepted = worker.submit(task)
    assert accepted.status == 202 and accepted.json()["phase"] == "queued"
    assert accepted.headers["outboard-digest"] == digest_of(accepted.data)
    result, events = worker.until_ended("a%2Fb%201")
    assert [epoch["epoch"] for epoch in curve(events)] == [1, 2, 3, 4]
    digest = result["ended"]["finished"]["checkpoint"]["digest"]
    whole = worker.ask("GET", f"/v1/blobs/{digest}")
    assert digest_of(whole.data) == digest
    assert worker.ask("HEAD", f"/v1/blobs/{digest}").headers["Content-Length"] == str(
        len(whole.data)
    )
    rest = worker.ask("GET", f"/v1/blobs/{digest}", Range="bytes=10-")
    assert rest.status == 206 and rest.data == whole.data[10:]
    again = worker.submit({**task, "task": {**task["task"], "attempt": "another"}})
    assert again.status == 200 and again.json()["phase"]["ended"] == result
    health = worker.ask("GET", "/v1/health").json()
    assert health["numerics"].startswith("torch ") and "linear" in health["layers"]
    assert (health["running"], health["queued"], health["draining"]) == (0, 0, False)


def test_a_queued_and_a_running_task_are_stopped(worker: Worker, store: Store) -> None:
    job = Job(store, ENDLESS)
    worker.put(store, job.data, job.validation, job.start)
    for key in ("first", "second"):
        assert worker.submit(message(key, job.training())).status == 202
    assert {one["key"] for one in worker.ask("GET", "/v1/tasks").json()} == {"first", "second"}
    second = worker.ask("DELETE", "/v1/tasks/second").json()
    assert second["phase"]["ended"]["ended"] == "cancelled"
    first = worker.ask("DELETE", "/v1/tasks/first").json()
    assert first["phase"]["ended"]["ended"]["finished"]["ended"] == "cancelled"
    assert worker.ask("GET", "/v1/tasks").json() == []


def test_what_is_refused(worker: Worker, store: Store) -> None:
    job = Job(store)
    blob = digest_of(b"blob")
    late = {**message("late", job.training()), "not_after": 1}
    cases: list[tuple[str, str, bytes | None, dict[str, str], int]] = [
        ("GET", "/v1/health", None, {"Authorization": "Bearer wrong"}, 401),
        ("GET", "/v1/nothing", None, {}, 404),
        ("POST", "/v1/health", b"", {}, 405),
        ("GET", f"/v1/blobs/{blob}", None, {}, 404),
        ("GET", "/v1/blobs/..%2F..%2Fetc", None, {}, 400),
        ("PUT", f"/v1/blobs/{blob}", b"other", {}, 422),
        ("PUT", f"/v1/blobs/{blob}", b"other", {"Content-Encoding": "zstd"}, 422),
        ("PUT", f"/v1/blobs/{blob}", b"other", {"Content-Encoding": "br"}, 415),
        ("PUT", f"/v1/blobs/{blob}", compress(b"blob"), {"Content-Encoding": "zstd"}, 201),
        ("GET", f"/v1/blobs/{blob}", None, {"Range": "bytes=9-"}, 416),
        ("POST", "/v1/tasks", b"{", {}, 400),
        ("POST", "/v1/tasks", b"{}", {"outboard-digest": "0" * 64}, 400),
        ("POST", "/v1/tasks", b" " * (17 << 20), {}, 413),
        ("POST", "/v1/tasks", json.dumps(late).encode(), {}, 410),
        ("GET", "/v1/tasks/unknown", None, {}, 404),
    ]
    for method, path, body, headers, status in cases:
        try:
            reply = worker.ask(method, path, body, **headers)
        except urllib3.exceptions.ProtocolError:
            # A body that is refused before its end was read.
            assert status == 413
            continue
        assert reply.status == status, (method, path, reply.data)
        if status >= 400:
            found = reply.json()
            assert found["message"] and TOKEN not in reply.data.decode()
    assert worker.ask("GET", "/v1/health").status == 200


def test_a_restarted_worker_knows_its_tasks(tmp_path: Path, store: Store) -> None:
    job, endless = Job(store), Job(store, ENDLESS)
    first = Worker(tmp_path)
    first.put(store, job.data, job.validation, job.start, endless.start)
    first.submit(message("done", job.training()))
    result, events = first.until_ended("done")
    first.submit(message("running", endless.training()))
    while first.ask("GET", "/v1/tasks/running?seen=1&wait_ms=10000").json()["phase"] == "queued":
        pass
    first.close()
    second = Worker(tmp_path)
    found, again = second.until_ended("done")
    assert found == result and curve(again) == curve(events)
    interrupted = second.until_ended("running")[0]["ended"]["failed"]
    assert (
        interrupted["kind"] == "preempted"
        and interrupted["message"] == "the worker is shutting down"
    )
    with pytest.raises(pytest.fail.Exception, match="another worker uses the store"):
        Worker(tmp_path)
    second.close()


def test_the_program_uses_it_over_https(tmp_path: Path) -> None:
    program = os.environ.get("TEST_OUTBOARD_BIN")
    if not program:
        pytest.skip("the variable TEST_OUTBOARD_BIN names no program")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = [
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    ]
    subprocess.run([*make.split(), *names, *files], cwd=tmp_path, check=True, capture_output=True)
    worker = Worker(
        tmp_path, "--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")
    )
    shutil.copy(REPOSITORY / "examples/data/digits.csv", tmp_path)
    job = (REPOSITORY / "examples/digits.toml").read_text()
    job = job.replace("data/digits.csv", "digits.csv").replace("epochs = 20", "epochs = 3")
    (tmp_path / "job.toml").write_text(job)
    address = f'url = "{worker.url}", token_file = "token", ca_file = "cert.pem"'
    (tmp_path / "outboard.toml").write_text(
        f"[providers.http]\nenabled = true\nworkers = [{{ {address} }}]\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OUTBOARD_")}
    curves = []
    for place in ("cpu", "http"):
        done = subprocess.run(
            [REPOSITORY / program, "train", "job.toml", "--on", place, "--json"],
            cwd=tmp_path,
            env=environment | {"OUTBOARD_HOME": str(tmp_path / f"home-{place}")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        curves.append([line for line in lines if line["event"] == "epoch"])
    worker.close()
    assert len(curves[0]) == 3
    for here, there in zip(*curves, strict=True):
        assert there["loss"] == pytest.approx(here["loss"], rel=1e-3)
        assert there["validation_loss"] == pytest.approx(here["validation_loss"], rel=1e-3)
