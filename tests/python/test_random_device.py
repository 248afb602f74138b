"""The crash that users know as "random_device could not be read", reproduced with its libraries.

`TEST_RANDOM_DEVICE_PYTHON` names a Python with the packages of `random-device.txt`, which no
other test can have; `cargo xtask test random-device` makes one.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

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
    found = os.environ.get("TEST_RANDOM_DEVICE_PYTHON")
    if not found:
        pytest.skip("the variable TEST_RANDOM_DEVICE_PYTHON names no Python")
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


# A /dev of its own, whose `urandom` is made by `$2`, for the rest of the command.
DEVICES = """
set -e
mount -t tmpfs none "$1"
for node in full null random tty zero; do
    touch "$1/$node"
    mount --bind "/dev/$node" "$1/$node"
done
mkdir "$1/shm"
mount -t tmpfs none "$1/shm"
cd "$1"
eval "$2"
cd /
mount --rbind "$1" /dev
shift 2
exec "$@"
"""
UNREADABLE = """
touch urandom
mount --bind /dev/urandom urandom
mount -o remount,bind,nodev urandom
"""


@pytest.mark.parametrize(
    ("urandom", "said"),
    [
        ("touch urandom", "is a regular file, not a character device"),
        ("mkdir urandom", "is a directory, not a character device"),
        ("true", "is missing"),
        (UNREADABLE, "can't be read: Permission denied"),
    ],
    ids=["an_empty_file", "a_directory", "nothing", "an_unreadable_node"],
)
def test_a_device_at_fault_is_named_and_not_the_clash(
    python: str, tmp_path: Path, urandom: str, said: str
) -> None:
    """In a mount namespace of its own."""
    unshare = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    command = [*unshare, "sh", "-c", DEVICES, "sh", str(tmp_path)]
    tried = subprocess.run(
        [*command, "true", "true"], capture_output=True, text=True, check=False, timeout=LIMIT
    )
    if tried.returncode != 0:
        pytest.skip(f"no mount namespace: {tried.stderr.strip()}")
    ran = subprocess.run(
        [*command, urandom, python, str(PREFLIGHT), "--imports", "tensorflow,duckdb", "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr
    report = json.loads(ran.stdout)
    assert report["sentence"] == f"/dev/urandom {said}"
    states = {check["code"]: check["state"] for check in report["checks"]}
    assert states["OB-RANDOM-DEVICE"] == "fail"
    assert "OB-CLASH" not in states
