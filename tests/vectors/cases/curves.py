"""curves/: what float32 PyTorch measures per epoch when it runs a job file."""

from __future__ import annotations

from pathlib import Path

import torch

from cases.files import write_columns
from reference.training import train

JOBS = Path(__file__).parent.parent / "curves"


def tolerance(one: list[float], two: list[float]) -> list[float]:
    """What another implementation may differ by; PyTorch differs from itself by thread count."""
    return [max(1e-3 * b, 3 * abs(a - b)) for a, b in zip(one, two, strict=True)]


def generate(out: Path) -> None:
    """Runs each job with one and with two threads; the second is the curve."""
    threads = torch.get_num_threads()
    for path in sorted(JOBS.glob("*.toml")):
        torch.set_num_threads(1)
        one = train(path)
        torch.set_num_threads(2)
        two = train(path)
        two["tolerance"] = tolerance(one["loss"], two["loss"])
        two["validation_tolerance"] = tolerance(one["validation_loss"], two["validation_loss"])
        write_columns(out / "curves" / f"{path.stem}.json", two)
    torch.set_num_threads(threads)
