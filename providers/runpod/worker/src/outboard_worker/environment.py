"""What the place is like where tasks run, as facts (`docs/protocol.md`, section 11).

`outboard doctor env` runs this file, with `preflight` and `memory`, in the Python of its own
machine too: nothing but Python 3.8 is needed. The worker in Rust tells the same facts.
"""

from __future__ import annotations

import glob
import importlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import outboard_worker
from outboard_worker import memory, preflight

MAX_FACTS = 512
MAX_NAME_BYTES = 80
MAX_VALUE_BYTES = 4096

FEATURES = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512cd", "avx512dq"),
    *("avx512vl", "avx512_bf16", "amx_tile", "asimd", "sve"),
)
LIMITS = {
    "nofile": "Max open files",
    "nproc": "Max processes",
    "memlock": "Max locked memory",
    "stack": "Max stack size",
}

# Variables that are told, and beginnings of their names. Prefixes that other programs use for
# secrets, such as TF_ and LD_, are none of them.
NAMES = (
    *("PATH", "LANG", "LANGUAGE", "TZ", "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_BIND_NOW"),
    *("LD_AUDIT", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "TF_CPP_MIN_LOG_LEVEL"),
    *("TF_DETERMINISTIC_OPS", "TF_ENABLE_ONEDNN_OPTS", "TF_FORCE_GPU_ALLOW_GROWTH"),
    *("TF_NUM_INTRAOP_THREADS", "TF_XLA_FLAGS"),
)
PREFIXES = (
    *("LC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "CUDA_", "CUBLAS_", "CUDNN_", "NCCL_"),
    *("TORCH_", "PYTORCH_", "PYTHON", "MALLOC_"),
)
PROXY = "_PROXY"
# A variable whose name holds one of these is never told, nor is a value that holds its value.
SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "AUTH")
# Shorter values of secret variables, `1` and `true` say, stand in others by chance.
LEAST_SECRET = 8


class Environment:
    """Facts by name, within the protocol's bounds."""

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}

    def state(self, name: str, value: object) -> None:
        """States a fact; what isn't known is left out."""
        fits = re.fullmatch(r"[A-Za-z0-9._/-]+", name) and len(name) <= MAX_NAME_BYTES
        if value is None or not fits or len(self.facts) >= MAX_FACTS:
            return
        line = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", str(value)).strip()
        self.facts[name] = line.encode(errors="replace")[:MAX_VALUE_BYTES].decode(errors="ignore")


def describe(scratch: str | None = None) -> dict[str, str]:
    """All facts, as this process sees them."""
    found = Environment()
    found.state("program.version", outboard_worker.__version__)
    found.state("cpu.cores", cores())
    machine(found, Path("/"), scratch or tempfile.gettempdir())
    # Before the libraries of C++ are looked at: what is loaded counts.
    libraries(found)
    native(found)
    for name, value in variables(dict(os.environ)).items():
        found.state(f"env.{name}", value)
    return found.facts


def machine(found: Environment, root: Path, scratch: str) -> None:
    """What files under `root` tell."""

    def text(path: str) -> str:
        try:
            return (root / path).read_text(errors="replace")
        except OSError:
            return ""

    def field(text: str, name: str) -> str | None:
        match = re.search(rf"^{name}\s*:[ \t]*(.*)$", text, re.MULTILINE)
        return match[1].strip() if match else None

    found.state("cpu.arch", platform.machine())
    cpu = text("proc/cpuinfo")
    found.state("cpu.model", field(cpu, "model name"))
    flags = field(cpu, "flags") or field(cpu, "Features")
    if flags:
        known = set(flags.split())
        found.state("cpu.features", " ".join(name for name in FEATURES if name in known))
    driver = re.search(r"\s(\d+(?:\.\d+)+)\s", text("proc/driver/nvidia/version").split("\n")[0])
    found.state("gpu.driver", driver and driver[1])
    for i, folder in enumerate(sorted(glob.glob(str(root / "proc/driver/nvidia/gpus/*")))):
        about = text(str(Path(folder, "information").relative_to(root)))
        found.state(f"gpu.{i}", field(about, "Model"))
    total = memory.kilobytes(text("proc/meminfo"), "MemTotal")
    limit = memory.limit(memory.group(root), root)
    found.state("memory.total", total)
    found.state("memory.limit", None if limit == total else limit)
    with suppress(OSError):
        found.state("disk.free", shutil.disk_usage(scratch).free)
    device = str(root / "dev/urandom")
    check = preflight.random_device(device)
    good = check.state == preflight.PASS
    fault = check.sentence[len(device) :].strip()
    found.state("device./dev/urandom", "gives bytes" if good else fault)
    try:
        found.state("device./dev/shm", shutil.disk_usage(root / "dev/shm").total)
    except OSError:
        found.state("device./dev/shm", "is missing")
    limits = text("proc/self/limits")
    for name, line in LIMITS.items():
        match = re.search(rf"^{line}\s+(\S+)", limits, re.MULTILINE)
        found.state(f"limit.{name}", match and match[1])
    status = text("proc/self/status")
    modes = {"0": "off", "1": "strict", "2": "filter"}
    found.state("security.seccomp", modes.get(field(status, "Seccomp") or ""))
    flag = field(status, "NoNewPrivs") or ""
    found.state("security.no_new_privs", {"0": "no", "1": "yes"}.get(flag))
    found.state("security.capabilities", field(status, "CapEff"))
    user, group = field(status, "Uid"), field(status, "Gid")
    if user and group:
        found.state("security.user", f"{user.split()[0]}:{group.split()[0]}")
    found.state("security.profile", text("proc/self/attr/current").strip("\0\n") or None)
    release = re.search(r"^PRETTY_NAME=(.*)$", text("etc/os-release"), re.MULTILINE)
    found.state("system.os", release[1].strip('"') if release else platform.system().lower())
    found.state("system.kernel", text("proc/sys/kernel/osrelease").strip() or None)
    if (root / "run/.containerenv").exists():
        image = re.search(r'^image="?(.*?)"?$', text("run/.containerenv"), re.MULTILINE)
        found.state("system.container", f"podman, {image[1]}" if image else "podman")
    elif (root / ".dockerenv").exists():
        found.state("system.container", "docker")
    with suppress(OSError):
        _, is_zone, zone = os.readlink(root / "etc/localtime").partition("zoneinfo/")
        found.state("system.timezone", zone if is_zone else None)
    names = ("LC_ALL", "LC_CTYPE", "LANG")
    found.state("system.locale", next(filter(None, map(os.environ.get, names)), "C"))


def cores(root: Path = Path("/")) -> int:
    """CPUs that this process may use: affinity and the group's quota count."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    top = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):
        quota, period = (top / "cpu.max").read_text().split()
        count = min(count, int(quota) // int(period))
    with suppress(OSError, ValueError):
        files = (top / f"cpu/cpu.cfs_{name}_us" for name in ("quota", "period"))
        quota, period = (file.read_text() for file in files)
        count = min(count, int(quota) // int(period)) if int(quota) > 0 else count
    return max(count, 1)


def libraries(found: Environment) -> None:
    """Python's own, and what PyTorch says of the GPU."""
    found.state("library.python", platform.python_version())
    numpy, torch = load("numpy"), load("torch")
    found.state("library.numpy", getattr(numpy, "__version__", None))
    if torch is None:
        return
    found.state("library.torch", torch.__version__)
    found.state("library.cuda", torch.version.cuda)
    found.state("program.threads", torch.get_num_threads())
    if torch.cuda.is_available():
        found.state("library.cudnn", torch.backends.cudnn.version())
        for i in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(i)
            found.state(f"gpu.{i}", about.name)
            found.state(f"gpu.{i}.memory", about.total_memory)


def load(name: str) -> Any:
    """A module, if it can be loaded."""
    try:
        return importlib.import_module(name)
    except Exception:
        return None


def native(found: Environment, root: Path = Path("/")) -> None:
    """The libraries of C and C++: those that are loaded, or else the system's."""
    libc, libstdcxx = library(root, "libc"), library(root, "libstdc++")
    with suppress(OSError):
        text = libc.read_bytes() if libc else b""
        version = re.search(rb"release version (\d+(?:\.\d+)*)", text)
        found.state("library.glibc", version and version[1].decode())
    with suppress(OSError):
        text = libstdcxx.read_bytes() if libstdcxx else b""
        known = re.findall(rb"GLIBCXX_3\.4\.(\d+)", text)
        if known:
            found.state("library.libstdcxx", f"GLIBCXX_3.4.{max(map(int, known))}")
            found.state("library.libstdcxx.path", libstdcxx)


def library(root: Path, stem: str) -> Path | None:
    """The file of a library, if there is one."""
    maps = ""
    with suppress(OSError):
        maps = (root / "proc/self/maps").read_text(errors="replace")
    name = re.escape(stem)
    loaded = re.findall(rf" (/\S*/{name}(?:\.so\.|-2\.)\S*)$", maps, re.MULTILINE)
    files: list[Path] = [root / path.lstrip("/") for path in loaded]
    for folder in ("usr/lib64", "lib64", "usr/lib", "lib"):
        for place in (f"{folder}/{platform.machine()}-linux-gnu", folder):
            files += [root / place / f"{stem}.so.{major}" for major in (6, 2)]
    return next((path for path in files if path.is_file()), None)


def variables(all_of_them: dict[str, str]) -> dict[str, str]:
    """Those that may be told, without secrets."""

    def is_secret(name: str) -> bool:
        return any(word in name.upper() for word in SECRET)

    def is_told(name: str) -> bool:
        is_known = name in NAMES or name.startswith(PREFIXES)
        return not is_secret(name) and (is_known or name.upper().endswith(PROXY))

    secrets = [
        value
        for name, value in all_of_them.items()
        if is_secret(name) and len(value.encode(errors="replace")) >= LEAST_SECRET
    ]
    told = {}
    for name, value in all_of_them.items():
        if not is_told(name):
            continue
        if any(secret in value for secret in secrets):
            told[name] = "(not told: it holds a secret)"
        else:
            told[name] = without_credentials(value, name.upper().endswith(PROXY))
    return told


def without_credentials(value: str, is_address: bool) -> str:
    """Of an address only scheme, host and port.

    What stands before the last `@` is a name and a password; what follows `?` may be anything.
    """
    scheme, mark, rest = value.partition("://")
    if not mark and not is_address:
        return value
    rest = rest if mark else value
    start = scheme + mark if mark else ""
    return start + rest.rpartition("@")[2].partition("?")[0]


if __name__ == "__main__":
    json.dump(describe(), sys.stdout)
