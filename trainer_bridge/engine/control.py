"""What a run is asked to do while it runs: `control.json` in its folder, or SIGTERM, which means stop.

A command is told by its serial number and the file's time, and each is obeyed once: what stopped the last
start does not stop the next one. Looking costs one `stat`.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import FrameType

from .. import platform

_MAX_BYTES = 4096


class Control:
    """The commands for one run.

    Args:
        folder: the job's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._obeyed_file = folder / "control.json", folder / "control.obeyed"
        self._obeyed = self._read(self._obeyed_file)
        self._stat: tuple[int, int] | None = None
        self._terminated = False

    def listen(self) -> None:
        """Take SIGTERM for `stop` from now on."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def poll(self) -> str | None:
        """Return a command that was not obeyed yet, once: `stop`, `save` or None."""
        if self._terminated:
            return "stop"
        try:
            stat = os.stat(self._file)
        except OSError:
            return None
        seen = (stat.st_mtime_ns, stat.st_size)
        if seen == self._stat:
            return None
        self._stat = seen
        text = self._read(self._file)
        try:
            data = json.loads(text)
            command, identity = data["command"], f"{data['serial']} {stat.st_mtime_ns}"
        except (ValueError, KeyError, TypeError):
            return None
        if command not in ("stop", "save") or identity == self._obeyed:
            return None
        platform.write_atomic(self._obeyed_file, identity.encode())
        self._obeyed = identity
        return str(command)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

    @staticmethod
    def _read(path: Path) -> str:
        try:
            with path.open("rb") as file:
                return file.read(_MAX_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""
