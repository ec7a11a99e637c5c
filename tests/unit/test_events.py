"""The event file: nothing that was written whole is lost, whatever stands around it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_bridge.events import TYPES, EventWriter, read_events
from trainer_bridge.limits import MAX_EVENT_BYTES


def read(path: Path, offset: int = 0) -> list[dict[str, Any]]:
    return [event for event, _ in read_events(path, offset)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    for type_, keys in TYPES.items():
        writer.write(type_, **dict.fromkeys(keys, 1))
    writer.close()
    events = read(path)
    assert [event["type"] for event in events] == list(TYPES)
    assert all(event["v"] == 1 and event["t"] > 1e9 for event in events)


def test_reading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    for text in "abc":
        writer.write("note", text=text)
    offsets = [offset for _, offset in read_events(path)]
    assert offsets[-1] == path.stat().st_size
    assert [[event["text"] for event in read(path, offset)] for offset in offsets] == [["b", "c"], ["c"], []]
    assert read(path, offsets[-1] + 1000) == []


def test_a_missing_file_has_no_events(tmp_path: Path) -> None:
    assert read(tmp_path / "missing.jsonl") == []


def test_a_line_that_is_not_complete_waits(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type": "note"}\n{"type": "sta')
    assert read(path) == [{"type": "note"}]
    with path.open("ab") as file:
        file.write(b'rted"}\n')
    assert [event["type"] for event in read(path)] == ["note", "started"]


def test_a_torn_line_does_not_swallow_the_next_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type": "note"}\n{"type": "st')
    EventWriter(path).write("note", text="after")
    assert [event.get("text") for event in read(path)] == [None, "after"]


def test_a_failed_write_does_not_swallow_the_next_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)

    class Full:
        """A disk that takes ten bytes and then none."""

        def __init__(self, file: Any) -> None:
            self.file, self.room = file, 10

        def write(self, data: memoryview) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            written = self.file.write(data[: self.room])
            self.room = 0
            return int(written)

    file = writer._file
    writer._file = Full(file)  # type: ignore[assignment]
    with pytest.raises(OSError, match="space"):
        writer.write("note", text="lost")
    writer._file = file
    writer.write("note", text="kept")
    assert [event["text"] for event in read(path)] == ["kept"]


def test_a_file_that_takes_parts_gets_the_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    file = writer._file

    class Slow:
        def write(self, data: memoryview) -> int:
            return file.write(data[:7])

    writer._file = Slow()  # type: ignore[assignment]
    writer.write("note", text="a longer text")
    assert read(path)[0]["text"] == "a longer text"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"type": 3}',
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"type": "note", "text": "' + b"x" * MAX_EVENT_BYTES + b'"}',
        b"x" * (MAX_EVENT_BYTES - 16) + b'{"type": "note"}',
        b"x" * MAX_EVENT_BYTES + b'{"type": "note"}',
        b"x" * (3 * MAX_EVENT_BYTES),
    ],
)
def test_broken_lines_are_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type": "note", "n": 1}\n' + line + b'\n{"type": "note", "n": 2}\n')
    events = list(read_events(path))
    assert [event["n"] for event, _ in events] == [1, 2]
    assert events[-1][1] == path.stat().st_size


def test_numbers_that_are_none_become_null(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventWriter(path).write("step", step=1, loss=math.nan, lr={"unet": [math.inf, 1.0]}, memory=None)
    event = read(path)[0]
    assert (event["loss"], event["lr"]) == (None, {"unet": [None, 1.0]})
    path.write_bytes(b'{"type": "step", "loss": NaN, "eta": -Infinity}\n')
    assert read(path) == [{"type": "step", "loss": None, "eta": None}]


def test_unknown_types_and_keys_are_bugs_and_unknown_ones_in_a_file_are_not(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    with pytest.raises(ValueError, match="nonsense"):
        writer.write("nonsense")
    with pytest.raises(ValueError, match="surplus"):
        writer.write("note", surplus=1)
    with pytest.raises(ValueError, match="bytes"):
        writer.write("note", text="x" * MAX_EVENT_BYTES)
    path.write_bytes(b'{"v": 9, "type": "of tomorrow", "x": 1}\n')
    assert read(path)[0]["type"] == "of tomorrow"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=5), st.binary(max_size=30))
def test_events_survive_rubbish_between_them(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], rubbish: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.unlink(missing_ok=True)
    for text in texts:
        writer = EventWriter(path)
        writer.write("note", text=text)
        writer.close()
        with path.open("ab") as file:
            file.write(rubbish)
    found = [event["text"] for event in read(path) if event["type"] == "note"]
    assert found == texts
    assert json.dumps(found).isascii()
