"""Everything that depends on which device computes: the only file with calls that one kind of device alone
has.
"""

from __future__ import annotations

import os
import platform as system
from typing import Any

import torch

from .. import platform
from ..errors import UserError

DTYPES: dict[str, torch.dtype] = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")


def choose() -> str:
    """Return the kind of device to train on: the GPU that torch sees, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def is_there(kind: str) -> bool:
    """Say whether a device of this kind can be used now."""
    return kind == "cpu" or kind == choose()


def check_precision(kind: str, precision: str) -> None:
    """Refuse what the device cannot compute in.

    Raises:
        UserError: fp16 where there is no gradient scaling for it, bf16 where the GPU has none.
    """
    if precision == "fp16" and kind != "cuda":
        raise UserError(
            "fp16 cannot be trained on this device: small gradients vanish in it without scaling.",
            "Set mixed_precision to bf16 or no.",
        )
    if precision == "bf16" and kind == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("This GPU does not compute in bf16.", "Set mixed_precision to fp16 or no.")


def prepare(kind: str, threads: int) -> None:
    """Make the same input give the same bits: fixed threads, deterministic kernels, none chosen by timing.

    Where a GPU has no deterministic kernel for an operation, torch warns and the run goes on.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=kind != "cpu")
    # Filling fresh memory guards against reading it unset, which nothing here does, and costs a pass each
    # time. It came with torch 2.2.
    deterministic = getattr(torch.utils, "deterministic", None)
    if deterministic is not None:
        deterministic.fill_uninitialized_memory = False
    if kind == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.cuda.reset_peak_memory_stats()


def name(kind: str) -> str:
    """Return what the device is called by its maker."""
    if kind == "cuda":
        return torch.cuda.get_device_name()
    if kind == "cpu":
        return _cpu_name()
    return f"{system.machine()} {kind}"


def total_memory(kind: str) -> int:
    """Return the bytes that a run could use at most."""
    if kind == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return platform.total_memory()


def free_memory(kind: str) -> int:
    """Return the bytes that a run can use now."""
    if kind == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return platform.available_memory()


def peak_memory(kind: str) -> int:
    """Return the most bytes in use so far: of the GPU, or of the process on a CPU."""
    if kind == "cuda":
        return int(torch.cuda.max_memory_reserved())
    return platform.peak_memory()


def forget_unused(kind: str) -> None:
    """Give memory that the allocator keeps for later back."""
    if kind == "cuda":
        torch.cuda.empty_cache()
    elif kind == "mps":
        torch.mps.empty_cache()


def wait(kind: str) -> None:
    """Wait until the device has done what it was given, so that a clock tells the truth."""
    if kind == "cuda":
        torch.cuda.synchronize()
    elif kind == "mps":
        torch.mps.synchronize()


def scaler(kind: str, precision: str) -> Any:
    """Return torch's gradient scaler; it does nothing except for fp16 on a GPU."""
    enabled = kind == "cuda" and precision == "fp16"
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cuda", enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is the device's memory running out."""
    if isinstance(error, (MemoryError, getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError))):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _MEMORY_WORDS)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        return system.processor() or system.machine()
    return system.processor() or system.machine()
