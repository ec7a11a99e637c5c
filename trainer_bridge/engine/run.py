"""The edge of a training process: says at once that it started, and ends every run with a word and an exit
code.

Standard library alone until the first event is written: importing torch takes seconds.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from .. import environment
from ..errors import EXIT_FAILED, RunStopped
from ..events import EventWriter, read_events
from ..spec import read_spec
from .control import Control
from .failures import failure_of
from .progress import Progress

_STATE = re.compile(r"(\d{8})-[0-9a-f]{64}\.safetensors")


def run(folder: Path) -> int:
    """Train the job in `folder`, or go on with it; return the exit code."""
    folder = folder.absolute()
    try:
        events = EventWriter(folder / "events.jsonl")
    except OSError as error:
        print(f"The job's folder cannot be used: {error}", file=sys.stderr)
        return EXIT_FAILED
    progress = Progress(events, 0)
    try:
        spec = read_spec(folder)
        progress.total = int(spec.settings["max_train_steps"])
        progress.step = newest_step(folder / "state")
        events.write(
            "started",
            pid=os.getpid(),
            attempt=_attempts(folder) + 1,
            step=progress.step,
            total=progress.total,
        )
        control = Control(folder)
        control.listen()
        progress.phase("preparing")
        with environment.lease():
            from .loop import train

            return train(folder, spec, progress, control)
    except RunStopped as stopped:
        events.write("stopped", step=progress.step, path=None)
        return stopped.exit_code
    except Exception as error:  # the edge of the process: told as an event, traceback in the log
        return _fail(error, folder, progress)
    finally:
        events.close()


def newest_step(states: Path) -> int:
    """Return the step of the newest resume state, whole or not; 0 without one."""
    try:
        names = os.listdir(states)
    except OSError:
        return 0
    return max((int(match[1]) for name in names if (match := _STATE.fullmatch(name))), default=0)


def _fail(error: Exception, folder: Path, progress: Progress) -> int:
    failure = failure_of(error, str(folder / "trainer.log"))
    print(f"{failure.what} {failure.way_out}", file=sys.stderr)
    try:
        progress.events.write(
            "failed", what=failure.what, way_out=failure.way_out, kind=failure.kind, step=progress.step
        )
    except OSError as second:
        print(f"The failure could not be noted: {second}", file=sys.stderr)
    return failure.exit_code


def _attempts(folder: Path) -> int:
    return sum(event["type"] == "started" for event, _ in read_events(folder / "events.jsonl"))
