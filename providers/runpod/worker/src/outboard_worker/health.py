"""A worker's preflight: before its task process starts, and again where that fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from outboard_worker import preflight
from outboard_worker.failure import CHECK, Failure, Json
from outboard_worker.preflight import FAIL, WARN, Report, preloaded
from outboard_worker.settings import Settings

# What a task process imports, where it fails without a reason of its own.
OWN = ("numpy", "torch")


class Health:
    """What was found; `warnings` go to each task, `preload` is what the task process needs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.warnings: list[str] = []
        self.preload: str | None = None
        self.are_imports_fit = not settings.imports

    def check(self) -> None:
        """Raises the sentence where a run would fail. Imports are tried until they have passed."""
        names = () if self.are_imports_fit else self.settings.imports
        self.settings.store.mkdir(parents=True, exist_ok=True)
        report = preflight.preflight(names, str(self.settings.store), with_torch=False)
        self.take(report)
        self.are_imports_fit = True

    def greet(self, hello: Json) -> None:
        """Warns where PyTorch passes over a GPU, which is paid for."""
        is_left = self.settings.device == "auto" and " CPU, " in hello.get("device", "")
        gpu = preflight.gpu(with_torch=False)
        if is_left and gpu.evidence:
            text = "a GPU is visible, but PyTorch does not see it: tasks run on the CPU"
            remedy = "take a PyTorch for an older CUDA, or a host with a newer driver"
            found = preflight.Check(gpu.code, WARN, text, gpu.evidence, remedy)
            self.take(Report([found]))

    def may_start_again(self, failure: Failure) -> bool:
        """Looks for the reason why the task process failed, and whether a library helps."""
        if self.preload:
            return False
        names = [*self.settings.imports, *(n for n in OWN if n not in self.settings.imports)]
        report = preflight.imports(names)
        if not (report.preload and self.settings.preload):
            for check in report.checks:
                if check.state == FAIL:
                    failure.at(check.code, check.sentence)
                    failure.hint = check.remedy or failure.hint
                    break
            return False
        self.take(report)
        return True

    def take(self, report: Report) -> None:
        """Keeps warnings, or raises; a clash that a library helps with is a warning."""
        warnings = [
            f"{check.sentence} ({check.code}); try: {check.remedy}"
            for check in report.checks
            if check.state == WARN
        ]
        worst = report.worst
        if worst and report.preload and self.settings.preload:
            self.preload = report.preload
            applied = f"so the task process runs with LD_PRELOAD={self.preload}"
            warnings.append(f"{worst.sentence} ({worst.code}), {applied}")
        elif worst:
            failure = Failure("worker_unhealthy", worst.sentence, hint=worst.remedy)
            failure.at(CHECK, worst.code)
            raise failure.at("evidence", worst.evidence) if worst.evidence else failure
        for warning in warnings:
            if warning not in self.warnings:
                self.warnings.append(warning)
                print(f"warning: {warning}", file=sys.stderr, flush=True)

    def environment(self, given: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """The environment of the task process."""
        if self.preload is None:
            return given
        found = dict(os.environ if given is None else given)
        return {**found, "LD_PRELOAD": preloaded(self.preload, found)}
