"""Runs the bundled trainer on this machine, as a process of its own session that outlives the caller."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from .. import environment, platform
from ..errors import RunFailed
from ..paths import why
from ..platform import Process
from .base import CONTROL, LOG, Dispatch, Ending
from .diagnosis import diagnose


class Local(Dispatch):
    """The default: `python -m trainer_bridge.engine train FOLDER` in the trainer's environment."""

    name = "local"

    def start(self, folder: Path) -> Process:
        python = environment.trainer_python()
        argv = [str(python), "-m", "trainer_bridge.engine", "train", str(folder)]
        try:
            process = platform.start_detached(
                argv, cwd=environment.repository(), env=environment.trainer_environ(), log=folder / LOG
            )
        except OSError as error:
            raise RunFailed(
                f"The trainer cannot be started: {why(error)} ({error.filename or python}).",
                "`python install.py --check` says whether the environment is sound.",
            ) from error
        # Not noting it risks a change of the environment under the run; losing sight of the run would be worse.
        with contextlib.suppress(OSError):
            environment.hold(process)
        return process

    def alive(self, process: Process) -> bool:
        return platform.alive(process)

    def command(self, folder: Path, command: str, serial: int) -> None:
        text = json.dumps({"command": command, "serial": serial})
        platform.write_atomic(folder / CONTROL, text.encode())

    def ending(self, folder: Path, log_offset: int) -> Ending:
        return diagnose(folder / LOG, log_offset)
