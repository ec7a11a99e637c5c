"""`python -m trainer_bridge.dataset import REQUEST.json`, run in the trainer's environment.

REQUEST.json holds `{"images": folder, "root": data root, "trigger": word}`. Standard output is one JSON object:
the import's result, or `{"error": {"what", "way_out"}}` with exit code 2. Standard error has a line
`{"progress": [done, total]}` now and then. Both are plain ASCII, so that no console's code page matters.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import limits
from ..errors import EXIT_DONE, UserError
from ..spec import check_trigger
from .files import read_bounded

SECONDS_BETWEEN_LINES = 0.2


def main(arguments: Sequence[str]) -> int:
    """Run the command and return the exit code."""
    try:
        if len(arguments) != 2 or arguments[0] != "import":
            raise UserError("The command is not known.", "Use: python -m trainer_bridge.dataset import REQUEST.json")
        answer = _import(_request(Path(arguments[1])))
        code = EXIT_DONE
    except UserError as error:
        answer = {"error": {"what": error.what, "way_out": error.way_out}}
        code = error.exit_code
    print(json.dumps(answer), flush=True)
    return code


def _import(request: dict[str, Any]) -> dict[str, Any]:
    from .importer import import_folder

    check_trigger(request.get("trigger", ""))
    return import_folder(_path(request, "images"), _path(request, "root"), Progress()).to_json()


class Progress:
    """Writes progress to standard error, a few lines a second and the last one."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            print(json.dumps({"progress": [done, total]}), file=sys.stderr, flush=True)


def _request(path: Path) -> dict[str, Any]:
    try:
        data = read_bounded(path, limits.MAX_JSON_BYTES)
        request = json.loads(data) if len(data) <= limits.MAX_JSON_BYTES else None
    except (OSError, ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise UserError(f"There is no request in {path.name!r}.", "It must be a JSON object with images and root.")
    return request


def _path(request: dict[str, Any], key: str) -> Path:
    value = request.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise UserError(f"The request does not say which folder {key} is.", "Give its path.")
    return Path(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
