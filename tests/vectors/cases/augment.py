"""augment.json: images that are changed at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cases.files import write_records
from outboard_worker import augment

CHANGES: list[list[Any]] = [
    ["flip"],
    [{"crop": 1}],
    [{"shift": 2}],
    ["flip", {"crop": 4}, {"shift": 2}, "flip"],
]


def generate(out: Path) -> None:
    """Writes every case."""
    records = []
    for changes in CHANGES:
        for seed, epoch, row in [(7, 0, 0), (7, 0, 1), (7, 3, 1), (2**64 - 1, 2**32 - 1, 2**31)]:
            shape = (2, 3, 5)
            image = torch.arange(1, 31, dtype=torch.float32).reshape(1, *shape)
            found = augment.apply(changes, seed, epoch, np.array([row]), image)
            records.append(
                {
                    "changes": changes,
                    "seed": str(seed),
                    "epoch": epoch,
                    "row": row,
                    "shape": shape,
                    "image": found.int().flatten().tolist(),
                }
            )
    write_records(out / "augment.json", records)
