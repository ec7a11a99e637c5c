"""Measures once what the device can do, for the estimate before the first run; at most about three
seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import platform
from ..device import DeviceFacts
from . import device

_SECONDS = 0.3
_MATRIX = {"cpu": 1024, "cuda": 8192, "mps": 2048}
_TOKENS = {"cpu": 1024, "cuda": 4096, "mps": 1024}
_HEADS, _WIDTH = 8, 64


def measure() -> DeviceFacts:
    """Return what the device that a run would take can do."""
    kind = device.choose()
    if kind == "cpu":
        torch.set_num_threads(platform.cpu_count())
    precisions = [name for name in ("no", "bf16", "fp16") if _can(kind, name)]
    return DeviceFacts(
        name=device.name(kind),
        kind=kind,
        memory=device.total_memory(kind),
        matrix={name: _matrix_speed(kind, device.DTYPES[name]) for name in precisions},
        attention={name: _attention_speed(kind, device.DTYPES[name]) for name in precisions},
        bf16="bf16" in precisions,
    )


def _can(kind: str, precision: str) -> bool:
    """Say whether the device computes in this precision; fp16 on a CPU is never trained in."""
    try:
        device.check_precision(kind, precision)
        side = torch.ones(8, 8, dtype=device.DTYPES[precision], device=kind)
        return bool((side @ side).sum() == 512)
    except Exception as error:  # drivers raise what they like; here it only means no
        print(f"{precision} cannot be used: {error}")
        return False


def _matrix_speed(kind: str, dtype: torch.dtype) -> float:
    side = _MATRIX[kind]
    one = torch.randn(side, side, device=kind).to(dtype)
    return _speed(kind, lambda: one @ one, 2.0 * side**3)


def _attention_speed(kind: str, dtype: torch.dtype) -> float:
    tokens = _TOKENS[kind]
    one = torch.randn(1, _HEADS, tokens, _WIDTH, device=kind).to(dtype)
    operations = 4.0 * _HEADS * tokens * tokens * _WIDTH
    return _speed(kind, lambda: F.scaled_dot_product_attention(one, one, one), operations)


def _speed(kind: str, compute: Callable[[], Tensor], operations: float) -> float:
    """Return operations a second: the best of repeated calls, since anything else running only slows them."""
    compute()
    device.wait(kind)
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        compute()
        device.wait(kind)
        best = min(best, time.perf_counter() - start)
    return operations / best
