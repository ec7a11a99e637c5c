"""The trainer's command line: `train JOBDIR`, `facts --out FILE`, `generate REQUEST.json`.

It is started by the supervisor, never imported. What it does is told in `events.jsonl`; tracebacks go to
standard error alone, which is the job's log. Exit codes: 0 done, 2 the input is wrong, 3 stopped, 4 failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import EXIT_DONE, EXIT_FAILED, AtelierError, UserError
from .slim import hide_unused


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer_bridge.engine", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train, or go on with, the job in a folder")
    train.add_argument("folder", type=Path)
    facts = commands.add_parser("facts", help="measure what the device can do")
    facts.add_argument("--out", type=Path, required=True)
    generate = commands.add_parser("generate", help="draw pictures")
    generate.add_argument("request", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "train":
        from .run import run

        return run(options.folder)
    try:
        return _facts(options.out) if options.command == "facts" else _generate(options.request)
    except AtelierError as error:
        print(json.dumps({"error": {"what": error.what, "way_out": error.way_out}}), flush=True)
        return error.exit_code
    except Exception as error:  # the edge of the process: the traceback goes to the log
        from .failures import failure_of

        failure = failure_of(error, "the messages above")
        print(json.dumps({"error": {"what": failure.what, "way_out": failure.way_out}}), flush=True)
        return EXIT_FAILED


def _facts(out: Path) -> int:
    from .. import platform
    from .facts import measure

    found = measure()
    platform.write_atomic(out, found.to_json().encode())
    return EXIT_DONE


def _generate(request: Path) -> int:
    try:
        asked = json.loads(request.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The request {request} cannot be read ({error}).", "Make it anew.") from None
    if not isinstance(asked, dict):
        raise UserError(f"The request {request} is none.", "Make it anew.")
    from .sample import generate

    generate(asked)
    return EXIT_DONE


if __name__ == "__main__":
    hide_unused()
    sys.exit(main())
