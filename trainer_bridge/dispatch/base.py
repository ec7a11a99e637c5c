"""What a way to run a trainer must do.

A trainer is given one folder, `jobs/<id>/`, and tells what it does in `events.jsonl` there. The supervisor reads
that file itself; all else that it wants of a trainer goes through these four calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, NamedTuple

from ..platform import Process

LOG = "trainer.log"
CONTROL = "control.json"
EVENTS = "events.jsonl"


class Ending(NamedTuple):
    """Why a trainer ended without a word.

    Attributes:
        state: `failed`, or `interrupted` when nothing speaks against going on as it was.
        what, way_out: sentences.
        kind: short key of the cause.
    """

    state: str
    what: str
    way_out: str
    kind: str


class Dispatch(ABC):
    """One way to run a trainer."""

    name: ClassVar[str]

    @abstractmethod
    def start(self, folder: Path) -> Process:
        """Start the trainer of the job in `folder`, or let it go on from its last state. It outlives the caller.

        Raises:
            AtelierError: it cannot be started.
        """

    @abstractmethod
    def alive(self, process: Process) -> bool:
        """Say whether that trainer runs."""

    @abstractmethod
    def command(self, folder: Path, command: str, serial: int) -> None:
        """Ask the trainer for `stop` or `save`. It is done between two steps; a repeated `serial` is one wish.

        Raises:
            OSError: the wish cannot be written.
        """

    @abstractmethod
    def ending(self, folder: Path, log_offset: int) -> Ending:
        """Say why the trainer ended, when it is dead and its events do not tell.

        Args:
            log_offset: bytes of the log that earlier starts wrote.
        """
