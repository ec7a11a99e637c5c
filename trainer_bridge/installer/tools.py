"""What installs packages: uv where it can be had, pip otherwise. Both get the same pins and the user's pip settings.

Nothing but the pins is installed (`--no-deps`): the lock files name every package.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import environment
from ..errors import RunFailed
from .pip_settings import PipSettings
from .requirements import LOCKS, Pin, read_lock, release

Say = Callable[[str], None]

_OLDEST_UV = (0, 5)
_PIP_WITH_OTHER_PYTHON = (22, 3)
_NO_NETWORK = re.compile(
    r"error sending request|dns error|failed to fetch|connection (?:refused|reset|timed out)|timed? ?out|"
    r"name resolution|newconnectionerror|max retries|network is unreachable|proxyerror|could not connect|"
    r"certificate verify failed|invalid peer certificate|tunnel|connection broken",
    re.IGNORECASE,
)
_NO_SPACE = re.compile(r"no space left|not enough space|disk quota", re.IGNORECASE)
_NO_PIP = re.compile(r"no module named (?:'?)(?:ensurepip|pip)\b|ensurepip is disabled", re.IGNORECASE)
_NO_VERSION = re.compile(
    r"no matching distribution|no solution found|no version of|could not find a version|conflicting dependencies",
    re.IGNORECASE,
)


class InstallFailed(RunFailed):
    """An installer ended with an error.

    Attributes:
        output: what it printed last.
    """

    def __init__(self, output: str) -> None:
        what, way_out = explain(output)
        super().__init__(what, way_out)
        self.output = output


class Tool(ABC):
    """Installs pins into an environment's Python."""

    name: str

    def __init__(self, settings: PipSettings) -> None:
        self._settings = settings

    @abstractmethod
    def install(self, python: Path, requirements: Sequence[str], say: Say, *, with_dependencies: bool = False) -> None:
        """Install exactly these requirements, and what they depend on only where asked for.

        Args:
            say: told each line that the tool prints.

        Raises:
            InstallFailed: with the reason in a sentence.
        """


class Uv(Tool):
    """https://docs.astral.sh/uv/"""

    name = "uv"

    def __init__(self, settings: PipSettings, program: str) -> None:
        super().__init__(settings)
        self._program = program

    def install(self, python: Path, requirements: Sequence[str], say: Say, *, with_dependencies: bool = False) -> None:
        argv = [self._program, "pip", "install", "--python", str(python), *_common(self._settings, with_dependencies)]
        _run([*argv, *requirements], self._settings.uv_environ(os.environ), say)


class Pip(Tool):
    """The pip of the running Python or of the one below it, else one inside the environment itself."""

    name = "pip"

    def install(self, python: Path, requirements: Sequence[str], say: Say, *, with_dependencies: bool = False) -> None:
        variables = self._settings.pip_environ(os.environ)
        pip = _pip()
        if pip is not None:
            argv = [pip, "-m", "pip", "--python", str(python)]
        else:
            argv = _own_pip(python, variables, say)
        argv += ["install", "--no-warn-script-location", "--progress-bar", "off"]
        _run([*argv, *_common(self._settings, with_dependencies), *requirements], variables, say)


def _own_pip(python: Path, variables: dict[str, str], say: Say) -> list[str]:
    """Put pip into the environment itself, without the setuptools that some Pythons bring along."""
    argv = [str(python), "-m", "pip"]
    if not _first_words([*argv, "--version"]):
        _run([str(python), "-m", "ensurepip", "--default-pip"], variables, say)
        _run([*argv, "uninstall", "--yes", "setuptools"], variables, say)
    return argv


def choose(settings: PipSettings, say: Say) -> tuple[Tool, ...]:
    """The installers to try, in this order. The last one is always pip."""
    pip = Pip(settings)
    program = _find_uv() or _fetch_uv(settings, say)
    return (Uv(settings, program), pip) if program else (pip,)


def explain(output: str) -> tuple[str, str]:
    """(what, way out) of an installer's last words."""
    if _NO_SPACE.search(output):
        return "The disk is full.", "Make room and run it again; what was begun is cleared away."
    if _NO_NETWORK.search(output):
        return (
            "The package index cannot be reached.",
            "Check the network (and pip's index-url, proxy and cert settings, which are used here), and run it again.",
        )
    if _NO_PIP.search(output):
        return (
            f"{sys.executable} has no pip, and there is no uv.",
            "Install one of them (Debian and Ubuntu: apt install python3-pip python3-venv) and run it again.",
        )
    if "(from versions: none)" in output:
        return (
            "The package index cannot be reached, or it has nothing of what is needed.",
            "Check the network and pip's index-url, find-links and no-index settings, and run it again.",
        )
    if _NO_VERSION.search(output):
        return (
            "The configured package indexes do not have all that is needed for this Python.",
            "Check pip's index-url, find-links and constraint settings, or use another Python (3.11 is the safest).",
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "it said nothing"
    return (
        f"The packages could not be installed: {last}.",
        f"All that was said is in {environment.home() / 'setup.log'}.",
    )


def _common(settings: PipSettings, with_dependencies: bool) -> list[str]:
    return [*settings.arguments(), *([] if with_dependencies else ["--no-deps"])]


def _run(argv: Sequence[str], variables: dict[str, str], say: Say) -> None:
    variables.pop("PYTHONHOME", None)
    variables.pop("PYTHONPATH", None)
    variables.update(PYTHONUTF8="1")
    tail: list[str] = []
    try:
        process = subprocess.Popen(
            argv,
            env=variables,
            cwd=environment.home(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise InstallFailed(f"{argv[0]}: {error.strerror}") from error
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                tail = [*tail[-60:], line]
                say(line.rstrip())
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise InstallFailed("".join(tail))


def _find_uv() -> str | None:
    for program in (shutil.which("uv"), str(_uv_folder() / "bin" / "uv"), str(_uv_folder() / "bin" / "uv.exe")):
        if program and Path(program).is_file() and _answers(program):
            return program
    return None


def _answers(program: str) -> bool:
    words = _first_words([program, "--version"])
    return len(words) > 1 and release(words[1]) >= _OLDEST_UV


def _first_words(argv: Sequence[str]) -> list[str]:
    """What a program says about itself; nothing where it fails."""
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.split() if answer.returncode == 0 else []


def _fetch_uv(settings: PipSettings, say: Say) -> str | None:
    """Let pip fetch uv into a folder of its own: 17 MB that make the rest several times faster."""
    pip = _pip()
    if pip is None:
        return None
    variables = settings.pip_environ(os.environ)
    argv = [pip, "-m", "pip", "install", "--no-deps", "--only-binary", ":all:", "--retries", "0"]
    argv += ["--progress-bar", "off", *settings.arguments(), "--target", str(_uv_folder()), str(_uv_pin())]
    try:
        _run(argv, variables, say)
    except InstallFailed:
        say("uv cannot be had here; pip does it.")
        return None
    return _find_uv()


def _uv_folder() -> Path:
    return environment.home() / f"uv-{_uv_pin().version}"


def _uv_pin() -> Pin:
    return read_lock(LOCKS / "tools.txt")[0]


@functools.lru_cache(maxsize=1)
def _pip() -> str | None:
    """A Python whose pip can install into another Python: the running one, or the one that it was made from."""
    for python in (sys.executable, str(getattr(sys, "_base_executable", sys.executable))):
        words = _first_words([python, "-m", "pip", "--version"])
        if len(words) > 1 and release(words[1]) >= _PIP_WITH_OTHER_PYTHON:
            return python
    return None
