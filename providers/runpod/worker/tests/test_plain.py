"""The plain form: epochs of training in one call, as many handlers have it."""

from __future__ import annotations

import base64
import pickle
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from jobs import LAYERS, TRAIN, Job
from outboard_worker.failure import Failure
from outboard_worker.inline import Requests
from outboard_worker.model import build
from outboard_worker.store import Store
from outboard_worker.supervisor import Stop, Supervisor

Json = dict[str, Any]


def asked(job: Job, **change: Any) -> Json:
    """A request of one epoch."""
    x, y = job.tensors["x"].tolist(), job.tensors["y"].tolist()
    return {
        "operation": "train_epoch",
        "model_config": {"layers": LAYERS},
        "training_data": {"x": x, "y": y, "validation": {"x": x[:9], "y": y[:9]}},
        "hyperparameters": TRAIN,
        "epochs": 1,
        **change,
    }


def call(supervisor: Supervisor, store: Store, request: Json) -> Json:
    return Requests(supervisor, store).run(request, Stop(), lambda event: None)


def test_an_epoch_and_the_next(store: Store, supervisor: Supervisor) -> None:
    job = Job(store)
    first = call(supervisor, store, asked(job))
    assert set(first) == {"loss", "accuracy", "model_state", "metrics"}
    assert first["metrics"]["epoch"] == 1 and first["metrics"]["validation_loss"] > 0
    state = load(base64.b64decode(first["model_state"]))
    model = build(LAYERS, [8], 0)
    model.load_state_dict(state)
    with torch.no_grad():
        found = torch.nn.functional.cross_entropy(
            model.eval()(job.tensors["x"][:9]), job.tensors["y"][:9]
        )
    assert found.item() == pytest.approx(first["metrics"]["validation_loss"], rel=1e-5)
    second = call(supervisor, store, asked(job, model_state=first["model_state"]))
    assert second["loss"] < first["loss"] and second["metrics"]["epoch"] == 2
    # Weights from anywhere begin an epoch of their own.
    plain = base64.b64encode(save(state)).decode()
    assert call(supervisor, store, asked(job, model_state=plain))["metrics"]["epoch"] == 1


def test_a_training_state_gives_the_curve_of_one_run(store: Store, supervisor: Supervisor) -> None:
    job = Job(store)
    whole = call(supervisor, store, asked(job, epochs=3))
    curve = [epoch["loss"] for epoch in whole["metrics"]["epochs"]]
    state: Any = True
    for loss in curve:
        reply = call(supervisor, store, asked(job, training_state=state))
        assert reply["loss"] == loss
        state = reply["training_state"]
    assert reply["model_state"] == whole["model_state"]


def test_numbers_and_files(store: Store, supervisor: Supervisor) -> None:
    job = Job(store)
    x = job.tensors["x"]
    hyperparameters = {"loss": "mse", "batch_size": 50}
    config = {"layers": [{"type": "linear", "out": 1}]}
    request = asked(job, model_config=config, hyperparameters=hyperparameters)
    request["training_data"] = {"x": x.tolist(), "y": x.sum(dim=1).tolist()}
    reply = call(supervisor, store, request)
    assert reply["loss"] > 0 and "accuracy" not in reply
    file = save({"x": x, "y": x.sum(dim=1, keepdim=True)})
    request["training_data"] = base64.b64encode(file).decode()
    assert call(supervisor, store, request)["loss"] == reply["loss"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model_state": base64.b64encode(pickle.dumps({})).decode()}, "`model_state` is a pickle"),
        ({"model_state": base64.b64encode(b"PK\x03\x04..").decode()}, "`model_state` is a pickle"),
        ({"model_state": "?"}, "`model_state` is not base64"),
        ({"model_state": base64.b64encode(b"{}").decode()}, "not a whole safetensors file"),
        ({"epoch": 2}, "the request: the key `epoch` is unknown"),
        ({"epochs": 0}, "the request: `epochs` is 0, but must be a whole number of at least 1"),
        ({"hyperparameters": {"lr": 0.1}}, "[train]: the key `lr` is unknown"),
        ({"hyperparameters": {}}, "[train]: `loss` is missing"),
        ({"training_data": {"x": [[1], [2, 3]], "y": [0, 1]}}, "`training_data.x` is no list"),
        ({"training_data": {"x": [[1.0], [2.0]], "y": [0]}}, "tensor `y` of a data set is"),
        ({"training_data": {"x": [[1.0]], "y": [0.5]}}, "has a class that is no whole number"),
        ({"training_data": {"x": [[1.0, 2.0]], "y": [7]}}, "class 7 in the data"),
        ({"model_config": {"layers": ["relu"], "outputs": 3}}, "`model_config`: the key `outputs`"),
    ],
)
def test_what_is_wrong_is_said(
    store: Store, supervisor: Supervisor, change: Json, text: str
) -> None:
    with pytest.raises(Failure) as raised:
        call(supervisor, store, asked(Job(store), **change))
    assert text in raised.value.message
    if "pickle" in text:
        assert raised.value.hint and "save_file" in raised.value.hint
