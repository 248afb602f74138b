"""What the tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from program import REPOSITORY, Program

# The protocol in Python, which the vectors are made with, and the worker that has its layers.
WORKER = REPOSITORY / "providers" / "runpod" / "worker"
sys.path[:0] = [str(REPOSITORY / "tests" / "vectors"), str(WORKER / "src")]


@pytest.fixture
def outboard(tmp_path: Path) -> Program:
    """The program, with a home and a working directory of its own."""
    program = os.environ.get("TEST_OUTBOARD_BIN")
    if not program:
        pytest.skip("the variable TEST_OUTBOARD_BIN names no program")
    return Program(REPOSITORY / program, tmp_path)
