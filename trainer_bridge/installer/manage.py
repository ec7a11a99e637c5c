"""Sees to it that there is a sound environment in use: finds it, waits for another setup, or makes it and switches."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import environment, platform
from ..errors import AtelierError, RunFailed, UserError
from . import progress as progress_module
from . import sound
from .build import build, remove
from .progress import Progress
from .recipe import Recipe, describe, test_recipe, wanted

_KINDS = ("overlay", "full", "test")
_POLL_SECONDS = 0.5
_MAX_NAMES = 50


def in_order(kind: str | None = None, *, thorough: bool = False) -> environment.Environment | None:
    """The environment in use if it is sound and of that kind; None where something is to be done."""
    found = environment.current()
    if found is None or (kind is not None and found.kind != kind):
        return None
    return found if not sound.complaint(found, thorough=thorough) else None


def ensure(
    progress: Progress, recipes: Sequence[Recipe] | None = None, kind: str | None = None
) -> environment.Environment:
    """The sound environment that is in use, made first if need be. Another setup that is under way is waited for.

    Args:
        recipes: what to try, in this order; by default what this machine wants.
        kind: only this kind will do.

    Raises:
        UserError, RunFailed: with the reason; what was in use before still is.
    """
    found = in_order(kind, thorough=True)
    if found is not None:
        return found
    make_home()
    with _turn():
        found = in_order(kind, thorough=True)
        if found is not None:
            return found
        chosen = [recipe for recipe in recipes or wanted() if kind in (None, recipe.kind)]
        try:
            made = _make_first_that_works(chosen, progress)
            _switch(made)
        except AtelierError as error:
            progress.failed(error)
            raise
        clean()
        progress.done(f"The trainer is set up ({made.folder.name}).")
        return made


def ensure_tests(progress: Progress, trainer: environment.Environment) -> environment.Environment:
    """The environment of the test tools on top of a trainer's one; made if need be."""
    recipe = test_recipe(trainer)
    found = _existing(recipe)
    if found is not None:
        return found
    with _turn():
        found = _existing(recipe)
        if found is not None:
            return found
        try:
            progress.phase("make", describe(recipe))
            made = build(recipe, _free_folder(recipe), progress)
        except AtelierError as error:
            progress.failed(error)
            raise
        progress.done(f"The test tools are set up ({made.folder.name}).")
        return made


def clean() -> None:
    """Remove the environments that are neither in use by the program nor by a process."""
    current = environment.current()
    if current is None:
        return
    kept = {current.folder.name, *environment.in_use()}
    for folder in environment.home().iterdir():
        ours = folder.is_dir() and folder.name.partition("-")[0] in _KINDS
        found = environment.read(folder) if ours else None
        stands_on_kept = found is not None and found.facts.get("below") in kept
        if ours and folder.name not in kept and not stands_on_kept:
            remove(folder)


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """Wait until no other process sets up, then hold the lock."""
    told = ""
    while True:
        with platform.lock(environment.home() / "setup.lock") as had:
            if had:
                progress_module.open_log()
                yield
                return
        message = str(progress_module.read().get("message", ""))
        if message != told:
            progress_module.to_errors(f"Another setup is under way: {message}")
            told = message
        time.sleep(_POLL_SECONDS)


def make_home() -> None:
    """Make `.venv/`, which git ignores.

    Raises:
        UserError: it cannot be written.
    """
    try:
        environment.home().mkdir(parents=True, exist_ok=True)
        platform.write_atomic(environment.home() / ".gitignore", b"*\n")
    except OSError as error:
        raise UserError(
            f"The folder {environment.home()} cannot be written ({error.strerror}).",
            "Give yourself the right to write there, or put a copy of this program where you may.",
        ) from None


def _make_first_that_works(recipes: Sequence[Recipe], progress: Progress) -> environment.Environment:
    for place, recipe in enumerate(recipes):
        found = _existing(recipe)
        if found is not None:
            return found
        progress.phase("make", describe(recipe))
        try:
            return build(recipe, _free_folder(recipe), progress)
        except RunFailed as error:
            if place == len(recipes) - 1:
                raise
            progress.note(f"-- {error}")
            progress.phase("make", f"The torch that is here does not serve: {error.what}")
    raise UserError("There is no torch here that the trainer could stand on.", "Run `python install.py --setup`.")


def _existing(recipe: Recipe) -> environment.Environment | None:
    """A sound environment of that recipe that was made before."""
    for folder in _folders(recipe):
        found = environment.read(folder)
        same = found is not None and Recipe.from_json(found.facts.get("recipe")) == recipe
        if found is not None and same and not sound.complaint(found, thorough=True):
            return found
    return None


def _folders(recipe: Recipe) -> list[Path]:
    name = f"{recipe.kind}-{recipe.fingerprint}"
    return [environment.home() / (name if not number else f"{name}-{number + 1}") for number in range(_MAX_NAMES)]


def _free_folder(recipe: Recipe) -> Path:
    """A folder for a new environment. What is half-made or damaged there is removed, unless a process runs in it."""
    busy = environment.in_use()
    current = environment.current()
    for folder in _folders(recipe):
        if not folder.exists():
            return folder
        found = environment.read(folder)
        # The one in use stays until the new one is checked, unless it is the damaged one that is being replaced.
        serves = found is not None and not sound.complaint(found, thorough=True)
        if folder.name in busy or (serves and current is not None and folder == current.folder):
            continue
        if not serves and remove(folder):
            return folder
    raise RunFailed(f"No folder for a new environment is left in {environment.home()}.", "Remove that folder.")


def _switch(made: environment.Environment) -> None:
    text = json.dumps({"version": environment.VERSION, "environment": made.folder.name}, indent=1)
    platform.write_atomic(environment.home() / "current.json", text.encode())
