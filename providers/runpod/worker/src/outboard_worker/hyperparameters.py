"""The table `[train]`: hyperparameters, their defaults and ranges (sections 5, 8, 9)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from outboard_worker.failure import invalid
from outboard_worker.fields import (
    ABOVE_ZERO,
    NOT_NEGATIVE,
    REQUIRED,
    SHARE,
    Check,
    anything,
    each,
    flag,
    one_of,
    optional,
    read,
    typed,
    unknown,
    whole,
)
from outboard_worker.specs import Shape, Spec

Keys = dict[str, tuple[Any, Check]]

_ADAM: Keys = {
    "lr": (1e-3, ABOVE_ZERO),
    "betas": ([0.9, 0.999], each(SHARE, 2)),
    "eps": (1e-8, NOT_NEGATIVE),
    "weight_decay": (0.0, NOT_NEGATIVE),
}
OPTIMIZERS: dict[str, Keys] = {
    "sgd": {
        "lr": (REQUIRED, ABOVE_ZERO),
        "momentum": (0.0, SHARE),
        "dampening": (0.0, NOT_NEGATIVE),
        "weight_decay": (0.0, NOT_NEGATIVE),
        "nesterov": (False, flag),
    },
    "adam": _ADAM,
    "adamw": _ADAM | {"weight_decay": (1e-2, NOT_NEGATIVE)},
}
LOSSES: dict[str, Keys] = {
    "cross_entropy": {
        "label_smoothing": (0.0, SHARE),
        "class_weights": (None, optional(each(NOT_NEGATIVE))),
    },
    "mse": {},
    "l1": {},
    "huber": {"delta": (1.0, ABOVE_ZERO)},
    "bce_with_logits": {"positive_weight": (1.0, ABOVE_ZERO)},
}
SCHEDULES: dict[str, Keys] = {
    "constant": {},
    "step": {"every": (REQUIRED, whole(1)), "gamma": (0.1, ABOVE_ZERO)},
    "cosine": {"min_lr": (0.0, NOT_NEGATIVE)},
}
EARLY: Keys = {"patience": (REQUIRED, whole(1)), "min_delta": (0.0, NOT_NEGATIVE)}
TRAIN: Keys = {
    "loss": (REQUIRED, anything),
    "optimizer": ("adam", anything),
    "schedule": ("constant", anything),
    "warmup_steps": (0, whole()),
    "epochs": (REQUIRED, whole(1)),
    "batch_size": (32, whole(1)),
    "seed": (0, whole(0, 2**64 - 1)),
    "shuffle": (True, flag),
    "drop_last": (False, flag),
    "clip_norm": (None, optional(ABOVE_ZERO)),
    "clip_value": (None, optional(ABOVE_ZERO)),
    "freeze": ([], each(lambda name: None if isinstance(name, str) else "a name")),
    "augment": ([], anything),
    "early_stopping": (None, anything),
    "keep": ("last", one_of("last", "best")),
}


def kind(spec: Any, kinds: dict[str, Keys], key: str) -> Spec:
    """A table with `type`, with all its keys."""
    spec = typed(spec)
    name = spec.get("type") if isinstance(spec, dict) else None
    if not isinstance(name, str):
        raise invalid(f"`{key}` has no `type`", key, f"one of {', '.join(kinds)}")
    if name not in kinds:
        raise unknown(f"`{key} = {name}`", name, kinds).at("key", key)
    rest = {key: value for key, value in spec.items() if key != "type"}
    return {"type": name, **read(rest, kinds[name], f"`{key}`", key)}


def loss(spec: Any, key: str = "train.loss") -> Spec:
    """A loss with all its keys."""
    found = kind(spec, LOSSES, key)
    weights = found.get("class_weights")
    if weights is not None and not any(weights):
        what = f"`{key}.class_weights` is all zero"
        raise invalid(what, f"{key}.class_weights", "give one class at least a weight above 0")
    return found


@dataclass(frozen=True)
class Train:
    """The hyperparameters of a whole job."""

    loss: Spec
    optimizer: Spec
    schedule: Spec
    warmup_steps: int
    epochs: int
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool
    clip_norm: float | None
    clip_value: float | None
    freeze: list[str]
    augment: list[Any]
    early_stopping: Spec | None
    keep: str

    @classmethod
    def read(cls, table: Any) -> Train:
        """Reads the table, and refuses what makes no sense by itself."""
        found = read(table, TRAIN, "[train]", "train")
        found["loss"] = loss(found["loss"])
        found["optimizer"] = optimizer = kind(found["optimizer"], OPTIMIZERS, "train.optimizer")
        found["schedule"] = kind(found["schedule"], SCHEDULES, "train.schedule")
        if found["early_stopping"] is not None:
            key = "train.early_stopping"
            found["early_stopping"] = read(found["early_stopping"], EARLY, f"`{key}`", key)
        if optimizer.get("nesterov") and (not optimizer["momentum"] or optimizer["dampening"]):
            what = "`train.optimizer.nesterov` needs momentum above 0 and no dampening"
            raise invalid(what, "train.optimizer.nesterov", "set `momentum = 0.9`, say")
        return cls(**found)

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps in an epoch over so many rows."""
        whole = rows // self.batch_size
        return whole if self.drop_last else math.ceil(rows / self.batch_size)

    def is_frozen(self, parameter: str) -> bool:
        """Whether the parameter of this name stays as it is."""
        return any(parameter == name or parameter.startswith(f"{name}.") for name in self.freeze)

    def check_freeze(self, parameters: list[str]) -> None:
        """Refuses names that are none of the model's, and a model of which nothing is trained."""
        for name in self.freeze:
            if not any(known == name or known.startswith(f"{name}.") for known in parameters):
                what = f"`{name}` in `train.freeze` names no layer or parameter of the model"
                raise invalid(what, "train.freeze", f"parameters are {', '.join(parameters)}")
        if not parameters:
            what = "the model has no parameter to train"
            raise invalid(what, "model.layers", 'add `{ type = "linear", out = 10 }`, say')
        if all(map(self.is_frozen, parameters)):
            what = "every parameter is frozen, so there is nothing to train"
            raise invalid(what, "train.freeze", "leave at least one layer out of it")

    def check_steps(self, rows: int) -> int:
        """Refuses epochs without a step; how many there are."""
        steps = self.steps_per_epoch(rows)
        if steps == 0:
            found = f"{rows} training rows, batch_size {self.batch_size}, drop_last"
            what = f"no batch is complete: {found}"
            hint = f"set batch_size to at most {rows}, or drop_last to false"
            raise invalid(what, "train.batch_size", hint)
        return steps

    def check_single_rows(self, rows: int, norm: str) -> None:
        """Refuses batches of one row before a batch norm that would see one value of it."""
        last = 0 if self.drop_last else rows % self.batch_size
        if self.batch_size == 1:
            what = f"layer {norm} needs more than one row in a batch, but `batch_size` is 1"
            raise invalid(what, "train.batch_size", "set `batch_size` to at least 2")
        if rows == 1 or last == 1:
            what = f"layer {norm} needs more than one row in a batch, but {rows} training rows in "
            what += f"batches of {self.batch_size} leave one over"
            hint = "set `drop_last = true` under [train], or another `batch_size`"
            raise invalid(what, "train.drop_last", hint)

    def check_augment(self, shape: Shape) -> None:
        """Refuses changes of rows that are no images, or that make no sense."""
        key = "train.augment"
        if not isinstance(self.augment, list) or len(self.augment) > 16:
            raise invalid("`train.augment` is no list of at most 16 changes", key, "list fewer")
        for change in self.augment:
            moves = list(change.items()) if isinstance(change, dict) else []
            if change != "flip" and not (
                len(moves) == 1 and moves[0][0] in ("crop", "shift") and not whole()(moves[0][1])
            ):
                hint = 'write `augment = ["flip", { crop = 2 }, { shift = 1 }]`'
                raise invalid(f"`train.augment` has the unknown change {change!r}", key, hint)
            if len(shape) != 3:
                what = f"`train.augment` changes images, but a row is {list(shape)}"
                raise invalid(what, key, "set `model.input = [channels, height, width]`")
            if moves and moves[0][1] >= min(shape[1:]):
                what = f"`train.augment` moves images of {shape[1]} by {shape[2]} pixels by up to "
                raise invalid(f"{what}{moves[0][1]}", key, "use a smaller number, such as 2")
