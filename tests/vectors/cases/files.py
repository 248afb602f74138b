"""Writing and reading vector files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

Arrays = dict[str, npt.NDArray[Any]]


def write_records(path: Path, value: dict[str, list[Any]] | list[Any]) -> None:
    """JSON with one record to a line, so that a change shows as the lines it concerns."""

    def lines(records: list[Any]) -> str:
        return "[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]"

    if isinstance(value, dict):
        text = ",\n".join(f"{json.dumps(key)}: {lines(records)}" for key, records in value.items())
        text = "{\n" + text + "\n}"
    else:
        text = lines(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def write_columns(path: Path, columns: dict[str, list[Any]]) -> None:
    """JSON with one array to a line."""
    rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(column)}" for key, column in columns.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + rows + "\n}\n")


def write_case(path: Path, case: dict[str, Any], tensors: Arrays) -> None:
    """A safetensors file whose metadata describes the case."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors writes a view's underlying buffer, whatever its strides.
    packed = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(packed, path, metadata={"case": json.dumps(case)})


def read_case(path: Path) -> tuple[dict[str, Any], Arrays]:
    """The description and the tensors of a case."""
    with safe_open(path, framework="numpy") as file:
        names = file.keys()
        return json.loads(file.metadata()["case"]), {name: file.get_tensor(name) for name in names}
