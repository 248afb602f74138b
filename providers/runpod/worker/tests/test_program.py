"""The program's errors: each ends with a code, as those of the program `outboard` do."""

from __future__ import annotations

from pathlib import Path

import pytest

from outboard_worker.__main__ import main
from outboard_worker.failure import Failure


def test_an_error_ends_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUTBOARD_WORKER_STORE", str(tmp_path))
    monkeypatch.setenv("OUTBOARD_WORKER_TF32", "perhaps")
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said.endswith("\n  code: OB-CONFIG (outboard doctor --explain OB-CONFIG)\n"), said
    assert "OUTBOARD_WORKER_TF32" in said and "  try: " in said


def test_a_wrong_command_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--listen", "localhost:7878", "--token", "s3cr3t", "--bogus=s3cr3t"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "unrecognized arguments: --token --bogus\n" in said
    assert "s3cr3t" not in said
    assert said.endswith("  code: OB-USAGE (outboard doctor --explain OB-USAGE)\n"), said


def test_the_check_that_found_it_says_more_than_the_kind() -> None:
    failure = Failure("worker_unhealthy", "/dev/urandom is missing", hint="mend it")
    assert failure.code() == "OB-WORKER"
    failure.at("check", "OB-RANDOM-DEVICE")
    assert failure.explained().splitlines()[-2:] == [
        "  try: mend it",
        "  code: OB-RANDOM-DEVICE (outboard doctor --explain OB-RANDOM-DEVICE)",
    ]
    assert Failure("of another version", "odd").code() == "OB-BUG"
