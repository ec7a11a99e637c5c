"""A dispatch in memory: trainers are entries of a dictionary, and the test plays their part."""

from __future__ import annotations

import itertools
from pathlib import Path

from trainer_bridge import job
from trainer_bridge.dispatch import Dispatch, Ending
from trainer_bridge.dispatch.base import CONTROL, EVENTS
from trainer_bridge.errors import RunFailed
from trainer_bridge.events import EventWriter
from trainer_bridge.platform import Process


class InMemory(Dispatch):
    """Starts nothing.

    Attributes:
        running: folder of each living trainer, by its process.
        refuses: whether a start fails.
    """

    name = "in memory"

    def __init__(self) -> None:
        self.running: dict[Process, Path] = {}
        self.refuses = False
        self._numbers = itertools.count(1)

    def start(self, folder: Path) -> Process:
        if self.refuses:
            raise RunFailed("It does not start.", "Mend it.")
        process = Process(2**22 + next(self._numbers), 1.0)
        self.running[process] = folder
        self.tell(folder, "started", pid=process.pid, attempt=1, step=0, total=10)
        return process

    def alive(self, process: Process) -> bool:
        return process in self.running

    def command(self, folder: Path, command: str, serial: int) -> None:
        (folder / CONTROL).write_text(f"{command} {serial}")

    def ending(self, folder: Path, log_offset: int) -> Ending:
        return Ending(job.INTERRUPTED, "It died.", "Resume it.", "killed")

    def tell(self, folder: Path, type_: str, **fields: object) -> None:
        """Write an event as the trainer of `folder` would."""
        folder.mkdir(parents=True, exist_ok=True)
        writer = EventWriter(folder / EVENTS)
        writer.write(type_, **fields)
        writer.close()

    def end(self) -> None:
        """Let all trainers die."""
        self.running.clear()
