"""Writes a drawn picture as a PNG that says how it was made, in the form that the WebUIs read back."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import platform
from ..errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Made:
    """How a picture was made.

    Attributes:
        loras: names and weights.
        model: stem of the checkpoint's file.
    """

    prompt: str
    negative: str
    steps: int
    cfg: float
    seed: int
    width: int
    height: int
    model: str
    clip_skip: int = 1
    loras: tuple[tuple[str, float], ...] = ()


def infotext(made: Made) -> str:
    """Return AUTOMATIC1111's text of generation parameters: prompt, negative prompt, one line of the rest."""
    calls = "".join(f" <lora:{name}:{weight:g}>" for name, weight in made.loras)
    lines = [made.prompt + calls]
    if made.negative:
        lines.append(f"Negative prompt: {made.negative}")
    values = {
        "Steps": made.steps,
        "Sampler": "DDIM",
        "CFG scale": f"{made.cfg:g}",
        "Seed": made.seed,
        "Size": f"{made.width}x{made.height}",
        "Model": _quoted(made.model),
    }
    if made.clip_skip > 1:
        values["Clip skip"] = made.clip_skip
    lines.append(", ".join(f"{name}: {value}" for name, value in values.items()))
    return "\n".join(lines)


def png_bytes(picture: Image, made: Made) -> bytes:
    """Return the bytes of the PNG."""
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text("parameters", infotext(made))
    data = io.BytesIO()
    picture.save(data, "PNG", pnginfo=about)
    return data.getvalue()


def write_png(path: Path, picture: Image, made: Made) -> None:
    """Write the picture to `path`, whole or not at all.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        platform.write_atomic(path, png_bytes(picture, made))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} cannot be written ({reason}).", "Choose a folder that you may write to.") from None


def _quoted(text: str) -> str:
    """A value with a comma or a colon would be read as two."""
    return f'"{text}"' if set(text) & set(",:\n") else text
