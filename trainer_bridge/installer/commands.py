"""The commands of `install.py`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import environment, platform
from ..errors import EXIT_BUG, EXIT_DONE, AtelierError, UserError
from . import host_start, recipe, report
from .manage import ensure, ensure_tests
from .progress import Progress, to_errors
from .suite import run_suite

_DESCRIPTION = "Sets Atelier up. Without a flag, as a WebUI calls it: sees at once whether anything is to do."
_INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    if not arguments:
        return host_start.host_start()
    if list(arguments) == [host_start.BACKGROUND]:
        return host_start.background()
    platform.prepare_console()
    options, rest = _parse(arguments)
    try:
        return _run(options, rest)
    except AtelierError as error:
        to_errors(f"\n{error}")
        return error.exit_code
    except KeyboardInterrupt:
        to_errors("\nInterrupted. What was begun is cleared away at the next start.")
        return _INTERRUPTED


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="install.py", description=_DESCRIPTION, allow_abbrev=False)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--setup", action="store_true", help="make the trainer's environment, if it is not there yet")
    mode.add_argument("--demo", action="store_true", help="the same, then train two LoRAs and prove that they learned")
    mode.add_argument("--test", action="store_true", help="the same, then run every check; more arguments are pytest's")
    mode.add_argument("--check", action="store_true", help="say what is installed and whether it is sound")
    mode.add_argument("--ui", action="store_true", help="open the page")
    parser.add_argument("--json", action="store_true", help="with --check: one JSON object")
    parser.add_argument("--full", action="store_true", help="a torch of its own, even where one could be stood on")
    parser.add_argument("--cpu", action="store_true", help="a torch of its own for the processor alone")
    options, rest = parser.parse_known_args(arguments)
    if rest and not (options.demo or options.test):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    return options, rest


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    if options.ui:
        raise UserError("The page comes with the tab, which this version does not have yet.", "Use the command line.")
    if options.check:
        answer = report.examine()
        print(json.dumps(answer, indent=2) if options.json else report.as_text(answer))
        return EXIT_DONE if answer["sound"] else EXIT_BUG
    python, trainer = _trainer(options)
    if options.demo:
        return _demo(python, rest)
    if options.test:
        tools = ensure_tests(Progress(show=to_errors), trainer) if trainer is not None else None
        return run_suite(tools.python if tools is not None else python, rest)
    print(f"The trainer is ready: {python}")
    return EXIT_DONE


def _trainer(options: argparse.Namespace) -> tuple[Path, environment.Environment | None]:
    """The Python that trains, set up if need be, and its environment unless the user named a Python."""
    if os.environ.get(environment.OVERRIDE):
        return environment.trainer_python(), None
    recipes = [recipe.for_processor()] if options.cpu else None
    kind = "full" if options.full or options.cpu else None
    found = ensure(Progress(show=to_errors), recipes, kind)
    return found.python, found


def _demo(python: Path, rest: Sequence[str]) -> int:
    argv = [str(python), "-m", "trainer_bridge.pocket.demo", *rest]
    child = subprocess.Popen(argv, env=environment.trainer_environ())
    started = platform.identify(child.pid)
    if started is not None:
        environment.hold(started)
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()  # it was interrupted too, and ends its own work first
        return _INTERRUPTED


def run() -> None:
    """Entry of `install.py`."""
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # so that what was started is ended too
    sys.exit(main(sys.argv[1:]))
