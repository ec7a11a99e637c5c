"""`install.py --test`: every check of the repository, and pytest's closing line last."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import environment, platform

#: Run beside pytest, each with the test tools' Python.
CHECKS: dict[str, tuple[str, ...]] = {
    "ruff check": ("-m", "ruff", "check"),
    "ruff format": ("-m", "ruff", "format", "--check"),
    "mypy": ("-m", "mypy"),
}
_WORKERS = 2


def run_suite(python: Path, arguments: Sequence[str], *, checks: Mapping[str, Sequence[str]] | None = None) -> int:
    """Run the linter, the formatter, the type checker and the tests; returns 0, or the first exit code that is not.

    Args:
        python: has the test tools.
        arguments: more of them for pytest; with any, only pytest is run.
    """
    started = time.monotonic()
    chosen = checks if checks is not None else ({} if arguments else CHECKS)
    variables = _variables()
    running = {title: _start([str(python), *argv], variables) for title, argv in chosen.items()}
    argv = ["-m", "pytest", "-n", str(_WORKERS), "--dist", "worksteal", "--color=no", *arguments]
    tests = _start([str(python), *argv], variables)
    try:
        code, closing = _watch(tests)
        codes = [_finish(title, process) for title, process in running.items()]
    except BaseException:
        for process in (tests, *running.values()):
            process.terminate()  # the workers end with the process that started them
        raise
    print(f"All checks took {time.monotonic() - started:.0f} s.")
    print(closing, flush=True)
    return next((each for each in (code, *codes) if each != 0), 0)


def _variables() -> dict[str, str]:
    """One thread for each worker of two: more would only take the processors from each other."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return environment.trainer_environ(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)


def _start(argv: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv,
        cwd=environment.repository(),
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )


def _finish(title: str, process: subprocess.Popen[str]) -> int:
    text, _ = process.communicate()
    code = process.returncode
    print(f"== {title}: {'passed' if code == 0 else f'FAILED, exit code {code}'}", flush=True)
    print(text.rstrip(), flush=True)
    return code


def _watch(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, closing line) of pytest, with everything but the closing line printed as it comes."""
    started = platform.identify(process.pid)
    if started is not None:
        environment.hold(started)
    held = ""
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(held)
        sys.stdout.flush()
        held = line
    return process.wait(), held.rstrip()
