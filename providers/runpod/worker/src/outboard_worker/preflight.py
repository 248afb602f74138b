"""Says why this machine or container would fail a run, before that costs anything.

One file that needs nothing but Python 3.8 on Linux: copy it into the container that crashes, and
run `python preflight.py --imports tensorflow,duckdb`.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import mmap
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

# Seconds that the imports of one child may take, and a program that tells about the GPU.
LIMIT = 120.0
GPU_LIMIT = 30.0
# Below these a run has little hope, or a poor one.
MEMORY_BYTES = (256 << 20, 1 << 30)
DISK_BYTES = (100 << 20, 1 << 30)
SHM_BYTES = 32 << 20
LAST_LINES = 5
LAST_BYTES = 4096

PASS, WARN, FAIL = "pass", "warn", "fail"
VERDICTS = {PASS: "healthy", WARN: "healthy with warnings", FAIL: "unhealthy"}

# Not inline in any version, and with a state: only libstdc++ itself defines these, or a whole copy
# of it. The few functions that a newer compiler adds to a library are none of them.
RANDOM_DEVICE = re.compile(r"_ZNK?St13random_device\d+_M_")
STATE = re.compile(
    RANDOM_DEVICE.pattern + r"|_ZNSt8ios_base4InitC1Ev$|_ZNSt6locale7classicEv$|__cxa_get_globals$"
)
STARTS = (b"_ZNSt1", b"_ZNKSt", b"_ZNSt8", b"_ZNSt6", b"__cxa_")

# Imports in order; what is imported next is told before, for whoever reads it after an abort.
# It ends at once: after an error of C++ the usual end may hang.
CHILD = """
import importlib, os, sys, traceback
with open(sys.argv[1], "w", buffering=1) as told:
    try:
        for name in sys.argv[2:]:
            told.write(name + chr(10))
            importlib.import_module(name)
        told.write("." + chr(10))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
os._exit(0)
"""


class Check(NamedTuple):
    """What was looked at, and how it is; `remedy` is empty where nothing needs one."""

    code: str
    state: str
    sentence: str
    evidence: str = ""
    remedy: str = ""


class Report(NamedTuple):
    """All checks. `preload` is a library that was tried in LD_PRELOAD, and helps."""

    checks: list[Check]
    preload: str | None = None

    @property
    def state(self) -> str:
        """The worst state."""
        states = {check.state for check in self.checks}
        return FAIL if FAIL in states else WARN if WARN in states else PASS

    @property
    def worst(self) -> Check | None:
        """The first check that fails; what fails later may be due to it."""
        return next((check for check in self.checks if check.state == FAIL), None)

    def to_json(self) -> dict[str, object]:
        """As `--json` prints it."""
        worst = self.worst
        return {
            "verdict": VERDICTS[self.state],
            "sentence": worst.sentence if worst else None,
            "preload": self.preload,
            "checks": [check._asdict() for check in self.checks],
        }

    def text(self) -> str:
        """For people."""
        lines = []
        for check in self.checks:
            lines.append(f"{check.state}  {check.code}  {check.sentence}")
            lines += [f"      {line}" for line in check.evidence.splitlines()]
            lines += [f"      try: {check.remedy}"] if check.remedy else []
        worst = self.worst
        reason = f": {worst.sentence} ({worst.code})" if worst else ""
        return "\n".join([*lines, VERDICTS[self.state] + reason])


def random_device(path: str = "/dev/urandom") -> Check:
    """A character device that gives bytes."""
    code = "OB-RANDOM-DEVICE"
    remedy = (
        f"let the container have the host's {path} (character device 1:9): remove the volume or "
        "the step of the image that replaces it"
    )

    def bad(what: str) -> Check:
        return Check(code, FAIL, f"{path} {what}", remedy=remedy)

    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISCHR(mode):
            kinds = {stat.S_IFDIR: "a directory", stat.S_IFREG: "a regular file"}
            found = kinds.get(stat.S_IFMT(mode), "something else")
            return bad(f"is {found}, not a character device")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = len(os.read(descriptor, 16))
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return bad("is missing")
        return bad(f"can't be read: {error.strerror}")
    if size < 16:
        return bad(f"gives {size} bytes where 16 were asked for")
    return Check(code, PASS, f"{path} is a character device and gives bytes")


def getrandom() -> Check:
    """The system call that newer libraries use in place of the device."""
    code = "OB-GETRANDOM"
    try:
        os.getrandom(16, os.GRND_NONBLOCK)
    except OSError as error:
        text = f"the system call getrandom fails: {error.strerror}"
        return Check(code, WARN, text, remedy="allow getrandom in the container's seccomp profile")
    return Check(code, PASS, "the system call getrandom gives bytes")


def standard_input() -> Check:
    """Where it is closed, the next file to be opened takes its place."""
    code = "OB-STDIN"
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        remedy = "start the program with `</dev/null`"
        return Check(code, WARN, "standard input is closed", remedy=remedy)
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFREG: "a file", stat.S_IFSOCK: "a socket"}
    found = kinds.get(stat.S_IFMT(mode), "a device")
    with contextlib.suppress(OSError):
        found = os.readlink("/proc/self/fd/0") if stat.S_ISCHR(mode) else found
    return Check(code, PASS, f"standard input is {found}")


def shared_memory(path: str = "/dev/shm") -> Check:
    """What data loaders with processes of their own need."""
    code, remedy = "OB-SHM", "start the container with a larger --shm-size, or --ipc=host"
    try:
        free = shutil.disk_usage(path).free
    except OSError as error:
        return Check(code, WARN, f"{path} can't be used: {error.strerror}", remedy=remedy)
    if not os.access(path, os.W_OK):
        return Check(code, WARN, f"{path} can't be written to", remedy=remedy)
    state = WARN if free < SHM_BYTES else PASS
    text = f"{path} has {size_of(free)} free"
    return Check(code, state, text, remedy=remedy if state == WARN else "")


def memory() -> Check:
    """What is left of the machine's, and of the container's."""
    left: list[int] = []
    with contextlib.suppress(OSError):
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        left += [int(found[1]) << 10] if found else []
    top = Path("/sys/fs/cgroup")
    for limit, used, stats in (
        ("memory.max", "memory.current", "memory.stat"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
        ),
    ):
        # Version 2 says `max` where there is no limit.
        with contextlib.suppress(OSError, ValueError):
            taken = int((top / used).read_text())
            # Files are kept only as long as nothing else needs the memory.
            kept = re.findall(r"^(?:total_)?inactive_file (\d+)$", (top / stats).read_text(), re.M)
            taken -= max(map(int, kept), default=0)
            left.append(int((top / limit).read_text()) - taken)
    if not left:
        return Check("OB-MEMORY", PASS, "the free memory isn't known here")
    return amount("OB-MEMORY", max(min(left), 0), MEMORY_BYTES, "memory", "give it more memory")


def disk(folder: str) -> Check:
    """Where blobs and temporary files go."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        remedy = "make it a folder that this user may write to"
        text = f"{folder} can't be written to: {error.strerror}"
        return Check("OB-DISK", FAIL, text, remedy=remedy)
    return amount("OB-DISK", free, DISK_BYTES, f"disk in {folder}", "give it a larger disk")


def amount(code: str, free: int, least: tuple[int, int], what: str, remedy: str) -> Check:
    """How much is left of something."""
    state = FAIL if free < least[0] else WARN if free < least[1] else PASS
    text = f"{size_of(free)} of {what} {'are' if state == PASS else 'are all that is'} free"
    return Check(code, state, text, remedy="" if state == PASS else remedy)


def size_of(count: int) -> str:
    """Bytes, in words."""
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


def gpu(with_torch: bool = True) -> Check:
    """Whether one is visible, its driver answers, and PyTorch, where it is, can use it."""
    code = "OB-GPU"
    nodes = sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    nodes += ["/dev/dxg"] if Path("/dev/dxg").exists() else []
    program = shutil.which("nvidia-smi")
    if not nodes:
        return Check(code, PASS, "no NVIDIA GPU is visible: what runs here runs on the CPU")
    evidence = ", ".join(nodes)
    if program:
        query = "--query-gpu=name,driver_version,memory.total"
        status, said = output([program, query, "--format=csv,noheader"])
        evidence += "\n" + said
        if status != 0:
            text = "a GPU is there, but its driver does not answer"
            remedy = "let the host's driver and the container's NVIDIA libraries be of one version"
            return Check(code, FAIL, text, evidence, remedy)
    if with_torch:
        look = "import torch; print(torch.version.cuda, torch.cuda.is_available())"
        status, said = output([sys.executable, "-c", look])
        found = re.search(r"^(\d[\d.]*) (True|False)$", said, re.MULTILINE)
        if status == 0 and found:
            evidence += f"\nPyTorch is made for CUDA {found[1]}"
            if found[2] == "False":
                text = f"PyTorch, made for CUDA {found[1]}, can't use this GPU and its driver"
                remedy = "take a PyTorch for an older CUDA, or a host with a newer driver"
                return Check(code, FAIL, text, evidence, remedy)
    return Check(code, PASS, "a GPU is visible", evidence)


def output(command: Sequence[str]) -> tuple[int | None, str]:
    """How a program ended, `None` if it did not in time, and its last lines."""
    with tempfile.TemporaryFile() as log:
        try:
            status: int | None = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=GPU_LIMIT
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
        except OSError as error:
            return 127, str(error.strerror)
        return status, tail(log.fileno())


def tail(descriptor: int) -> str:
    """The last lines of a file."""
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, LAST_BYTES, max(size - LAST_BYTES, 0)).decode(errors="replace")
    return "\n".join([line for line in text.splitlines() if line.strip()][-LAST_LINES:])


class Symbols(NamedTuple):
    """What `STATE` matches in a library: what it defines, and what it asks others for."""

    defined: list[str]
    wanted: list[str]


def symbols(path: str) -> Symbols:
    """Reads an ELF file's dynamic symbols. `ValueError` where it is none of 64 bits."""
    found = Symbols([], [])
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:5] != b"\x7fELF\x02" or data[5] not in (1, 2):
            raise ValueError(f"{path} is no ELF file of 64 bits")
        order = "<" if data[5] == 1 else ">"
        try:
            (at,) = struct.unpack_from(order + "Q", data, 40)
            size, count = struct.unpack_from(order + "HH", data, 58)
            # Type, offset, length and link of each section.
            header = struct.Struct(order + "4xI16xQQI")
            sections = [header.unpack_from(data, at + i * size) for i in range(count)]
            # SHT_DYNSYM, and its strings.
            for _, start, length, link in (one for one in sections if one[0] == 11):
                _, strings, total, _ = sections[link]
                table = data[start : start + length - length % 24]
                for name, info, other, index in struct.iter_unpack(order + "IBBH16x", table):
                    place = strings + name
                    # Global, neither weak nor hidden: a weak one is any template's.
                    if info >> 4 != 1 or other & 3 or name >= total:
                        continue
                    if not data[place : place + 6].startswith(STARTS):
                        continue
                    text = data[place : data.find(b"\0", place)].decode(errors="replace")
                    if STATE.match(text):
                        (found.defined if index else found.wanted).append(text)
        except (struct.error, IndexError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    return found


class Trial(NamedTuple):
    """Imports in a child: the one that failed and how, if one did; which libraries it loaded."""

    failed: str | None
    how: str
    last: str
    libraries: list[str]


def attempt(names: Sequence[str], preload: str | None = None, limit: float = LIMIT) -> Trial:
    """Imports in order, with standard input on /dev/null."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        told = Path(folder, "told")
        # The loader's own account is complete even where the process aborts.
        environment = {**os.environ, "LD_DEBUG": "files", "LD_DEBUG_OUTPUT": f"{folder}/loader"}
        if preload:
            environment["LD_PRELOAD"] = preloaded(preload, os.environ)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(told), *names],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        try:
            status: int | None = child.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        lines = told.read_text().split() if told.exists() else []
        loader = Path(f"{folder}/loader.{child.pid}")
        account = loader.read_text(errors="replace") if loader.exists() else ""
        libraries = list(dict.fromkeys(re.findall(r"calling init: (/.*)", account)))
        if status == 0 and lines[-1:] == ["."]:
            return Trial(None, "", "", libraries)
        how = f"hung: it was not done after {limit:g} s" if status is None else ending(status)
        return Trial(lines[-1] if lines else names[0], how, tail(log.fileno()), libraries)


def ending(status: int) -> str:
    """How a child ended that should not have."""
    if status >= 0:
        return f"failed with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    return f"died of signal {-status} ({name})"


def preloaded(library: str, environment: os._Environ[str] | dict[str, str]) -> str:
    """LD_PRELOAD with a library before what is there."""
    return ":".join(filter(None, [library, environment.get("LD_PRELOAD", "")]))


class Clash(NamedTuple):
    """A library that has a copy of libstdc++ for all to use, and who is affected."""

    owner: str
    system: str
    names: list[str]
    users: list[str]


def clashes(libraries: Iterable[str]) -> list[Clash]:
    """Which libraries define what the libstdc++ beside them defines."""
    read: dict[str, Symbols] = {}
    for path in libraries:
        with contextlib.suppress(OSError, ValueError):
            read[path] = symbols(path)
    system = next((path for path in read if "/libstdc++.so" in path), None)
    if system is None:
        return []
    own = set(read[system].defined)
    found = []
    for path, has in read.items():
        names = sorted(own & set(has.defined), key=order_of)
        if path == system or not names:
            continue
        users = [
            other
            for other, its in read.items()
            if other != path and any(RANDOM_DEVICE.match(name) for name in its.wanted)
        ]
        found.append(Clash(path, system, names, users))
    return sorted(found, key=lambda clash: order_of(clash.names[0]))


def order_of(name: str) -> bool:
    """Sorts std::random_device first: it is what crashes."""
    return not RANDOM_DEVICE.match(name)


def imports(names: Sequence[str], limit: float = LIMIT) -> Report:
    """Tries imports, each alone and then all in order, and looks for the reason of a failure."""
    alone = {name: attempt([name], None, limit) for name in dict.fromkeys(names)}
    brings = {lib: name for name, tried in reversed(alone.items()) for lib in tried.libraries}
    bad = next((tried for tried in alone.values() if tried.failed), None)
    whole = bad or (attempt(names, None, limit) if len(names) > 1 else alone[names[0]])
    order = ", ".join(names)
    if whole.failed is None:
        tried = Check("OB-IMPORT", PASS, f"these can be imported in this order: {order}")
    else:
        text = f"the import of `{whole.failed}` {whole.how}"
        remedy = "look at its last words; install what is missing, or leave it out"
        tried = Check("OB-IMPORT", FAIL, text, whole.last, remedy)
    found = clashes(dict.fromkeys([*brings, *whole.libraries]))
    if not found:
        return Report([Check("OB-CLASH", PASS, "no library has a copy of libstdc++"), tried])
    clash = found[0]
    shown = named(clash.owner, brings)
    text = f"{shown} has a copy of libstdc++ that takes the place of {Path(clash.system).name}"
    if RANDOM_DEVICE.match(clash.names[0]):
        text += "'s, std::random_device among it"
        # Those of the same import were built with the copy.
        by = brings.get(clash.owner)
        users = [named(user, brings) for user in clash.users if brings.get(user) != by]
        text += f", which {' and '.join(users[:3])} asked for" if users else ""
    evidence = f"{clash.owner} defines, as {clash.system} does:\n"
    evidence += "\n".join(clash.names[:LAST_LINES])
    evidence += "".join(f"\n{other.owner} has a copy too" for other in found[1:LAST_LINES])
    remedy = f"LD_PRELOAD={clash.system}"
    if whole.failed is None:
        return Report([Check("OB-CLASH", WARN, text, evidence, remedy + " if it fails"), tried])
    evidence += f"\nthe import of `{whole.failed}` {whole.how}: {whole.last}"
    again = attempt(names, clash.system, limit)
    if again.failed is None:
        remedy = f"start the program with {remedy}: tried, and {order} can be imported then"
        return Report([Check("OB-CLASH", FAIL, text, evidence, remedy), tried], clash.system)
    turned = list(reversed(names))
    if bad is None and attempt(turned, None, limit).failed is None:
        remedy = f"import in this order: {', '.join(turned)}: tried, it succeeds"
        return Report([Check("OB-CLASH", FAIL, text, evidence, remedy), tried])
    # What neither helps is not shown to come of the clash.
    return Report([tried, Check("OB-CLASH", WARN, text, evidence, remedy + " did not help")])


def named(path: str, brings: dict[str, str]) -> str:
    """A library, and the import that loads it."""
    return f"{Path(path).name} (of {brings[path]})" if path in brings else Path(path).name


def preflight(
    names: Sequence[str] = (),
    folder: str | None = None,
    limit: float = LIMIT,
    with_torch: bool = True,
) -> Report:
    """All checks. Imports aren't tried where a device is at fault: they would say the same."""
    checks = [random_device(), getrandom(), standard_input(), shared_memory(), memory()]
    checks += [disk(folder or tempfile.gettempdir()), gpu(with_torch)]
    if not names:
        return Report(checks)
    if checks[0].state == FAIL:
        text = "the imports were not tried: a random device is at fault"
        return Report([*checks, Check("OB-IMPORT", WARN, text)])
    tried = imports(names, limit)
    return Report(checks + tried.checks, tried.preload)


def modules(text: str) -> list[str]:
    """Names of modules, separated by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            text = f"`{name}` is no name of a module: give names as in `tensorflow,duckdb`"
            raise argparse.ArgumentTypeError(text)
    return names


def main(given: Sequence[str] | None = None) -> int:
    """The command; its exit status is 1 where something would fail."""
    parser = argparse.ArgumentParser("preflight", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--imports", type=modules, default=[], help="modules to try, in order")
    parser.add_argument("--folder", help="where blobs or temporary files go")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for imports (120)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    flags = parser.parse_args(given)
    report = preflight(flags.imports, flags.folder, flags.limit)
    print(json.dumps(report.to_json(), indent=2) if flags.json else report.text())
    return 1 if report.state == FAIL else 0


if __name__ == "__main__":
    sys.exit(main())
