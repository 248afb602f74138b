"""Comparing fresh vectors with the checked-in ones.

Integers must be equal. Floats may differ by what another CPU's libraries explain: tensors by their
norm, curves by the tolerance recorded with them. What PyTorch's own rounding error happens to be
(`error32`, `tolerance`) belongs to the machine and is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cases.files import read_case

TENSOR_TOLERANCE = 1e-6
SCHEDULE_TOLERANCE = 1e-12
ACCURACY_TOLERANCE = 0.01
NOT_COMPARED = {"error32", "tolerance", "validation_tolerance"}


def values(where: str, old: Any, new: Any, tolerance: float) -> Iterator[str]:
    """Differences of two JSON values; floats relative to the old one."""
    if type(old) is not type(new):
        yield f"{where}: {old!r} is now {new!r}"
    elif isinstance(old, dict):
        if old.keys() != new.keys():
            yield f"{where}: keys {sorted(old)} are now {sorted(new)}"
            return
        for key in old.keys() - NOT_COMPARED:
            yield from values(f"{where}.{key}", old[key], new[key], tolerance)
    elif isinstance(old, list):
        if len(old) != len(new):
            yield f"{where}: length {len(old)} is now {len(new)}"
            return
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from values(f"{where}[{i}]", *pair, tolerance)
    elif isinstance(old, float):
        if not abs(old - new) <= tolerance * abs(old):
            yield f"{where}: {old!r} is now {new!r}"
    elif old != new:
        yield f"{where}: {old!r} is now {new!r}"


def cases(where: str, old_path: Path, new_path: Path) -> Iterator[str]:
    """Differences of two safetensors files."""
    (old_case, old), (new_case, new) = read_case(old_path), read_case(new_path)
    yield from values(f"{where} case", old_case, new_case, TENSOR_TOLERANCE)
    if old.keys() != new.keys():
        yield f"{where}: tensors {sorted(old)} are now {sorted(new)}"
        return
    for name in sorted(old):
        a, b = old[name], new[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            yield f"{where} {name}: {a.dtype}{a.shape} is now {b.dtype}{b.shape}"
        elif a.dtype.kind != "f":
            if not np.array_equal(a, b):
                yield f"{where} {name}: integers differ"
        else:
            norm = float(np.linalg.norm(a.astype(np.float64)))
            difference = float(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64)))
            if not difference <= TENSOR_TOLERANCE * norm:
                yield f"{where} {name}: differs by {difference:.3e}, its norm is {norm:.3e}"


def curves(where: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Differences of two curves."""
    if old.keys() != new.keys():
        yield f"{where}: keys {sorted(old)} are now {sorted(new)}"
        return
    epochs = len(old["loss"])
    allowed = {
        "loss": old["tolerance"],
        "accuracy": [ACCURACY_TOLERANCE] * epochs,
        "validation_loss": old["validation_tolerance"],
        "validation_accuracy": [ACCURACY_TOLERANCE] * epochs,
    }
    for key, limits in allowed.items():
        if len(new[key]) != epochs:
            yield f"{where} {key}: {epochs} epochs are now {len(new[key])}"
            continue
        for epoch, (a, b, limit) in enumerate(zip(old[key], new[key], limits, strict=True)):
            if not abs(a - b) <= limit:
                yield f"{where} {key}, epoch {epoch}: {a!r} is now {b!r}"


def files(folder: Path) -> set[str]:
    """The generated files below a folder; a description in any folder is not one."""
    found = [*folder.rglob("*.json"), *folder.rglob("*.safetensors")]
    return {path.relative_to(folder).as_posix() for path in found}


def folders(old: Path, new: Path) -> Iterator[str]:
    """Everything in which two folders of vectors differ."""
    for name in sorted(files(old) ^ files(new)):
        yield f"{name}: {'is missing' if name in files(new) else 'is no longer generated'}"
    for name in sorted(files(old) & files(new)):
        if name.endswith(".safetensors"):
            yield from cases(name, old / name, new / name)
            continue
        before, after = (json.loads((folder / name).read_text()) for folder in (old, new))
        if name.startswith("curves/"):
            yield from curves(name, before, after)
        else:
            exact = name == "random.json"
            yield from values(name, before, after, 0.0 if exact else SCHEDULE_TOLERANCE)
