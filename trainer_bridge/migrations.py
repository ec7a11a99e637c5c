"""Numbered steps that lift the JSON of an older job file to the version of today.

A change of the form adds one function to :data:`STEPS`: entry `n` lifts version `n` to `n + 1`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .errors import UserError

#: version -> the function that lifts it by one. Version 1 is the first, so there is nothing to lift yet.
STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def lift(
    data: Mapping[str, Any],
    version: int,
    steps: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = STEPS,
) -> dict[str, Any]:
    """Return `data` lifted to `version`.

    Raises:
        UserError: the version is missing, unknown or newer than this program.
    """
    lifted = dict(data)
    found = lifted.get("version")
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise UserError("The job file does not say which version it is.", "Make the job anew.")
    if found > version:
        raise UserError(f"The job file is of version {found}, newer than this program's {version}.", "Update Atelier.")
    while found < version:
        lifted = steps[found](lifted)
        found += 1
        lifted["version"] = found
    return lifted
