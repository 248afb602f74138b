"""Keeps one task process warm, and turns whatever happens to it into a result."""

from __future__ import annotations

import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from outboard_worker.envelope import Envelope, failed, result
from outboard_worker.failure import OTHER, Failure, Json
from outboard_worker.health import Health
from outboard_worker.process import END, Process

# How long what can't stop by itself, an evaluation say, is waited for before its process is ended.
STOPPING = 5.0


class Stop:
    """Asks a task to stop; the first who asks gives the reason."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.lock = threading.Lock()
        self.listeners: list[Callable[[], None]] = []

    def set(self, reason: str = "cancelled") -> None:
        """Asks. `reason` is `cancelled` where the client did, `preempted` where the worker ends."""
        with self.lock:
            if self.reason is not None:
                return
            self.reason = reason
            listeners = list(self.listeners)
        for listener in listeners:
            listener()

    def is_set(self) -> bool:
        """Whether somebody has asked."""
        return self.reason is not None

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls it when somebody asks, at once if somebody has."""
        with self.lock:
            self.listeners.append(listener)
            if self.reason is None:
                return
        listener()


class Supervisor:
    """Runs tasks, one after another, in a process that may die, hang or be killed."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        health: Health | None = None,
    ) -> None:
        self.command = list(command)
        self.environment = environment
        self.health = health
        self.lock = threading.Lock()
        self.process: Process | None = None

    def start(self) -> Json:
        """Starts the task process, if there is none, and says what it is."""
        with self.lock:
            return self.warm()[0].hello

    def close(self) -> None:
        """Ends the task process."""
        with self.lock:
            process, self.process = self.process, None
            if process:
                process.close()

    def warm(self) -> tuple[Process, bool]:
        """A process that lives, and whether it was idle: one that dies may still look alive."""
        if self.process and self.process.lives():
            return self.process, True
        self.process = None
        if self.health:
            self.health.check()
        try:
            self.process = self.launch()
        except Failure as failure:
            if not self.health or not self.health.may_start_again(failure):
                raise
            self.process = self.launch()
        return self.process, False

    def launch(self) -> Process:
        """Starts a process, and waits until it is ready."""
        health, given = self.health, self.environment
        process = Process(self.command, health.environment(given) if health else given)
        process.greet()
        if health:
            health.greet(process.hello)
        return process

    def run(self, envelope: Envelope, stop: Stop, observe: Callable[[Json], None]) -> Json:
        """Runs a task to its end, handing events to `observe`.

        Tasks wait for each other; one that is stopped while it waits never begins.
        """
        has_waited = self.lock.locked()
        with self.lock:
            if has_waited and stop.is_set():
                return result(envelope, "cancelled")
            began = time.monotonic()
            while True:
                try:
                    process, was_idle = self.warm()
                except Failure as failure:
                    return failed(envelope, failure)
                for warning in self.health.warnings if self.health else ():
                    observe({"event": "warning", "message": warning})
                boot = time.monotonic() - began
                found = Watch(process, envelope, stop, observe).run()
                if isinstance(found, Untaken):
                    self.process = None
                    if was_idle:
                        # It died while it was idle: the task has nothing to do with that.
                        print("the idle task process had ended", file=sys.stderr)
                        continue
                    return failed(envelope, found.failure)
                if not found.is_fit:
                    self.process = None
                found.result["timings"]["boot"] = boot
                return found.result


class Untaken:
    """The process ended without a sign that it had taken the task."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


class Ran:
    """A result, and whether the process is fit for another task."""

    def __init__(self, result: Json, is_fit: bool = False) -> None:
        self.result, self.is_fit = result, is_fit


class Watch:
    """One task in a task process."""

    def __init__(
        self, process: Process, envelope: Envelope, stop: Stop, observe: Callable[[Json], None]
    ) -> None:
        self.process, self.envelope, self.stop, self.observe = process, envelope, stop, observe
        seconds = envelope.patience
        # An envelope may come from anywhere: kept within bounds.
        self.patience = 0.1 if math.isnan(seconds) else min(max(seconds, 0.1), 86_400.0)
        self.is_heard = False
        self.stopping: float | None = None
        self.is_late = False

    def failed(self, failure: Failure) -> Ran:
        return Ran(failed(self.envelope, failure))

    def run(self) -> Ran | Untaken:
        """From handing it over to its end."""
        process, patience = self.process, self.patience
        if failure := process.send({"run": self.envelope.to_json()}, patience):
            return Untaken(process.end(failure))
        # It names itself: one that comes too late doesn't stop the next task.
        self.stop.listen(lambda: process.inbox.put(self.stop))
        limit = self.envelope.limit
        until = math.inf if limit is None else time.monotonic() + limit
        # `train`, or `train_epoch` of the plain form.
        is_training = self.envelope.operation["operation"].startswith("train")
        heard = time.monotonic()
        while True:
            now = time.monotonic()
            end = math.inf
            if self.stopping is not None and not is_training:
                end = self.stopping + STOPPING
            due = min(heard + patience, end, until if self.stopping is None else math.inf)
            try:
                said = process.next(due - now)
            except queue.Empty:
                now = time.monotonic()
                if now >= end:
                    return self.ended_by_force()
                if now >= until and self.stopping is None:
                    self.is_late = True
                    said = self.stop
                else:
                    text = f"the task process hung: nothing was heard of it for {patience:g} s"
                    return self.failed(process.kill(Failure("worker_unhealthy", text)))
            if isinstance(said, Stop):
                if said is self.stop and self.stopping is None:
                    self.stopping = time.monotonic()
                    if failure := process.send({"stop": self.envelope.key}, patience):
                        return self.failed(process.kill(failure))
                continue
            heard = time.monotonic()
            done = self.hear(said)
            if done is not None:
                return done

    def hear(self, said: Any) -> Ran | Untaken | None:
        """Takes in what the process said; the end, if it was that."""
        process, envelope = self.process, self.envelope
        if said is END:
            return self.failed(process.bury()) if self.is_heard else Untaken(process.bury())
        self.is_heard = True
        if isinstance(said, Failure):
            return self.failed(process.kill(said))
        if not isinstance(said, dict):
            said = {}
        if "event" in said:
            self.observe(said["event"])
            return None
        if "alive" in said:
            return None
        if "refused" in said:
            return self.failed(process.kill(Failure.from_json(said["refused"])))
        found = said.get("result")
        if not found or (found["key"], found["attempt"]) != (envelope.key, envelope.attempt):
            text = "the task process spoke out of turn"
            return self.failed(process.kill(Failure("worker_unhealthy", text)))
        return Ran(self.at_limit(found) if self.is_late else found, is_fit=True)

    def ended_by_force(self) -> Ran:
        """What can't stop by itself."""
        self.process.kill(Failure("cancelled", "the task was cancelled"))
        ended = result(self.envelope, "cancelled")
        return Ran(self.at_limit(ended) if self.is_late else ended)

    def at_limit(self, found: Json) -> Json:
        """The result of a task that was stopped because its time was up."""
        ended = found["ended"]
        if ended == "cancelled":
            text = f"the task was ended after its limit of {self.envelope.limit:g} s"
            found["ended"] = {"failed": Failure("timeout", text, retry=OTHER).to_json()}
        elif ended.get("finished", {}).get("ended") == "cancelled":
            ended["finished"]["ended"] = "limit"
        return found
