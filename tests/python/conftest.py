"""What the tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# The protocol in Python, which the vectors are made with, and the worker that has its layers.
ROOT = Path(__file__).parents[2]
sys.path[:0] = [
    str(ROOT / "tests" / "vectors"),
    str(ROOT / "providers" / "runpod" / "worker" / "src"),
]

from program import REPOSITORY, Program


@pytest.fixture
def outboard(tmp_path: Path) -> Program:
    """The program, with a home and a working directory of its own."""
    program = os.environ.get("TEST_OUTBOARD_BIN")
    if not program:
        pytest.skip("the variable TEST_OUTBOARD_BIN names no program")
    return Program(REPOSITORY / program, tmp_path)
