"""Resume states: everything that the next step depends on, in one file that proves itself.

`state/00000123-<sha256>.safetensors` holds the LoRA and AdamW's memory in fp32 after step 123 and, in its
header, the rest as JSON. The name carries the digest of the content, so a file that was cut off or went bad
on the disk is noticed, and the one before it serves. What chance decides is a function of the step and needs
no saving.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from .. import platform

_NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.safetensors")
_LOOP = "atelier.loop"
_KEPT = 2
#: What :func:`platform.write_atomic` leaves when it is killed; nobody else writes here.
_HALF_WRITTEN = ".atelier-*.tmp"
#: A state is due this many seconds after the last, or when saving would cost less than this share of the
#: time.
_SECONDS = 20.0
_SHARE = 0.02


@dataclass(frozen=True)
class State:
    """What a resumed run goes on from.

    Attributes:
        step: optimiser steps done.
        tensors: by name.
        loop: the numbers of the loop, as JSON has them.
    """

    step: int
    tensors: Mapping[str, Tensor]
    loop: Mapping[str, Any]


def save_state(folder: Path, state: State) -> None:
    """Write a state beside the last one and remove those before it.

    Raises:
        OSError: it cannot be written; the states that were there still are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    data = dump_tensors(tensors, metadata={_LOOP: json.dumps(dict(state.loop), sort_keys=True)})
    digest = hashlib.sha256(data).hexdigest()
    platform.write_atomic(folder / f"{state.step:08d}-{digest}.safetensors", data)
    for old in [*_files(folder)[_KEPT:], *folder.glob(_HALF_WRITTEN)]:
        old.unlink(missing_ok=True)


def load_state(folder: Path) -> tuple[State | None, list[str]]:
    """Return the newest state that is whole, and a sentence for each that was not."""
    damaged: list[str] = []
    for path in _files(folder):
        data = path.read_bytes()
        match = _NAME.fullmatch(path.name)
        assert match is not None
        if hashlib.sha256(data).hexdigest() == match[2]:
            return State(int(match[1]), parse_tensors(data), json.loads(_metadata(data)[_LOOP])), damaged
        damaged.append(f"The saved state of step {int(match[1])} was damaged and is not used.")
    return None, damaged


def _files(folder: Path) -> list[Path]:
    """Return the states in the folder, newest first."""
    found = [path for path in folder.glob("*.safetensors") if _NAME.fullmatch(path.name)]
    return sorted(found, reverse=True)


def _metadata(data: bytes) -> dict[str, str]:
    """Return the texts in a safetensors header."""
    (length,) = struct.unpack("<Q", data[:8])
    found: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return found


class Due:
    """Says when a state is to be saved: often enough to lose little, rarely enough to cost next to nothing.

    How long a save took decides it, and no tensor depends on it.
    """

    def __init__(self) -> None:
        self._last, self._cost = time.monotonic(), 0.0

    def __call__(self) -> bool:
        return time.monotonic() - self._last >= max(_SECONDS, self._cost / _SHARE)

    def saved(self, seconds: float) -> None:
        """Note that a state was written just now and how long it took."""
        self._last, self._cost = time.monotonic(), seconds


def same_bytes(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Say whether two sets of tensors are equal to the bit."""
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype
        and tensor.shape == other[name].shape
        and torch.equal(
            tensor.contiguous().view(-1).view(torch.uint8),
            other[name].contiguous().view(-1).view(torch.uint8),
        )
        for name, tensor in one.items()
    )
