"""Where everything lives: the data root, the folders in it, and where finished LoRAs go.

Nothing of the user's lives beside the program, which people delete and clone anew.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import job, platform
from .errors import UserError

#: In the user data folder: checkout -> the root and the Lora folder that a WebUI last used with it.
RECORDS = "checkouts.json"

_MAX_RECORDS_BYTES = 1024 * 1024
_MAX_RECORDS = 200


@dataclass(frozen=True)
class Layout:
    """The names in a data root; none of them need exist.

    Attributes:
        root: absolute folder.
    """

    root: Path

    @property
    def db(self) -> Path:
        return self.root / "atelier.db"

    @property
    def pictures(self) -> Path:
        return self.root / "pictures"

    @property
    def derived(self) -> Path:
        return self.root / "derived"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def loras(self) -> Path:
        return self.root / "loras"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    @property
    def device_json(self) -> Path:
        return self.root / "device.json"

    def job(self, id_: str) -> Path:
        """Return the folder of a job.

        Raises:
            ValueError: `id_` has not the form of an id and so must not become a path.
        """
        if not job.is_id(id_):
            raise ValueError(f"not an id: {id_[:40]!r}")
        return self.jobs / id_

    def make(self) -> None:
        """Make the root, if need be, and make sure that it can be written.

        Raises:
            UserError: it cannot.
        """
        require_writable(self.root, "data folder", "Choose another one with --data or ATELIER_DATA.")


def data_root(explicit: Path | None) -> Path:
    """Return the absolute data root; it need not exist.

    It is `explicit`, else what ATELIER_DATA says, else the root that a WebUI last recorded for this checkout,
    else the user data folder of the system.
    """
    if explicit is not None:
        return _absolute(explicit)
    told = os.environ.get("ATELIER_DATA", "").strip()
    if told:
        return _absolute(Path(told))
    recorded = _record("root")
    return recorded if recorded is not None else platform.user_data_dir()


def lora_folder(layout: Layout) -> Path:
    """Return where finished LoRAs go by default: the recorded Lora folder, else `loras/` in the root."""
    recorded = _record("loras")
    return recorded if recorded is not None and recorded.is_dir() else layout.loras


def record(root: Path, loras: Path | None) -> None:
    """Note the data root and Lora folder that the WebUI uses with this checkout, for the command line.

    Raises:
        OSError: the user data folder cannot be written.
    """
    records = _records()
    records.pop(_checkout(), None)
    kept = dict(list(records.items())[-_MAX_RECORDS:])
    kept[_checkout()] = {"root": str(root), "loras": None if loras is None else str(loras)}
    folder = platform.user_data_dir()
    folder.mkdir(parents=True, exist_ok=True)
    platform.write_atomic(folder / RECORDS, json.dumps(kept, indent=1).encode())


def require_writable(folder: Path, noun: str, way_out: str) -> None:
    """Make `folder` and its parents, if need be, and make sure that files can be written in it.

    Args:
        noun: what the folder is, for the sentence.
        way_out: what the user can do if it cannot be.

    Raises:
        UserError: it cannot be made or written, or its disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".atelier-") as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"The {noun} {folder} cannot be written: {why(error)}.", way_out) from None


def why(error: OSError) -> str:
    """Return the cause of an error of the system as the end of a sentence."""
    known = {
        errno.ENOSPC: "the disk is full",
        getattr(errno, "EDQUOT", -1): "the disk quota is used up",
        errno.EACCES: "permission is missing",
        errno.EPERM: "permission is missing",
        errno.EROFS: "its disk is read-only",
        errno.ENOTDIR: "a file stands where a folder should be",
        errno.EEXIST: "a file of that name stands there",
        errno.ENAMETOOLONG: "its name is too long",
    }
    return known.get(error.errno or 0, error.strerror or str(error))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))


def _checkout() -> str:
    return str(Path(__file__).resolve().parent.parent)


def _record(key: str) -> Path | None:
    entry = _records().get(_checkout())
    value = entry.get(key) if isinstance(entry, dict) else None
    return Path(value) if isinstance(value, str) and os.path.isabs(value) else None


def _records() -> dict[str, Any]:
    """Read the notes; a missing or damaged file counts as none, since it only spares the user an argument."""
    try:
        with (platform.user_data_dir() / RECORDS).open("rb") as file:
            data = json.loads(file.read(_MAX_RECORDS_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
