"""What happens to a task, as the client will read it; bounded, however long the task runs."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from outboard_worker import PROTOCOL
from outboard_worker.envelope import encode
from outboard_worker.failure import Json

# Bytes of all notes together. They are sent whole each time.
MAX_BYTES = 4 << 20
MAX_WARNING = 4096


@dataclass
class Line:
    """A note; what it tells decides what overtakes it."""

    text: bytes
    event: Json


class Notes:
    """The notes of one task. `changed` is told of everything."""

    def __init__(self, attempt: str) -> None:
        self.attempt = attempt
        self.changed = threading.Condition()
        self.lines: deque[Line] = deque()
        self.bytes = 0
        self.dropped = 0
        # The newest checkpoint that waits to be stored. Older ones are of no use then.
        self.waiting: Json | None = None
        self.stored: list[Json] = []
        # That it has begun is news.
        self.is_dirty = True
        self.is_closed = False

    def push(self, event: Json) -> None:
        """Adds what happened."""
        if event["event"] == "warning":
            text = event["message"].encode()[:MAX_WARNING].decode(errors="ignore")
            event = {**event, "message": text}
        with self.changed:
            if event["event"] == "checkpoint":
                self.waiting = event
            last = self.lines[-1] if self.lines else None
            if last and last.event["event"] == event["event"] == "progress":
                self.bytes -= len(self.lines.pop().text)
            line = Line(encode({"event": event}), event)
            self.bytes += len(line.text)
            self.lines.append(line)
            while self.bytes > MAX_BYTES:
                self.bytes -= len(self.lines.popleft().text)
                self.dropped += 1
            self.is_dirty = True
            self.changed.notify_all()

    def close(self) -> None:
        """Nothing more will happen."""
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()

    def take_waiting(self) -> Json | None:
        """The checkpoint that should be stored next."""
        with self.changed:
            waiting, self.waiting = self.waiting, None
            return waiting

    def store(self, stored: Json) -> None:
        """A blob is in the store."""
        with self.changed:
            self.stored.append(stored)
            for line in reversed(self.lines):
                if line.event.get("digest") == stored["digest"]:
                    self.bytes -= len(line.text)
                    line.text = encode({"event": line.event, "stored": stored})
                    self.bytes += len(line.text)
                    self.is_dirty = True
                    return

    def find(self, digest: str) -> Json | None:
        """Where a blob is, if it was stored."""
        with self.changed:
            return next((one for one in self.stored if one["digest"] == digest), None)

    def last(self) -> Json | None:
        """The newest blob that was stored."""
        with self.changed:
            return self.stored[-1] if self.stored else None

    def encode(self) -> bytes:
        """The record as it stands; no longer dirty."""
        with self.changed:
            self.is_dirty = False
            header = {"protocol": PROTOCOL, "attempt": self.attempt, "dropped": self.dropped}
            return b"\n".join([encode(header), *(line.text for line in self.lines), b""])
