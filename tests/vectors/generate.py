"""Makes the vectors of docs/protocol.md with NumPy and PyTorch.

    python tests/vectors/generate.py            writes all vectors beside this file
    python tests/vectors/generate.py --out DIR  writes them elsewhere
    python tests/vectors/generate.py --check    compares fresh ones with those beside this file
    python tests/vectors/generate.py --digits   writes examples/data/digits.csv

The packages are pinned in tests/requirements.txt.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
# The protocol's layers and draws are those of the worker for PyTorch.
sys.path.insert(0, str(HERE.parents[1] / "providers" / "runpod" / "worker" / "src"))

from cases import (  # noqa: E402
    augment,
    compare,
    curves,
    digits,
    gradients,
    optimizers,
    random_numbers,
    schedules,
)


def generate(out: Path) -> None:
    """Writes all vectors."""
    torch.set_num_threads(2)
    for kind in (random_numbers, augment, gradients, optimizers, schedules, curves):
        kind.generate(out)


def check() -> int:
    """Reports what differs; 1 if anything does."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        differences = list(compare.folders(HERE, Path(folder)))
    if digits.PATH.read_text() != digits.text():
        differences.append(f"{digits.PATH.name}: differs from the data set")
    for difference in differences:
        print(difference, file=sys.stderr)
    print(f"{len(differences)} differences" if differences else "the vectors are up to date")
    return 1 if differences else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes the vectors of docs/protocol.md.")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    action.add_argument("--check", action="store_true", help="compare instead of writing")
    action.add_argument("--digits", action="store_true", help="write the example data set")
    arguments = parser.parse_args()
    if arguments.check:
        return check()
    if arguments.digits:
        digits.PATH.parent.mkdir(parents=True, exist_ok=True)
        digits.PATH.write_text(digits.text())
    else:
        generate(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
