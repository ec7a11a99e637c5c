"""Whether an environment is whole: the marker that was written last, against what is on the disk now."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import environment
from . import requirements
from .recipe import Recipe

#: Written by Python while it runs, so no part of what was installed.
_CACHE = "__pycache__"
_TOOLS = frozenset({"pip"})  # where pip had to be put into the environment to fill it


def library(folder: Path) -> Path:
    """The site-packages of an environment; it need not exist."""
    found = sorted(folder.glob("lib/python3*/site-packages"))
    return found[0] if found else folder / "Lib" / "site-packages"


def packages(folder: Path) -> dict[str, str]:
    """Name -> version of what is installed in an environment, by the names of the metadata folders."""
    found = {}
    for name in _top_level(library(folder)):
        if name.endswith(".dist-info"):
            package, _, version = name[: -len(".dist-info")].partition("-")
            found[requirements.canonical(package)] = version
    return {name: version for name, version in sorted(found.items()) if name not in _TOOLS}


def measure(folder: Path) -> dict[str, Any]:
    """The part of the marker that says what is on the disk: cheap to compare (names) and thorough (files)."""
    return {"packages": packages(folder), "names": names_digest(folder), "files": files_digest(folder)}


def names_digest(folder: Path) -> str:
    """A digest of the names in site-packages: read in milliseconds."""
    return _digest(_top_level(library(folder)))


def files_digest(folder: Path) -> str:
    """A digest of every file's path and size in site-packages: notices what was lost, cut off or added."""
    return _digest(sorted(f"{path} {size}" for path, size in _files(library(folder))))


def complaint(found: environment.Environment, *, thorough: bool) -> str:
    """What is wrong with a finished environment; empty where it is sound.

    Args:
        thorough: compare every file, which takes about a second, not only the packages.
    """
    recipe = Recipe.from_json(found.facts.get("recipe"))
    if recipe is None:
        return "it was made by another version of this program"
    if recipe.fingerprint != found.fingerprint:
        return "the versions that this program wants have changed"
    gone = recipe.still_meant()
    if gone:
        return gone
    if not found.python.exists():
        return "its Python is missing"
    if names_digest(found.folder) != found.facts.get("names"):
        return "packages in it were changed"
    if thorough and files_digest(found.folder) != found.facts.get("files"):
        return "files in it were changed"
    return ""


def difference(found: Mapping[str, str], pins: Mapping[str, str]) -> str:
    """How what is installed differs from the pins, as a sentence part; empty where it does not.

    A build's own mark (`+cpu`) is no difference.
    """
    public = {name: version.partition("+")[0] for name, version in found.items()}
    missing = [name for name in pins if name not in public]
    added = [name for name in public if name not in pins]
    other = [
        f"{name} {public[name]} for {version}"
        for name, version in pins.items()
        if name in public and requirements.release(public[name]) != requirements.release(version)
    ]
    parts = (("missing", missing), ("not in the lock", added), ("another version", other))
    return "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in parts if names)


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != _CACHE]
        for name in names:
            path = Path(parent, name)
            yield path.relative_to(folder).as_posix(), path.lstat().st_size


def _top_level(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.name != _CACHE)


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
