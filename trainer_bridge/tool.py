"""Short commands in the trainer's environment: they answer with one JSON object and are not detached."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Any

from . import environment
from .dispatch.diagnosis import explain
from .errors import EXIT_INPUT, RunFailed, UserError
from .paths import why

_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_MAX_LINE_BYTES = 64 * 1024
_LAST_LINES = 60
_LOOK_SECONDS = 0.1


def call(
    module: str,
    arguments: Sequence[str],
    *,
    on_line: Callable[[str], None] = lambda line: None,
    goes_on: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Run `python -m module arguments...` with the trainer's Python.

    Args:
        on_line: called with each line that it writes to standard error, from another thread.
        goes_on: called every moment; what it raises ends the command and is raised here.

    Returns:
        The JSON objects that it printed, one a line.

    Raises:
        UserError: it says that the input is wrong, or the environment is missing.
        RunFailed: it failed; why, in a sentence.
    """
    argv = [str(environment.trainer_python()), "-m", module, *arguments]
    last: deque[str] = deque(maxlen=_LAST_LINES)

    def note(line: str) -> None:
        last.append(line)
        on_line(line)

    code, output = _run(argv, note, goes_on)
    answers = _objects(output)
    error = answers[-1].get("error") if answers else None
    if isinstance(error, dict):
        kind = UserError if code == EXIT_INPUT else RunFailed
        raise kind(str(error.get("what", "")), str(error.get("way_out", "")))
    if code != 0:
        ending = explain("\n".join(last), "the lines above")
        raise RunFailed(ending.what, ending.way_out)
    return answers


def _run(argv: list[str], note: Callable[[str], None], goes_on: Callable[[], None]) -> tuple[int, bytes]:
    try:
        process = subprocess.Popen(
            argv,
            cwd=environment.repository(),
            env=environment.trainer_environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise RunFailed(
            f"The trainer's Python {argv[0]} cannot be started: {why(error)}.",
            "`python install.py --check` says whether the environment is sound.",
        ) from error
    output: list[bytes] = []
    assert process.stdout is not None and process.stderr is not None
    readers = [
        threading.Thread(target=_collect, args=(process.stdout, output), daemon=True),
        threading.Thread(target=_read_lines, args=(process.stderr, note), daemon=True),
    ]
    try:
        for reader in readers:
            reader.start()
        while True:
            try:
                code = process.wait(_LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                goes_on()
        for reader in readers:
            reader.join()
        return code, b"".join(output)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _collect(stream: IO[bytes], output: list[bytes]) -> None:
    """Keep what comes, up to the limit; the rest is read and dropped, so that the writer is not blocked."""
    kept = 0
    for block in iter(lambda: stream.read(1 << 16), b""):
        kept += len(block)
        if kept <= _MAX_ANSWER_BYTES:
            output.append(block)


def _read_lines(stream: IO[bytes], note: Callable[[str], None]) -> None:
    for line in iter(lambda: stream.readline(_MAX_LINE_BYTES), b""):
        note(line.decode("utf-8", "replace").rstrip("\r\n"))


def _objects(output: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in output.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
