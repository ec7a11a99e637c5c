"""How far the setup is: `.venv/setup.json` for the tab, lines for a terminal, `.venv/setup.log` for the whole story."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import environment, platform
from ..errors import AtelierError

VERSION = 1
FILE = "setup.json"
LOG = "setup.log"
BACKGROUND_LOG = "background.log"

_EVERY_SECONDS = 0.5
_SIZE = re.compile(r"Download(?:ing|ed) (\S+).*?\(([\d.]+) ?([kKMG])i?B\)")
_DONE = re.compile(r"^ *Downloaded (\S+)")
_UNIT = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}


class Progress:
    """Tells a setup's phases. One process at a time writes, the one that holds the setup's lock.

    Args:
        show: called with each line for people.
    """

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._show = show if show is not None else lambda line: print(line, flush=True)
        self._state: dict[str, Any] = {
            "version": VERSION,
            "phase": "start",
            "message": "",
            "packages_done": 0,
            "packages_total": 0,
            "bytes_done": 0,
            "bytes_total": 0,
            "process": list(platform.myself()),
            "started": time.time(),
            "failure": None,
        }
        self._written = 0.0
        self._sizes: dict[str, float] = {}
        self._count: Callable[[], int] = lambda: 0

    def phase(self, name: str, message: str, *, total: int = 0, count: Callable[[], int] = lambda: 0) -> None:
        """Begin a phase: "wait", "make", "install", "check", "done".

        Args:
            total: packages that the phase installs.
            count: says how many of them are there by now.
        """
        self._count = count
        self._sizes = {}
        self._state.update(phase=name, message=message, packages_done=0, packages_total=total)
        self._state.update(bytes_done=0, bytes_total=0)
        self._show(message)
        self.note(f"-- {message}")
        self._write()

    def note(self, line: str) -> None:
        """Keep a line of a tool's output; what it says about downloads is counted."""
        with contextlib.suppress(OSError), (environment.home() / LOG).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        size = _SIZE.search(line)
        if size is not None:
            self._sizes.setdefault(size[1], float(size[2]) * _UNIT[size[3]])
            self._state["bytes_total"] = int(sum(self._sizes.values()))
            self._state["message"] = f"Downloading {size[1]} ({size[2]} {size[3]}B)"
            self._show("  " + self._state["message"])
        done = _DONE.match(line)
        if done is not None and done[1] in self._sizes:
            self._state["bytes_done"] += int(self._sizes.get(done[1], 0))
        if time.monotonic() - self._written > _EVERY_SECONDS:
            self._state["packages_done"] = self._count()
            self._write()

    def done(self, message: str) -> None:
        """The environment is in use."""
        self.phase("done", message)

    def failed(self, error: AtelierError) -> None:
        """Nothing was changed; the reason stays readable for whoever looks later."""
        self._state.update(phase="failed", message=str(error), failure={"what": error.what, "way_out": error.way_out})
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        self._state["updated"] = time.time()
        platform.write_atomic(environment.home() / FILE, json.dumps(self._state, indent=1).encode())


def read() -> dict[str, Any]:
    """The last state told, for the tab and `--check`; empty where there is none.

    A state that claims to be under way while its process is dead is given the phase "interrupted".
    """
    path = environment.home() / FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(state, dict):
        return {}
    if state.get("phase") not in ("done", "failed", "ask"):
        process = environment.process_of(state.get("process"))
        if process is None or not platform.alive(process):
            state["phase"] = "interrupted"
    return state


def ask(message: str) -> None:
    """Leave word that the user has to decide: the tab shows it with a button."""
    state = {"version": VERSION, "phase": "ask", "message": message, "process": list(platform.myself())}
    platform.write_atomic(environment.home() / FILE, json.dumps(state, indent=1).encode())


def to_errors(line: str) -> None:
    """Show a line on the error stream, so that standard output stays free for results."""
    print(line, file=sys.stderr, flush=True)


def open_log() -> Path:
    """Begin the log of a new setup; the one before is kept beside it."""
    path = environment.home() / LOG
    if path.exists():
        platform.replace(path, path.with_suffix(".old.log"))
    path.touch()
    return path
