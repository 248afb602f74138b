"""The tasks of a worker that listens: known, queued, running, ended (section 12)."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from outboard_worker.courier import preempt
from outboard_worker.envelope import Envelope, blob_of, encode, failed, result
from outboard_worker.failure import OTHER, Failure, Json, invalid, same
from outboard_worker.store import Store, digest_of
from outboard_worker.supervisor import Stop, Supervisor

MAX_QUEUED = 16
# Ended tasks that are kept in memory; the folder has the others, for this long.
REMEMBERED = 256
RESULT_TTL = 86_400.0
MAX_KEY = 1024
# Events in one message, and checkpoints of a task that are told.
MAX_EVENTS = 10_000
CHECKPOINTS = 2
# When a full queue is worth another try.
RETRY_AFTER = 2.0


class Live:
    """A task that is known. Everything that happened to it has a revision."""

    def __init__(self, attempt: str, envelope: Envelope | None = None) -> None:
        self.attempt, self.envelope = attempt, envelope
        self.since = time.monotonic()
        self.stop = Stop()
        self.changed = threading.Condition()
        self.revision = 1
        self.phase: Any = "queued"
        self.events: list[tuple[int, Json]] = []

    def ended(self) -> Json | None:
        """The result, once there is one."""
        return self.phase["ended"] if isinstance(self.phase, dict) else None

    def become(self, phase: Any) -> None:
        with self.changed:
            self.revision += 1
            self.phase = phase
            self.changed.notify_all()

    def push(self, event: Json) -> str | None:
        """Adds what happened; a checkpoint that nobody needs any more is returned."""
        overtaken = None
        with self.changed:
            self.revision += 1
            if event["event"] == "checkpoint":
                told = [entry for entry in self.events if entry[1]["event"] == "checkpoint"]
                if len(told) >= CHECKPOINTS:
                    self.events.remove(told[0])
                    overtaken = told[0][1]["digest"]
                    if overtaken in (event["digest"], *(entry[1]["digest"] for entry in told[1:])):
                        overtaken = None
            last = self.events[-1][1]["event"] if self.events else None
            if last == event["event"] == "progress":
                self.events.pop()
            self.events.append((self.revision, event))
            self.changed.notify_all()
        return overtaken

    def state(self, seen: int) -> Json:
        """What happened since a revision; one that was never given means nothing seen."""
        with self.changed:
            seen = 0 if seen > self.revision else seen
            events = [entry for entry in self.events if entry[0] > seen]
            revision, phase = self.revision, self.phase
            if len(events) > MAX_EVENTS:
                revision, phase = events[MAX_EVENTS][0] - 1, "running"
            told = [event for _, event in events[:MAX_EVENTS]]
            return {"revision": revision, "phase": phase, "events": told}

    def wait(self, seen: int, limit: float) -> Json:
        """The state as soon as it is news, at the latest after `limit`."""
        with self.changed:
            self.changed.wait_for(
                lambda: self.revision != seen or self.ended() is not None, max(limit, 0.0)
            )
        return self.state(seen)

    def wait_for_end(self, limit: float) -> None:
        """Waits until it has ended, at the latest until `limit` is over."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended() is not None, max(limit, 0.0))


class Tasks:
    """The tasks of one worker, which runs them one after another."""

    def __init__(self, supervisor: Supervisor, store: Store) -> None:
        self.supervisor, self.store = supervisor, store
        self.records = store.folder / "tasks"
        self.records.mkdir(exist_ok=True)
        self.lock = threading.RLock()
        self.ready = threading.Condition(self.lock)
        self.table: dict[str, Live] = {}
        self.queue: deque[Live] = deque()
        self.is_draining = False
        threading.Thread(target=self.work, daemon=True).start()

    def folder(self, key: str) -> Path:
        return self.records / digest_of(key.encode())

    def accept(self, envelope: Envelope) -> tuple[int, Json]:
        """Takes a task, or says how it stands where it is known."""
        key, attempt = envelope.key, envelope.attempt
        if not key or max(len(key.encode()), len(attempt.encode())) > MAX_KEY:
            raise invalid(f"a task's key and attempt have between 1 and {MAX_KEY} bytes")
        with self.lock:
            known = self.find(key)
            if known is not None and not self.may_run_again(known, attempt):
                return 200, known.state(0)
            envelope.check_time()
            missing = [digest for digest in envelope.needs() if not self.store.has(digest)]
            if missing:
                text, hint = "blobs of the task are missing", "send them first"
                failure = Failure("not_found", text, hint=hint, retry=same())
                for digest in missing:
                    failure.at("blob", digest)
                raise Refused(424, failure)
            if self.is_draining:
                text = "the worker is shutting down"
                raise Failure("unavailable", text, retry=OTHER)
            if sum(live.ended() is None for live in self.table.values()) > MAX_QUEUED:
                count = f"{MAX_QUEUED + 1} tasks, 1 of them running"
                text = f"the worker has {count}, and takes no more"
                raise Failure("rate_limited", text, retry=same(RETRY_AFTER))
            live = Live(attempt, envelope)
            shutil.rmtree(self.folder(key), ignore_errors=True)
            self.note(key, "lease", encode({"attempt": attempt}))
            self.table[key] = live
            self.queue.append(live)
            self.ready.notify_all()
            return 202, live.state(0)

    def may_run_again(self, live: Live, attempt: str) -> bool:
        """Whether it ended without an outcome that could be fetched, and this is another try."""
        found = live.ended()
        if found is None or live.attempt == attempt:
            return False
        outcome = found["ended"].get("finished") if isinstance(found["ended"], dict) else None
        if outcome is None or outcome.get("ended") == "cancelled":
            return True
        digest = blob_of(found)
        return digest is not None and not self.store.has(digest)

    def find(self, key: str) -> Live | None:
        """A task by its key: from memory, or from what an earlier run of this program left."""
        with self.lock:
            if key in self.table:
                return self.table[key]
            folder = self.folder(key)
            try:
                lease = json.loads((folder / "lease").read_bytes())
            except FileNotFoundError:
                return None
            except ValueError:
                lease = {"attempt": ""}
            live = Live(lease["attempt"])
            with suppress(FileNotFoundError, ValueError):
                for line in (folder / "progress").read_bytes().splitlines():
                    live.push(json.loads(line))
            try:
                ended = json.loads((folder / "result").read_bytes())
            except (FileNotFoundError, ValueError):
                failure = Failure("preempted", "the worker was restarted while it ran the task")
                gone = Envelope(key, "", live.attempt, {"operation": ""}, None, 0, 0.0)
                ended = failed(gone, failure)
            live.become({"ended": ended})
            self.table[key] = live
            return live

    def known(self, key: str) -> Live:
        live = self.find(key)
        if live is None:
            raise Failure("not_found", f"no task `{key}` is known")
        return live

    def cancel(self, key: str, limit: float) -> Json:
        """Asks a task to stop; its state once it has ended, at the latest after `limit`."""
        live = self.known(key)
        with self.lock:
            if live in self.queue:
                self.queue.remove(live)
                assert live.envelope is not None
                self.end(live, result(live.envelope, "cancelled"))
        live.stop.set()
        live.wait_for_end(limit)
        return live.state(0)

    def list(self) -> list[Json]:
        """The live tasks."""
        with self.lock:
            live = [(key, one) for key, one in self.table.items() if one.ended() is None]
        return [
            {"key": key, "attempt": one.attempt, "running": one.phase == "running"}
            for key, one in live
        ]

    def work(self) -> None:
        """Runs tasks, first come, first served."""
        while True:
            with self.ready:
                self.ready.wait_for(lambda: self.queue)
                live = self.queue.popleft()
            self.carry_out(live)

    def carry_out(self, live: Live) -> None:
        envelope = live.envelope
        assert envelope is not None
        queued = time.monotonic() - live.since
        try:
            envelope.check_time()
            live.become("running")
            with self.notes(envelope.key) as notes:

                def observe(event: Json) -> None:
                    if event["event"] != "progress":
                        notes.write(encode(event) + b"\n")
                    overtaken = live.push(event)
                    if overtaken:
                        self.store.remove(overtaken)

                found = self.supervisor.run(envelope, live.stop, observe)
        except Failure as failure:
            found = failed(envelope, failure)
        except OSError as error:
            text = f"the worker's store failed: {error.strerror or error}"
            found = failed(envelope, Failure("worker_unhealthy", text))
        found["timings"]["queue"] = queued
        preempt(found, live.stop)
        self.end(live, found)

    def end(self, live: Live, found: Json) -> None:
        self.note(found["key"], "result", encode(found))
        live.become({"ended": found})
        self.forget()

    def notes(self, key: str) -> Any:
        folder = self.folder(key)
        folder.mkdir(exist_ok=True)
        return (folder / "progress").open("ab", buffering=0)

    def note(self, key: str, name: str, data: bytes) -> None:
        """Writes a record. Where that fails, only a restart forgets the task."""
        folder = self.folder(key)
        try:
            folder.mkdir(exist_ok=True)
            new = folder / f".{name}.new"
            new.write_bytes(data)
            new.replace(folder / name)
        except OSError as error:
            print(f"cannot note {name} of a task: {error}", file=sys.stderr, flush=True)

    def forget(self) -> None:
        """Forgets what ended long ago, and what there is too much of in memory."""
        with self.lock:
            over = [key for key, live in self.table.items() if live.ended() is not None]
            for key in over[: max(0, len(over) - REMEMBERED)]:
                del self.table[key]
            live = {digest_of(key.encode()) for key in self.table}
        for folder in self.records.iterdir():
            with suppress(OSError):
                if folder.name not in live and time.time() - folder.stat().st_mtime > RESULT_TTL:
                    shutil.rmtree(folder)

    def drain(self, limit: float) -> None:
        """Takes no more tasks and asks all to stop; returns once they have, or after `limit`."""
        with self.lock:
            self.is_draining = True
            live = [one for one in self.table.values() if one.ended() is None]
        until = time.monotonic() + limit
        for one in live:
            one.stop.set("preempted")
        for one in live:
            one.wait_for_end(until - time.monotonic())


class Refused(Exception):
    """An error with the status under which it is told."""

    def __init__(self, status: int, failure: Failure) -> None:
        super().__init__(failure.message)
        self.status, self.failure = status, failure
