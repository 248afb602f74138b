"""The image is made of pinned parts that exist, and its command runs."""

from __future__ import annotations

import re
import site
import subprocess
import venv
from pathlib import Path

import pytest

from outboard_worker import __version__

WORKER = Path(__file__).parents[1]
LINES = [
    line
    for line in re.sub(r"\\\n\s*", "", (WORKER / "Dockerfile").read_text()).splitlines()
    if line and not line.startswith("#")
]
PINS = [
    line
    for line in (WORKER / "requirements.txt").read_text().splitlines()
    if not line.startswith("#")
]


def test_the_base_is_one_version() -> None:
    [base] = [line for line in LINES if line.startswith("FROM ")]
    assert re.fullmatch(r"FROM runpod/pytorch:\d+\.\d+\.\d+-cu\d+-torch\d+-ubuntu\d+", base)


def test_what_is_copied_is_there() -> None:
    copied = [part for line in LINES if line.startswith("COPY ") for part in line.split()[1:-1]]
    assert copied and all((WORKER / part).exists() for part in copied)
    ignored = (WORKER / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    for part in copied:
        assert any(line.startswith(f"!{part}") for line in ignored), part


def test_it_does_not_run_as_root_and_starts_the_worker() -> None:
    assert LINES[-2:] == ["USER worker", 'ENTRYPOINT ["outboard-worker"]']
    [store] = [line for line in LINES if "OUTBOARD_WORKER_STORE=" in line]
    folder = re.search(r"OUTBOARD_WORKER_STORE=(\S+)", store)
    assert folder and any(f"--owner worker {folder[1]}" in line for line in LINES)


def test_every_package_has_one_version_and_pytorch_is_the_images() -> None:
    assert PINS and all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line) for line in PINS)
    names = {line.split("==")[0].lower() for line in PINS}
    assert "torch" not in names
    [needed] = re.findall(
        r"dependencies = \[(.*?)\]", (WORKER / "pyproject.toml").read_text(), re.S
    )
    wanted = set(re.findall(r'"([a-z0-9]+)>=', needed))
    assert wanted - {"torch"} <= names and "torch" in wanted


def test_a_clean_environment_runs_it(tmp_path: Path) -> None:
    """The package with its pinned requirements; PyTorch, which is large, is lent to it."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    direct = ("blake3", "numpy", "runpod", "safetensors", "urllib3", "zstandard")
    pins = [line for line in PINS if line.split("==")[0] in direct]
    assert len(pins) == len(direct)
    installed = subprocess.run([*pip, *pins], capture_output=True, text=True, timeout=600)
    if "connection" in installed.stderr.lower():
        pytest.skip("no network: pip reaches no packages")
    assert installed.returncode == 0, installed.stderr
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", str(WORKER), str(source)], check=True)
    subprocess.run([*pip, "--no-deps", str(source)], check=True, timeout=600)
    command = tmp_path / "venv" / "bin" / "outboard-worker"
    said = subprocess.run([command, "--version"], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == __version__

    folder = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    environment = {"PATH": "/usr/bin:/bin", "OUTBOARD_WORKER_STORE": str(tmp_path / "store")}
    environment["OUTBOARD_WORKER_DEVICE"] = "cpu"

    def local() -> subprocess.CompletedProcess[str]:
        arguments = {"cwd": WORKER, "env": environment, "stdin": subprocess.DEVNULL}
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [command], **arguments, capture_output=True, text=True, timeout=600, check=False
        )

    without = local()
    assert without.returncode == 1
    assert "the task process died" in without.stdout and "No module named 'torch'" in without.stdout
    (folder / "lent.pth").write_text("\n".join(site.getsitepackages()))
    done = local()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "completed successfully" in done.stdout
