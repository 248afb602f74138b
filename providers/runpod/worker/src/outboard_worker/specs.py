"""The layers' keys, and what each makes of a row's shape (`docs/protocol.md`, section 6)."""

from __future__ import annotations

import math
from typing import Any

from outboard_worker.failure import Failure, invalid
from outboard_worker.fields import (
    ABOVE_ZERO,
    REQUIRED,
    SHARE,
    Check,
    anything,
    flag,
    number,
    one_of,
    optional,
    read,
    typed,
    unknown,
    whole,
)

Spec = dict[str, Any]
Shape = tuple[int, ...]

# More elements in one tensor than this are refused rather than tried.
MAX_ELEMENTS = 2**32
# Whole numbers beyond this aren't exact in a 32-bit float.
MAX_TOKENS = 2**24


def _sides(least: int) -> Check:
    one = whole(least)

    def check(value: Any) -> str | None:
        both = isinstance(value, list) and len(value) == 2
        wrong = next(filter(None, map(one, value if both else [value])), None)
        return f"{wrong}, or two of them" if wrong else None

    return check


def _conv(size: Check, start: Check) -> dict[str, tuple[Any, Check]]:
    return {
        "out": (REQUIRED, whole(1)),
        "kernel": (REQUIRED, size),
        "stride": (1, size),
        "padding": (0, start),
        "dilation": (1, size),
        "groups": (1, whole(1)),
        "bias": (True, flag),
    }


def _pool(size: Check, start: Check) -> dict[str, tuple[Any, Check]]:
    return {
        "kernel": (REQUIRED, size),
        "stride": (None, optional(size)),
        "padding": (0, start),
    }


_NORM: dict[str, tuple[Any, Check]] = {
    "eps": (1e-5, ABOVE_ZERO),
    "momentum": (0.1, number("from 0 to 1", lambda x: 0 <= x <= 1)),
}
_RECURRENT: dict[str, tuple[Any, Check]] = {"out": (REQUIRED, whole(1)), "bias": (True, flag)}

KEYS: dict[str, dict[str, tuple[Any, Check]]] = {
    "linear": {"out": (REQUIRED, whole(1)), "bias": (True, flag)},
    "relu": {},
    "gelu": {"approximate": ("none", one_of("none", "tanh"))},
    "silu": {},
    "tanh": {},
    "sigmoid": {},
    "softmax": {},
    "flatten": {},
    "dropout": {"p": (0.5, SHARE)},
    "conv1d": _conv(whole(1), whole()),
    "conv2d": _conv(_sides(1), _sides(0)),
    "max_pool1d": _pool(whole(1), whole()),
    "max_pool2d": _pool(_sides(1), _sides(0)),
    "avg_pool1d": _pool(whole(1), whole()),
    "avg_pool2d": _pool(_sides(1), _sides(0)),
    "adaptive_avg_pool1d": {"out": (REQUIRED, whole(1))},
    "adaptive_avg_pool2d": {"out": (REQUIRED, _sides(1))},
    "batch_norm1d": _NORM,
    "batch_norm2d": _NORM,
    "layer_norm": {"eps": (1e-5, ABOVE_ZERO)},
    "embedding": {
        "tokens": (REQUIRED, whole(1, MAX_TOKENS)),
        "out": (REQUIRED, whole(1)),
        "padding_index": (None, optional(whole())),
    },
    "positional_embedding": {},
    "residual": {"layers": (REQUIRED, anything)},
    "transformer_encoder": {
        "heads": (REQUIRED, whole(1)),
        "ff": (2048, whole(1)),
        "dropout": (0.1, SHARE),
        "activation": ("relu", one_of("relu", "gelu")),
        "norm_first": (False, flag),
    },
    "lstm": _RECURRENT,
    "gru": _RECURRENT,
    "mean_pool": {},
    "last_pool": {},
}

LAYERS = list(KEYS)


def check(spec: Any, name: str, key: str) -> Spec:
    """A layer with all its keys. `name` is what its parameters' names begin with."""
    spec = typed(spec)
    kind = spec.get("type") if isinstance(spec, dict) else None
    if not isinstance(kind, str):
        raise invalid(f"layer {name} has no `type`", key, 'write `{ type = "linear", out = 10 }`')
    if kind not in KEYS:
        known = unknown(f"layer {name} ({kind})", kind, KEYS)
        failure = Failure("unsupported", f"layer {name} ({kind}) is unknown here", hint=known.hint)
        raise failure.at("key", key)
    rest = {name: value for name, value in spec.items() if name != "type"}
    return {"type": kind, **read(rest, KEYS[kind], f"layer {name} ({kind})", key)}


def sides(value: Any) -> Any:
    """A size as PyTorch takes it."""
    return tuple(value) if isinstance(value, list) else value


class Place:
    """A layer, what comes in, and how to say what is wrong with both."""

    def __init__(self, spec: Spec, shape: Shape, name: str, key: str) -> None:
        self.spec, self.shape, self.name, self.key = spec, shape, name, key

    def wrong(self, what: str, hint: str) -> Failure:
        return invalid(f"layer {self.name} ({self.spec['type']}): {what}", self.key, hint)

    def rank(self, *ranks: int, takes: str) -> None:
        if len(self.shape) not in ranks:
            what = f"its input is {list(self.shape)}, but it takes {takes}"
            raise self.wrong(what, "set `model.input`, or put another layer before it")

    def sizes(self, dimensions: int) -> Shape:
        """How often a window fits along each dimension."""
        takes = "[channels, length]" if dimensions == 1 else "[channels, height, width]"
        self.rank(dimensions + 1, takes=takes)

        def each(name: str, default: Any) -> list[int]:
            value = self.spec.get(name, default)
            value = default if value is None else value
            return list(value) if isinstance(value, list) else [value] * dimensions

        kernel = self.spec["kernel"]
        found = []
        sizes = self.shape[1:]
        for size, window, step, pad, gap in zip(
            sizes,
            each("kernel", kernel),
            each("stride", kernel),
            each("padding", 0),
            each("dilation", 1),
            strict=True,
        ):
            reach = (window - 1) * gap + 1
            if reach > size + 2 * pad:
                what = (
                    f"a kernel of {kernel} is larger than its input of {list(sizes)} with padding"
                )
                raise self.wrong(what, "use a smaller `kernel` or more `padding`")
            if "pool" in self.spec["type"] and pad > window // 2:
                what = f"`padding` is {pad}, but must be at most half of the kernel's {window}"
                raise self.wrong(what, f"set `padding` to at most {window // 2}")
            found.append((size + 2 * pad - reach) // step + 1)
        return tuple(found)

    def output(self) -> Shape:
        """The shape of a row after the layer."""
        spec, shape = self.spec, self.shape
        dimensions = 1 if spec["type"].endswith("1d") else 2
        match spec["type"]:
            case "linear":
                return (*shape[:-1], spec["out"])
            case "flatten":
                return (math.prod(shape),)
            case "conv1d" | "conv2d":
                found = self.sizes(dimensions)
                if shape[0] % spec["groups"] or spec["out"] % spec["groups"]:
                    what = f"{shape[0]} channels and `out` = {spec['out']} can't both be cut into "
                    what += f"{spec['groups']} groups"
                    raise self.wrong(what, "set `groups` to a number that divides both")
                return (spec["out"], *found)
            case "max_pool1d" | "max_pool2d" | "avg_pool1d" | "avg_pool2d":
                return (shape[0], *self.sizes(dimensions))
            case "adaptive_avg_pool1d" | "adaptive_avg_pool2d":
                takes = "[channels, length]" if dimensions == 1 else "[channels, height, width]"
                self.rank(dimensions + 1, takes=takes)
                out = spec["out"]
                return (shape[0], *(out if isinstance(out, list) else [out] * dimensions))
            case "batch_norm1d":
                self.rank(1, 2, takes="[features] or [channels, length]")
            case "batch_norm2d":
                self.rank(3, takes="[channels, height, width]")
            case "embedding":
                if self.name != "0":
                    what = "it takes whole numbers, so it can only be the first layer"
                    raise self.wrong(what, "move it to the front of `model.layers`")
                padding = spec["padding_index"]
                if padding is not None and padding >= spec["tokens"]:
                    what = f"`padding_index` is {padding}, but there are {spec['tokens']} tokens"
                    raise self.wrong(what, f"set it to at most {spec['tokens'] - 1}")
                return (*shape, spec["out"])
            case "positional_embedding":
                self.rank(2, takes="[positions, features]")
            case "transformer_encoder":
                self.rank(2, takes="[positions, features]")
                if shape[1] % spec["heads"]:
                    what = f"{shape[1]} features can't be shared by {spec['heads']} heads"
                    raise self.wrong(what, f"set `heads` to a number that divides {shape[1]}")
            case "lstm" | "gru":
                self.rank(2, takes="[positions, features]")
                return (shape[0], spec["out"])
            case "mean_pool" | "last_pool":
                self.rank(2, takes="[positions, features]")
                return (shape[1],)
        return shape
