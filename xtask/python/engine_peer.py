"""PyTorch's side of the engine benchmark.

Reads one JSON object per line and answers each with one line:

    {"model":"mlp","optimizer":"sgd","variant":"eager","threads":2,"batch":64,"steps":200}
    {"samples_per_second":..,"seconds":..,"peak_rss_bytes":..}

`model` is `mlp`, `cnn`, `transformer` or `lstm`; `optimizer` is `sgd` or `adam`; `variant` is
`eager` or `fused`, PyTorch's fused optimizers. With `--first-step MODEL` it trains one step, prints
`{"done":true,"peak_rss_bytes":..}` and ends. It trains on the device that `TEST_DEVICE`
names, the CPU if it is unset.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

DEVICE = torch.device(os.environ.get("TEST_DEVICE", "cpu"))
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


class Encoder(nn.Module):
    """Token embeddings, two encoder layers, the mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)
        layers = [nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True) for _ in range(2)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.layers(self.embedding(x)).mean(dim=1))
        return y


class Recurrent(nn.Module):
    """An LSTM and a linear layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 128, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.lstm(x)[0][:, -1])
        return y


def modules(name: str) -> tuple[nn.Module, tuple[int, ...], int]:
    """A model, the shape of a row, and its classes."""
    match name:
        case "mlp":
            layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(128, 10)), (784,), 10
        case "cnn":
            body = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            body += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            head = [nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10)]
            return nn.Sequential(*body, *head), (1, 28, 28), 10
        case "transformer":
            return Encoder(), (32,), 4
        case "lstm":
            return Recurrent(), (32, 32), 10
        case other:
            raise ValueError(f"unknown model {other}")


def build(setting: Setting, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a model."""
    if setting.variant not in ("eager", "fused"):
        raise ValueError(f"unknown variant {setting.variant}")
    fused = setting.variant == "fused"
    match setting.optimizer:
        case "sgd":
            return torch.optim.SGD(model.parameters(), lr=0.01, fused=fused)
        case "adam":
            return torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
        case other:
            raise ValueError(f"unknown optimizer {other}")


class Run:
    """A training run that goes on from request to request."""

    def __init__(self, setting: Setting) -> None:
        if not 0 < setting.batch <= ROWS:
            raise ValueError(f"batch is {setting.batch}, there are {ROWS} rows")
        torch.manual_seed(0)
        self.setting = setting
        self.model, shape, classes = modules(setting.model)
        self.model.to(DEVICE)
        self.optimizer = build(setting, self.model)
        self.loss = nn.CrossEntropyLoss()
        takes_tokens = setting.model == "transformer"
        x = torch.randint(1000, (ROWS, *shape)) if takes_tokens else torch.randn(ROWS, *shape)
        self.x, self.y = x.to(DEVICE), torch.randint(classes, (ROWS,)).to(DEVICE)
        self.indices = self.batches()

    def batches(self) -> Iterator[Tensor]:
        """Full batches of a new shuffle, for ever."""
        size = self.setting.batch
        while True:
            order = torch.randperm(ROWS).to(DEVICE)
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
        if DEVICE.type == "cuda":
            torch.cuda.synchronize(DEVICE)
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
    parser.add_argument("--first-step", metavar="MODEL", help="train one step of it and end")
    first = parser.parse_args().first_step
    if first:
        Run(Setting(first, "sgd", "eager", 2, 64)).train(1)
        print(json.dumps({"done": True, "peak_rss_bytes": peak_rss_bytes()}), flush=True)
        return
    runs: dict[Setting, Run] = {}
    for line in sys.stdin:
        if line.strip():
            print(json.dumps(answer(json.loads(line), runs)), flush=True)


if __name__ == "__main__":
    main()
