"""What is known of a task process's memory, from the files of a system."""

from __future__ import annotations

from pathlib import Path

import pytest

from outboard_worker import memory
from outboard_worker.memory import Memory
from outboard_worker.preflight import size_of


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("about", "folder", "events", "most"),
    [
        ("0::/a/b\n", "sys/fs/cgroup/a/b", "memory.events", "memory.max"),
        # In a container.
        ("0::/kubepods/x\n", "sys/fs/cgroup", "memory.events", "memory.max"),
        (
            "9:pids:/\n4:cpu,memory:/docker/7\n0::/\n",
            "sys/fs/cgroup/memory/docker/7",
            "memory.oom_control",
            "memory.limit_in_bytes",
        ),
    ],
)
def test_the_group_that_counts_is_found(
    tmp_path: Path, about: str, folder: str, events: str, most: str
) -> None:
    """In both versions."""
    meminfo = "MemTotal:       67108864 kB\nMemFree: 1 kB\n"
    write(tmp_path, {"proc/meminfo": meminfo, "proc/self/cgroup": about})
    group = tmp_path / folder
    write(group, {events: "low 0\noom 3\noom_kill 2\n", most: "17179869184\n"})
    assert memory.group(tmp_path) == group
    assert memory.kills(group) == 2
    assert size_of(memory.limit(group, tmp_path) or 0) == "16.0 GiB"
    write(group, {most: "max\n"})
    assert size_of(memory.limit(group, tmp_path) or 0) == "64.0 GiB"


def test_nothing_is_known_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert memory.group(tmp_path) is None
    assert memory.kills(None) is None
    assert memory.limit(None, tmp_path) is None


def test_a_kill_for_memory_is_one_that_the_kernel_counts(tmp_path: Path) -> None:
    of = Memory(0)
    of.close()
    of.group, of.kills = tmp_path, 2
    write(tmp_path, {"memory.events": "oom_kill 2\n"})
    assert not of.was_exhausted()
    write(tmp_path, {"memory.events": "oom_kill 3\n"})
    assert of.was_exhausted()
    of.peak, of.group = 15 << 30, None
    assert (of.used() or "").startswith("15.0 GiB of ")
