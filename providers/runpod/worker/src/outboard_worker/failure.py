"""One error: what went wrong, where, and what to do about it (`docs/protocol.md`, section 11)."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
Retry = str | Json

NEVER: Retry = "never"
OTHER: Retry = "other"

# What explains a failure of each kind; docs/troubleshooting.md has the texts.
CODES = {
    "invalid_config": "OB-CONFIG",
    "invalid_request": "OB-REQUEST",
    "not_found": "OB-NOT-FOUND",
    "conflict": "OB-CONFLICT",
    "budget_exceeded": "OB-BUDGET",
    "cancelled": "OB-CANCELLED",
    "job_failed": "OB-JOB-FAILED",
    "unsupported": "OB-UNSUPPORTED",
    "unauthenticated": "OB-CREDENTIALS",
    "permission_denied": "OB-PERMISSION",
    "quota_exceeded": "OB-QUOTA",
    "capacity_unavailable": "OB-CAPACITY",
    "worker_unhealthy": "OB-WORKER",
    "out_of_memory": "OB-MEMORY",
    "payload_too_large": "OB-PAYLOAD",
    "plugin_incompatible": "OB-PLUGIN",
    "rate_limited": "OB-RATE-LIMIT",
    "unavailable": "OB-UNAVAILABLE",
    "timeout": "OB-TIMEOUT",
    "preempted": "OB-PREEMPTED",
    "all_providers_failed": "OB-NO-PROVIDER",
    "corrupt_payload": "OB-CORRUPT",
    "unexpected": "OB-BUG",
}
USAGE = "OB-USAGE"
# What a failure's context calls the check that found it.
CHECK = "check"

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

    def code(self) -> str:
        """What explains it: the code of the check that found it, or else that of its kind."""
        checks = (value for what, value in self.context if what == CHECK)
        return next(checks, CODES.get(self.kind, CODES["unexpected"]))

    def explained(self) -> str:
        """The report, and what explains it."""
        return f"{self.report()}\n{where_explained(self.code())}"

    def report(self) -> str:
        """Several lines: the sentence, where, what to try."""
        lines = [self.message, *(f"  {what}: {value}" for what, value in self.context)]
        return "\n".join([*lines, f"  try: {self.hint}"] if self.hint else lines)


def where_explained(code: str) -> str:
    """The last line of every failure that is printed."""
    return f"  code: {code} (outboard doctor --explain {code})"


def invalid(message: str, key: str | None = None, hint: str | None = None) -> Failure:
    """The user's job is wrong."""
    failure = Failure("invalid_request", message, hint=hint)
    return failure if key is None else failure.at("key", key)


def corrupt(message: str) -> Failure:
    """Bytes that aren't what they should be."""
    return Failure("corrupt_payload", message)
