"""A task process as its supervisor sees it."""

from __future__ import annotations

import collections
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from outboard_worker.envelope import encode
from outboard_worker.failure import EXIT_STATUS, Failure, Json
from outboard_worker.memory import Memory
from outboard_worker.settings import Settings
from outboard_worker.task import MAX_LINE_BYTES

# Longest time from the start of a task process to its first line. PyTorch's disk may be slow.
BOOT = 180.0
# Longest time for which a process that was killed, or closed its output, is waited for.
BURIAL = 5.0
LOG_LINES = 40
LOG_LINE_BYTES = 1024
# What allocators say last; the signal is that of any abort.
STARVED = ("memory allocation of ", "std::bad_alloc")
# What libstdc++ says of, where a library clashes with it or a device doesn't read.
RANDOM_DEVICE = "random_device"

END = object()


def task_program(settings: Settings) -> list[str]:
    """The command that is a task process; the other settings are in its environment."""
    flags = ["--store", str(settings.store), "--threads", str(settings.threads)]
    return [sys.executable, "-m", "outboard_worker", "--stdio", *flags]


class Process:
    """A running task process. What it says and who wants it to stop come through one queue."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.shown = " ".join(command)
        pipe = subprocess.PIPE
        try:
            self.child = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, bufsize=0
            )
        except OSError as error:
            raise self.unhealthy(f"cannot be started: {error}") from error
        self.memory = Memory(self.child.pid)
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.log: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        assert self.child.stdout and self.child.stderr
        outputs = ((self.read, self.child.stdout), (self.keep_log, self.child.stderr))
        self.threads = [
            threading.Thread(
                target=work, args=(os.fdopen(os.dup(pipe.fileno()), "rb"),), daemon=True
            )
            for work, pipe in outputs
        ]
        for thread in self.threads:
            thread.start()
        self.hello: Json = {}

    def unhealthy(self, what: str) -> Failure:
        return Failure("worker_unhealthy", f"the task process {self.shown} {what}")

    def greet(self, boot: float = BOOT) -> None:
        """Waits until it is ready."""
        try:
            first = self.next(boot)
        except queue.Empty:
            raise self.kill(self.unhealthy(f"was not ready within {boot:g} s")) from None
        if first is END:
            raise self.bury()
        if not isinstance(first, dict) or "hello" not in first:
            raise self.kill(self.unhealthy("does not speak as a task process should"))
        self.hello = first["hello"]

    def read(self, output: BinaryIO) -> None:
        """Puts what it says into the inbox."""
        with output:
            while line := output.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    text = f"the task process wrote a line of more than {MAX_LINE_BYTES} bytes"
                    self.inbox.put(Failure("worker_unhealthy", text))
                    break
                try:
                    self.inbox.put(json.loads(line))
                except ValueError as error:
                    text = f"the task process said what cannot be read: {error}"
                    self.inbox.put(Failure("worker_unhealthy", text))
        self.inbox.put(END)

    def keep_log(self, output: BinaryIO) -> None:
        """Hands its log on, and keeps the last lines."""
        with output:
            while line := output.readline(LOG_LINE_BYTES):
                text = line.decode(errors="replace").rstrip()
                if text:
                    self.log.append(text)
                    print(text, file=sys.stderr, flush=True)

    def next(self, limit: float) -> Any:
        """What comes next; `queue.Empty` where nothing does."""
        return self.inbox.get(timeout=max(limit, 0.0))

    def lives(self) -> bool:
        """Whether it may take another task."""
        return self.child.poll() is None

    def send(self, request: Any, limit: float) -> Failure | None:
        """Hands it a line; why that failed, if it did."""
        line = encode(request) + b"\n"
        failure: list[str] = []

        def write() -> None:
            assert self.child.stdin
            rest = memoryview(line)
            try:
                while rest:
                    rest = rest[self.child.stdin.write(rest) or 0 :]
            except OSError as error:
                failure.append(str(error))

        writing = threading.Thread(target=write, daemon=True)
        writing.start()
        writing.join(limit)
        if writing.is_alive():
            failure.append(f"no answer for {limit:g} s")
        if not failure:
            return None
        text = f"the task process does not take requests: {failure[0]}"
        return Failure("worker_unhealthy", text)

    def explain(self, failure: Failure) -> Failure:
        """With what it leaves behind: its peak of memory and its last log lines."""
        for thread in self.threads:
            thread.join(BURIAL)
        self.memory.close()
        if used := self.memory.used():
            failure.at("peak memory", used)
        return failure.at("last log lines", "\n".join(self.log)) if self.log else failure

    def said(self, *words: str) -> bool:
        """Whether its log has one of these."""
        return any(word in line for line in self.log for word in words)

    def wait(self) -> int | None:
        """How it ended, if it does so soon."""
        with suppress(subprocess.TimeoutExpired):
            return self.child.wait(BURIAL)
        return None

    def kill(self, failure: Failure) -> Failure:
        """Ends it, for a reason."""
        self.child.kill()
        self.wait()
        return self.explain(failure)

    def end(self, failure: Failure) -> Failure:
        """Why it takes nothing any more: it has died, or else `failure` says it and it is ended."""
        return self.kill(failure) if self.wait() is None else self.bury()

    def bury(self) -> Failure:
        """Why it died, without our doing."""
        status = self.wait()
        if status is None:
            text = "the task process closed its output"
            return self.kill(Failure("worker_unhealthy", text))
        for thread in self.threads:
            thread.join(BURIAL)
        words = words_of(status)
        if status == -signal.SIGKILL and self.memory.was_exhausted():
            used = self.memory.used()
            at = f" at {used}" if used else ""
            failure = out_of_memory(f"the task process was killed for memory{at}")
        elif status == -signal.SIGKILL:
            failure = out_of_memory("the task process was killed, probably for memory")
        elif self.said(*STARVED):
            failure = out_of_memory("the task process ran out of memory")
        elif self.said(RANDOM_DEVICE):
            text = f"the task process died in libstdc++ ({words}): {RANDOM_DEVICE} failed"
            hint = (
                "see docs/random-device.md; the worker's preflight tells a clash of libraries "
                "(OB-CLASH) from a device that doesn't read (OB-RANDOM-DEVICE)"
            )
            failure = Failure("worker_unhealthy", text, hint=hint)
        else:
            failure = Failure("worker_unhealthy", f"the task process died ({words})")
        return self.explain(failure.at(EXIT_STATUS, words))

    def close(self) -> None:
        """Lets it end: its input has."""
        assert self.child.stdin
        with suppress(OSError):
            self.child.stdin.close()
        if self.wait() is None:
            self.child.kill()
            self.wait()
        self.memory.close()


def out_of_memory(text: str) -> Failure:
    hint = "use a smaller batch_size, or a worker with more memory"
    return Failure("out_of_memory", text, hint=hint)


def words_of(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exit status: {status}"
    try:
        return f"signal: {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal: {-status}"
