"""How much memory a task process takes, for whoever asks after it has died.

Where the system doesn't tell, nothing is known.
"""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from pathlib import Path

from outboard_worker.preflight import size_of

# Seconds. A process's peak is gone with the process, so it is asked for this often.
ASKING = 0.2


class Memory:
    """The memory of a process, from its start on."""

    def __init__(self, pid: int) -> None:
        self.group = group()
        self.kills = kills(self.group)
        self.peak = 0
        self.status = Path(f"/proc/{pid}/status")
        self.over = threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        """Until the process is gone."""
        with suppress(OSError):
            while True:
                found = kilobytes(self.status.read_text(), "VmHWM")
                self.peak = max(self.peak, found or 0)
                if self.over.wait(ASKING):
                    return

    def close(self) -> None:
        """Asks no more."""
        self.over.set()

    def was_exhausted(self) -> bool:
        """Whether the kernel has killed a process here for memory since."""
        now = kills(self.group)
        return now is not None and self.kills is not None and now > self.kills

    def used(self) -> str | None:
        """What it took at most, of what there is."""
        if not self.peak:
            return None
        most = limit(self.group)
        return size_of(self.peak) + (f" of {size_of(most)}" if most else "")


def group(root: Path = Path("/")) -> Path | None:
    """The folder of this process's group of processes, whose memory is counted together."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    top = root / "sys/fs/cgroup"
    folders: list[Path] = []
    # Version 1 names its controllers, version 2 none.
    for controller, start in (("memory", top / "memory"), ("", top)):
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                # In a container its own group may be at the top, whatever its path says.
                folders += [start / path.lstrip("/"), start]
    return next((folder for folder in folders if kills(folder) is not None), None)


def kills(group: Path | None) -> int | None:
    """How many processes of a group the kernel has killed for memory."""
    for name in ("memory.events", "memory.oom_control"):
        with suppress(OSError):
            found = group and re.search(
                r"^oom_kill (\d+)$", (group / name).read_text(), re.MULTILINE
            )
            if found:
                return int(found[1])
    return None


def limit(group: Path | None, root: Path = Path("/")) -> int | None:
    """The memory that processes here may take, in bytes."""
    found: list[int] = []
    with suppress(OSError):
        machine = kilobytes((root / "proc/meminfo").read_text(), "MemTotal")
        found += [machine] if machine else []
    for name in ("memory.max", "memory.limit_in_bytes"):
        # Version 2 says `max` where there is none, version 1 gives a huge number.
        with suppress(OSError, ValueError):
            found += [int((group / name).read_text())] if group else []
    return min(found, default=None)


def kilobytes(text: str, name: str) -> int | None:
    """The value in bytes of a line such as `VmHWM:  12 kB`."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) << 10 if found else None
