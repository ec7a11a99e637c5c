"""The command line: reads arguments, calls one function, answers with lines or one JSON object, and an exit code.

Exit codes: 0 done, 2 the input is wrong, 3 stopped, 4 failed; 1 is a fault of the program.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import cli_generate, cli_runs, cli_train, cli_view, platform
from .cli_answer import Answer
from .console import Console
from .errors import EXIT_BUG, EXIT_STOPPED, AtelierError, UserError
from .spec import TYPES

Command = Callable[[argparse.Namespace, Console], Answer]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    platform.prepare_console()
    arguments = sys.argv[1:] if arguments is None else arguments
    # Known before the arguments are read, so that a mistake in them is answered in JSON too.
    as_json = "--json" in arguments
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        answer = _answer(arguments, console)
        code, data = answer.exit_code, answer.data
    except AtelierError as error:
        code, data = error.exit_code, {"error": str(error), "what": error.what, "way_out": error.way_out}
        Console(sys.stderr).say(str(error))
    except KeyboardInterrupt:
        code, data = EXIT_STOPPED, {"error": "Stopped."}
        Console(sys.stderr).say("Stopped.")
    except BrokenPipeError:
        # Whoever read the lines has enough of them; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BUG
    except Exception as error:  # noqa: BLE001 - the edge of the process
        traceback.print_exc()
        told = f"A fault in Atelier ({type(error).__name__}): please report the lines above."
        code, data = EXIT_BUG, {"error": told, "what": told, "way_out": ""}
        print(told, file=sys.stderr)
    if as_json:
        print(json.dumps(data), flush=True)
    return code


def _answer(arguments: Sequence[str], console: Console) -> Answer:
    options = _parser().parse_args(arguments)
    command: Command = options.run
    return command(options, console)


class _Parser(argparse.ArgumentParser):
    """Tells mistakes as the other user errors are told."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}.", f"`{self.prog} --help` shows what it takes.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m trainer_bridge", description="Trains LoRAs.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_train(_command(commands, "train", "train a LoRA from a folder of pictures", cli_train.train))
    for name, help_, function in (
        ("resume", "go on with a run, or watch it", cli_runs.resume),
        ("stop", "end a run and keep what it has", cli_runs.stop),
        ("show", "everything about a run", cli_view.show),
    ):
        command = _command(commands, name, help_, function)
        command.add_argument("job", metavar="JOB", help="id of a run, the start of one, or the LoRA's name")
    _command(commands, "list", "all runs", cli_view.list_)
    command = _command(commands, "inspect", "say what a model file is", cli_view.inspect)
    command.add_argument("file", type=Path, metavar="FILE")
    _command(commands, "settings", "all settings, for --set", cli_view.settings)
    _add_generate(_command(commands, "generate", "draw a picture", cli_generate.generate))
    return parser


def _command(commands: Any, name: str, help_: str, function: Command) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help_, description=f"{help_[:1].upper()}{help_[1:]}.", allow_abbrev=False
    )
    command.add_argument(
        "--data", type=Path, metavar="DIR", help="data folder (default: ATELIER_DATA, else the user's)"
    )
    command.add_argument(
        "--json", action="store_true", help="one JSON object on standard output, lines on standard error"
    )
    command.set_defaults(run=function)
    return command


def _add_train(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--base", type=Path, required=True, metavar="FILE", help="checkpoint to train on")
    add(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of pictures, captions in .txt files beside them",
    )
    add("--name", required=True, help="what the LoRA is called")
    add("--trigger", metavar="WORD", help="word that calls it (default: made from the name; '' for none)")
    add("--type", default=TYPES[0], help=f"what to teach: {', '.join(TYPES)} (default: {TYPES[0]})")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the LoRA (default: the WebUI's, else loras/ in the data folder)",
    )
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting; `settings` lists them")
    add("--dry-run", action="store_true", help="print the decision and train nothing")


def _add_generate(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--base", type=Path, required=True, metavar="FILE", help="checkpoint to draw with")
    add(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:WEIGHT]",
        help="LoRA and its weight (default 1); repeatable",
    )
    add("--prompt", required=True, metavar="TEXT")
    add("--negative", default="", metavar="TEXT", help="what must not be drawn")
    add("--seed", default="42", metavar="N", help="default: 42")
    add("--steps", metavar="N", help="sampler steps (default: the base's)")
    add("--cfg", metavar="X", help="how strictly the prompt is followed (default: the base's)")
    add("--width", metavar="PX", help="default: the base's native size")
    add("--height", metavar="PX", help="default: the base's native size")
    add("--out", type=Path, required=True, metavar="PNG", help="file to write; an existing one is left as it is")
