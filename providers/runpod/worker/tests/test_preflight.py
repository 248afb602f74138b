"""What a preflight finds: devices, imports that die or hang, and libraries that clash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import Job, envelope
from outboard_worker import preflight
from outboard_worker.failure import Failure
from outboard_worker.health import Health
from outboard_worker.preflight import FAIL, PASS, WARN, Check, Report
from outboard_worker.process import task_program
from outboard_worker.settings import Settings
from outboard_worker.store import Store
from outboard_worker.supervisor import Stop, Supervisor

Json = dict[str, Any]
PREFLIGHT = Path(preflight.__file__)


def library(folder: Path, name: str, source: str, *flags: str) -> Path:
    """A shared library of a few lines of C++."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if not compiler:
        pytest.skip("there is no C++ compiler")
    code, made = folder / f"{name}.cc", folder / f"{name}.so"
    code.write_text(source)
    command = [compiler, "-shared", "-fPIC", "-o", str(made), str(code), *flags]
    subprocess.run(command, check=True)
    return made


DEFINES = """
extern "C" int _ZNSt13random_device9_M_getvalEv(void *) { return %s; }
extern "C" __attribute__((weak)) void _ZNSt13random_device7_M_finiEv(void *) {}
extern "C" __attribute__((visibility("hidden"))) void _ZNSt13random_device7_M_initEv(void *) {}
"""
USES = """
#include <random>
extern "C" unsigned draw() { std::random_device device("/dev/urandom"); return device(); }
"""


def test_symbols_are_told_by_whether_they_take_anothers_place(tmp_path: Path) -> None:
    owner = library(tmp_path, "owner", DEFINES % 4)
    assert preflight.symbols(str(owner)).defined == ["_ZNSt13random_device9_M_getvalEv"]
    user = library(tmp_path, "user", USES)
    assert "_ZNSt13random_device9_M_getvalEv" in preflight.symbols(str(user)).wanted
    whole = owner.read_bytes()
    for damaged in (whole[:4], whole[: len(whole) // 2], b"text", whole[:4] + b"\1" + whole[5:]):
        path = tmp_path / "damaged.so"
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            preflight.symbols(str(path))


@pytest.fixture
def clashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`one` brings a `std::random_device` of its own for all to use, which aborts in `two`."""
    flags = ("-Wl,--no-as-needed", "-lstdc++")
    library(tmp_path, "one", "#include <cstdlib>\n" + DEFINES % "(abort(), 0)", *flags)
    library(tmp_path, "two", USES, *flags)
    load = "import ctypes, os\n"
    load += "found = ctypes.CDLL(os.path.join(os.path.dirname(__file__), '{}.so'), {})\n"
    (tmp_path / "first.py").write_text(load.format("one", "ctypes.RTLD_GLOBAL"))
    (tmp_path / "second.py").write_text(load.format("two", "0") + "found.draw()\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")


def test_a_clash_is_named_with_both_libraries_and_a_remedy_that_was_tried(clashing: None) -> None:
    report = preflight.imports(["first", "second"])
    worst = report.worst
    assert worst and worst.code == "OB-CLASH", report.text()
    for text in ("one.so (of first)", "libstdc++.so.6's", "two.so (of second) asked for"):
        assert text in worst.sentence
    assert "the import of `second` died of signal 6 (SIGABRT)" in worst.evidence
    assert report.preload and "libstdc++.so" in report.preload
    assert f"LD_PRELOAD={report.preload}: tried" in worst.remedy


def test_the_task_process_gets_the_library_unless_that_is_forbidden(
    clashing: None, store: Store
) -> None:
    settings = Settings(store=store.folder, threads=1, imports=("first", "second"))
    health = Health(settings)
    supervisor = Supervisor(task_program(settings), health=health)
    events: list[Json] = []
    ended = supervisor.run(envelope("a", Job(store).training()), Stop(), events.append)["ended"]
    assert "finished" in ended, ended
    assert supervisor.process
    environment = Path(f"/proc/{supervisor.process.child.pid}/environ").read_text()
    assert f"LD_PRELOAD={health.preload}" in environment
    supervisor.close()
    said = [event["message"] for event in events if event["event"] == "warning"]
    assert any("so the task process runs with LD_PRELOAD=" in text for text in said)

    forbidden = Health(Settings(store.folder, imports=("first", "second"), preload=False))
    result = Supervisor(["false"], health=forbidden).run(
        envelope("b", Job(store).training()), Stop(), events.append
    )
    failed = result["ended"]["failed"]
    assert (failed["kind"], failed["retry"]) == ("worker_unhealthy", "other")
    assert "one.so (of first) has a copy of libstdc++" in failed["message"]
    assert "LD_PRELOAD=" in failed["hint"] and ["check", "OB-CLASH"] in list(
        map(list, failed["context"])
    )


@pytest.mark.parametrize(
    ("source", "text", "last"),
    [
        ("import os, sys; print('last words', file=sys.stderr); os.abort()", "SIGABRT", "words"),
        ("import time; print('waiting', flush=True); time.sleep(600)", "hung", "waiting"),
        ("import nowhere_at_all", "failed with exit status 1", "No module named"),
    ],
)
def test_an_import_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, text: str, last: str
) -> None:
    (tmp_path / "bad.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    limit = 3 if text == "hung" else 60
    worst = preflight.imports(["json", "bad"], limit).worst
    assert worst and worst.code == "OB-IMPORT"
    assert "the import of `bad`" in worst.sentence and text in worst.sentence
    assert last in worst.evidence


REPLACED = {
    "is a regular file": "touch $T/x; mount --bind $T/x /dev/urandom",
    "is a directory": "mkdir -p $T/d/urandom; touch $T/d/null; mount --bind /dev/null $T/d/null; "
    "mount --rbind $T/d /dev",
    "is missing": "mkdir $T/d; touch $T/d/null; mount --bind /dev/null $T/d/null; "
    "mount --rbind $T/d /dev",
    "can't be read": "mount --bind /dev/urandom /dev/urandom; "
    "mount -o remount,bind,nodev /dev/urandom",
    "gives 0 bytes": "mount --bind /dev/null /dev/urandom",
}


@pytest.mark.parametrize("what", REPLACED)
def test_a_device_that_does_not_read_is_named_and_not_the_clash(
    tmp_path: Path, clashing: None, what: str
) -> None:
    allowed = subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True)
    if allowed.returncode != 0:
        pytest.skip("mount namespaces are forbidden here")
    program = f"set -e; T={tmp_path}; {REPLACED[what]}; exec {sys.executable} {PREFLIGHT} "
    program += "--imports first,second --json"
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", program], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 1, ran.stderr
    report = json.loads(ran.stdout)
    assert report["verdict"] == "unhealthy"
    assert report["sentence"].startswith(f"/dev/urandom {what}")
    assert "OB-CLASH" not in [check["code"] for check in report["checks"]]


def test_a_verdict_is_the_worst_state_and_the_first_reason() -> None:
    fine, odd, bad = (Check("OB-X", state, state) for state in (PASS, WARN, FAIL))
    assert Report([fine]).text().endswith("\nhealthy")
    assert Report([fine, odd]).text().endswith("\nhealthy with warnings")
    assert Report([odd, bad, bad._replace(sentence="later")]).text().endswith("fail (OB-X)")


def test_one_copied_file_is_enough(tmp_path: Path) -> None:
    copied = shutil.copy(PREFLIGHT, tmp_path / "copied.py")
    ran = subprocess.run(
        [sys.executable, "-I", copied, "--imports", "os; x"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert "`os; x` is no name of a module: give names as in `tensorflow,duckdb`" in ran.stderr
    ran = subprocess.run(
        [sys.executable, "-I", copied, "--imports", "json"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout


def test_the_first_task_gets_the_workers_own_reason(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Check("OB-RANDOM-DEVICE", FAIL, "/dev/urandom is missing", remedy="mount it")
    monkeypatch.setattr(preflight, "random_device", lambda: bad)
    supervisor = Supervisor(["false"], health=Health(Settings(store.folder)))
    with pytest.raises(Failure, match="/dev/urandom is missing"):
        supervisor.start()
    found = supervisor.run(envelope("a", Job(store).training()), Stop(), lambda _: None)
    failed = found["ended"]["failed"]
    assert (failed["kind"], failed["retry"]) == ("worker_unhealthy", "other")
    assert (failed["message"], failed["hint"]) == ("/dev/urandom is missing", "mount it")


def test_a_gpu_that_pytorch_does_not_see_is_a_warning(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Check("OB-GPU", PASS, "a GPU is visible", "/dev/nvidia0")
    monkeypatch.setattr(preflight, "gpu", lambda with_torch: seen)
    health = Health(Settings(store.folder))
    health.greet({"device": "NVIDIA L4, 23034 MiB"})
    assert health.warnings == []
    health.greet({"device": "x86_64 CPU, 1 thread"})
    [warning] = health.warnings
    assert warning.startswith("a GPU is visible, but PyTorch does not see it: tasks run on the CPU")
    asked = Health(Settings(store.folder, device="cpu"))
    asked.greet({"device": "x86_64 CPU, 1 thread"})
    assert asked.warnings == []


def test_the_settings_are_checked() -> None:
    given = {"OUTBOARD_WORKER_IMPORTS": "tensorflow,duckdb", "OUTBOARD_WORKER_PRELOAD": "off"}
    found = Settings.read(given)
    assert (found.imports, found.preload) == (("tensorflow", "duckdb"), False)
    with pytest.raises(Failure, match="`never`, but must be auto or off"):
        Settings.read({"OUTBOARD_WORKER_PRELOAD": "never"})
