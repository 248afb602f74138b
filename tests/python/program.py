"""Runs the program as a user does."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]

Line = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """The program and the folder that it runs in."""

    path: Path
    folder: Path

    def call(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """What a command does with `--json`, be it a failure."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OUTBOARD_")}
        return subprocess.run(
            [self.path, *arguments, "--json"],
            cwd=self.folder,
            env=environment | {"OUTBOARD_HOME": str(self.folder / "home")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, *arguments: str | Path) -> list[Line]:
        """The lines that a command prints with `--json`."""
        done = self.call(*arguments)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def train(self, job: str) -> tuple[list[Line], Path]:
        """The epochs of a job file in the folder, and the model."""
        lines = self.run("train", self.folder / job)
        assert lines[-1]["status"] == "succeeded"
        return [line for line in lines if line["event"] == "epoch"], Path(lines[-1]["model"])
