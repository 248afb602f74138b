"""Epochs, batches and checkpoints of one training run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from outboard_worker import augment, draws, optim, tensors
from outboard_worker.checkpoint import Checkpoint
from outboard_worker.dataset import Dataset
from outboard_worker.device import Device, is_out_of_memory
from outboard_worker.failure import Failure, Json, corrupt
from outboard_worker.hyperparameters import Train
from outboard_worker.losses import Loss
from outboard_worker.model import set_step
from outboard_worker.network import Network
from outboard_worker.tensors import Tensors

Rows = npt.NDArray[np.int64]

# A batch norm's count of batches stays here: a 32-bit float counts no further.
MOST_BATCHES = 2**24


def single_value_norm(network: Network, rows: Dataset) -> str | None:
    """The name of a batch norm that sees a single value of each channel in a row."""
    found: list[str] = []
    names = {module: name for name, module in network.model.named_modules()}
    handles = [
        norm.register_forward_pre_hook(
            lambda module, x: found.append(names[module]) if x[0][0][0].numel() == 1 else None
        )
        for norm in network.norms
    ]
    with torch.no_grad():
        network.model.eval()(rows.inputs(slice(0, 1)).to(network.device.device))
    for handle in handles:
        handle.remove()
    return found[0] if found else None


class Trainer:
    """A training run between two batches, going on from a checkpoint."""

    def __init__(
        self,
        model: Any,
        train: Train,
        data: Dataset,
        validation: Dataset | None,
        start: Checkpoint,
        device: Device,
        begins: bool = False,
    ) -> None:
        """Goes on from `start`; where it `begins`, with an optimizer that has seen nothing yet."""
        self.train = train
        self.device = device.device
        self.steps = train.check_steps(data.rows)
        self.network = Network(model, tensors.section(start.tensors, "model"), device, train.seed)
        network = self.network
        named = dict(network.model.named_parameters())
        train.check_freeze(list(named))
        train.check_augment(network.shape)
        for rows in [data] if validation is None else [data, validation]:
            rows.check(network.layers, network.shape)
            rows.check_loss(train.loss, network.model.outputs)
        if network.norms and (norm := single_value_norm(network, data)):
            train.check_single_rows(data.rows, norm)
        size = data.x.nbytes + (0 if validation is None else validation.x.nbytes)
        if size <= device.room():
            data = data.to(self.device)
            validation = None if validation is None else validation.to(self.device)
        self.data, self.validation = data, validation
        self.loss = Loss(train.loss, device=self.device)
        for name, parameter in named.items():
            parameter.requires_grad_(not train.is_frozen(name))
        self.trained = {name: p for name, p in named.items() if p.requires_grad}
        self.optimizer = optim.optimizer(train.optimizer, self.trained.values())
        self.position = start.position
        if self.position.step > 0 and not begins:
            self.load_state(tensors.section(start.tensors, "optimizer"))
        if self.position.seed != train.seed or self.position.step_in_epoch >= self.steps:
            raise corrupt("the checkpoint belongs to another job")
        self.best = tensors.section(start.tensors, "best")
        self.numerics = device.numerics
        self.order = self.order_of_epoch()
        self.began, self.rows_before = time.monotonic(), int(self.position.sums["rows"])

    def load_state(self, state: Tensors) -> None:
        """Gives the optimizer what it kept."""
        for name, parameter in self.trained.items():
            kept: dict[str, Tensor] = {}
            for key in optim.state_names(self.train.optimizer):
                tensor = state.get(f"{name}.{key}")
                if tensor is None or tensor.shape != parameter.shape:
                    shape = list(parameter.shape)
                    text = f"the checkpoint lacks optimizer state `{name}.{key}` of shape {shape}"
                    raise corrupt(text)
                kept[key] = tensor.to(self.device, copy=True)
            if "exp_avg" in kept:
                kept["step"] = torch.tensor(float(self.position.step))
            self.optimizer.state[parameter] = kept

    def order_of_epoch(self) -> Rows:
        """The rows of the running epoch."""
        if not self.train.shuffle:
            return np.arange(self.data.rows)
        return draws.batch_order(self.train.seed, self.position.epoch, self.data.rows)

    def is_done(self) -> bool:
        """Whether early stopping or the last epoch has ended the job."""
        return self.position.stopped or self.position.epoch >= self.train.epochs

    def batch(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs, targets and weights of some rows."""
        data = self.data
        assert data.y is not None
        where = torch.from_numpy(rows).to(data.x.device)
        x = data.inputs(where)
        if self.train.augment:
            x = augment.apply(self.train.augment, self.train.seed, self.position.epoch, rows, x)
        weights = None if data.weights is None else data.weights[where].to(self.device)
        return x.to(self.device), data.y[where].to(self.device), weights

    def differentiate(self, rows: Rows) -> tuple[float, int]:
        """Gradients of a batch; its loss and right answers."""
        x, y, weights = self.batch(rows)
        set_step(self.network.model.train(), self.position.step)
        self.optimizer.zero_grad()
        output = self.network.forward(x)
        loss = self.loss.of_batch(output, y, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            # One wait for the GPU, not two.
            both = torch.stack([loss.double(), self.loss.correct(output, y).double()]).tolist()
        return both[0], int(both[1])

    def step(self, alive: Callable[[], None]) -> Json | None:
        """Trains on the next batch; the epoch's metrics where that completed it."""
        position, size = self.position, self.train.batch_size
        first = position.step_in_epoch * size
        rows = self.order[first : first + size]
        starved = None
        try:
            loss, correct = self.differentiate(rows)
            if not math.isfinite(loss):
                raise self.located(Failure("job_failed", f"the loss became {loss}"))
            parameters: list[Tensor] = list(self.trained.values())
            optim.clip(parameters, self.train.clip_value, self.train.clip_norm)
            train = self.train
            lr = optim.learning_rate(
                train.schedule,
                train.optimizer["lr"],
                position.step,
                train.epochs,
                self.steps,
                train.warmup_steps,
            )
            optim.set_learning_rate(self.optimizer, lr)
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            starved = str(error)
        if starved is not None:
            # Not before: the error holds on to what was allocated.
            raise self.out_of_memory(starved)
        for norm in self.network.norms:
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.clamp_(max=MOST_BATCHES)
        position.sums["loss"] += loss * len(rows)
        position.sums["correct"] += correct
        position.sums["rows"] += len(rows)
        position.step += 1
        position.step_in_epoch += 1
        return None if position.step_in_epoch < self.steps else self.finish_epoch(lr, alive)

    def located(self, failure: Failure) -> Failure:
        failure.hint = (
            "lower the learning rate, set `clip_norm = 1.0` under [train], or check the data"
        )
        failure.at("epoch", self.position.epoch + 1)
        return failure.at("step", self.position.step_in_epoch + 1)

    def out_of_memory(self, why: str) -> Failure:
        """Halves the batch until a step of it fits, and says which did."""
        size = self.train.batch_size
        failure = Failure("out_of_memory", f"a step of {size} rows does not fit in memory")
        failure.at("batch_size", size).at("device", self.network.device.words).at("why", why)
        failure.hint = "use a smaller model, or a worker with more memory: not even one row fits"
        while size > 1:
            size //= 2
            self.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                self.differentiate(self.order[:size])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    break
                continue
            failure.hint = f"set `batch_size` to at most {size}: found by halving, it fits"
            return failure.at("fits", size)
        return failure

    def finish_epoch(self, learning_rate: float, alive: Callable[[], None]) -> Json:
        position, sums = self.position, self.position.sums
        kind = self.train.loss["type"]
        answers = {"cross_entropy": 1, "bce_with_logits": self.network.model.outputs}.get(kind)
        epoch: Json = {"epoch": position.epoch + 1, "loss": sums["loss"] / sums["rows"]}
        if answers:
            epoch["accuracy"] = sums["correct"] / (sums["rows"] * answers)
        if self.validation is not None:
            loss, correct = self.network.evaluate(self.validation, self.loss, alive)
            if not math.isfinite(loss):
                position.step_in_epoch -= 1
                raise self.located(Failure("job_failed", f"the validation loss became {loss}"))
            epoch["validation_loss"] = loss
            if answers:
                epoch["validation_accuracy"] = correct / (self.validation.rows * answers)
        seconds = max(time.monotonic() - self.began, 1e-9)
        epoch["learning_rate"] = learning_rate
        epoch["seconds"] = seconds
        epoch["samples_per_second"] = (sums["rows"] - self.rows_before) / seconds
        position.epoch += 1
        position.step_in_epoch = 0
        position.sums = {"loss": 0.0, "correct": 0, "rows": 0}
        value: float = epoch["loss" if self.validation is None else "validation_loss"]
        self.judge(value)
        self.began, self.rows_before = time.monotonic(), 0
        self.order = self.order_of_epoch()
        return epoch

    def judge(self, value: float) -> None:
        """Remembers the best epoch, and ends the job where nothing has improved for long."""
        early, best = self.train.early_stopping, self.position.best
        if early is None and self.train.keep == "last":
            return
        least = early["min_delta"] if early else 0.0
        if best is not None and value >= best["value"] - least:
            best = {**best, "stale": best["stale"] + 1}
        else:
            if self.train.keep == "best":
                self.best = self.network.weights()
            best = {"epoch": self.position.epoch, "value": value, "stale": 0}
        self.position.best = best
        self.position.stopped = early is not None and best["stale"] >= early["patience"]

    def checkpoint(self) -> Checkpoint:
        """Everything needed to go on elsewhere."""
        found = {f"model.{name}": tensor for name, tensor in self.network.weights().items()}
        if self.position.step > 0:
            for name, parameter in self.trained.items():
                state = self.optimizer.state[parameter]
                for key in optim.state_names(self.train.optimizer):
                    found[f"optimizer.{name}.{key}"] = state[key]
        found |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        self.position.numerics = self.numerics
        return Checkpoint(self.position, found)
