"""Messages from a run to whoever watches it: one JSON object a line, appended to `events.jsonl`.

Each line is `{"v": 1, "t": unix seconds, "type": ..., ...}`. A reader ignores types and keys that it does not
know, so that an older page can watch a newer trainer. A line that is not complete yet has no newline.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .limits import MAX_EVENT_BYTES

VERSION = 1

#: type -> the keys that it carries beside v, t and type.
TYPES: dict[str, tuple[str, ...]] = {
    "started": ("pid", "attempt", "step", "total"),
    "phase": ("name", "done", "total"),
    "plan": ("plan",),
    "note": ("text",),
    "left_out": ("picture", "reason"),
    "step": (
        "step",
        "total",
        "epoch",
        "epochs",
        "loss",
        "loss_avg",
        "lr",
        "seconds_per_step",
        "eta",
        "memory",
    ),
    "sample": ("path", "epoch", "prompt_index", "step"),
    "epoch_saved": ("path", "epoch", "step"),
    "state_saved": ("step",),
    "stopped": ("step", "path"),
    "failed": ("what", "way_out", "kind", "step"),
    "done": ("path", "sha256", "steps", "seconds", "peak_memory"),
}

PHASES: tuple[str, ...] = ("preparing", "loading", "caching", "training", "sampling", "saving", "checking")


class EventWriter:
    """Appends events to a file; each line is flushed at once, so that a killed run loses none.

    Raises:
        OSError: the file cannot be written, for instance because the disk is full.
    """

    def __init__(self, path: Path) -> None:
        _end_torn_line(path)
        self._file = path.open("ab", buffering=0)
        self._torn = False

    def write(self, type_: str, /, **fields: Any) -> None:
        """Append one event.

        Raises:
            ValueError: an unknown type or key, or more than a line may hold: a bug of the caller.
            OSError: it could not be written whole; the next one begins on a line of its own.
        """
        unknown = set(fields) - set(TYPES.get(type_, ()))
        if type_ not in TYPES or unknown:
            raise ValueError(f"event {type_} has no {sorted(unknown)}")
        event = {"v": VERSION, "t": round(time.time(), 3), "type": type_, **_finite(fields)}
        line = json.dumps(event, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_EVENT_BYTES:
            raise ValueError(f"event {type_} has {len(line)} bytes, which no reader takes")
        rest = memoryview(b"\n" + line if self._torn else line)
        self._torn = True
        while rest:  # an unbuffered file may take a part: on a full disk the next write says so
            rest = rest[self._file.write(rest) :]
        self._torn = False

    def close(self) -> None:
        self._file.close()


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each complete event from byte `offset` on, with the offset behind it.

    Lines that are broken or too long are passed over: a run killed in the middle of a write must not hide
    what came before and after.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for size, line in _lines(file):
            offset += size
            event = _parse(line)
            if event is not None:
                yield event, offset


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the size of each complete line and the line; an empty one for a line that is too long."""
    while True:
        line = file.readline(MAX_EVENT_BYTES)
        size = len(line)
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_EVENT_BYTES)
            size += len(line)
        if not line:
            return
        yield size, line if size == len(line) else b""


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        return None
    return event


def _end_torn_line(path: Path) -> None:
    """A run killed while it wrote leaves half a line: end it, so that the next event starts on its own."""
    try:
        with path.open("rb+") as file:
            if file.seek(0, 2) > 0:
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")
    except FileNotFoundError:
        return


def _finite(value: Any) -> Any:
    """JSON has no NaN: a value that is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
