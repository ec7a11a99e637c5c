"""What a WebUI runs at each of its starts: over in a moment, whatever the state of things, and never an error.

Long work goes into a background process that tells how far it is in `.venv/setup.json`, which the tab reads.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from .. import environment, platform
from ..errors import EXIT_DONE, EXIT_FAILED, AtelierError, RunFailed
from . import progress
from .manage import ensure, in_order, make_home
from .recipe import describe, wanted

BACKGROUND = "--background"


def host_start() -> int:
    """Start the setup if it is wanted and small, and return at once. Always exit code 0: a host must come up."""
    try:
        print(_decide(), end="")
    except Exception as error:  # the edge of the process: the WebUI goes on, with the reason in its log
        print(f"Atelier could not look after its environment: {error}", file=sys.stderr)
        if not isinstance(error, AtelierError):
            traceback.print_exc()
    return EXIT_DONE


def background() -> int:
    """The setup that `host_start` began: an overlay on the host's torch, never anything large unasked."""
    platform.prepare_console()
    told = progress.Progress(show=lambda line: None)
    try:
        ensure(told, [recipe for recipe in wanted() if recipe.kind == "overlay"])
    except AtelierError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Exception:  # the edge of the process: nobody sees it, so the tab is told
        traceback.print_exc()
        log = environment.home() / progress.BACKGROUND_LOG
        told.failed(RunFailed("Setting up the trainer met a fault in this program.", f"Its traceback is in {log}."))
        return EXIT_FAILED
    return EXIT_DONE


def _decide() -> str:
    if os.environ.get(environment.OVERRIDE) or in_order() is not None or _under_way():
        return ""
    make_home()
    recipe = wanted()[0]
    if recipe.kind != "overlay":
        # Hundreds of megabytes are not fetched unasked.
        progress.ask(describe(recipe))
        return "Atelier: the trainer is not set up yet; its tab, or `python install.py --setup`, does it.\n"
    argv = [sys.executable, str(environment.repository() / "install.py"), BACKGROUND]
    log = environment.home() / progress.BACKGROUND_LOG
    # Not the host's folder: its modules must not be found before ours.
    platform.start_detached(argv, cwd=Path(environment.home()), env=os.environ, log=log)
    return "Atelier: the trainer is being set up in the background; its tab shows how far it is.\n"


def _under_way() -> bool:
    return progress.read().get("phase") in ("start", "make", "install", "check")
