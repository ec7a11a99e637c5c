"""What people see on the terminal: lines, tables, and the progress of a run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import TextIO

from . import job as states
from .sentence import duration, gigabytes
from .store_rows import Job

#: Between two plain lines of progress, in seconds.
_LINE_SECONDS = 10.0
_BAR = 10
_ENDED = {states.STOPPED: "was stopped", states.FAILED: "failed", states.INTERRUPTED: "was interrupted"}
_PHASES = {
    "preparing": "Preparing",
    "loading": "Loading the base",
    "caching": "Reading pictures into the cache",
    "training": "Training",
    "sampling": "Drawing samples",
    "saving": "Saving",
    "checking": "Checking the saved LoRA",
}


class Console:
    """Lines for people on a stream.

    Args:
        stream: where they go; standard error while standard output is for JSON.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._open = 0
        self.is_terminal = stream.isatty()

    def say(self, text: str = "") -> None:
        """Print one line."""
        self._end_passing()
        print(text, file=self._stream, flush=True)

    def passing(self, text: str) -> None:
        """Show a line that the next one takes the place of; nothing where there is no terminal."""
        if not self.is_terminal:
            return
        width = shutil.get_terminal_size().columns - 1
        shown = text[:width]
        print("\r" + shown.ljust(min(self._open, width)), end="", file=self._stream, flush=True)
        self._open = len(shown)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows under a head; the last column is as long as it is."""
        if not rows:
            return
        columns = range(len(head) - 1)
        widths = [max(len(head[index]), *(len(row[index]) for row in rows)) for index in columns]
        for row in (head, ["-" * width for width in widths] + ["-" * len(head[-1])], *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths)]
            self.say("  ".join([*cells, row[-1]]).rstrip())

    def _end_passing(self) -> None:
        if self._open:
            print("\r" + " " * self._open + "\r", end="", file=self._stream)
            self._open = 0


class Steps:
    """Shows what is being done before a run: passing lines on a terminal, one line a piece elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._console.is_terminal:
            self._console.passing(f"{what} ... {done} of {total}" if total else f"{what} ...")
        elif what != self._what:
            self._console.say(f"{what} ...")
        self._what = what


class RunProgress:
    """Shows a run while it goes on: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._head: tuple[str, str] = ("", "")
        self._epoch = 0
        self._told = float("-inf")

    def __call__(self, run: Job) -> None:
        """Show the run as it is now."""
        if not run.active:
            return
        head = (run.state, run.phase)
        if self._console.is_terminal:
            self._console.passing(bar(run))
        elif head != self._head or self._is_due(run):
            self._console.say(line(run))
            self._told = time.monotonic()
            self._epoch = run.epoch
        self._head = head

    def _is_due(self, run: Job) -> bool:
        elapsed = time.monotonic() - self._told
        return elapsed >= _LINE_SECONDS or (run.epoch != self._epoch and elapsed >= 1.0)


def line(run: Job) -> str:
    """Return how far a run is, in one line."""
    if run.state == states.QUEUED:
        return "Waiting for its turn"
    head = "Stopping" if run.state == states.STOPPING else _PHASES.get(run.phase, run.phase) or "Starting"
    if run.phase != "training" or not run.total:
        return f"{head}, {run.phase_done} of {run.phase_total}" if run.phase_total else head
    parts = [f"{head}, step {run.step} of {run.total}"]
    if run.epochs:
        parts.append(f"epoch {run.epoch} of {run.epochs}")
    if run.loss is not None:
        parts.append(f"loss {run.loss:.4f}")
    if run.seconds_per_step is not None:
        parts.append(f"{run.seconds_per_step:.2f} s a step")
    if run.eta is not None and run.state == states.RUNNING:
        parts.append(f"about {duration(run.eta)} to go")
    return ", ".join(parts)


def bar(run: Job) -> str:
    """Return how far a run is, as a bar that leaves room for loss and time in 80 columns."""
    if run.phase != "training" or not run.total or run.state != states.RUNNING:
        return line(run)
    filled = min(_BAR, _BAR * run.step // run.total)
    parts = [f"[{'#' * filled}{'.' * (_BAR - filled)}] {100 * run.step // run.total:3d}% {run.step}/{run.total}"]
    if run.loss is not None:
        parts.append(f"loss {run.loss:.4f}")
    if run.seconds_per_step is not None:
        parts.append(f"{run.seconds_per_step:.2f} s/step")
    if run.eta is not None:
        parts.append(f"ETA {duration(run.eta)}")
    return "  ".join(parts)


def ending(run: Job) -> list[str]:
    """Return what is said of a run that has ended."""
    if run.state == states.DONE:
        took = f" in {duration(run.seconds)}" if run.seconds is not None else ""
        memory = f", {gigabytes(run.peak_memory)} GB at the peak" if run.peak_memory else ""
        call = f"  In a prompt: <lora:{_stem(run)}:1> {run.trigger_word}".rstrip()
        return [f"Done: {run.step} steps{took}{memory}.", f"  {run.result_path}", call]
    reached = f" at step {run.step} of {run.total}" if run.total else ""
    lines = [f"The run {_ENDED.get(run.state, run.state)}{reached}."]
    if run.what and run.state != states.STOPPED:
        lines.append(f"{run.what} {run.way_out}".rstrip())
    if run.resumable:
        lines.append(f"`python -m trainer_bridge resume {run.id}` goes on with it.")
    return lines


def _stem(run: Job) -> str:
    name = (run.result_path or run.output_name).replace("\\", "/").rpartition("/")[2]
    return name.removesuffix(".safetensors")
