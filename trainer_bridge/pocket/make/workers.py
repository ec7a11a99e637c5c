"""Training as a few single-thread processes whose gradients are summed, with saves that a restart goes on from.

Two processes of one thread each did more work on two shared cores than one process of two threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _take_the_machine() -> None:
    """Niceness as asked for, also where the kernel shares the cores out by session and ignores it."""
    os.nice(3)
    group = Path("/proc/self/autogroup")
    wish = os.environ.get("POCKET_AUTOGROUP")
    if wish and group.exists():
        group.write_text(wish)


def _enter(rank: int, world: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    _take_the_machine()
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        work(rank, world, *args)
    finally:
        dist.destroy_process_group()


def run(work: Callable[..., None], world: int, port: int, *args: Any) -> None:
    """Calls ``work(rank, world, *args)`` in ``world`` processes and waits for all."""
    os.environ["OMP_NUM_THREADS"] = "1"
    mp.spawn(_enter, args=(world, port, work, args), nprocs=world)


def mean_over(world: int, gradient: torch.Tensor) -> torch.Tensor:
    """The mean of all processes' gradients, in place."""
    if world > 1:
        dist.all_reduce(gradient)
        gradient.div_(world)
    return gradient


def save(path: Path, state: dict[str, Any]) -> None:
    """Replaces the save whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load(path: Path) -> dict[str, Any] | None:
    """The last save of our own, or None (weights only: nothing in it is executed)."""
    return torch.load(path, weights_only=True) if path.exists() else None


class Clock:
    """Says when ``seconds`` have passed since it last said so, and how long all of it took."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.start, self.last = seconds, time.time(), time.time()

    def due(self) -> bool:
        if time.time() - self.last < self.seconds:
            return False
        self.last = time.time()
        return True

    def elapsed(self) -> float:
        return time.time() - self.start
