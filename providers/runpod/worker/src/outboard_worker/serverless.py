"""The worker under RunPod's SDK: takes jobs, tells progress, outlives its tasks."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import runpod

from outboard_worker.failure import Failure, Json
from outboard_worker.inline import Requests
from outboard_worker.supervisor import Stop

# Seconds between two updates of a job's progress.
EVERY = 2.0
# Longest time for the last of them to arrive.
LAST_UPDATE = 10.0


class Progress:
    """Tells RunPod how far a task has come, at most every few seconds."""

    def __init__(self, update: Callable[[Any], None]) -> None:
        self.update, self.due = update, 0.0
        self.senders: list[threading.Thread] = []

    def __call__(self, event: Json) -> None:
        if event["event"] != "progress" or time.monotonic() < self.due:
            return
        self.due = time.monotonic() + EVERY
        before = set(threading.enumerate())
        self.update(event)
        self.senders = [thread for thread in threading.enumerate() if thread not in before]

    def finish(self) -> None:
        """Waits for an update under way: one that came after the result would take its place."""
        for sender in self.senders:
            sender.join(LAST_UPDATE)


class Handler:
    """What the SDK calls for each job."""

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.stops: set[Stop] = set()
        self.is_chained = False

    async def __call__(self, job: Json) -> Any:
        """Runs one job. A cancelled one leaves its checkpoint in the store, if it has one."""
        self.chain()
        stop = Stop()
        self.stops.add(stop)
        progress = Progress(lambda event: runpod.serverless.progress_update(job, event))

        def work() -> Json:
            try:
                return self.requests.run(job.get("input"), stop, progress)
            finally:
                progress.finish()

        running = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return answer(await asyncio.shield(running))
        except Failure as failure:
            return refusal(failure)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([running])
            raise
        finally:
            self.stops.discard(stop)

    def chain(self) -> None:
        """SIGTERM stops what runs, too; the SDK itself lets it run to its end."""
        if self.is_chained or threading.current_thread() is not threading.main_thread():
            return
        self.is_chained = True
        earlier = signal.getsignal(signal.SIGTERM)

        def terminate(number: int, frame: FrameType | None) -> None:
            if callable(earlier):
                earlier(number, frame)
            for stop in list(self.stops):
                # Not here: a signal may come while a lock is held that this would wait for.
                threading.Thread(target=stop.set, args=("preempted",), daemon=True).start()

        signal.signal(signal.SIGTERM, terminate)


def answer(reply: Json) -> Json:
    """The reply; after a lack of memory the worker asks to be replaced by a fresh one."""
    ended = reply.get("result", {}).get("ended", {})
    if "failed" in ended and ended["failed"]["kind"] == "out_of_memory":
        return {**reply, "refresh_worker": True}
    return reply


def refusal(failure: Failure) -> Json:
    """What was asked for is no task: the job fails, with the reason."""
    reply = {"error": failure.report(), "failure": failure.to_json()}
    return {**reply, "refresh_worker": True} if failure.kind == "out_of_memory" else reply


def serve(requests: Requests) -> None:
    """Takes jobs until RunPod ends the worker."""

    @runpod.serverless.register_fitness_check  # type: ignore[untyped-decorator]
    def task_process_starts() -> None:
        """A library that aborts does so in a process of its own, and the reason is told."""
        try:
            requests.supervisor.start()
        except Failure as failure:
            raise RuntimeError(failure.explained()) from failure

    runpod.serverless.start({"handler": Handler(requests)})
