"""Envelopes, grants and results (section 11)."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from outboard_worker import PROTOCOL
from outboard_worker.failure import OTHER, Failure, Json, corrupt, duration, invalid
from outboard_worker.store import check_digest

MAX_MESSAGE_BYTES = 16 << 20
MAX_BLOBS = 64
MAX_SLOTS = 1024
MAX_URL_BYTES = 8192

# The blobs that each operation names.
_NEEDS = {
    "train": ("data", "checkpoint", "validation"),
    "evaluate": ("data", "weights"),
    "predict": ("data", "weights"),
    "describe": (),
}
OPERATIONS = list(_NEEDS)


def now() -> int:
    """Milliseconds since 1970, UTC."""
    return int(time.time() * 1000)


def encode(message: Any) -> bytes:
    """The bytes of a message."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()


def decode(data: bytes) -> Json:
    """Reads a message, bounded."""
    if len(data) > MAX_MESSAGE_BYTES:
        text = f"a message of {len(data)} bytes is larger than {MAX_MESSAGE_BYTES}"
        raise Failure("payload_too_large", text)
    try:
        message = json.loads(data)
    except ValueError as error:
        raise corrupt(f"a message cannot be read: {error}") from error
    if not isinstance(message, dict):
        raise corrupt("a message cannot be read: it is no object")
    return message


def get(table: Json, name: str, kind: type, most: int | None = None) -> Any:
    """A field that must be there."""
    value = table.get(name)
    wanted: Any = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        found = "is missing" if name not in table else f"is no {kind.__name__}"
        raise corrupt(f"a message cannot be read: `{name}` {found}")
    if most is not None and len(value) > most:
        raise corrupt(f"a message cannot be read: `{name}` has more than {most} entries")
    return value


def version(message: Json) -> None:
    """Refuses another version, naming both."""
    found = get(message, "protocol", int)
    if found != PROTOCOL:
        text = f"the message is of protocol version {found}, but this worker speaks {PROTOCOL}"
        raise Failure("unsupported", text, hint="use the version of outboard that wrote it")


@dataclass(frozen=True)
class GrantedBlob:
    """A blob that the worker may read."""

    digest: str
    encoding: str
    url: str = field(repr=False)


@dataclass(frozen=True)
class Grant:
    """What the worker may do in a bucket. The URLs are secrets."""

    until: int
    blobs: list[GrantedBlob]
    lease: str = field(repr=False)
    progress: str = field(repr=False)
    result: str = field(repr=False)
    out: list[str] = field(repr=False)

    @classmethod
    def read(cls, table: Json) -> Grant:
        """Reads one, bounded."""
        blobs = []
        for blob in get(table, "blobs", list, MAX_BLOBS):
            if not isinstance(blob, dict):
                raise corrupt("a message cannot be read: `blobs` holds something else")
            digest, encoding = check_digest(blob.get("digest")), get(blob, "encoding", str)
            blobs.append(GrantedBlob(digest, encoding, url(blob.get("url"))))
        return cls(
            until=get(table, "until", int),
            blobs=blobs,
            lease=url(table.get("lease")),
            progress=url(table.get("progress")),
            result=url(table.get("result")),
            out=[url(slot) for slot in get(table, "out", list, MAX_SLOTS)],
        )


def url(value: Any) -> str:
    """A URL of a grant, which is never repeated in an error."""
    if not isinstance(value, str) or not value.startswith(("https://", "http://")):
        raise invalid("a URL of the grant starts with neither `http://` nor `https://`")
    if len(value) > MAX_URL_BYTES:
        raise invalid(f"a URL of the grant has {len(value)} bytes, but may have {MAX_URL_BYTES}")
    return value


@dataclass(frozen=True)
class Envelope:
    """A task: what to run, on which blobs, until when."""

    key: str
    job: str
    attempt: str
    operation: Json
    limit: float | None
    not_after: int
    patience: float
    store: Grant | None = None

    @classmethod
    def read(cls, message: Json) -> Envelope:
        """Reads a message; fields that aren't known are ignored."""
        version(message)
        task = get(message, "task", dict)
        operation = get(task, "operation", dict)
        limit, grant = task.get("limit"), message.get("store")
        if limit is not None:
            limit = get(task, "limit", dict)
            limit = get(limit, "secs", int) + get(limit, "nanos", int) / 1e9
        found = cls(
            get(task, "key", str),
            get(task, "job", str),
            get(task, "attempt", str),
            operation,
            limit,
            get(message, "not_after", int),
            get(message, "patience_seconds", float),
            None if grant is None else Grant.read(get(message, "store", dict)),
        )
        found.check()
        return found

    def check(self) -> None:
        """Refuses an operation that isn't whole; the rest of it is checked where it is used."""
        name = self.operation.get("operation")
        if name not in _NEEDS:
            text = f"the operation `{name}` is unknown to this worker"
            raise Failure("unsupported", text, hint=f"it knows {', '.join(OPERATIONS)}")
        for digest in self.needs():
            check_digest(digest)
        if name == "describe":
            return
        get(self.operation, "model", dict)
        if name == "train":
            get(self.operation, "train", dict)
            get(self.operation, "until_epoch", int)
            every = get(self.operation, "checkpoint_every", dict)
            get(every, "secs", int)
            get(every, "nanos", int)
        elif name == "evaluate" and "loss" not in self.operation:
            raise corrupt("a message cannot be read: `loss` is missing")

    def needs(self) -> list[str]:
        """The blobs that must be there before it starts."""
        names = _NEEDS.get(self.operation["operation"], ())
        found = [self.operation.get(name) for name in names]
        if names and None in found[:2]:
            raise corrupt("a message cannot be read: the operation names no blobs")
        return [digest for digest in found if digest is not None]

    def check_time(self) -> None:
        """Refuses what came too late."""
        late = now() - self.not_after
        if late > 0:
            text = f"the task came {late} ms after the time until which it may start"
            hint = "check the clocks of both machines, and the worker's queue"
            raise Failure("timeout", text, retry=OTHER, hint=hint)

    def to_json(self) -> Json:
        """As the task process gets it, which needs no grant."""
        task = {
            "key": self.key,
            "job": self.job,
            "attempt": self.attempt,
            "operation": self.operation,
        }
        if self.limit is not None:
            task["limit"] = duration(self.limit)
        rest = {"not_after": self.not_after, "patience_seconds": self.patience}
        return {"protocol": PROTOCOL, "task": task, **rest}


def result(envelope: Envelope, ended: Any, **timings: float) -> Json:
    """What a task came to."""
    phases = ("queue", "boot", "download", "load", "compute", "upload")
    return {
        "protocol": PROTOCOL,
        "key": envelope.key,
        "attempt": envelope.attempt,
        "ended": ended,
        "timings": {phase: timings.get(phase, 0.0) for phase in phases},
    }


def failed(envelope: Envelope, failure: Failure) -> Json:
    """The result of a task that failed."""
    return result(envelope, {"failed": failure.to_json()})


def blob_of(result: Json) -> str | None:
    """The blob that an outcome names, if there is one."""
    ended = result["ended"]
    outcome = ended.get("finished", {}) if isinstance(ended, dict) else {}
    match outcome.get("operation"):
        case "train":
            return str(outcome["checkpoint"]["digest"])
        case "predict":
            return str(outcome["outputs"])
    return None
