"""Reads `atelier.config`: what a base of unusual sizes says about itself in its header's metadata.

A JSON object. Known keys: `native_size` (px), `prediction_type`, `zero_terminal_snr`, `preset` (settings
named as in :mod:`trainer_bridge.fields`, for all types or, nested, for one of them). Everything else (heads,
widths) is the engine's and kept as it is, bounded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from . import fields
from .errors import UserError
from .safetensors_header import Header
from .spec import TYPES

KEY = "atelier.config"

#: What a preset may hold beside settings: `views`, how many pictures a run shows in all, from which its steps
#: are reckoned, and `alpha_share`, alpha as a share of the rank.
EXTRAS: Mapping[str, fields.Field] = {
    extra.name: extra
    for extra in (
        fields.Field("views", "int", 2000, "schedule", "Views", "Pictures that a run shows in all.", 1, 1_000_000),
        fields.Field("alpha_share", "float", 0.5, "network", "Alpha", "Alpha as a share of the rank.", 0.01, 8.0),
    )
}

_MAX_CHARS = 64 * 1024
_MAX_DEPTH = 6
_SIZES = range(32, 4097, 8)


def read_config(header: Header) -> Mapping[str, Any] | None:
    """Return the configuration in `header`, checked; None when there is none.

    Raises:
        UserError: it is there, but wrong: training by it would go astray.
    """
    text = header.metadata.get(KEY)
    if text is None:
        return None
    if len(text) > _MAX_CHARS:
        raise _wrong(header, "is too long")
    try:
        config = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _wrong(header, "is not valid JSON") from None
    if not isinstance(config, dict) or not _plain(config, _MAX_DEPTH):
        raise _wrong(header, "is not a plain table")
    size = config.get("native_size", _SIZES[0])
    if type(size) is not int or size not in _SIZES:
        raise _wrong(header, "has a native size that is no multiple of 8 from 32 to 4096")
    if config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise _wrong(header, "has an unknown prediction type")
    if not isinstance(config.get("zero_terminal_snr", False), bool):
        raise _wrong(header, "has a zero_terminal_snr that is neither true nor false")
    try:
        config["preset"] = check_preset(config.get("preset", {}))
    except UserError as error:
        raise _wrong(header, f"has a wrong preset: {error.what}") from None
    return MappingProxyType(config)


def check_preset(preset: object) -> dict[str, Any]:
    """Return `preset` with each value checked: settings, and per type a table of settings.

    Beside the settings, :data:`EXTRAS` are known.

    Raises:
        UserError: an unknown setting or a value that it does not take.
    """
    if not isinstance(preset, dict):
        raise UserError("The preset is not a table.")
    checked: dict[str, Any] = {}
    for name, value in preset.items():
        if name in TYPES:
            if not isinstance(value, dict):
                raise UserError(f"The preset for {name} is not a table.")
            checked[name] = {inner: _check(inner, item) for inner, item in value.items()}
        else:
            checked[name] = _check(name, value)
    return checked


def _check(name: str, value: object) -> fields.Value:
    return (EXTRAS.get(name) or fields.field(name)).check(value)


def _plain(value: object, depth: int) -> bool:
    if depth < 0:
        return False
    if isinstance(value, dict):
        return all(_plain(item, depth - 1) for item in value.values())
    if isinstance(value, list):
        return all(_plain(item, depth - 1) for item in value)
    return value is None or isinstance(value, (str, bool, int, float))


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _wrong(header: Header, fault: str) -> UserError:
    return UserError(f"The configuration ({KEY}) in {header.path.name} {fault}.", "Get the file again from its maker.")
