"""The settings by name, and the checks of their values, one by one and together.

They are declared in :mod:`trainer_bridge.field_list`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from .errors import UserError
from .field_list import FIELDS, GROUPS
from .field_type import Field, Kind, Value

__all__ = [
    "BY_NAME",
    "FIELDS",
    "GROUPS",
    "Field",
    "Kind",
    "Value",
    "check_together",
    "check_values",
    "defaults",
    "field",
]

BY_NAME: Mapping[str, Field] = {field.name: field for field in FIELDS}


def defaults() -> dict[str, Value]:
    """Return every setting at its default."""
    return {field.name: field.default for field in FIELDS}


def field(name: str) -> Field:
    """Return the declaration of a setting.

    Raises:
        UserError: there is none of that name; the nearest names are proposed.
    """
    found = BY_NAME.get(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name[:60], BY_NAME, n=2, cutoff=0.6)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`python -m trainer_bridge settings` lists them all."
    raise UserError(f"There is no setting called {name[:60]!r}.", hint)


def check_values(values: Mapping[str, Any]) -> dict[str, Value]:
    """Return `values` checked one by one; the keys may be any subset of the settings.

    Raises:
        UserError: an unknown key or a value outside its bounds.
    """
    return {name: field(name).check(value) for name, value in values.items()}


def check_together(values: Mapping[str, Value]) -> dict[str, str]:
    """Return the settings that do not go together, as {setting: sentence}; empty when all is well."""
    wrong: dict[str, str] = {}
    if float(values["min_timestep"]) >= float(values["max_timestep"]):
        wrong["min_timestep"] = "The first timestep must lie below the last one."
    if int(values["min_bucket_reso"]) > int(values["max_bucket_reso"]):
        wrong["min_bucket_reso"] = "The smallest bucket side cannot be larger than the largest."
    if int(values["bucket_reso_steps"]) % 8:
        wrong["bucket_reso_steps"] = "The bucket step must be a multiple of 8: the autoencoder shrinks by that."
    elif int(values["bucket_reso_steps"]) > int(values["resolution"]):
        wrong["bucket_reso_steps"] = "The bucket step cannot be larger than the resolution."
    if values["zero_terminal_snr"] and not values["v_parameterization"]:
        wrong["zero_terminal_snr"] = (
            "Zero terminal SNR needs v-prediction: with noise prediction the last step has no signal to learn from."
        )
    if values["lr_scheduler"] == "constant" and int(values["lr_warmup_steps"]) > 0:
        wrong["lr_warmup_steps"] = "A constant learning rate has no warm-up: choose constant_with_warmup, or 0 steps."
    if int(values["lr_warmup_steps"]) >= int(values["max_train_steps"]) > 1:
        wrong["lr_warmup_steps"] = "The warm-up must be shorter than the training."
    trains_text = values["network_train_unet_only"] is False and float(values["text_encoder_lr"]) > 0.0
    if float(values["unet_lr"]) == 0.0 and not trains_text:
        wrong["unet_lr"] = "With a learning rate of 0 nothing would be trained."
    return wrong
