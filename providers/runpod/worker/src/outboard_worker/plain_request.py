"""The plain form on its way to the task process and back; needs no PyTorch."""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from typing import Any

from outboard_worker.envelope import Envelope
from outboard_worker.failure import Failure, Json, invalid
from outboard_worker.store import Store

OPERATION = "train_epoch"

# Beginnings of what `pickle` and `torch.save` write.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_CONVERT = (
    "convert it once, where you trust it: import torch; from safetensors.torch import save_file; "
    "save_file(torch.load('model.pt', weights_only=True), 'model.safetensors')"
)


def state_of(text: Any, key: str) -> bytes:
    """The bytes of a safetensors file that came as base64."""
    if not isinstance(text, str):
        raise invalid(f"`{key}` is no text", key, "send a safetensors file as base64")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise invalid(f"`{key}` is not base64: {error}", key, "encode the file's bytes") from error
    if data.startswith(_PICKLES):
        text = f"`{key}` is a pickle, which could run any code when it is read: only safetensors is"
        raise invalid(f"{text} taken", key, _CONVERT)
    return data


def envelope(asked: Json, store: Store, seconds: float) -> Envelope:
    """The task that the request is."""
    asked = dict(asked)
    state, resumable = asked.pop("model_state", None), asked.pop("training_state", None)
    if state is not None and isinstance(resumable, str):
        text = "`model_state` and `training_state` are both given"
        raise invalid(text, "training_state", "send the newer one alone")
    key = "model_state"
    if isinstance(resumable, str):
        state, key = resumable, "training_state"
    digest = None if state is None else store.write(state_of(state, key))
    name = f"{OPERATION}-{uuid.uuid4()}"
    operation = {
        "operation": OPERATION,
        "request": store.write(json.dumps(asked).encode()),
        "state": digest,
        "resumable": bool(resumable),
    }
    return Envelope(name, name, name, operation, None, 2**63, seconds)


def reply(result: Json, store: Store) -> Json:
    """What the caller gets."""
    ended = result["ended"]
    if ended == "cancelled":
        raise Failure("cancelled", "the task was cancelled")
    if "failed" in ended:
        raise Failure.from_json(ended["failed"])
    outcome = dict(ended["finished"])
    del outcome["operation"]
    for key in ("model_state", "training_state"):
        if key in outcome:
            data = store.verify(outcome[key]).read_bytes()
            outcome[key] = base64.b64encode(data).decode()
    return outcome
