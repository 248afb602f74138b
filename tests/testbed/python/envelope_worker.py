"""Outboard's engine behind RunPod's own worker SDK: `TEST_RUN_ENVELOPE` names the program."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import runpod

PROGRAM = [os.environ["TEST_RUN_ENVELOPE"], "--store", os.environ["OUTBOARD_WORKER_STORE"]]


async def handler(job: dict[str, Any]) -> Any:
    """Runs one envelope."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*PROGRAM, stdin=pipe, stdout=pipe)
    running = asyncio.ensure_future(process.communicate(json.dumps(job["input"]).encode()))
    try:
        reply, _ = await asyncio.shield(running)
    except asyncio.CancelledError:
        # It leaves its checkpoint in the store, if there is one.
        if process.returncode is None:
            process.terminate()
        await running
        raise
    return json.loads(reply)


runpod.serverless.start({"handler": handler})
