"""What a command answers with, and what several commands need: the data root opened, paths checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import job as states
from . import limits, paths
from .dispatch import Local
from .errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, UserError
from .paths import Layout
from .sentence import gigabytes
from .store import Store
from .store_rows import Job
from .supervisor import Supervisor


@dataclass(frozen=True)
class Answer:
    """What a command answers with: the JSON for `--json`, and the exit code."""

    data: Any
    exit_code: int = EXIT_DONE


@dataclass(frozen=True)
class Desk:
    """An opened data root."""

    layout: Layout
    store: Store
    supervisor: Supervisor


@contextmanager
def opened(data: Path | None) -> Iterator[Desk]:
    """Open the data root, and make it if it is missing.

    Raises:
        UserError: it cannot be written, or a newer program made it.
    """
    layout = Layout(paths.data_root(data))
    layout.make()
    store = Store(layout.db)
    supervisor = Supervisor(store, layout, Local())
    try:
        yield Desk(layout, store, supervisor)
    finally:
        supervisor.close()
        store.close()


def exit_code(run: Job) -> int:
    """Return the exit code for a run that has ended, or that was left to itself."""
    if run.state == states.DONE:
        return EXIT_DONE
    return EXIT_FAILED if run.state in (states.FAILED, states.INTERRUPTED) else EXIT_STOPPED


def absolute(path: Path) -> Path:
    """Return a path that was given, absolute.

    Raises:
        UserError: its name cannot be written as text, so that no job file could hold it.
    """
    found = Path(os.path.abspath(path.expanduser()))
    try:
        str(found).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"The path {ascii(str(path))} has bytes that are no text.", "Rename the file or folder."
        ) from None
    return found


def require_space(*folders: Path) -> None:
    """Make sure that there is a minimum of free space where these folders are.

    Raises:
        UserError: there is not.
    """
    for folder in folders:
        free = shutil.disk_usage(existing(folder)).free
        if free < limits.MIN_FREE_DISK_BYTES:
            raise UserError(
                f"The disk of {folder} has {gigabytes(free)} GB free; a run needs at least "
                f"{limits.MIN_FREE_DISK_BYTES >> 20} MB.",
                "Free some space, or choose another folder.",
            )


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
