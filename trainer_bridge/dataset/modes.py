"""Every colour mode that a picture file can have, turned into plain RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

#: One channel of more than 8 bits.
DEEP = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
#: Modes that :func:`to_rgb` knows; LAB and HSV need colour management that is not there everywhere.
KNOWN = DEEP | {"1", "L", "P", "RGB", "RGBA", "LA", "PA", "La", "RGBa", "RGBX", "CMYK", "YCbCr"}
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
#: Formats whose 16-bit grey older Pillow opens as mode I: their white is 65535 however dark the picture is.
_SIXTEEN_BIT_FORMATS = frozenset({"PNG", "PPM"})

WHITE = "#ffffff"


def may_be_transparent(image: Image.Image) -> bool:
    """Say whether a picture has an alpha channel or a transparent colour."""
    return image.mode in _WITH_ALPHA or ("transparency" in image.info and image.mode not in DEEP)


def is_transparent(image: Image.Image) -> bool:
    """Say whether any pixel of a loaded picture lets the background through."""
    if not may_be_transparent(image):
        return False
    layered = image if image.mode in ("RGBA", "LA") else with_alpha(image)
    return layered.getchannel("A").histogram()[255] < image.width * image.height


def with_alpha(image: Image.Image) -> Image.Image:
    """Return the picture in mode RGBA."""
    return image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")


def to_rgb(image: Image.Image, flatten: str | None = None) -> Image.Image:
    """Return a loaded picture in mode RGB, of the same size.

    Args:
        image: as it was opened: its `format` and `info` are read too.
        flatten: colour behind transparent parts, `#rrggbb`; white if None.
    """
    if image.mode in DEEP:
        return Image.fromarray(_to_bytes(image)).convert("RGB")
    if may_be_transparent(image):
        layered = with_alpha(image)
        background = Image.new("RGB", image.size, flatten or WHITE)
        background.paste(layered, mask=layered.getchannel("A"))
        return background
    return image.convert("RGB")


def _to_bytes(image: Image.Image) -> np.ndarray:
    """Scale a deep grey picture [H, W] to 8 bits: its format's white becomes 255; what is no number becomes black."""
    values = np.asarray(image).astype(np.float32)
    if image.mode == "F":
        np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BIT_FORMATS)
    values *= 255.0 / (65535.0 if sixteen else _white(values, image.mode))
    values += 0.5
    return np.clip(values, 0.0, 255.0, out=values).astype(np.uint8)


def _white(values: np.ndarray, mode: str) -> float:
    """Guess which value is white where the format leaves it open: the least usual one that no pixel exceeds."""
    brightest = float(values.max())
    usual = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
    return next((white for white in usual if brightest <= white), brightest)
