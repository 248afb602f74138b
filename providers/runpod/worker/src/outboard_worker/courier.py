"""Carries a task out with a bucket as its store, by the URLs that its envelope brings."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from outboard_worker.envelope import (
    Envelope,
    Grant,
    GrantedBlob,
    blob_of,
    encode,
    failed,
    now,
    result,
)
from outboard_worker.failure import NEVER, OTHER, Failure, Json, invalid, same
from outboard_worker.notes import Notes
from outboard_worker.store import Store, compress, pays
from outboard_worker.supervisor import Stop, Supervisor
from outboard_worker.transfer import MAX_BLOB_BYTES, Transfer, persist

# Progress is written no more often.
EVERY = 1.0
# Blobs up to this size are compressed, if that pays.
MAX_COMPRESSED = 64 << 20
# What S3 takes in one request.
MAX_PUT = 5 << 30


def log(text: str, failure: Failure) -> None:
    """A line for the worker's log."""
    print(f"{text}: {failure.explained()}", file=sys.stderr, flush=True)


def carry(
    envelope: Envelope,
    grant: Grant,
    supervisor: Supervisor,
    store: Store,
    stop: Stop,
    observe: Callable[[Json], None],
) -> Json:
    """Takes the lease, fetches blobs, runs; all that it comes to is in the bucket then.

    What came too late, or is another worker's, isn't run and leaves nothing behind.
    """
    courier = Courier(envelope, grant, store)
    try:
        courier.begin()
    except Failure as failure:
        return failed(envelope, failure)
    return courier.run(supervisor, stop, observe)


def until(stop: Stop, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks that come before the task is stopped."""
    for chunk in chunks:
        if stop.is_set():
            raise Failure("cancelled", "the task was cancelled")
        yield chunk


class Courier:
    """One task between a bucket and a supervisor."""

    def __init__(self, envelope: Envelope, grant: Grant, store: Store) -> None:
        self.envelope, self.grant, self.store = envelope, grant, store
        self.transfer = Transfer()
        self.notes = Notes(envelope.attempt)
        self.uploading = 0.0

    def begin(self) -> None:
        """Takes the lease, unless that would be of no use."""
        if not self.grant.out:
            raise invalid("the grant has no slot for the outcome")
        self.envelope.check_time()
        if now() >= self.grant.until:
            text = "the time is over for which the grant was made"
            hint = "check the clocks of both machines, or make grants for longer"
            raise Failure("timeout", text, retry=OTHER, hint=hint)
        granted = {blob.digest for blob in self.grant.blobs}
        for digest in self.envelope.needs():
            if digest not in granted and not self.store.is_whole(digest):
                raise invalid("the grant lacks a blob that the task needs").at("blob", digest)
        lease = encode({"attempt": self.envelope.attempt, "since": now()})
        # Not tried again: were the reply lost, the lease would be ours and yet be refused.
        try:
            is_ours = self.transfer.create(self.grant.lease, lease)
        except Failure as failure:
            raise failure.at("record", "lease") from None
        if not is_ours:
            text = f"another worker has taken the task `{self.envelope.key}`"
            hint = "wait for its result, or remove the task's records once that worker is gone"
            raise Failure("conflict", text, hint=hint)

    def run(self, supervisor: Supervisor, stop: Stop, observe: Callable[[Json], None]) -> Json:
        """From the lease to the result."""
        reporting = threading.Thread(target=self.report, daemon=True)
        reporting.start()
        began = time.monotonic()
        download = 0.0

        def hear(event: Json) -> None:
            observe(event)
            self.notes.push(event)

        try:
            self.fetch(stop)
            download = time.monotonic() - began
            found = supervisor.run(self.envelope, stop, hear)
        except Failure as failure:
            is_stopped = failure.kind == "cancelled"
            found = (
                result(self.envelope, "cancelled") if is_stopped else failed(self.envelope, failure)
            )
        self.notes.close()
        reporting.join()
        began = time.monotonic()
        stored = self.deliver(found)
        self.uploading += time.monotonic() - began
        found["timings"] |= {"download": download, "upload": self.uploading}
        preempt(found, stop)
        self.write_progress()
        self.finish({**found, "stored": [stored] if stored else []})
        return found

    def fetch(self, stop: Stop) -> None:
        """Brings the blobs that the task needs into the folder."""
        granted = {blob.digest: blob for blob in self.grant.blobs}
        for digest in self.envelope.needs():
            if self.store.is_whole(digest):
                continue
            if digest not in granted:
                raise invalid("the grant lacks a blob that the task needs").at("blob", digest)
            blob = granted[digest]

            def fetch(blob: GrantedBlob = blob) -> None:
                chunks = until(stop, self.transfer.chunks(blob.url))
                self.store.receive(blob.digest, chunks, blob.encoding, MAX_BLOB_BYTES)

            try:
                persist(fetch)
            except Failure as failure:
                if failure.kind == "not_found":
                    # Whoever hands the task over again stores the blob too.
                    failure.retry = same()
                raise failure.at("blob", digest) from None

    def report(self) -> None:
        """Stores checkpoints and writes progress until nothing more happens."""
        due = 0.0
        while True:
            with self.notes.changed:
                while not self.notes.is_closed and self.notes.waiting is None:
                    left = due - time.monotonic()
                    if self.notes.is_dirty and left <= 0:
                        break
                    self.notes.changed.wait(left if self.notes.is_dirty else None)
                if self.notes.is_closed:
                    return
            waiting = self.notes.take_waiting()
            if waiting is not None:
                began = time.monotonic()
                self.keep(waiting)
                self.uploading += time.monotonic() - began
            if time.monotonic() >= due:
                self.write_progress()
                due = time.monotonic() + EVERY

    def keep(self, checkpoint: Json) -> None:
        """Stores a checkpoint in the next free slot, if there is one; if not, the task goes on."""
        digest = checkpoint["digest"]
        if self.notes.find(digest):
            return
        last = self.notes.last()
        slot = 0 if last is None else last["slot"] + 1
        # Each slot but the last, which is the outcome's.
        if slot + 1 >= len(self.grant.out):
            text = "the grant has no free slot: this checkpoint stays with the worker"
            return self.notes.push({"event": "warning", "message": text})
        try:
            self.notes.store(self.send(digest, slot))
        except Failure as failure:
            log("cannot store a checkpoint", failure)
            text = f"a checkpoint could not be put into the store: {failure.message}"
            self.notes.push({"event": "warning", "message": text})

    def send(self, digest: str, slot: int) -> Json:
        """Puts a blob into a slot."""
        data = self.store.verify(digest).read_bytes()
        encoding = "raw"
        if len(data) <= MAX_COMPRESSED and pays(data[: 64 << 10]):
            encoding, data = "zstd", compress(data)
        if len(data) > MAX_PUT:
            text = f"a blob of {len(data)} bytes is larger than what one request carries, {MAX_PUT}"
            raise Failure("payload_too_large", text)
        try:
            persist(lambda: self.transfer.put(self.grant.out[slot], data))
        except Failure as failure:
            raise failure.at("blob", digest).at("slot", slot) from None
        return {"digest": digest, "slot": slot, "encoding": encoding, "bytes": len(data)}

    def deliver(self, found: Json) -> Json | None:
        """Puts the outcome's blob into its slot, or the last checkpoint; what is in the store."""
        if "finished" not in found["ended"]:
            waiting = self.notes.take_waiting()
            if waiting is not None:
                self.keep(waiting)
            return self.notes.last()
        digest = blob_of(found)
        if digest is None or (known := self.notes.find(digest)):
            return None if digest is None else known
        try:
            stored = self.send(digest, len(self.grant.out) - 1)
        except Failure as failure:
            text = "the task is done, but its outcome could not be put into the store: "
            # The job isn't wrong, whatever the store refused.
            retry = OTHER if failure.retry == NEVER else failure.retry
            lost = Failure(failure.kind, text + failure.message, retry=retry).at("blob", digest)
            found["ended"] = {"failed": lost.to_json()}
            return self.notes.last()
        self.notes.store(stored)
        return stored

    def write_progress(self) -> None:
        """Progress that can't be written is written with the next one."""
        if not self.notes.is_dirty:
            return
        try:
            self.transfer.put(self.grant.progress, self.notes.encode())
        except Failure as failure:
            log("cannot write progress", failure)
            self.notes.is_dirty = True

    def finish(self, record: Json) -> None:
        """Writes the result, once. Where that fails, whoever started us still gets it."""
        data = encode(record)
        try:
            if not persist(lambda: self.transfer.create(self.grant.result, data)):
                # Ours, if the reply to an earlier try was lost.
                print(f"the task {record['key']} has a result already", file=sys.stderr)
        except Failure as failure:
            log("cannot write the result", failure)


def preempt(found: Json, stop: Stop) -> None:
    """The client didn't ask for the stop: to it the machine was taken away."""
    if stop.reason != "preempted":
        return
    ended: Any = found["ended"]
    failure = Failure("preempted", "the worker is shutting down")
    if ended != "cancelled":
        outcome = ended.get("finished", {})
        if outcome.get("ended") != "cancelled":
            return
        failure.at("checkpoint", outcome["checkpoint"]["digest"])
    found["ended"] = {"failed": failure.to_json()}
