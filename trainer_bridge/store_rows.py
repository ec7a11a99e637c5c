"""What the store hands out: frozen pictures of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from . import job


@dataclass(frozen=True)
class NewJob:
    """What is known of a run at its start, before its pictures were read.

    Attributes:
        name: the LoRA's name as the user gave it.
        out_dir: absolute folder for the finished LoRA.
        owner: pid and start time of the process that prepares it.
    """

    name: str
    trigger: str
    type: str
    base: str
    family: str
    out_dir: str
    owner: tuple[int, float]


@dataclass(frozen=True)
class Job:
    """One run as the store knows it.

    Attributes:
        id: also the name of its folder.
        output_name: stem of the file that it becomes; differs from `name` from the second version on.
        state: see :mod:`trainer_bridge.job`.
        created, updated, queued, ended: unix seconds; the last two None until it happens.
        owner_pid, owner_start: the process that prepares it.
        pid, pid_start: its trainer; None before one was started.
        spawned: when that was, unix seconds.
        log_offset: bytes of the log that earlier attempts wrote.
        event_offset: bytes of `events.jsonl` that were read into the store.
        eta: seconds to go, as the trainer said last.
        saved_step: the step that it would go on from.
        what, way_out, kind: why it ended, unless it is done.
        seconds: how long the training took.
        peak_memory: bytes.
    """

    id: str
    name: str
    output_name: str
    trigger_word: str
    type: str
    base: str
    family: str
    out_dir: str
    dataset: str | None
    sentence: str
    state: str
    created: float
    updated: float
    queued: float | None
    ended: float | None
    owner_pid: int | None
    owner_start: float | None
    attempt: int
    pid: int | None
    pid_start: float | None
    spawned: float | None
    log_offset: int
    event_offset: int
    control_serial: int
    phase: str
    phase_done: int | None
    phase_total: int | None
    step: int
    total: int
    epoch: int
    epochs: int
    loss: float | None
    seconds_per_step: float | None
    eta: float | None
    memory: int | None
    saved_step: int
    what: str
    way_out: str
    kind: str
    result_path: str | None
    sha256: str | None
    seconds: float | None
    peak_memory: int | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Job:
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    @property
    def active(self) -> bool:
        return self.state in job.ACTIVE

    @property
    def resumable(self) -> bool:
        """Whether it can be gone on with: it ended early, and its pictures had been read."""
        return self.state in job.RESUMABLE and self.dataset is not None


@dataclass(frozen=True)
class JobFile:
    """A file that a run made: a `sample` picture or the LoRA of an `epoch`; `path` is in its folder."""

    kind: str
    path: str
    epoch: int | None
    step: int | None
    prompt_index: int | None


@dataclass(frozen=True)
class Note:
    """Something that a run had to say; `picture` is set if it was left out."""

    number: int
    picture: str
    text: str
