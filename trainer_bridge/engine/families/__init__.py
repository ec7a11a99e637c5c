"""The families that can be trained. A new one is one file here and one entry in the list below."""

from __future__ import annotations

from ...checkpoint import Checkpoint
from ...errors import UserError
from .base import LoraTarget, ModelFamily, SizeInfo, TextFeatures
from .sd import SD2, SD15
from .sdxl import SDXL

__all__ = ["TRAINABLE", "LoraTarget", "ModelFamily", "SizeInfo", "TextFeatures", "for_checkpoint"]

TRAINABLE: tuple[type[SD15] | type[SD2] | type[SDXL], ...] = (SD15, SD2, SDXL)


def for_checkpoint(checkpoint: Checkpoint) -> ModelFamily:
    """Return the family of a checkpoint, bound to it.

    Raises:
        UserError: it cannot be trained, or its parts do not fit together.
    """
    if checkpoint.trainable:
        for family in TRAINABLE:
            if family.key == checkpoint.family:
                return family(checkpoint)
    raise UserError(f"{checkpoint.path.name} ({checkpoint.title}) cannot be trained.", "Choose another base.")
