"""Reading files of a folder that somebody else filled: only ordinary files, only so many bytes, names made safe."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .. import platform


class NotAFile(OSError):
    """What stands under the name is a pipe, a device or the like, which could be read for ever."""


def read_bounded(path: Path, limit: int) -> bytes:
    """Return the file's first `limit` bytes; one byte more tells the caller that there are more.

    Raises:
        NotAFile: anything but an ordinary file, whatever a link led to. Opening a pipe does not block.
        OSError: it cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(platform.long_path(path), flags)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFile(f"{printable(path.name)} is not an ordinary file")
        return file.read(limit + 1)


def printable(name: str) -> str:
    """Return a file's name as it may be printed: undecodable bytes and control characters become a mark."""
    decoded = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in decoded)
