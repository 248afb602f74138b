"""What the worker says of the place where it runs, and what it never says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from conftest import REPOSITORY
from jobs import envelope
from outboard_worker import environment
from outboard_worker.environment import Environment
from outboard_worker.failure import Failure
from outboard_worker.supervisor import Stop, Supervisor
from test_memory import write
from test_server import Worker

Json = dict[str, Any]

# A worker that is older than the operation.
OLD = """
import sys
from outboard_worker import envelope
from outboard_worker.__main__ import main
del envelope._NEEDS["describe"]
sys.exit(main(sys.argv[1:]))
"""


def test_a_container_is_described_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the worker in Rust describes the same one."""
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    cpu = "processor\t: 0\nmodel name\t: AMD EPYC 7543\nflags\t\t: fpu sse4_2 avx avx2 fma x2apic\n"
    driver = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release\n"
    limits = "Limit  Soft  Hard\nMax open files   1024   1048576   files\n"
    status = "Uid:\t10001\t1\t1\t1\nGid:\t7\t7\t7\t7\nCapEff:\t00000000a80425fb\n"
    write(
        tmp_path,
        {
            "proc/cpuinfo": cpu,
            "proc/driver/nvidia/version": driver,
            "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA A10G\nIRQ: 1\n",
            "proc/driver/nvidia/gpus/0000:02:00.0/information": "Model: \t\t NVIDIA L4\n",
            "proc/meminfo": "MemTotal:       67108864 kB\n",
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.events": "oom_kill 0\n",
            "sys/fs/cgroup/a/memory.max": "17179869184\n",
            "proc/self/limits": limits + "Max processes    unlimited unlimited processes\n",
            "proc/self/status": status + "NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n",
            "proc/self/attr/current": "docker-default (enforce)\n\0",
            "etc/os-release": 'NAME=x\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\n',
            "proc/sys/kernel/osrelease": "6.1.0\n",
            ".dockerenv": "",
            "dev/urandom": "",
        },
    )
    found = Environment()
    environment.machine(found, tmp_path, str(tmp_path))
    assert int(found.facts.pop("disk.free")) > 0
    assert found.facts.pop("cpu.arch")
    assert found.facts == {
        "cpu.features": "sse4_2 avx avx2 fma",
        "cpu.model": "AMD EPYC 7543",
        "device./dev/shm": "is missing",
        "device./dev/urandom": "is a regular file, not a character device",
        "gpu.0": "NVIDIA A10G",
        "gpu.1": "NVIDIA L4",
        "gpu.driver": "550.54.15",
        "limit.nofile": "1024",
        "limit.nproc": "unlimited",
        "memory.limit": "17179869184",
        "memory.total": "68719476736",
        "security.capabilities": "00000000a80425fb",
        "security.no_new_privs": "yes",
        "security.profile": "docker-default (enforce)",
        "security.seccomp": "filter",
        "security.user": "10001:7",
        "system.container": "docker",
        "system.kernel": "6.1.0",
        "system.locale": "C",
        "system.os": "Ubuntu 24.04.1 LTS",
    }


def test_the_quota_of_a_group_counts(tmp_path: Path) -> None:
    all_of_them = environment.cores(tmp_path)
    assert all_of_them >= 1
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "150000 100000\n"})
    assert environment.cores(tmp_path) == 1
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert environment.cores(tmp_path) == all_of_them
    quota = {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}
    write(tmp_path / "sys/fs/cgroup/cpu", quota)
    assert environment.cores(tmp_path) == 1
    write(tmp_path / "sys/fs/cgroup/cpu", {"cpu.cfs_quota_us": "-1\n"})
    assert environment.cores(tmp_path) == all_of_them


def test_facts_stay_within_the_protocols_bounds() -> None:
    found = Environment()
    found.state("a", "two\nlines\x1b[2J ")
    found.state("long", "é" * 3000)
    found.state("two words", "")
    found.state("unknown", None)
    assert found.facts["a"] == "two lines [2J"
    assert len(found.facts["long"].encode()) == environment.MAX_VALUE_BYTES
    assert set(found.facts) == {"a", "long"}
    for i in range(2 * environment.MAX_FACTS):
        found.state(f"n{i}", i)
    assert len(found.facts) == environment.MAX_FACTS


def test_no_secret_is_told() -> None:
    """The same variables as in the test of the worker in Rust, with the same answers."""
    told = environment.variables(
        {
            "RUNPOD_API_KEY": "rpa_0123456789",
            "TORCH_TOKEN": "s3cr3t",
            "PYTHON_KEYRING_BACKEND": "s3cr3t",
            "cuda_password": "s3cr3t",
            "NCCL_Secret": "s3cr3t",
            "AWS_ACCESS_KEY_ID": "AKIA0000",
            "HTTP_PROXY": "http://me:p@ss/word!@proxy.example:3128/?auth=s3cr3t",
            "https_proxy": "me:s3cr3t@proxy.example:3128",
            "ALL_PROXY": "socks5h://s3cr3t@[::1]:1080",
            "DATABASE_PASSWORD": "hunter2hunter2",
            "PYTHONSTARTUP": "/run/hunter2hunter2/start.py",
            "TORCH_HUB": "https://me:s3cr3t@hub.example/models?token=s3cr3t",
            "OMP_NUM_THREADS": "1",
            "HOME": "/root",
            "TF_VAR_db": "s3cr3t",
        }
    )
    assert told == {
        "HTTP_PROXY": "http://proxy.example:3128/",
        "https_proxy": "proxy.example:3128",
        "ALL_PROXY": "socks5h://[::1]:1080",
        "PYTHONSTARTUP": "(not told: it holds a secret)",
        "TORCH_HUB": "https://hub.example/models",
        "OMP_NUM_THREADS": "1",
    }


def test_a_task_tells_the_libraries_that_tasks_use(supervisor: Supervisor) -> None:
    result = supervisor.run(envelope("env", {"operation": "describe"}), Stop(), lambda _: None)
    outcome = result["ended"]["finished"]
    assert outcome["operation"] == "describe"
    facts = outcome["facts"]
    assert facts["library.torch"] == torch.__version__
    assert facts["library.numpy"] == numpy.__version__
    assert facts["library.python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["program.threads"] == "1"
    assert facts["program.numerics"].startswith(f"torch {torch.__version__} cpu ")
    assert facts["library.glibc"].startswith("2.")
    assert facts["library.libstdcxx"].startswith("GLIBCXX_3.4.")
    assert facts["device./dev/urandom"] == "gives bytes"
    assert all(isinstance(value, str) for value in facts.values())


def test_an_operation_that_is_unknown_is_refused() -> None:
    assert envelope("a", {"operation": "describe"}).needs() == []
    with pytest.raises(Failure, match="the operation `dream` is unknown to this worker") as caught:
        envelope("dream", {"operation": "dream"})
    assert caught.value.hint == "it knows train, evaluate, predict, describe"


def compare(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`outboard doctor env` of a user whose one worker is there."""
    program = os.environ.get("TEST_OUTBOARD_BIN")
    if not program:
        pytest.skip("the variable TEST_OUTBOARD_BIN names no program")
    given = {k: v for k, v in os.environ.items() if not k.startswith("OUTBOARD_")}
    return subprocess.run(
        [REPOSITORY / program, "doctor", "env", "--provider", "http", *more],
        cwd=folder,
        env=given | {"OUTBOARD_HOME": str(folder / "home"), "PYTHONPATH": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def configure(folder: Path, worker: Worker) -> None:
    address = f'url = "{worker.url}", token_file = "token"'
    text = f"[providers.http]\nenabled = true\nworkers = [{{ {address} }}]\n"
    (folder / "outboard.toml").write_text(text)


def test_the_program_compares_it_with_its_own_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as its:
        its.setenv("OMP_NUM_THREADS", "1")
        its.setenv("TZ", "Asia/Kolkata")
        its.setenv("RUNPOD_API_KEY", "rpa_0123456789abcdef")
        its.setenv("HTTPS_PROXY", "http://me:hunter2@proxy.example:3128")
        worker = Worker(tmp_path)
    configure(tmp_path, worker)
    done = compare(tmp_path, "--python", sys.executable, "--json", "--all")
    assert done.returncode == 0, done.stderr
    lines: list[Json] = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["event"] == "compared" and lines[-1]["notes"] == [], lines[-1]
    facts = {line["name"]: line for line in lines[:-1]}
    same = [f"library.{name}" for name in ("torch", "numpy", "python", "glibc", "libstdcxx")]
    for name in (*same, "cpu.features", "memory.total", "limit.nofile", "device./dev/shm"):
        fact = facts[name]
        assert fact["here"] == fact["there"] is not None and not fact["differs"], fact
    assert facts["env.TZ"]["there"] == "Asia/Kolkata" and facts["env.TZ"]["differs"]
    assert facts["env.HTTPS_PROXY"]["there"] == "http://proxy.example:3128"
    assert "not the same bytes" in facts["program.numerics"]["so"]
    for secret in ("rpa_", "hunter2", "API_KEY", "0123456789abcdef"):
        assert secret not in done.stdout + done.stderr
    # Without a Python that has PyTorch the rest is compared.
    text = compare(tmp_path, "--python", "no-such-python").stdout
    assert "note: there is no Python `no-such-python` here that runs" in text
    assert "env.TZ" in text and "so: local times differ" in text
    worker.close()


def test_a_worker_that_is_too_old_is_told(tmp_path: Path) -> None:
    worker = Worker(tmp_path, program=("-c", OLD))
    configure(tmp_path, worker)
    done = compare(tmp_path)
    worker.close()
    assert done.returncode == 1, done.stdout
    assert "the operation `describe` is unknown to this worker" in done.stderr
    assert "try: update the worker to the version of this program" in done.stderr
    assert "code: OB-UNSUPPORTED" in done.stderr
