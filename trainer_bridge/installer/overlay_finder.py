"""Copied into an overlay environment: lets it import torch, and only torch, from the Python that it stands on.

The other packages there may be of any version and would break ours, so the folder is not put on `sys.path`; what a
package of ours looks for optionally (xformers, accelerate, ...) is not found there either.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # each start of Python runs this file, and the module takes 20 ms
    import importlib.metadata

#: Top-level modules of torch and of the libraries that its builds bring (CUDA, ROCm, XPU).
MODULES = frozenset({"torch", "torchgen", "functorch", "triton", "nvidia", "cuda", "intel", "pytorch_triton_rocm"})
_DISTRIBUTIONS = ("torch", "triton")


class TorchFinder:
    """Finds the modules above in one folder, after everything else was asked (an entry of `sys.meta_path`)."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module of torch's; everything below a package is found through that package."""
        if path is not None or fullname not in MODULES:
            return None
        return PathFinder.find_spec(fullname, [self._folder], target)

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterable[importlib.metadata.Distribution]:
        """Find torch's version, which libraries ask for; no other package's."""
        from importlib.metadata import DistributionFinder, MetadataPathFinder

        name = context.name if context is not None else None
        wanted = _DISTRIBUTIONS if name is None else tuple(each for each in _DISTRIBUTIONS if each == name.lower())
        for each in wanted:
            yield from MetadataPathFinder.find_distributions(DistributionFinder.Context(name=each, path=[self._folder]))


def install(folder: str) -> None:
    """Called by the `.pth` file beside this one, at the start of Python."""
    sys.meta_path.append(TorchFinder(folder))
