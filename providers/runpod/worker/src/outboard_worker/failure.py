"""One error: what went wrong, where, and what to do about it (`docs/protocol.md`, section 11)."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
Retry = str | Json

NEVER: Retry = "never"
OTHER: Retry = "other"

EXIT_STATUS = "exit status"

_OTHER = {
    *("unsupported", "unauthenticated", "permission_denied", "quota_exceeded"),
    *("capacity_unavailable", "worker_unhealthy", "out_of_memory", "payload_too_large"),
}
_SAME = {"rate_limited", "unavailable", "timeout", "preempted", "corrupt_payload"}


def same(after: float | None = None) -> Retry:
    """Try the same provider again, not before so many seconds have passed."""
    return {"same": {"after": None if after is None else duration(after)}}


def duration(seconds: float) -> Json:
    """A time as messages have it."""
    nanos = round(seconds * 1e9)
    return {"secs": nanos // 10**9, "nanos": nanos % 10**9}


class Failure(Exception):
    """An error that a client understands: `kind` decides what `retry` is, unless that is given."""

    def __init__(
        self, kind: str, message: str, *, hint: str | None = None, retry: Retry | None = None
    ) -> None:
        super().__init__(message)
        usual = OTHER if kind in _OTHER else same() if kind in _SAME else NEVER
        self.kind = kind
        self.message = message
        self.hint = hint
        self.retry = usual if retry is None else retry
        self.context: list[tuple[str, str]] = []

    def at(self, what: str, value: object) -> Failure:
        """Adds where it happened."""
        self.context.append((what, str(value)))
        return self

    def to_json(self) -> Json:
        """As a message has it."""
        return {
            "kind": self.kind,
            "retry": self.retry,
            "message": self.message,
            "context": self.context,
            "hint": self.hint,
        }

    @classmethod
    def from_json(cls, value: Json) -> Failure:
        """Reads one of our own task process."""
        failure = cls(value["kind"], value["message"], hint=value.get("hint"), retry=value["retry"])
        failure.context = [(what, where) for what, where in value.get("context", [])]
        return failure

    def report(self) -> str:
        """Several lines: the sentence, where, what to try."""
        lines = [self.message, *(f"  {what}: {value}" for what, value in self.context)]
        return "\n".join([*lines, f"  try: {self.hint}"] if self.hint else lines)


def invalid(message: str, key: str | None = None, hint: str | None = None) -> Failure:
    """The user's job is wrong."""
    failure = Failure("invalid_request", message, hint=hint)
    return failure if key is None else failure.at("key", key)


def corrupt(message: str) -> Failure:
    """Bytes that aren't what they should be."""
    return Failure("corrupt_payload", message)
