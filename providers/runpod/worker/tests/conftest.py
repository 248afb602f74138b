"""What the tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from outboard_worker.device import Device
from outboard_worker.process import task_program
from outboard_worker.settings import Settings
from outboard_worker.store import Store
from outboard_worker.supervisor import Supervisor

REPOSITORY = Path(__file__).parents[4]
# For processes that tests start; bytes depend on the number of threads.
os.environ["PYTHONPATH"] = str(REPOSITORY / "providers/runpod/worker/src")
os.environ["OUTBOARD_WORKER_THREADS"] = "1"
os.environ["OUTBOARD_WORKER_DEVICE"] = "cpu"


@pytest.fixture(scope="session")
def device() -> Device:
    """The CPU."""
    return Device(Settings.read())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store."""
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def supervisor(store: Store) -> Iterator[Supervisor]:
    """A supervisor of a task process over the store."""
    found = Supervisor(task_program(Settings(store=store.folder, threads=1)))
    yield found
    found.close()
