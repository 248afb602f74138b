"""PyTorch's side of the engine benchmark.

Reads one JSON object per line and answers each with one line:

    {"model":"mlp","optimizer":"sgd","variant":"eager","threads":2,"batch":64,"steps":200,
     "layers":[784,256,128,10]}
    {"samples_per_second":..,"seconds":..,"peak_rss_bytes":..}

`optimizer` is `sgd` or `adam`; `variant` is `eager` or `fused`, PyTorch's fused optimizers. With
`--first-step` it trains one step, prints `{"done":true,"peak_rss_bytes":..}` and ends.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 4096
WARM_UP_STEPS = 20


@dataclass(frozen=True)
class Setting:
    """What makes two requests the same training run."""

    model: str
    optimizer: str
    variant: str
    threads: int
    batch: int
    layers: tuple[int, ...]


def build(setting: Setting) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model and its optimizer."""
    if setting.model != "mlp":
        raise ValueError(f"unknown model {setting.model}")
    widths = setting.layers
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        modules += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*modules[:-1])
    if setting.variant not in ("eager", "fused"):
        raise ValueError(f"unknown variant {setting.variant}")
    fused = setting.variant == "fused"
    match setting.optimizer:
        case "sgd":
            return model, torch.optim.SGD(model.parameters(), lr=0.01, fused=fused)
        case "adam":
            return model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
        case other:
            raise ValueError(f"unknown optimizer {other}")


class Run:
    """A training run that goes on from request to request."""

    def __init__(self, setting: Setting) -> None:
        if not 0 < setting.batch <= ROWS:
            raise ValueError(f"batch is {setting.batch}, there are {ROWS} rows")
        torch.manual_seed(0)
        self.setting = setting
        self.model, self.optimizer = build(setting)
        self.loss = nn.CrossEntropyLoss()
        self.x = torch.randn(ROWS, setting.layers[0])
        self.y = torch.randint(setting.layers[-1], (ROWS,))
        self.indices = self.batches()

    def batches(self) -> Iterator[Tensor]:
        """Full batches of a new shuffle, for ever."""
        size = self.setting.batch
        while True:
            order = torch.randperm(ROWS)
            for start in range(0, ROWS - size + 1, size):
                yield order[start : start + size]

    def train(self, steps: int) -> float:
        """Trains for some steps and returns the seconds they took."""
        start = time.perf_counter()
        for _ in range(steps):
            index = next(self.indices)
            x, y = self.x[index], self.y[index]
            self.optimizer.zero_grad()
            self.loss(self.model(x), y).backward()
            self.optimizer.step()
        return time.perf_counter() - start


def peak_rss_bytes() -> int:
    """The process's largest resident size so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def answer(request: dict[str, Any], runs: dict[Setting, Run]) -> dict[str, Any]:
    """Runs one request, warming up where its setting is new."""
    setting = Setting(
        request["model"],
        request["optimizer"],
        request["variant"],
        request["threads"],
        request["batch"],
        tuple(request["layers"]),
    )
    torch.set_num_threads(setting.threads)
    if setting not in runs:
        runs[setting] = Run(setting)
        runs[setting].train(WARM_UP_STEPS)
    seconds = runs[setting].train(request["steps"])
    return {
        "samples_per_second": request["steps"] * setting.batch / seconds,
        "seconds": seconds,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="PyTorch's side of the engine benchmark.")
    parser.add_argument("--first-step", action="store_true", help="train one step and end")
    if parser.parse_args().first_step:
        Run(Setting("mlp", "sgd", "eager", 2, 64, (784, 256, 128, 10))).train(1)
        print(json.dumps({"done": True, "peak_rss_bytes": peak_rss_bytes()}), flush=True)
        return
    runs: dict[Setting, Run] = {}
    for line in sys.stdin:
        if line.strip():
            print(json.dumps(answer(json.loads(line), runs)), flush=True)


if __name__ == "__main__":
    main()
