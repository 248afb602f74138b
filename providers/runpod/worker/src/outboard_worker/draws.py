"""Sections 1, 2, 4 and 5: what is drawn from a seed and counters; dropout is in `layers`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

MASK = 2**64 - 1
G = 0x9E3779B97F4A7C15

ORDER, INIT, SPLIT, DROPOUT, AUGMENT = range(5)


def stream(domain: int, n: int) -> int:
    """The stream of a domain and its number."""
    return domain << 32 | n


def fmix(z: Words) -> Words:
    """SplitMix64's output function."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = z ^ (z >> np.uint64(31))
    return mixed


def mix(seed: int, stream: int, i: npt.ArrayLike) -> Words:
    """64 bits for each counter in `i`, always as an array."""
    # NumPy warns where scalars wrap, not where arrays do.
    key = fmix(np.array([(seed + G * (stream + 1)) & MASK], dtype=np.uint64))
    counters = np.atleast_1d(np.asarray(i, dtype=np.uint64))
    return fmix(key + np.uint64(G) * (counters + np.uint64(1)))


def uniform(seed: int, stream: int, i: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """64-bit floats in [0, 1)."""
    whole = (mix(seed, stream, i) >> np.uint64(11)).astype(np.float64)
    return np.asarray(whole * 2.0**-53)


def half_away(x: float) -> int:
    """Rounds a value that is not negative to the nearest integer, halves up."""
    whole = math.floor(x)
    return whole + (x - whole >= 0.5)


def shuffled(seed: int, stream: int, rows: int) -> npt.NDArray[np.int64]:
    """The rows, stably sorted by their draws."""
    keys = (mix(seed, stream, np.arange(rows)) >> np.uint64(1)).astype(np.int64)
    return np.argsort(keys, kind="stable")


def batch_order(seed: int, epoch: int, rows: int) -> npt.NDArray[np.int64]:
    """The training rows in the order of an epoch."""
    return shuffled(seed, stream(ORDER, epoch), rows)


def validation_rows(seed: int, rows: int, fraction: float) -> npt.NDArray[np.int64]:
    """The rows that validate, in the order of the file."""
    count = min(max(half_away(fraction * rows), 1), rows - 1)
    return np.sort(shuffled(seed, stream(SPLIT, 0), rows)[:count])


def initial_values(
    seed: int, parameter: int, shape: tuple[int, ...], fan_in: int
) -> npt.NDArray[np.float32]:
    """A weight or bias whose outputs have `fan_in` inputs each."""
    return uniform_values(seed, parameter, shape, 1.0 / math.sqrt(fan_in))


def uniform_values(
    seed: int, parameter: int, shape: tuple[int, ...], bound: float
) -> npt.NDArray[np.float32]:
    """Values between minus and plus `bound`."""
    u = uniform(seed, stream(INIT, parameter), np.arange(math.prod(shape)))
    return ((2.0 * u - 1.0) * bound).astype(np.float32).reshape(shape)


def normal_values(
    seed: int, parameter: int, shape: tuple[int, ...], zero_row: int | None = None
) -> npt.NDArray[np.float32]:
    """Normal values with mean 0 and deviation 1; one row may be 0."""
    i = np.arange(math.prod(shape))
    u, v = (uniform(seed, stream(INIT, parameter), 2 * i + k) for k in (0, 1))
    values = np.sqrt(-2.0 * np.log(1.0 - u)) * np.cos(2.0 * math.pi * v)
    values = values.astype(np.float32).reshape(shape)
    if zero_row is not None:
        values[zero_row] = 0.0
    return values
