"""The task process: runs one task after another for the supervisor that started it.

Each line on standard input and output is one JSON value; the supervisor hears `hello` first.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import sys
import threading
import time
import traceback
from typing import Any, BinaryIO

from outboard_worker import PROTOCOL
from outboard_worker.envelope import MAX_MESSAGE_BYTES, decode, encode, failed, result
from outboard_worker.failure import Failure, Json
from outboard_worker.settings import Settings
from outboard_worker.store import Store

MAX_LINE_BYTES = MAX_MESSAGE_BYTES + 64


class Wire:
    """Lines to the supervisor. Whatever else is printed goes to the log."""

    def __init__(self) -> None:
        self.output: BinaryIO = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self.lock = threading.Lock()

    def say(self, reply: Any) -> None:
        """Writes a line."""
        with self.lock:
            self.output.write(encode(reply) + b"\n")
            self.output.flush()


class Input(threading.Thread):
    """Reads standard input; tasks wait in `tasks`, a stop takes effect at once."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(daemon=True)
        self.wire = wire
        self.tasks: queue.Queue[Any] = queue.Queue()
        self.running: tuple[str, threading.Event] | None = None

    def run(self) -> None:
        while line := sys.stdin.buffer.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                print(f"a line is larger than {MAX_LINE_BYTES} bytes", file=sys.stderr)
                break
            try:
                self.take(decode(line))
            except Failure as failure:
                self.wire.say({"refused": failure.to_json()})
        # An orphan doesn't outlive its supervisor.
        os._exit(0)

    def take(self, request: Json) -> None:
        running = self.running
        if "stop" in request:
            if running and running[0] == request["stop"]:
                running[1].set()
            return
        envelope = request.get("run")
        if not isinstance(envelope, dict):
            raise Failure("corrupt_payload", "a line cannot be read: it is no request")
        if running is not None:
            text = "the task process runs one task at a time"
            raise Failure("rate_limited", text)
        stop = threading.Event()
        self.running = (envelope["task"]["key"], stop)
        self.tasks.put((envelope, stop))


def serve(settings: Settings) -> None:
    """Runs tasks until standard input ends."""
    faulthandler.enable(all_threads=False)
    wire = Wire()
    # Before CUDA starts: without it products are not the same each time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from outboard_worker.device import Device
    from outboard_worker.specs import LAYERS

    device = Device(settings)
    store = Store(settings.store, settings.cache_bytes)
    facts = {"device": device.words, "numerics": device.numerics, "layers": LAYERS}
    wire.say({"hello": {"protocol": PROTOCOL, **facts}})
    requests = Input(wire)
    requests.start()
    while True:
        envelope, stop = requests.tasks.get()
        # Whatever happens from here on has to do with the task.
        wire.say({"alive": True})
        reply = run(envelope, device, store, stop, wire)
        requests.running = None
        wire.say({"result": reply})


def run(message: Json, device: Any, store: Store, stop: threading.Event, wire: Wire) -> Json:
    """One task, to its result."""
    from outboard_worker.device import is_out_of_memory
    from outboard_worker.envelope import Envelope
    from outboard_worker.execute import Task

    def say(event: Json | None) -> None:
        wire.say({"alive": True} if event is None else {"event": event})

    task = message["task"]
    names = (task["key"], task["job"], task["attempt"], task["operation"])
    envelope = Envelope(*names, None, message["not_after"], message["patience_seconds"])
    began = time.monotonic()
    work = Task(device, store, stop, say)
    try:
        ended: Any = {"finished": work.run(envelope.operation)}
    except Failure as failure:
        ended = "cancelled" if failure.kind == "cancelled" else failed(envelope, failure)["ended"]
    except Exception as error:
        traceback.print_exc()
        kind, text = "unexpected", f"the worker failed: {type(error).__name__}: {error}"
        hint = "look at the worker's log"
        if is_out_of_memory(error):
            kind, text = "out_of_memory", f"the task ran out of memory: {error}"
            hint = "use a smaller batch_size, or a worker with more memory"
        ended = {"failed": Failure(kind, text, hint=hint).to_json()}
    compute = max(time.monotonic() - began - work.loading, 0.0)
    return result(envelope, ended, load=work.loading, compute=compute)
