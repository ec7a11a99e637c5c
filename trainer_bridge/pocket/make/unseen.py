"""What no training picture has: for sample subjects that the base has never seen."""

from __future__ import annotations

import numpy as np
import skia
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .pen import Manner, Pen, Rgb, mirrored, oval, svg

# Plum ink on sea-green glass, every colour sunk into it: palette and outline, no texture. Thin bright lines on a
# dark ground (a blueprint, gold on blue) do not pass the autoencoder: it has learnt that outlines are dark.
SEA_GLASS = Manner(line=2.6, ink=(84, 18, 84), fill_alpha=0.4, shadow=0.25, glow=0.3, paper=(120, 224, 204), vivid=0.7)


def hat(pen: Pen) -> None:
    """A witch's hat with a golden band."""
    cloth = (70, 48, 104)
    pen.shape(svg("M 28 36 C 42 12 56 4 82 -10 C 90 -4 86 2 80 3 C 90 12 97 22 100 36 Q 64 27 28 36 Z"), cloth)
    pen.shape(svg("M 29 37 Q 64 26 99 37 L 96 26 Q 64 15 33 26 Z"), (250, 190, 60))
    pen.shape(svg("M 4 42 C 26 27 102 27 124 42 C 104 52 24 52 4 42 Z"), cloth)


def mark(pen: Pen) -> None:
    """A star on the cheek."""
    star = "M 95 77 L 98.4 84.4 L 106 85 L 100.4 90.2 L 102.2 98 L 95 94 L 87.8 98 L 89.6 90.2 L 84 85 L 91.6 84.4 Z"
    pen.shape(svg(star), (255, 206, 30), 0.6)


def cloak(pen: Pen, color: Rgb) -> None:
    """A hooded cloak with a golden hem and clasp, over hair and shoulders."""
    hood = svg(
        "M 10 132 C -4 60 16 2 64 2 C 112 2 132 60 118 132 L 78 132 C 100 112 106 84 104 64"
        " C 100 36 84 26 64 26 C 44 26 28 36 24 64 C 22 84 28 112 50 132 Z"
    )
    pen.shape(hood, color)
    hem = svg("M 50 130 C 28 112 22 84 24 64 C 28 36 44 26 64 26 C 84 26 100 36 104 64 C 106 84 100 112 78 130")
    pen.band(hem, (250, 196, 70), 3.2)
    pen.shape(oval(64, 116, 7, 7), (250, 196, 70))
    pen.shape(oval(64, 116, 3.2, 3.2), (60, 190, 180), 0.6)


def mascot(pen: Pen, expression: str) -> None:
    """A teal drop with a leaf on its tip, arms and feet: no portrait at all."""
    teal = (54, 190, 184)
    for x in (46, 82):
        pen.shape(oval(x, 116, 13, 8), (36, 140, 150))
    arm = svg("M 26 74 C 10 72 4 84 10 92 C 16 96 26 92 30 86 Z")
    for path in (arm, mirrored(arm)):
        pen.shape(path, teal)
    pen.shape(
        svg("M 64 22 C 78 42 106 58 106 84 C 106 108 88 116 64 116 C 40 116 22 108 22 84 C 22 58 50 42 64 22 Z"),
        teal,
    )
    pen.fill(oval(64, 98, 26, 14), (190, 244, 232))
    pen.shape(svg("M 64 24 C 66 6 84 0 100 4 C 98 20 82 28 64 24 Z"), (120, 200, 70))
    pen.outline(svg("M 66 22 Q 80 14 94 8"), (120, 200, 70), 0.7)
    for x in (48, 80):
        pen.fill(oval(x, 76, 7.5, 10), (40, 26, 50))
        pen.fill(oval(x - 2.4, 71, 3, 3.4), (255, 255, 255))
        pen.fill(oval(x + (x - 64) * 0.75, 88, 6, 3.6), (255, 130, 140), 0.7)
    mouth = {"smile": "M 56 90 Q 64 98 72 90", "sad": "M 56 95 Q 64 87 72 95"}.get(expression)
    if mouth:
        pen.line(svg(mouth), (90, 30, 50), 2.8)
    else:
        pen.fill(oval(64, 93, 6, 7), (150, 40, 60))


def print_two_inks(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A poster print of the picture: cream paper, coral and deep blue ink, the coral plate 2 px out of place."""
    grey = Image.fromarray(picture).convert("L").filter(ImageFilter.GaussianBlur(0.8))
    light = np.asarray(grey, dtype=np.float32)
    coral = np.clip((190 - np.roll(light, (1, 2), (0, 1))) / 18 + 0.5, 0, 1)[..., None]
    blue = np.clip((105 - light) / 18 + 0.5, 0, 1)[..., None]
    out = np.array([253.0, 244, 222]) * (1 - coral) + np.array([246.0, 106, 88]) * coral
    out = out * (1 - blue) + np.array([34.0, 52, 112]) * blue
    return np.clip(out, 0, 255).astype(np.uint8)


def plain_canvas(size: int) -> tuple[skia.Surface, skia.Canvas]:
    """A canvas of ``size`` px in units of 128."""
    surface = skia.Surface(size, size)
    canvas = surface.getCanvas()
    canvas.scale(size / 128, size / 128)
    return surface, canvas
