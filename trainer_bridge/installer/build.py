"""Makes one environment from its recipe: empty, filled, compared with its lock, tried, and then marked as whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import environment, platform
from ..errors import RunFailed, UserError
from . import overlay_finder, pip_settings, requirements, sound
from .progress import Progress
from .recipe import FULL_GPU_BYTES, TORCH_INDEX, Recipe
from .requirements import Pin
from .tools import InstallFailed, Tool, choose

_CHECK_SECONDS = 900
_TRAINER_CHECK = ("-m", "trainer_bridge.engine.selfcheck")

#: What a new environment has to get through before it is used, by kind: arguments for its Python.
CHECKS: dict[str, tuple[str, ...]] = {
    "overlay": _TRAINER_CHECK,
    "full": _TRAINER_CHECK,
    "test": ("-c", "import hypothesis, mypy, peft, pytest, skia, xdist"),
}


def build(recipe: Recipe, folder: Path, progress: Progress) -> environment.Environment:
    """Make the environment in a folder that does not exist yet. On failure nothing of it stays.

    Raises:
        UserError, RunFailed: with the reason.
    """
    _require_room(recipe.bytes_needed)
    try:
        _make_empty(recipe, folder, progress)
        _stack(recipe, folder)
        _fill(recipe, folder, progress)
        facts = _try_out(recipe, folder, progress)
        return _mark(recipe, folder, facts)
    except BaseException:
        remove(folder)
        raise


def remove(folder: Path) -> bool:
    """Remove an environment, its marker first, so that no part of it is taken for whole. False if something stays."""
    try:
        (folder / environment.MARKER).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
    except OSError:
        return False  # a file is open on Windows; the next setup tries again
    return True


def _require_room(needed: int) -> None:
    free = shutil.disk_usage(environment.home()).free
    if free < needed:
        raise UserError(
            f"Setting up the trainer takes up to {needed / 1024**3:.1f} GB and the disk of {environment.home()} "
            f"has {free / 1024**3:.1f} GB free.",
            "Make room and run it again.",
        )


def _make_empty(recipe: Recipe, folder: Path, progress: Progress) -> None:
    progress.phase("make", f"Making {folder.name} ...")
    done = _run([recipe.python, "-m", "venv", "--without-pip", str(folder)], _plain_environ())
    progress.note(done.stdout)
    if done.returncode != 0 or not environment.python_in(folder).exists():
        raise RunFailed(
            f"{recipe.python} cannot make a virtual environment.",
            "Install its venv module (Debian and Ubuntu: apt install python3-venv) or use another Python.",
        )


def _stack(recipe: Recipe, folder: Path) -> None:
    """Let the new environment see what it stands on: torch alone, or a whole trainer's environment."""
    library = sound.library(folder)
    if recipe.kind == "overlay":
        shutil.copyfile(overlay_finder.__file__, library / "_atelier_torch.py")
        line = f"import _atelier_torch; _atelier_torch.install({ascii(recipe.host_folder)})\n"
        (library / "_atelier_torch.pth").write_text(line, encoding="ascii")
    elif recipe.kind == "test":
        below = sound.library(environment.home() / recipe.below)
        line = f"import site; site.addsitedir({ascii(str(below))})\n"
        (library / "_atelier_below.pth").write_text(line, encoding="ascii")


def _fill(recipe: Recipe, folder: Path, progress: Progress) -> None:
    pins = pins_of(recipe)
    torch = [pin for pin in pins if pin.name == "torch"]
    rest = [pin for pin in pins if pin.name != "torch" and not pin.gpu_only]
    settings = pip_settings.read()
    if recipe.torch_index:
        settings = settings.with_index(recipe.torch_index)
    progress.phase(
        "install",
        f"Installing {len(rest) + len(torch)} packages ...",
        total=len(rest) + len(torch),
        count=lambda: len(sound.packages(folder)),
    )
    tools = choose(settings, progress.note)
    tool = _first_that_works(tools, folder, rest, progress)
    expected = {pin.name: pin.version for pin in rest}
    if torch:
        libraries = [pin for pin in pins if pin.gpu_only]
        expected.update(_install_torch(tool, recipe, folder, (torch[0], libraries), progress))
    wrong = sound.difference(sound.packages(folder), expected)
    if wrong and not recipe.torch_index:
        raise RunFailed(f"The packages that were installed are not those of {recipe.lock} ({wrong}).", "Run it again.")


def pins_of(recipe: Recipe) -> tuple[Pin, ...]:
    """What is installed into the environment itself."""
    pins = requirements.read_lock(requirements.LOCKS / recipe.lock)
    if recipe.kind != "test":
        return pins
    below = environment.read(environment.home() / recipe.below)
    there = set(below.packages) if below is not None else set()
    return tuple(pin for pin in pins if pin.name not in there)


def _first_that_works(tools: Sequence[Tool], folder: Path, pins: Sequence[Pin], progress: Progress) -> Tool:
    """Install with the first tool; the next one is tried where it fails. Returns the one that did it."""
    for place, tool in enumerate(tools):
        progress.note(f"-- with {tool.name}")
        try:
            tool.install(environment.python_in(folder), [str(pin) for pin in pins], progress.note)
        except InstallFailed:
            if place == len(tools) - 1:
                raise
        else:
            return tool
    raise AssertionError("there is always pip")


def _install_torch(
    tool: Tool, recipe: Recipe, folder: Path, pins: tuple[Pin, Sequence[Pin]], progress: Progress
) -> Mapping[str, str]:
    """Install torch, and the libraries of graphics cards only where this build of it needs them.

    Returns:
        name -> version of what should be there now.
    """
    torch, libraries = pins
    python = environment.python_in(folder)
    if recipe.torch_index:
        tool.install(python, [str(torch)], progress.note, with_dependencies=True)
        return {}  # which libraries such a build needs, only its own index knows
    if recipe.cpu_only:
        try:
            tool.install(python, [f"{torch}+cpu"], progress.note)
        except InstallFailed:
            progress.note("-- the configured sources have no build of torch for the processor alone")
        else:
            return {"torch": torch.version}
        tool.install(python, [str(torch)], progress.note)
    else:
        tool.install(python, [f"{torch},!={torch.version}+cpu"], progress.note)
    needed = libraries if _needs_gpu_libraries(folder) else []
    if needed:
        _require_room(FULL_GPU_BYTES)
        progress.phase("install", f"This build of torch needs {len(needed)} more packages, several GB ...")
        tool.install(python, [str(pin) for pin in needed], progress.note)
    return {pin.name: pin.version for pin in (torch, *needed)}


def _needs_gpu_libraries(folder: Path) -> bool:
    """Whether the installed torch asks for NVIDIA's libraries on this system."""
    for metadata in sound.library(folder).glob("torch-*.dist-info/METADATA"):
        for line in metadata.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("Requires-Dist: nvidia", "Requires-Dist: cuda")):
                return platform.SYSTEM == "linux"
    return False


def _try_out(recipe: Recipe, folder: Path, progress: Progress) -> dict[str, Any]:
    progress.phase("check", "Checking that it works ...")
    argv = [str(environment.python_in(folder)), *CHECKS[recipe.kind]]
    done = _run(argv, environment.trainer_environ())
    progress.note(done.stdout)
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        raise RunFailed(
            f"The new environment does not work: {lines[-1][:300] if lines else f'it ended with {done.returncode}'}.",
            f"All that was said is in {environment.home() / 'setup.log'}.",
        )
    answer = _last_object(done.stdout)
    if recipe.kind == "full" and not recipe.cpu_only and answer.get("cuda") is False and platform.has_nvidia():
        raise RunFailed(
            "There is an NVIDIA card, and the torch that was installed does not see it.",
            f"Update the card's driver; or set {TORCH_INDEX} to PyTorch's package index for your CUDA version; "
            "or run `python install.py --setup --cpu` to train on the processor.",
        )
    return answer


def _mark(recipe: Recipe, folder: Path, facts: Mapping[str, Any]) -> environment.Environment:
    marker: dict[str, Any] = {
        "version": environment.VERSION,
        "kind": recipe.kind,
        "fingerprint": recipe.fingerprint,
        "recipe": recipe.to_json(),
        "checked": dict(facts),
        "made": time.time(),
        **sound.measure(folder),
    }
    if recipe.kind == "test":
        below = environment.read(environment.home() / recipe.below)
        assert below is not None, "the trainer's environment is held while the tools are put on top"
        marker.update(below=recipe.below, trainer_fingerprint=below.fingerprint)
    platform.write_atomic(folder / environment.MARKER, json.dumps(marker, indent=1).encode())
    found = environment.read(folder)
    assert found is not None, "a marker just written can be read"
    return found


def _run(argv: Sequence[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv,
            env=dict(variables),
            cwd=environment.repository(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=_CHECK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(list(argv), 1, stdout=str(error))


def _plain_environ() -> dict[str, str]:
    dropped = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in os.environ.items() if name not in dropped}


def _last_object(text: str) -> dict[str, Any]:
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except ValueError:
                return {}
            return value if isinstance(value, dict) else {}
    return {}
