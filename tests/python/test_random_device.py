"""The crash that users know as "random_device could not be read", reproduced with its libraries.

`OUTBOARD_RANDOM_DEVICE_PYTHON` names a Python with `tensorflow-cpu==2.12.0`, `duckdb==0.8.1` and
`numpy<1.24`, which no other test can have.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from program import REPOSITORY

PREFLIGHT = REPOSITORY / "providers/runpod/worker/src/outboard_worker/preflight.py"
LIMIT = 400
STEP = """
import tensorflow as tf, duckdb
weight = tf.Variable(3.0)
with tf.GradientTape() as tape:
    loss = weight * weight
tf.keras.optimizers.SGD(0.1).apply_gradients([(tape.gradient(loss, weight), weight)])
print(round(float(weight), 3))
"""


@pytest.fixture
def python() -> str:
    found = os.environ.get("OUTBOARD_RANDOM_DEVICE_PYTHON")
    if not found:
        pytest.skip("the variable OUTBOARD_RANDOM_DEVICE_PYTHON names no Python")
    return found


@pytest.mark.parametrize("stdin", ["null", "open"])
def test_the_clash_is_named_and_the_remedy_trains(python: str, stdin: str) -> None:
    """Whatever standard input is, the sentence is the same."""
    ours, theirs = os.pipe()
    try:
        given = subprocess.DEVNULL if stdin == "null" else ours
        ran = subprocess.run(
            [python, str(PREFLIGHT), "--imports", "tensorflow,duckdb", "--json"],
            stdin=given,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert ran.returncode == 1, ran.stderr
        report = json.loads(ran.stdout)
        for text in ("libtensorflow_framework.so.2 (of tensorflow)", "duckdb", "libstdc++.so.6"):
            assert text in report["sentence"], report
        [clash] = [check for check in report["checks"] if check["code"] == "OB-CLASH"]
        assert "random_device could not be read" in clash["evidence"]
        assert f"LD_PRELOAD={report['preload']}: tried" in clash["remedy"]
        trained = subprocess.run(
            [python, "-c", STEP],
            env={**os.environ, "LD_PRELOAD": report["preload"]},
            stdin=given,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.split()[-1] == "2.4"


def test_without_the_remedy_it_does_not_run(python: str) -> None:
    """It fails, or prints the error and hangs: both have been seen."""
    child = subprocess.Popen(
        [python, "-c", "import tensorflow, duckdb"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stderr
    try:
        said = next((line for line in child.stderr if b"random_device could not be" in line), b"")
        assert said.endswith(b"random_device could not be read\n")
    finally:
        child.kill()
        child.communicate()
