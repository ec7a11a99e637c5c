"""`install.py --check`: what is set up, and whether it is sound; for people and as JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from .. import __version__, environment
from ..errors import UserError
from . import progress, sound
from .build import CHECKS
from .recipe import Recipe

_CHECK_SECONDS = 600
_SHOWN = ("torch", "diffusers", "transformers", "safetensors", "numpy", "pillow")


def examine() -> dict[str, Any]:
    """Everything that `--check` says. "sound" tells whether the trainer can be started."""
    answer: dict[str, Any] = {
        "version": __version__,
        "repository": str(environment.repository()),
        "python": sys.version.split()[0],
        "override": os.environ.get(environment.OVERRIDE),
        "environment": None,
        "setup": progress.read(),
        "in_use": sorted(environment.in_use()),
    }
    try:
        python = environment.trainer_python()
    except UserError as error:
        way_out = error.way_out if answer["override"] else "Run `python install.py --setup`."
        return {**answer, "sound": False, "complaint": error.what, "way_out": way_out}
    found = None if answer["override"] else environment.current()
    complaint = sound.complaint(found, thorough=True) if found is not None else ""
    if found is not None:
        answer["environment"] = _describe(found)
    if not complaint:
        complaint = _try_out(str(python))
    way_out = "Run `python install.py --setup`: it is made anew." if complaint else ""
    return {**answer, "sound": not complaint, "complaint": complaint, "way_out": way_out}


def as_text(answer: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"Atelier {answer['version']} in {answer['repository']}, Python {answer['python']}"]
    found = answer["environment"]
    if answer["override"]:
        lines.append(f"Trainer: your own Python, {answer['override']} ({environment.OVERRIDE})")
    if found is not None:
        lines.append(f"Trainer: {found['name']}, {found['kind']}, made with {found['made_with']}")
        if found["stands_on"]:
            lines.append(f"  on the torch {found['torch']} in {found['stands_on']}")
        versions = [f"{name} {found['packages'][name]}" for name in _SHOWN if name in found["packages"]]
        lines.append(f"  {', '.join(versions)} ({len(found['packages'])} packages)")
    setup = answer["setup"]
    if setup and setup.get("phase") != "done":
        lines.append(f"Last setup: {setup.get('phase')}. {setup.get('message', '')}")
    if answer["in_use"]:
        lines.append(f"In use now: {', '.join(answer['in_use'])}")
    if answer["sound"]:
        lines.append("Everything is sound.")
    else:
        lines.append(f"NOT sound: {answer['complaint'].rstrip('.')}. {answer['way_out']}".rstrip())
    return "\n".join(lines)


def _describe(found: environment.Environment) -> dict[str, Any]:
    recipe = Recipe.from_json(found.facts.get("recipe"))
    checked = found.facts.get("checked", {})
    return {
        "name": found.folder.name,
        "kind": found.kind,
        "fingerprint": found.fingerprint,
        "python": str(found.python),
        "made_with": recipe.python if recipe is not None else "?",
        "stands_on": recipe.host_folder if recipe is not None else "",
        "torch": checked.get("torch", "?"),
        "packages": dict(found.packages),
    }


def _try_out(python: str) -> str:
    """Why the trainer's Python does not work; empty where it does."""
    try:
        done = subprocess.run(
            [python, *CHECKS["full"]],
            cwd=environment.repository(),
            env=environment.trainer_environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_CHECK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"its Python does not start ({error})"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return "" if done.returncode == 0 else f"it does not work: {lines[-1] if lines else done.returncode}"
