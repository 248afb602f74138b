"""Section 3 for tables of numbers with a class label."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from outboard_worker import draws


@dataclass(frozen=True)
class Table:
    """Feature columns and the index of each row's class."""

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.int64]
    classes: int


def read_csv(path: Path, target: str, features: list[str] | None = None) -> Table:
    """Reads a file with a header, numeric columns and integer labels."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    label = header.index(target)
    labels = [int(row[label]) for row in rows]
    index = {value: i for i, value in enumerate(sorted(set(labels)))}
    columns = [header.index(name) for name in features or header if name != target]
    cells = [[float(row[column]) for column in columns] for row in rows]
    return Table(np.array(cells), np.array([index[value] for value in labels]), len(index))


def row_sum(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The sum of each column in row order; `np.sum` may add in pairs."""
    total: npt.NDArray[np.float64] = np.add.accumulate(x, axis=0)[-1]
    return total


def standardise(
    x: npt.NDArray[np.float64], training: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """All rows, with the mean and the deviation of the training rows."""
    seen = x[training]
    mean = row_sum(seen) / len(seen)
    deviation = np.sqrt(row_sum((seen - mean) ** 2) / len(seen))
    return ((x - mean) / np.where(deviation == 0.0, 1.0, deviation)).astype(np.float32)


def split(
    seed: int, rows: int, fraction: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The training and the validation rows."""
    validation = draws.validation_rows(seed, rows, fraction)
    return np.setdiff1d(np.arange(rows), validation), validation
