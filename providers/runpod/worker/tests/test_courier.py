"""Tasks whose store is a bucket, and tasks whose blobs travel with them."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucket import Bucket
from jobs import ENDLESS, Job, curve, message
from outboard_worker import transfer
from outboard_worker.failure import Failure
from outboard_worker.inline import Requests
from outboard_worker.store import Store, compress, decoded, digest_of
from outboard_worker.supervisor import Stop, Supervisor

Json = dict[str, Any]
Faults = dict[tuple[str, str], list[int | str]]


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    found = Bucket()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries come at once."""
    monkeypatch.setattr(transfer, "FIRST_DELAY", 0.0)


@pytest.fixture
def client(tmp_path: Path) -> Store:
    """The client's store."""
    return Store(tmp_path / "client")


def grant(bucket: Bucket, client: Store, job: Job, slots: int = 3, **more: Any) -> Json:
    """What the client grants, with its blobs in the bucket."""
    blobs = []
    for digest, encoding in ((job.data, "zstd"), (job.validation, "raw"), (job.start, "raw")):
        data = client.path(digest).read_bytes()
        path = f"blobs/{digest}"
        bucket.objects[f"/{path}"] = compress(data) if encoding == "zstd" else data
        blobs.append({"digest": digest, "encoding": encoding, "url": bucket.url(path)})
    names = {name: bucket.url(f"t/{name}") for name in ("lease", "progress", "result")}
    out = [bucket.url(f"t/out/{slot}") for slot in range(slots)]
    until = int((time.time() + 600) * 1000)
    return {"until": until, "blobs": blobs, "out": out, **names, **more}


def run(requests: Requests, asked: Any, stop: Stop | None = None) -> Json:
    return requests.run(asked, stop or Stop(), lambda event: None)


def failure(reply: Json) -> Json:
    found: Json = reply["result"]["ended"]["failed"]
    return found


def test_a_bucket_gets_everything(
    bucket: Bucket, client: Store, supervisor: Supervisor, store: Store
) -> None:
    job = Job(client)
    requests = Requests(supervisor, store)
    granted = grant(bucket, client, job)
    bucket.faults = {
        ("GET", f"/blobs/{job.data}"): ["cut", 503],
        ("PUT", "/t/out/2"): [500],
        ("PUT", "/t/result"): [503],
    }
    asked = {"envelope": message("k", job.training(), store=granted)}
    reply = run(requests, asked)
    outcome = reply["result"]["ended"]["finished"]
    assert outcome["ended"] == "complete"
    record = json.loads(bucket.objects["/t/result"])
    [stored] = record.pop("stored")
    assert record == reply["result"] and reply["result"]["timings"]["download"] > 0
    raw = bucket.objects[f"/t/out/{stored['slot']}"]
    assert len(raw) == stored["bytes"]
    data = b"".join(decoded(iter([raw]), stored["encoding"]))
    assert digest_of(data) == stored["digest"] == outcome["checkpoint"]["digest"]
    assert json.loads(bucket.objects["/t/lease"])["attempt"] == "k#1"
    header, *lines = bucket.objects["/t/progress"].splitlines()
    assert json.loads(header) == {"protocol": 1, "attempt": "k#1", "dropped": 0}
    notes = [json.loads(line) for line in lines]
    assert [epoch["epoch"] for epoch in curve([note["event"] for note in notes])] == [1, 2, 3, 4]
    assert notes[-1]["stored"] == stored

    # The lease decides: whoever comes again runs nothing.
    seen = len(bucket.seen)
    found = failure(run(requests, asked))
    assert (
        found["kind"] == "conflict" and "another worker has taken the task `k`" in found["message"]
    )
    assert bucket.seen[seen:] == [("PUT", "/t/lease")]


def test_checkpoints_on_the_way_and_a_stop(
    bucket: Bucket, client: Store, supervisor: Supervisor, store: Store
) -> None:
    job = Job(client, ENDLESS)
    granted = grant(bucket, client, job, slots=4)
    stop = Stop()

    def stop_when_stored() -> None:
        deadline = time.monotonic() + 60
        while "/t/out/0" not in bucket.objects and time.monotonic() < deadline:
            time.sleep(0.02)
        stop.set()

    threading.Thread(target=stop_when_stored, daemon=True).start()
    task = message("k", job.training(every=0.0), store=granted)
    found = run(Requests(supervisor, store), {"envelope": task}, stop)
    outcome = found["result"]["ended"]["finished"]
    assert outcome["ended"] == "cancelled" and "/t/out/0" in bucket.objects
    record = json.loads(bucket.objects["/t/result"])
    assert record["stored"][0]["digest"] == outcome["checkpoint"]["digest"]


def test_a_stop_ends_a_download(
    bucket: Bucket, client: Store, supervisor: Supervisor, tmp_path: Path
) -> None:
    job = Job(client)
    stop = Stop()
    stop.set()
    asked = {"envelope": message("k", job.training(), store=grant(bucket, client, job))}
    found = run(Requests(supervisor, Store(tmp_path / "empty")), asked, stop)
    assert found["result"]["ended"] == "cancelled"
    assert json.loads(bucket.objects["/t/result"])["ended"] == "cancelled"
    assert len([path for method, path in bucket.seen if method == "GET"]) == 1


def test_a_worker_that_ends_leaves_word(
    bucket: Bucket, client: Store, supervisor: Supervisor, store: Store
) -> None:
    job = Job(client, ENDLESS)
    stop = Stop()
    granted = grant(bucket, client, job)
    asked = {"envelope": message("k", job.training(), store=granted)}
    reply = Requests(supervisor, store).run(asked, stop, lambda _: stop.set("preempted"))
    found = failure(reply)
    assert found["kind"] == "preempted" and found["retry"] == {"same": {"after": None}}
    record = json.loads(bucket.objects["/t/result"])
    assert record["stored"][0]["digest"] == dict(found["context"])["checkpoint"]


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"until": 1}, "timeout", "the time is over for which the grant was made"),
        ({"out": []}, "invalid_request", "the grant has no slot for the outcome"),
        ({"blobs": []}, "invalid_request", "the grant lacks a blob that the task needs"),
    ],
)
def test_what_is_of_no_use_takes_no_lease(
    bucket: Bucket,
    client: Store,
    supervisor: Supervisor,
    tmp_path: Path,
    change: Json,
    kind: str,
    text: str,
) -> None:
    job = Job(client)
    granted = grant(bucket, client, job, **change)
    requests = Requests(supervisor, Store(tmp_path / "empty"))
    found = failure(run(requests, {"envelope": message("k", job.training(), store=granted)}))
    assert (found["kind"], found["message"]) == (kind, text)
    assert not bucket.seen


def test_faults_of_a_bucket(
    bucket: Bucket, client: Store, supervisor: Supervisor, tmp_path: Path
) -> None:
    job = Job(client)
    blob = ("GET", f"/blobs/{job.data}")
    lease = ("PUT", "/t/lease")
    cases: list[tuple[Faults, bytes | None, str, str]] = [
        ({lease: [403]}, None, "permission_denied", "the store forbids this"),
        ({blob: [404]}, None, "not_found", "the store has no such object"),
        ({blob: [503] * 9}, None, "unavailable", "the store failed, or what stands before it"),
        ({}, compress(b"another"), "corrupt_payload", "a blob does not match its digest"),
        ({}, b"no frame", "corrupt_payload", "a blob can't be decompressed"),
        (
            {("PUT", f"/t/out/{slot}"): [403] for slot in range(3)},
            None,
            "permission_denied",
            "the task is done, but its outcome",
        ),
    ]
    for n, (faults, data, kind, text) in enumerate(cases):
        bucket.objects.clear()
        granted = grant(bucket, client, job)
        if data is not None:
            bucket.objects[f"/blobs/{job.data}"] = data
        bucket.faults = faults
        requests = Requests(supervisor, supervisor_store(supervisor, n))
        found = failure(
            run(requests, {"envelope": message(f"k{n}", job.training(), store=granted)})
        )
        assert found["kind"] == kind and text in found["message"], found
        assert "s3cret" not in json.dumps(found)
        assert ("/t/result" in bucket.objects) == (lease not in faults)


def supervisor_store(supervisor: Supervisor, n: int) -> Store:
    """The store of the task process, without the blobs of earlier tests."""
    folder = Path(supervisor.command[supervisor.command.index("--store") + 1])
    for path in (folder / "blobs").iterdir():
        path.unlink()
    return Store(folder)


def inline(store: Store, key: str, job: Job, operation: Json | None = None, **more: Any) -> Json:
    """A request with its blobs."""
    operation = operation or job.training()
    blobs = []
    for digest in (job.data, job.validation, job.start):
        encoding, data = store.pack(digest, 1 << 30)
        text = base64.b64encode(data).decode()
        blobs.append({"digest": digest, "encoding": encoding, "data": text})
    return {"envelope": message(key, operation, **more), "blobs": blobs}


def test_blobs_travel_with_a_task(client: Store, supervisor: Supervisor, store: Store) -> None:
    job = Job(client)
    requests = Requests(supervisor, store)
    reply = run(requests, inline(client, "i", job))
    [blob] = reply["blobs"]
    data = b"".join(decoded(iter([base64.b64decode(blob["data"])]), blob["encoding"]))
    named = reply["result"]["ended"]["finished"]["checkpoint"]["digest"]
    assert digest_of(data) == blob["digest"] == named
    assert len(curve(reply["events"])) == 4
    # The same key gives the same again, without a run; a failure only to its own attempt.
    assert run(requests, inline(client, "i", job, attempt="i#2")) is reply
    late = inline(client, "late", job)
    late["envelope"]["not_after"] = 1
    found = failure(run(requests, late))
    assert found["kind"] == "timeout" and found["retry"] == "other"
    late["envelope"]["not_after"] = 2**62
    assert failure(run(requests, late))["kind"] == "timeout"
    late["envelope"]["task"]["attempt"] = "late#2"
    assert "finished" in run(requests, late)["result"]["ended"]


def test_damage_and_hostile_sizes_of_a_message(
    client: Store, supervisor: Supervisor, store: Store
) -> None:
    job = Job(client)
    requests = Requests(supervisor, store)
    supervisor_store(supervisor, 0)

    def refusal(key: str, **blob: Any) -> Json:
        asked = inline(client, key, job)
        asked["blobs"][0] |= blob
        return failure(run(requests, asked))

    assert refusal("a", data="AAAA")["kind"] == "corrupt_payload"
    assert refusal("b", data="?")["kind"] == "corrupt_payload"
    assert refusal("c", digest="../../etc/passwd")["kind"] == "corrupt_payload"
    bomb = base64.b64encode(compress(bytes(1 << 24))).decode()
    assert refusal("d", data=bomb, encoding="zstd")["kind"] == "corrupt_payload"
    many = inline(client, "e", job)
    many["blobs"] *= 30
    assert failure(run(requests, many))["kind"] == "corrupt_payload"
    for asked, kind in (
        ([], "invalid_request"),
        ({}, "invalid_request"),
        ({"envelope": 1}, "corrupt_payload"),
        ({"envelope": {"protocol": 2}}, "unsupported"),
        ({"envelope": message("x", {"operation": "run_program"})}, "unsupported"),
        ({"envelope": message("x", {**job.training(), "data": "../x"})}, "corrupt_payload"),
        ({"envelope": message("x", job.training(), store={"until": 1})}, "corrupt_payload"),
        ({"envelope": message("x", job.training(), patience_seconds="s")}, "corrupt_payload"),
    ):
        with pytest.raises(Failure) as raised:
            run(requests, asked)
        assert raised.value.kind == kind, asked


def test_a_frame_that_would_grow_without_bound_is_cut_off(store: Store) -> None:
    frame = compress(bytes(1 << 24))
    with pytest.raises(Failure) as raised:
        store.receive(digest_of(b""), iter([frame]), "zstd", 1 << 20)
    assert raised.value.kind == "payload_too_large"
    assert not [path for path in store.blobs.iterdir() if path.name.startswith(".")]


def test_the_cache_is_bounded_and_keeps_what_is_young(tmp_path: Path) -> None:
    import os

    store = Store(tmp_path, cache_bytes=250)
    old = [store.write(bytes([n]) * 100) for n in range(2)]
    os.utime(store.path(old[0]), (1, 1))
    new = store.write(b"x" * 100)
    assert not store.has(old[0]) and store.has(old[1]) and store.has(new)
