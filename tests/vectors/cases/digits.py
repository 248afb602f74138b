"""examples/data/digits.csv, from the copy of the data set that scikit-learn carries."""

from __future__ import annotations

from pathlib import Path

from sklearn.datasets import load_digits  # type: ignore[import-untyped]

PATH = Path(__file__).parents[3] / "examples" / "data" / "digits.csv"


def text() -> str:
    """The whole file: 64 pixels from 0 to 16, row-major, then the digit."""
    digits = load_digits()
    header = ",".join([*(f"p{i}" for i in range(64)), "label"])
    rows = (
        ",".join(str(int(cell)) for cell in [*pixels, label])
        for pixels, label in zip(digits.data, digits.target, strict=True)
    )
    return "\n".join([header, *rows]) + "\n"
