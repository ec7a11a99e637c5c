"""Latents and text features, computed once and kept under `cache/` in the data root for every later run.

An entry's name is a digest of everything that its content depends on, and an entry begins with the digest of
its bytes: one that was cut off or went bad is computed anew. Entries are computed one at a time, so that the
bits do not depend on which neighbours were there already. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from .. import limits

_DIGEST = 32

Tensors = dict[str, Tensor]


class Cache:
    """One kind of entries.

    Args:
        folder: made when the first entry is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: str) -> Tensors | None:
        """Return an entry; None when there is none or it is damaged."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
            return None
        os.utime(path)
        return parse_tensors(data[_DIGEST:])

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry. It is not forced to the disk: what a power cut damages is computed anew.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = dump_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(hashlib.sha256(data).digest() + data)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def get(
        self, keys: Iterable[str], make: Callable[[int], Tensors], on_entry: Callable[[], None] = lambda: None
    ) -> list[Tensors]:
        """Return the entries of `keys`, making those that are missing.

        Args:
            make: is given the place of a missing key and returns its tensors.
            on_entry: is called after each entry that had to be made.
        """
        entries = []
        for place, key in enumerate(keys):
            entry = self.read(key)
            if entry is None:
                entry = {name: tensor.detach().cpu() for name, tensor in make(place).items()}
                self.write(key, entry)
                on_entry()
            entries.append(entry)
        return entries

    def missing(self, keys: Iterable[str]) -> int:
        """Return how many of the keys have no file; damaged ones count as there."""
        return sum(not self._path(key).exists() for key in keys)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key


def key_of(*parts: Any) -> str:
    """Return the name of an entry whose content `parts` decide."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def stack(entries: Iterable[Tensors], name: str, dtype: torch.dtype, device: str) -> Tensor:
    """Return one tensor of an entry's tensors of this name, in this precision on this device."""
    return torch.stack([entry[name].to(dtype) for entry in entries]).to(device)


def prune(folder: Path, most: int = limits.MAX_CACHE_BYTES) -> None:
    """Remove the entries that were not used for longest until the rest has at most `most` bytes."""
    found = []
    for path in folder.rglob("*"):
        try:
            stat = path.stat()
        except OSError:
            continue
        if path.is_file() and not path.is_symlink():
            found.append((stat.st_mtime_ns, stat.st_size, path))
    size = sum(entry[1] for entry in found)
    for _, bytes_, path in sorted(found):
        if size <= most:
            return
        path.unlink(missing_ok=True)
        size -= bytes_
