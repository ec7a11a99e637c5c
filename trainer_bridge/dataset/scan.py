"""Which files of a folder are pictures to try, in the order that people count in."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .. import limits
from ..errors import UserError
from .files import printable

#: Endings of what people call pictures. Those that nothing here can decode are tried too, so that they are reported.
PICTURE_ENDINGS = frozenset(
    [
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
        ".avif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".heic",
        ".heif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".svg",
        ".svgz",
        ".psd",
        ".ico",
        ".tga",
        ".eps",
        ".raw",
        ".dng",
        ".cr2",
        ".nef",
        ".arw",
        ".exr",
        ".hdr",
        ".xcf",
        ".kra",
    ]
)
CAPTION_ENDINGS = (".txt", ".caption")

MAX_DEPTH = 20

_IGNORED = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"})


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        pictures: files that are pictures by name, in natural order of their path.
        names: for each folder its files, by name and by name in lower case, so that captions are found without
            asking the disk.
        left_out: (name, reason) of what cannot even be looked at.
        others: printable names of files that are neither pictures nor captions.
    """

    base: Path
    pictures: list[Path] = field(default_factory=list)
    names: dict[Path, dict[str, str]] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """Return how a file of the folder is called in messages: its path from the folder on."""
        return printable(path.relative_to(self.base).as_posix())


def scan(folder: Path, skip: Collection[Path]) -> Found:
    """Look through a folder and the folders in it. Hidden files and what systems leave behind are passed over.

    Links are followed as long as they stay inside the folder.

    Args:
        skip: folders that are passed over: those of the data root, which may lie inside.

    Raises:
        UserError: it is no folder, cannot be read, or holds more than a dataset ever would.
    """
    try:
        base = folder.resolve(strict=True)
        os.scandir(base).close()
    except NotADirectoryError:
        raise UserError(
            f"{printable(str(folder))} is a file, not a folder.", "Give the folder of the pictures."
        ) from None
    except FileNotFoundError:
        raise UserError(f"There is no folder {printable(str(folder))}.", "Check its path.") from None
    except (OSError, RuntimeError) as error:
        why = printable(getattr(error, "strerror", None) or str(error))
        raise UserError(
            f"The folder {printable(str(folder))} cannot be read ({why}).",
            "Check its path and its permissions.",
        ) from None
    found = Found(base)
    seen = {base, *(folder.resolve() for folder in skip)}
    for entry in _walk(found, base, seen):
        _sort_in(found, Path(entry.path))
    found.pictures.sort(key=lambda path: natural(path.relative_to(base).as_posix()))
    return found


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sorting key that puts `2.png` before `10.png`; upper and lower case count alike at first."""
    parts = re.split(r"([0-9]+)", name.casefold())
    key = [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]
    return (*key, (2, 0, name))


def _walk(found: Found, base: Path, seen: set[Path]) -> Iterator[os.DirEntry[str]]:
    count = 0
    folders = [(base, 0)]
    while folders:
        folder, depth = folders.pop()
        for entry in _entries(found, folder):
            count += 1
            if count > limits.MAX_FOLDER_ENTRIES:
                raise UserError(
                    f"The folder {printable(base.name)} holds more than {limits.MAX_FOLDER_ENTRIES:,} files.",
                    "Choose the folder that holds the pictures alone.",
                )
            if entry.name.startswith(".") or entry.name.casefold() in _IGNORED:
                continue
            target = _inside(found, base, entry)
            if target is None:
                continue
            if not target.is_dir():
                names = found.names.setdefault(folder, {})
                names.setdefault(entry.name.casefold(), entry.name)
                names[entry.name] = entry.name
                yield entry
            elif target not in seen:
                seen.add(target)
                if depth < MAX_DEPTH:
                    folders.append((Path(entry.path), depth + 1))
                else:
                    found.left_out.append((found.name(Path(entry.path)), "It lies too deep in other folders."))


def _entries(found: Found, folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            taken = [entry for _, entry in zip(range(limits.MAX_FOLDER_ENTRIES + 1), entries)]
    except OSError as error:
        found.left_out.append((found.name(folder), f"This folder cannot be read ({error.strerror})."))
        return []
    return sorted(taken, key=lambda entry: entry.name)


def _inside(found: Found, base: Path, entry: os.DirEntry[str]) -> Path | None:
    """Return where the entry really is; None, with a reason, when that is nowhere in the folder."""
    path = Path(entry.path)
    try:
        if not entry.is_symlink() and entry.is_file():
            return path
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        if _is_picture(path):
            found.left_out.append((found.name(path), "It is a link that leads nowhere, or cannot be reached."))
        return None
    if target == base or base in target.parents:
        return target
    found.left_out.append((found.name(path), "It is a link that leaves the folder: put the file itself there."))
    return None


def _sort_in(found: Found, path: Path) -> None:
    if _is_picture(path):
        found.pictures.append(path)
    elif path.suffix.lower() not in CAPTION_ENDINGS:
        found.others.append(found.name(path))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_ENDINGS
