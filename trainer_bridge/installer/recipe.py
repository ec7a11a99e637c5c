"""Which environment this machine wants: on top of an existing torch where its version serves, else with its own."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import environment, platform
from . import requirements

#: An extra index for torch, where the configured ones have no build for this machine's card (Windows, ROCm, XPU).
TORCH_INDEX = "ATELIER_TORCH_INDEX"

#: (first torch release, first one that is no longer meant, lock): the bounds were tried, see BENCHMARKS.md.
OVERLAYS: tuple[tuple[tuple[int, ...], tuple[int, ...], str], ...] = (
    ((2, 1), (2, 3), "overlay-torch2.1.txt"),
    ((2, 3), (2, 13), "overlay-torch2.3.txt"),
    ((2, 13), (3,), "overlay-torch2.13.txt"),
)
FULL = "full.txt"
TEST = "test.txt"

OVERLAY_BYTES = 400 * 1024**2
FULL_CPU_BYTES = 2 * 1024**3
FULL_GPU_BYTES = 9 * 1024**3


@dataclass(frozen=True)
class Recipe:
    """All that decides what an environment becomes.

    Attributes:
        kind: "overlay", "full" or "test".
        lock: name of the lock file.
        python: interpreter that it is made with.
        tag: what of that interpreter the packages depend on.
        cpu_only: a full environment for a machine without an NVIDIA card.
        torch_index: extra index for torch; empty for none.
        host_version: version of the torch below; empty without one.
        host_folder: the folder that holds it.
        below: name of the environment that a test environment stands on.
    """

    kind: str
    lock: str
    python: str
    tag: str
    cpu_only: bool = False
    torch_index: str = ""
    host_version: str = ""
    host_folder: str = ""
    below: str = ""

    @property
    def fingerprint(self) -> str:
        """The same on every machine that would get the same packages: places are not part of it."""
        parts = [self.kind, self.tag, str(self.cpu_only), self.torch_index, self.host_version, self.below]
        lock = (requirements.LOCKS / self.lock).read_bytes().replace(b"\r\n", b"\n")
        return hashlib.sha256("\n".join(parts).encode() + b"\n" + lock).hexdigest()[:12]

    @property
    def bytes_needed(self) -> int:
        """Free disk that making it takes, generously."""
        if self.kind != "full":
            return OVERLAY_BYTES
        return FULL_CPU_BYTES if self.cpu_only else FULL_GPU_BYTES

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Any) -> Recipe | None:
        """A recipe from an environment's marker; None where it is none of ours."""
        if not isinstance(value, Mapping):
            return None
        try:
            recipe = Recipe(**value)
        except TypeError:
            return None
        known = [FULL, TEST, *(lock for _, _, lock in OVERLAYS)]
        return recipe if recipe.lock in known else None

    def still_meant(self) -> str:
        """Why an environment made by this recipe no longer serves; empty where it does."""
        if not Path(self.python).exists():
            return "the Python that it was made with has gone"
        if self.host_folder:
            found = _torch_in(self.host_folder)
            if found is None:
                return f"the torch that it stands on has gone from {self.host_folder}"
            if found != self.host_version:
                return f"the torch that it stands on is now {found}"
        return ""


def wanted() -> tuple[Recipe, ...]:
    """What to try, best first: an overlay on the running Python's torch if its version serves, then a full one.

    Whoever asked for a full one once keeps to it, for the same kind of device.
    """
    full = _full()
    current = environment.current()
    before = Recipe.from_json(current.facts.get("recipe")) if current is not None else None
    if before is not None and before.kind == "full":
        return (replace(full, cpu_only=before.cpu_only and not full.torch_index),)
    host = host_torch()
    lock = overlay_lock(host[0]) if host is not None else None
    if host is None or lock is None:
        return (full,)
    overlay = Recipe("overlay", lock, full.python, full.tag, host_version=host[0], host_folder=host[1])
    return (overlay, full)


def for_processor() -> Recipe:
    """A full environment that leaves graphics cards alone, whatever is there."""
    return replace(_full(), cpu_only=True, torch_index="")


def test_recipe(trainer: environment.Environment) -> Recipe:
    """The environment of the test tools on top of a trainer's environment, with the same Python."""
    below = Recipe.from_json(trainer.facts.get("recipe"))
    if below is None:
        raise ValueError(f"{trainer.folder} says nothing about how it was made")
    return replace(
        below, kind="test", lock=TEST, below=trainer.folder.name, cpu_only=False, torch_index="", host_folder=""
    )


def host_torch() -> tuple[str, str] | None:
    """(version, folder) of the torch that the running Python would import, without importing it."""
    if Path(sys.prefix).parent == environment.home():
        return None  # one of our own environments is nothing to stand on
    try:
        found = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    folder = Path(str(found.locate_file(""))).resolve()
    return (found.version, str(folder)) if (folder / "torch" / "__init__.py").is_file() else None


def overlay_lock(version: str) -> str | None:
    """The lock for an overlay on that torch; None where the version is not served."""
    numbers = requirements.release(version)
    return next((lock for first, end, lock in OVERLAYS if first <= numbers < end), None)


def _full() -> Recipe:
    index = os.environ.get(TORCH_INDEX, "").strip()
    cpu_only = not index and not platform.has_nvidia()
    return Recipe("full", FULL, _base_python(), _tag(), cpu_only=cpu_only, torch_index=index)


def _base_python() -> str:
    """The interpreter itself, not the one of a virtual environment around it: environments do not stack."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def _tag() -> str:
    return f"{sys.implementation.cache_tag} {sysconfig.get_platform()}"


def _torch_in(folder: str) -> str | None:
    if not (Path(folder) / "torch" / "__init__.py").is_file():
        return None
    found = importlib.metadata.distributions(name="torch", path=[folder])
    return next((distribution.version for distribution in found), None)


def describe(recipe: Recipe) -> str:
    """One sentence for people: what will be made, and how much it takes."""
    if recipe.kind == "test":
        return "The test tools go into a folder of their own (about 250 MB)."
    if recipe.kind == "overlay":
        return f"The trainer will use the torch {recipe.host_version} that is here (about 120 MB more)."
    if recipe.cpu_only:
        return "The trainer gets its own torch, for the processor (about 1 GB on disk)."
    return "The trainer gets its own torch with the libraries for the graphics card (several GB)."
