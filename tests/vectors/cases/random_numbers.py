"""random.json: draws, orders, splits, masks and initial values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cases.files import write_records
from outboard_worker import draws, layers
from outboard_worker.draws import DROPOUT, INIT, ORDER, SPLIT, stream

LAST = 2**64 - 1

COUNTERS = [
    (0, 0, 0),
    (0, 0, 1),
    (0, stream(INIT, 0), 0),
    (7, stream(ORDER, 0), 0),
    (7, stream(ORDER, 3), 1000),
    (7, stream(INIT, 2), 12345),
    (7, stream(SPLIT, 0), 9),
    (7, stream(DROPOUT, 4), 81),
    (7, stream(INIT, 0xFFFFFFFF), 2**32),
    (LAST, 0, 0),
    (LAST, stream(DROPOUT, 1), 2**40 + 1),
    (LAST, LAST, LAST),
]


def draw(counter: tuple[int, int, int], value: Any) -> dict[str, Any]:
    seed, of, i = counter
    return {"seed": str(seed), "stream": str(of), "i": str(i), "value": value}


def order(seed: int, epoch: int, rows: int) -> dict[str, Any]:
    values = draws.batch_order(seed, epoch, rows).tolist()
    return {"seed": str(seed), "epoch": epoch, "rows": rows, "order": values}


def split(seed: int, rows: int, fraction: float) -> dict[str, Any]:
    values = draws.validation_rows(seed, rows, fraction).tolist()
    return {"seed": str(seed), "rows": rows, "fraction": fraction, "validation": values}


def dropout(seed: int, layer: int, step: int, p: float, elements: int) -> dict[str, Any]:
    kept = layers.dropout_kept(seed, layer, step, p, elements).int().tolist()
    return {"seed": str(seed), "layer": layer, "step": step, "p": p, "kept": kept}


def init(seed: int, parameter: int, shape: tuple[int, ...], fan_in: int) -> dict[str, Any]:
    values = draws.initial_values(seed, parameter, shape, fan_in).ravel()[:8].tolist()
    return {
        "seed": str(seed),
        "parameter": parameter,
        "shape": list(shape),
        "fan_in": fan_in,
        "values": values,
    }


def normal(seed: int, parameter: int, shape: tuple[int, ...], zero_row: int) -> dict[str, Any]:
    values = draws.normal_values(seed, parameter, shape, zero_row).ravel()[:8].tolist()
    return {
        "seed": str(seed),
        "parameter": parameter,
        "shape": list(shape),
        "zero_row": zero_row,
        "values": values,
    }


def generate(out: Path) -> None:
    """Writes random.json."""
    write_records(
        out / "random.json",
        {
            "mix": [draw(at, str(draws.mix(*at)[0])) for at in COUNTERS],
            "uniform": [draw(at, float(draws.uniform(*at)[0])) for at in COUNTERS],
            "order": [
                order(7, 0, 8),
                order(7, 1, 8),
                order(0, 0, 1),
                order(LAST, 2, 37),
                order(7, 3, 1000),
            ],
            "split": [
                split(7, 10, 0.2),
                split(7, 10, 0.25),
                split(0, 10, 0.001),
                split(LAST, 10, 0.999),
                split(7, 1797, 0.2),
            ],
            "dropout": [
                dropout(7, 2, 0, 0.5, 16),
                dropout(7, 2, 3, 0.1, 200),
                dropout(0, 0, 0, 0.25, 64),
                dropout(LAST, 5, 2**33 + 1, 0.9, 64),
                dropout(7, 1, 1, 0.0, 8),
            ],
            "init": [
                init(7, 0, (64, 64), 64),
                init(7, 1, (64,), 64),
                init(7, 2, (10, 64), 64),
                init(0, 0, (3, 5), 5),
                init(LAST, 9, (8, 1), 1),
            ],
            "normal": [
                normal(7, 0, (10, 64), 3),
                normal(7, 1, (4, 3), 1),
                normal(LAST, 9, (5, 2), 0),
            ],
        },
    )
