"""What is computed on, and the class within which bytes are equal."""

from __future__ import annotations

import platform

import torch

from outboard_worker.failure import Failure
from outboard_worker.settings import Settings


class Device:
    """A GPU or the CPU, with the precision that the settings ask for."""

    def __init__(self, settings: Settings) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        has_gpu = torch.cuda.is_available()
        name = settings.device
        if name == "auto":
            name = "cuda" if has_gpu else "cpu"
        if name != "cpu" and not has_gpu:
            text = f"OUTBOARD_WORKER_DEVICE is {name}, but PyTorch sees no GPU here"
            hint = "check the driver with nvidia-smi, or set OUTBOARD_WORKER_DEVICE=cpu"
            raise Failure("worker_unhealthy", text, hint=hint)
        self.device = torch.device(name)
        self.bf16 = settings.bf16
        torch.backends.cuda.matmul.allow_tf32 = settings.tf32
        torch.backends.cudnn.allow_tf32 = settings.tf32
        torch.backends.cudnn.benchmark = False
        # Where PyTorch has no such kernel it warns and goes on.
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Nothing here reads what it hasn't written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        threads = torch.get_num_threads()
        options = " bf16" * settings.bf16
        if self.device.type == "cpu":
            self.words = f"{platform.machine()} CPU, {threads} thread{'s' * (threads != 1)}"
            kernels = torch.backends.cpu.get_cpu_capability()
            what = f"cpu {platform.machine()} {kernels} {threads}"
        else:
            cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
            facts = torch.cuda.get_device_properties(self.device)
            self.words = f"{facts.name}, {facts.total_memory // 2**20} MiB"
            what = f"cuda {torch.version.cuda} {cudnn} {facts.name}"
            options += " tf32" * settings.tf32
        self.numerics = f"torch {torch.__version__} {what}{options}"

    def room(self) -> int:
        """Bytes that data may take to stay on the device."""
        if self.device.type == "cpu":
            return 2**63
        return int(torch.cuda.mem_get_info(self.device)[0]) // 4


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory, on the GPU or beside it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "CUDA out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
