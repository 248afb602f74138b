"""A worker under RunPod's own SDK, for the testbed: what it does is in the job's input."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import runpod

Job = dict[str, Any]


async def handler(job: Job) -> Any:
    """Carries out one job."""
    asked = job["input"]
    match asked["do"]:
        case "echo":
            return {"said": asked["say"]}
        case "refuse":
            return {"error": "handler said no", "seen": 1}
        case "raise":
            raise ValueError("a handler that fails")
        case "nothing":
            return {}
        case "renew":
            return {"refresh_worker": True, "pid": os.getpid()}
        case "progress":
            runpod.serverless.progress_update(job, "half")
            await wait_for(asked["go"])
            return "whole"
        case "wait":
            Path(asked["began"]).touch()
            try:
                await wait_for(asked["go"])
            except asyncio.CancelledError:
                Path(asked["stopped"]).touch()
                raise
            return "waited"
        case other:
            raise ValueError(other)


async def count(job: Job) -> AsyncIterator[int]:
    """Yields numbers."""
    for number in range(job["input"]["to"]):
        yield number


async def wait_for(path: str) -> None:
    """Waits until a file is there."""
    while not Path(path).exists():
        await asyncio.sleep(0.05)


if os.environ.get("TEST_UNFIT"):

    @runpod.serverless.register_fitness_check
    def unfit() -> None:
        """Never fit."""
        raise RuntimeError("no libraries here")


together = int(os.environ.get("TEST_TOGETHER", "1"))
runpod.serverless.start(
    {
        "handler": count if os.environ.get("TEST_STREAM") else handler,
        "return_aggregate_stream": True,
        "concurrency_modifier": lambda _: together,
    }
)
