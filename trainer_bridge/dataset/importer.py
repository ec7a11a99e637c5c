"""Import: a folder of pictures becomes checked originals in the data root, with their captions.

Each file is read once; what was hashed is what is decoded and what is stored. The folder itself is never changed.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import limits
from ..errors import UserError
from ..platform import write_atomic
from .caption_files import Caption, from_parameters, read_caption
from .files import printable, read_bounded
from .picture import Facts, Unusable, examine, guarded
from .scan import Found, scan

#: Pictures decoded at a time. More would cost memory: one of 100 megapixels takes 400 MB while it is decoded.
WORKERS = 2
#: Entries of one kind that are listed one by one; a folder of 200,000 pictures needs no 199,000 sentences.
MAX_LISTED = 2_000


@dataclass(frozen=True)
class Imported:
    """One picture that can be trained on.

    Attributes:
        hash: sha256 of the file's bytes.
        path: absolute path of the copy in the data root.
        name: the original's name, for messages.
        width, height: px after the EXIF rotation.
        caption: empty if there is none; without the trigger unless the file had it.
        caption_source: name of the text file, `generation parameters`, or empty.
        notes: sentences about what was done to it.
    """

    hash: str
    path: str
    name: str
    width: int
    height: int
    caption: str = ""
    caption_source: str = ""
    notes: tuple[str, ...] = ()


@dataclass
class Result:
    """What an import brought: pictures, what was left out as (name, reason), and sentences about the whole."""

    pictures: list[Imported] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return what the command line prints."""
        return {
            "pictures": [asdict(picture) for picture in self.pictures],
            "left_out": [{"name": name, "reason": reason} for name, reason in self.left_out],
            "notes": self.notes,
        }


def import_folder(images: Path, root: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Result:
    """Import the pictures of a folder.

    Args:
        images: the folder; folders in it are looked through too.
        root: the data root; originals go to `root/pictures/<sha256>`.
        progress: called with the pictures looked at so far and their number.

    Raises:
        UserError: no such folder, fewer than three usable pictures, or the data root cannot be written.
    """
    store = _store(root)
    found = scan(images, skip=(root, store))
    result = Result(left_out=list(found.left_out))
    seen: dict[str, int] = {}
    beyond = 0
    with guarded():
        for done, (path, read) in enumerate(_read_all(found.pictures, lambda: len(result.pictures)), start=1):
            if read is None:
                beyond += 1
                if beyond <= MAX_LISTED:
                    reason = f"Only the first {limits.MAX_PICTURES:,} pictures are used."
                    result.left_out.append((found.name(path), reason))
            else:
                _take(result, found, path, read(), store, seen)
            progress(done, len(found.pictures))
    _conclude(result, found, beyond)
    return result


@dataclass(frozen=True)
class _Read:
    """A file that was read and decoded: its bytes and what they are, or why it cannot be used."""

    data: bytes = b""
    hash: str = ""
    facts: Facts | None = None
    reason: str = ""


def _read_all(paths: list[Path], usable: Callable[[], int]) -> Iterator[tuple[Path, Callable[[], _Read] | None]]:
    """Read and decode a few files ahead, in order; once enough are usable, the rest is passed on unread."""
    waiting: deque[tuple[Path, Future[_Read]]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        for place, path in enumerate(paths):
            waiting.append((path, pool.submit(_examine, path)))
            if len(waiting) > WORKERS:
                first, future = waiting.popleft()
                yield first, future.result
            if usable() >= limits.MAX_PICTURES:
                rest = [path for path, _ in waiting] + paths[place + 1 :]
                yield from ((path, None) for path in rest)
                return
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result if usable() < limits.MAX_PICTURES else None


def _examine(path: Path) -> _Read:
    try:
        data = read_bounded(path, limits.MAX_PICTURE_BYTES)
        return _Read(data, hashlib.sha256(data).hexdigest(), examine(data))
    except Unusable as error:
        return _Read(reason=str(error))
    except PermissionError:
        return _Read(reason="It cannot be read: its permissions do not allow it.")
    except OSError as error:
        return _Read(reason=f"It cannot be read ({error.strerror or 'it is not an ordinary file'}).")


def _take(result: Result, found: Found, path: Path, read: _Read, store: Path, seen: dict[str, int]) -> None:
    name = found.name(path)
    if read.facts is None:
        result.left_out.append((name, read.reason))
        return
    caption = read_caption(path, found.names[path.parent])
    if not caption.text and read.facts.parameters:
        caption = from_parameters(read.facts.parameters)
    known = seen.get(read.hash)
    if known is not None:
        _merge(result, known, name, caption)
        return
    target = store / read.hash
    _keep(target, read.data)
    seen[read.hash] = len(result.pictures)
    notes = (*read.facts.notes, *caption.notes)
    size = (read.facts.width, read.facts.height)
    result.pictures.append(Imported(read.hash, str(target), name, *size, caption.text, caption.source, notes))


def _merge(result: Result, known: int, name: str, caption: Caption) -> None:
    """A picture counts once; if only the copy has a caption, that one is used."""
    first = result.pictures[known]
    result.left_out.append((name, f"It is the same picture as {first.name}, which counts once."))
    if caption.text and not first.caption:
        changed = asdict(first) | {"caption": caption.text, "caption_source": caption.source}
        result.pictures[known] = Imported(**changed)


def _store(root: Path) -> Path:
    store = root.resolve() / "pictures"
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(store, error) from None
    return store


def _keep(target: Path, data: bytes) -> None:
    """Copy an original into the data root, unless it is there."""
    try:
        if target.is_file() and target.stat().st_size == len(data):
            return
        write_atomic(target, data)
    except OSError as error:
        raise _unwritable(target.parent, error) from None


def _unwritable(folder: Path, error: OSError) -> UserError:
    shown = printable(str(folder))
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return UserError(
            f"The disk of {shown} is full.", "Free some space there, or choose another folder with --data."
        )
    why = os.strerror(error.errno) if error.errno else str(error)
    return UserError(f"The folder {shown} cannot be written ({why}).", "Choose another folder with --data.")


def _conclude(result: Result, found: Found, beyond: int) -> None:
    if found.others:
        shown = ", ".join(found.others[:3]) + (", ..." if len(found.others) > 3 else "")
        result.notes.append(f"Files that are neither pictures nor captions were passed over: {shown}.")
    if beyond > MAX_LISTED:
        result.notes.append(f"{beyond:,} pictures beyond the first {limits.MAX_PICTURES:,} are not used.")
    if len(result.pictures) < limits.MIN_PICTURES:
        raise _too_few(result, found)


def _too_few(result: Result, found: Found) -> UserError:
    count = len(result.pictures)
    number = "No picture" if count == 0 else "Only 1 picture" if count == 1 else f"Only {count} pictures"
    what = f"{number} in {printable(str(found.base))} can be used; a training needs at least {limits.MIN_PICTURES}."
    reasons = [f"{name}: {reason}" for name, reason in result.left_out[:5]]
    more = len(result.left_out) - len(reasons)
    if more > 0:
        reasons.append(f"and {more:,} more.")
    if reasons:
        what += " Left out: " + " ".join(reasons)
    return UserError(what, "Add pictures, as PNG, JPEG or WebP.")
