"""Reads `presets/*.json`: the values that a family and a type start from, each with its reason.

`common.json` holds for all families; a family's file and then the type's part of both win over it. A new
preset is one such file, named after its family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .fields import Value
from .model_config import check_preset

_FOLDER = Path(__file__).parent / "presets"
_FALLBACK = "sdxl"
_FROM_BASE = "The base brings this value: its maker chose it for this very model."


class Choice(NamedTuple):
    """A value and why it was chosen."""

    value: Value
    why: str


def choices(
    family: str | None, type_: str, config: Mapping[str, Any] | None
) -> tuple[dict[str, Choice], dict[str, Choice]]:
    """Return what the files choose for a family and a type, and what the base itself asks for, which wins.

    Args:
        family: None for a base that cannot be trained: the page still shows values beside the reason why not.
        config: the base's own configuration, checked (see :mod:`trainer_bridge.model_config`).
    """
    files = [_read("common"), _read(family or _FALLBACK)]
    found: dict[str, Choice] = {}
    for file in files:
        found.update(file["settings"])
    for file in files:
        found.update(file["types"].get(type_, {}))
    preset = config.get("preset", {}) if config else {}
    own: dict[str, Value] = {}
    for part in (preset, preset.get(type_, {})):
        own.update({name: value for name, value in part.items() if not isinstance(value, dict)})
        if "network_alpha" in own:  # it belongs to the rank beside it; another rank gets the same share
            rank = own.get("network_dim", found["network_dim"].value)
            own["alpha_share"] = float(own.pop("network_alpha")) / float(rank)
    return found, {name: Choice(value, _FROM_BASE) for name, value in own.items()}


@cache
def _read(name: str) -> Mapping[str, Any]:
    """Read one of our own files; what is wrong in it is a bug and raises."""
    data = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    types = {type_: _choices(part) for type_, part in data["types"].items()}
    return MappingProxyType({"settings": _choices(data["settings"]), "types": types})


def _choices(part: Mapping[str, Any]) -> dict[str, Choice]:
    values = check_preset({name: entry["value"] for name, entry in part.items()})
    return {name: Choice(value, part[name]["why"]) for name, value in values.items()}
