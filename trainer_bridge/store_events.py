"""What an event changes in the store: a function of the run as it is and the event, without a database.

Events come from another process, perhaps of another version: each value is checked, and one that cannot be is
passed over.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from . import job
from .store_rows import Job, JobFile

_MAX_TEXT = 4_000
_LARGEST = 2**62


@dataclass
class Changes:
    """What to write: columns of the run, at most one file, at most one note as (picture, text)."""

    columns: dict[str, Any] = field(default_factory=dict)
    file: JobFile | None = None
    note: tuple[str, str] | None = None


def changes(run: Job, event: Mapping[str, Any], folder: Path) -> Changes:
    """Return what `event` changes in `run`, whose folder is `folder`."""
    apply = _APPLY.get(str(event.get("type")))
    if apply is None:
        return Changes()
    found = apply(run, event)
    kind = _FILES.get(str(event.get("type")))
    if kind is not None:
        found.file = _file(kind, event, folder)
    return found


def _started(run: Job, event: Mapping[str, Any]) -> Changes:
    columns = _numbers(event, "step", "total")
    pid = _whole(event, "pid")
    if run.pid is None and pid:
        columns["pid"] = pid
    return _to(run, job.RUNNING, columns) if run.state == job.QUEUED else Changes(columns)


def _phase(run: Job, event: Mapping[str, Any]) -> Changes:
    columns = {
        "phase": _text(event, "name"),
        "phase_done": _whole(event, "done"),
        "phase_total": _whole(event, "total"),
    }
    return Changes(columns)


def _note(run: Job, event: Mapping[str, Any]) -> Changes:
    text = _text(event, "text")
    return Changes(note=("", text)) if text else Changes()


def _left_out(run: Job, event: Mapping[str, Any]) -> Changes:
    return Changes(note=(_text(event, "picture") or "?", _text(event, "reason")))


def _step(run: Job, event: Mapping[str, Any]) -> Changes:
    columns = _numbers(event, "step", "total", "epoch", "epochs")
    columns["phase"] = "training"
    columns["phase_done"] = columns["phase_total"] = None
    average = _real(event, "loss_avg")
    columns["loss"] = _real(event, "loss") if average is None else average
    columns["seconds_per_step"] = _real(event, "seconds_per_step")
    columns["eta"] = _real(event, "eta")
    columns["memory"] = _whole(event, "memory")
    return Changes(columns)


def _only_a_file(run: Job, event: Mapping[str, Any]) -> Changes:
    return Changes()


def _state_saved(run: Job, event: Mapping[str, Any]) -> Changes:
    step = _whole(event, "step")
    return Changes({"saved_step": step} if step is not None else {})


def _stopped(run: Job, event: Mapping[str, Any]) -> Changes:
    columns = {"what": "The run was stopped; what it learned so far is kept.", "kind": "stopped"}
    step = _whole(event, "step")
    found = Changes() if step is None else Changes({"step": step, "saved_step": step})
    return _to(run, job.STOPPED, {**columns, **found.columns})


def _failed(run: Job, event: Mapping[str, Any]) -> Changes:
    what = _text(event, "what") or "The trainer failed and did not say why."
    columns = {"what": what, "way_out": _text(event, "way_out"), "kind": _text(event, "kind")[:40]}
    return _to(run, job.FAILED, columns)


def _done(run: Job, event: Mapping[str, Any]) -> Changes:
    columns: dict[str, Any] = {
        "result_path": _text(event, "path") or None,
        "sha256": _text(event, "sha256")[:64] or None,
    }
    columns["seconds"] = _real(event, "seconds")
    columns["peak_memory"] = _whole(event, "peak_memory")
    columns["eta"] = 0.0
    steps = _whole(event, "steps")
    if steps is not None:
        columns["step"] = steps
    return _to(run, job.DONE, {**columns, "what": "", "way_out": "", "kind": ""})


_APPLY = {
    "started": _started,
    "phase": _phase,
    "note": _note,
    "left_out": _left_out,
    "step": _step,
    "sample": _only_a_file,
    "epoch_saved": _only_a_file,
    "state_saved": _state_saved,
    "stopped": _stopped,
    "failed": _failed,
    "done": _done,
}

#: Type of an event that may name a file -> what the file is.
_FILES = {"sample": "sample", "epoch_saved": "epoch", "stopped": "epoch"}


def _to(run: Job, state: str, columns: dict[str, Any]) -> Changes:
    """Move the run on; what a trainer says of a run that has ended is noted and changes nothing."""
    try:
        job.check_transition(run.state, state)
    except job.IllegalTransition:
        if run.state == state:
            return Changes()
        return Changes(note=("", f"The trainer said {state} although the run is {run.state}."))
    return Changes({**columns, "state": state})


def _file(kind: str, event: Mapping[str, Any], folder: Path) -> JobFile | None:
    """Return the file that an event names, if it lies in the job's folder."""
    path = _text(event, "path").removeprefix(str(folder) + os.sep).replace("\\", "/")
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or PureWindowsPath(path).drive or ".." in pure.parts or "\0" in path:
        return None
    return JobFile(kind, path, _whole(event, "epoch"), _whole(event, "step"), _whole(event, "prompt_index"))


def _numbers(event: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    found = {key: _whole(event, key) for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def _whole(event: Mapping[str, Any], key: str) -> int | None:
    value = event.get(key)
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    return value if type(value) is int and 0 <= value < _LARGEST else None


def _real(event: Mapping[str, Any], key: str) -> float | None:
    value = event.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e300 < value < 1e300:
        return None
    return float(value)


def _text(event: Mapping[str, Any], key: str) -> str:
    value = event.get(key)
    if not isinstance(value, str):
        return ""
    return value.encode("utf-8", "replace").decode()[:_MAX_TEXT]
