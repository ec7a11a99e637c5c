"""Names of finished LoRAs: a name of ours makes the next version, a foreign file is never touched.

A name is reserved in the store by the run that will write it, so that two runs at once do not collide. The
first version is called as the user said, the next ones `name-v2`, `name-v3`, ...
"""

from __future__ import annotations

import os
import sqlite3
import time
import unicodedata
from pathlib import Path
from typing import NamedTuple

from .errors import UserError

SUFFIX = ".safetensors"
_MAX_VERSIONS = 10_000


class Reserved(NamedTuple):
    """A name that was taken: the stem of the file and which version of the LoRA it is."""

    output_name: str
    version: int


def choose(connection: sqlite3.Connection, name: str, out_dir: Path) -> Reserved:
    """Return the stem that a new LoRA called `name` in `out_dir` gets.

    Raises:
        UserError: a file of that name is there that this store knows nothing of; a free name is proposed.
    """
    folder = folder_key(out_dir)
    rows = connection.execute("SELECT file_key FROM loras WHERE folder_key = ?", (folder,))
    return _choose(name, out_dir, {str(row["file_key"]) for row in rows})


def free_stem(name: str, out_dir: Path) -> str:
    """Return the stem for the first LoRA of all, where there is no store yet.

    Raises:
        UserError: as :func:`choose`.
    """
    return _choose(name, out_dir, set()).output_name


def _choose(name: str, out_dir: Path, ours: set[str]) -> Reserved:
    if _key(name) not in ours:
        if _on_disk(out_dir, name):
            raise UserError(
                f"In {out_dir} there is a file {name + SUFFIX} already, which no run of this program made.",
                f"It is left as it is: choose another name, for instance {_free(name, out_dir, ours)!r}.",
            )
        return Reserved(name, 1)
    for version in range(2, _MAX_VERSIONS):
        candidate = f"{name}-v{version}"
        if _key(candidate) not in ours and not _on_disk(out_dir, candidate):
            return Reserved(candidate, version)
    raise UserError(f"There are {_MAX_VERSIONS} versions of {name!r}.", "Choose another name.")


def reserve(connection: sqlite3.Connection, job: str, name: str, out_dir: Path) -> Reserved:
    """Take a name for a job, inside the caller's transaction.

    Raises:
        UserError: as :func:`choose`.
    """
    found = choose(connection, name, out_dir)
    connection.execute(
        "INSERT INTO loras (job, name, version, output_name, folder_key, file_key, created)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            job,
            name,
            found.version,
            found.output_name,
            folder_key(out_dir),
            _key(found.output_name),
            time.time(),
        ),
    )
    return found


def folder_key(folder: Path) -> str:
    """Return what tells a folder, whichever way its path was written."""
    return os.path.normcase(os.path.realpath(folder))


def _free(name: str, out_dir: Path, ours: set[str]) -> str:
    for number in range(2, _MAX_VERSIONS):
        candidate = f"{name} {number}"
        if _key(candidate) not in ours and not _on_disk(out_dir, candidate):
            return candidate
    return f"{name} new"


def _on_disk(folder: Path, stem: str) -> bool:
    return os.path.lexists(folder / (stem + SUFFIX))


def _key(stem: str) -> str:
    """Two names that Windows or macOS takes for one are one here, on every system."""
    return unicodedata.normalize("NFC", stem).casefold()
