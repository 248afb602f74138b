"""Carries out what comes in a message: an envelope with blobs or a grant, or a plain call."""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from outboard_worker import plain_request
from outboard_worker.courier import carry, preempt
from outboard_worker.envelope import MAX_BLOBS, Envelope, blob_of, failed, get
from outboard_worker.failure import Failure, Json, corrupt, invalid
from outboard_worker.store import Store, check_digest
from outboard_worker.supervisor import Stop, Supervisor

# A blob that would be larger isn't unpacked.
MAX_BLOB_BYTES = 1 << 30
# What a reply's blob may have: whoever carries replies has a limit of that order.
MAX_REPLY_BLOB = 14_000_000
# Replies that are kept, and their blobs' bytes together, so that a key runs once.
REMEMBERED = 64
REMEMBERED_BYTES = 256 << 20
# Longest silence of a plain call.
PLAIN_PATIENCE = 600.0

Observe = Callable[[Json], None]


class Requests:
    """Requests of one worker, which runs them one after another."""

    def __init__(self, supervisor: Supervisor, store: Store) -> None:
        self.supervisor, self.store = supervisor, store
        self.replies: OrderedDict[str, Json] = OrderedDict()

    def run(self, asked: Any, stop: Stop, observe: Observe) -> Json:
        """The reply. Raises `Failure` only where there is no task whose result could say it."""
        if not isinstance(asked, dict):
            raise invalid("the job's `input` is no object", hint="send `envelope`, or `operation`")
        if asked.get("operation") == plain_request.OPERATION:
            return self.plain(asked, stop, observe)
        if "envelope" not in asked:
            text = 'the job\'s `input` has neither `envelope` nor `operation`: "train_epoch"'
            hint = "send jobs with `outboard`, or see providers/runpod/worker/README.md"
            raise invalid(text, hint=hint)
        envelope = Envelope.read(get(asked, "envelope", dict))
        if envelope.store is not None:
            grant = envelope.store
            found = carry(envelope, grant, self.supervisor, self.store, stop, observe)
            return {"result": found}
        known = self.known(envelope)
        if known is not None:
            return known
        reply = self.inline(envelope, asked.get("blobs", []), stop, observe)
        self.remember(reply)
        return reply

    def plain(self, asked: Json, stop: Stop, observe: Observe) -> Json:
        """Epochs of training, in and out."""
        envelope = plain_request.envelope(asked, self.store, PLAIN_PATIENCE)
        found = self.supervisor.run(envelope, stop, observe)
        if stop.reason == "preempted":
            # Fewer epochs than asked for are no answer.
            raise Failure("preempted", "the worker is shutting down", hint="send the job again")
        return plain_request.reply(found, self.store)

    def known(self, envelope: Envelope) -> Json | None:
        """The reply to a task that has an outcome, or to the same attempt."""
        reply = self.replies.get(envelope.key)
        if reply is None:
            return None
        ended, attempt = reply["result"]["ended"], reply["result"]["attempt"]
        has_outcome = "finished" in ended and ended["finished"].get("ended") != "cancelled"
        return reply if has_outcome or attempt == envelope.attempt else None

    def remember(self, reply: Json) -> None:
        """Keeps a reply, and forgets the oldest."""
        self.replies[reply["result"]["key"]] = reply
        self.replies.move_to_end(reply["result"]["key"])

        def size() -> int:
            blobs = (blob for reply in self.replies.values() for blob in reply.get("blobs", []))
            return sum(len(blob["data"]) for blob in blobs)

        while len(self.replies) > REMEMBERED or (
            len(self.replies) > 1 and size() > REMEMBERED_BYTES
        ):
            self.replies.popitem(last=False)

    def inline(self, envelope: Envelope, blobs: Any, stop: Stop, observe: Observe) -> Json:
        """A task whose blobs travel beside it."""
        events: list[Json] = []

        def hear(event: Json) -> None:
            if event["event"] == "progress" and events and events[-1]["event"] == "progress":
                events.pop()
            events.append(event)
            observe(event)

        try:
            envelope.check_time()
            self.unpack(blobs)
            missing = [digest for digest in envelope.needs() if not self.store.has(digest)]
            if missing:
                failure = Failure("not_found", "a blob of the task did not come along")
                raise failure.at("blob", missing[0])
        except Failure as failure:
            return {"result": failed(envelope, failure)}
        found = self.supervisor.run(envelope, stop, hear)
        preempt(found, stop)
        reply: Json = {"result": found, "events": events}
        digest = blob_of(found)
        if digest is not None:
            try:
                encoding, data = self.store.pack(digest, MAX_REPLY_BLOB)
                text = base64.b64encode(data).decode()
                reply["blobs"] = [{"digest": digest, "encoding": encoding, "data": text}]
            except Failure as failure:
                # An outcome that can't be delivered is none.
                found["ended"] = {"failed": failure.to_json()}
        return reply

    def unpack(self, blobs: Any) -> None:
        """Stores the blobs that came along, verified."""
        if not isinstance(blobs, list) or len(blobs) > MAX_BLOBS:
            raise corrupt(f"a message cannot be read: `blobs` is no list of at most {MAX_BLOBS}")
        for blob in blobs:
            if not isinstance(blob, dict):
                raise corrupt("a message cannot be read: `blobs` holds something else")
            digest = check_digest(blob.get("digest"))
            try:
                data = base64.b64decode(get(blob, "data", str), validate=True)
            except binascii.Error as error:
                text = f"the bytes of a blob are not base64: {error}"
                raise corrupt(text).at("blob", digest) from error
            if not self.store.is_whole(digest):
                encoding = get(blob, "encoding", str)
                self.store.receive(digest, iter([data]), encoding, MAX_BLOB_BYTES)
