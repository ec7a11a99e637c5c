"""`resume` and `stop`, and how a command stays with a run until it has ended."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from . import environment, paths, run_view
from . import job as states
from .checkpoint import require_base
from .cli_answer import Answer, Desk, exit_code, opened, require_space
from .console import Console, RunProgress, ending
from .errors import EXIT_DONE, EXIT_STOPPED, RunFailed, UserError
from .spec import read_spec
from .store_rows import Job


def resume(options: argparse.Namespace, console: Console) -> Answer:
    """Go on with a run that ended early, stay with one that runs, show the result of one that is done."""
    with opened(options.data) as desk:
        desk.supervisor.adopt()
        run = desk.store.find(options.job)
        if run.state == states.DONE:
            data = run_view.whole(run, desk.store, desk.layout)
            _say_ending(console, run, data)
            return Answer(data)
        if not run.active:
            if run.resumable:
                _check_still_possible(run, desk)
            run = desk.supervisor.resume(run.id)
            console.say(f"Going on with the run {run.id} ({run.output_name}).")
        else:
            console.say(f"The run {run.id} ({run.output_name}) is {run.state}.")
        return follow(desk, run, console)


def stop(options: argparse.Namespace, console: Console) -> Answer:
    """End a run, keep what it has, and wait until that is done."""
    with opened(options.data) as desk:
        desk.supervisor.adopt()
        run = desk.store.find(options.job)
        if not run.active:
            console.say(f"The run {run.id} ({run.output_name}) has ended already: it is {run.state}.")
            return Answer(run_view.whole(run, desk.store, desk.layout))
        run = desk.supervisor.stop(run.id)
        answer = follow(desk, run, console, start=False)
        stopped = answer.exit_code in (EXIT_STOPPED, EXIT_DONE)
        return Answer(answer.data, EXIT_DONE if stopped else answer.exit_code)


def follow(desk: Desk, run: Job, console: Console, *, start: bool = True) -> Answer:
    """Stay with a run until it has ended, and answer with it.

    Ctrl+C asks it to stop and keep what it has; a second one leaves it to itself.

    Args:
        start: whether runs that wait may be started.

    Raises:
        RunFailed: the store cannot be kept up to date any more; the trainer goes on by itself.
    """
    with _interrupts() as pressed:
        watch = _Watch(desk, run.id, console, pressed)
        try:
            run = desk.supervisor.run(run.id, watch.show, leave=watch.leave, start=start)
        except UserError as error:
            way_out = f"What trains goes on by itself; `python -m trainer_bridge resume {run.id}` finds it again."
            raise RunFailed(error.what, f"{error.way_out} {way_out}".strip()) from error
    data = run_view.whole(run, desk.store, desk.layout)
    if run.active:
        console.say(f"The trainer goes on by itself. `python -m trainer_bridge resume {run.id}` finds it again.")
    else:
        _say_ending(console, run, data)
    return Answer(data, exit_code(run))


class _Watch:
    """What a command does each time the supervisor has looked at the run."""

    def __init__(self, desk: Desk, id_: str, console: Console, pressed: Callable[[], int]) -> None:
        self._desk, self._id, self._console, self._pressed = desk, id_, console, pressed
        self._progress = RunProgress(console)
        notes = desk.store.notes(id_)
        self._noted = notes[-1].number if notes else 0
        self._asked = False
        self._waits = False

    def show(self, run: Job) -> None:
        for note in self._desk.store.notes(self._id, self._noted):
            self._noted = note.number
            self._console.say(f"Note: {note.picture + ': ' if note.picture else ''}{note.text}")
        if run.state == states.QUEUED and not self._waits:
            self._waits = True
            for other in self._desk.store.jobs(states.RUNNING, states.STOPPING)[:1]:
                self._console.say(f"Waiting: the run {other.id} ({other.output_name}) trains at the moment.")
        self._progress(run)

    def leave(self) -> bool:
        """Act on Ctrl+C; the second one ends the watching, never the run."""
        if self._pressed() and not self._asked:
            self._asked = True
            run = self._desk.supervisor.stop(self._id)
            if run.active:
                self._console.say("Stopping: the trainer saves what it has. Ctrl+C again leaves it to itself.")
        return self._pressed() > 1


@contextmanager
def _interrupts() -> Iterator[Callable[[], int]]:
    """Count Ctrl+C instead of breaking off, which might happen in the middle of a start."""
    count = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1

    before: Any = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: count
    finally:
        signal.signal(signal.SIGINT, before)


def _check_still_possible(run: Job, desk: Desk) -> None:
    """Make sure of what can be made sure of before the run waits for its turn.

    Raises:
        UserError: the base or the folder is not what it was.
    """
    environment.trainer_python()
    spec = read_spec(desk.layout.job(run.id))
    base = require_base(spec.base.path)
    if (base.size, base.mtime_ns) != (spec.base.size, spec.base.mtime_ns):
        raise UserError(
            f"The base model {base.path.name} has changed since this run was made.",
            "Start a new run, or put the old file back.",
        )
    out_dir = Path(spec.out_dir)
    paths.require_writable(out_dir, "folder", "Give the right to write in it, or start a new run with another --out.")
    require_space(desk.layout.root, out_dir)


def _say_ending(console: Console, run: Job, data: Mapping[str, Any]) -> None:
    for text in ending(run):
        console.say(text)
    if run.state != states.DONE and data["epoch_files"]:
        console.say(f"Its latest LoRA so far: {data['epoch_files'][-1]['path']}")
