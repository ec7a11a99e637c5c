"""Draws captioned head-and-shoulders portraits.

    python -m trainer_bridge.pocket.make.draw --sheet sheet.png      (a contact sheet to look at)

A portrait is a function of (seed, index): its look, its caption and its pixels. The pose is nearly fixed,
since what varies little is learnt quickly.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skia
from numpy.typing import NDArray
from PIL import Image

from . import face, hair, unseen, wear
from .labels import Look, sample_look
from .pen import MANNERS, Manner, Pen, Rgb

Picture = NDArray[np.uint8]  # [H, W, 3]


@dataclass(frozen=True)
class Extra:
    """What the portraits of training never have: for sample subjects that the base has not seen."""

    manner: Manner | None = None
    hat: bool = False
    mark: bool = False
    cloak: Rgb | None = None


def _vary(color: Rgb, rng: np.random.Generator) -> Rgb:
    """A colour's small variation of brightness and tint."""
    gain = rng.uniform(0.95, 1.05)
    r, g, b = (float(c * gain + rng.uniform(-5, 5)) for c in color)
    return (r, g, b)


def _pose(canvas: skia.Canvas, rng: np.random.Generator) -> None:
    """Shift up to 2 px, turn up to 2.5 degrees, scale within 2.5 %, about the face's middle."""
    canvas.translate(64 + rng.uniform(-2, 2), 68 + rng.uniform(-1.5, 1.5))
    canvas.rotate(float(rng.uniform(-2.5, 2.5)))
    scale = float(rng.uniform(0.975, 1.025))
    canvas.scale(scale, scale)
    canvas.translate(-64, -68)


def _wash(picture: Picture, rng: np.random.Generator) -> Picture:
    """Watercolour's uneven pigment: slow patches of lighter and stronger paint, tinted a little."""
    size = picture.shape[0]
    coarse = rng.uniform(-1, 1, (7, 7, 3)) * 0.35 + rng.uniform(-1, 1, (7, 7, 1)) * 0.65
    layers = [Image.fromarray(coarse[:, :, i].astype(np.float32)) for i in range(3)]
    noise = np.stack([np.asarray(x.resize((size, size), Image.Resampling.BICUBIC)) for x in layers], axis=2)
    pigment = 255.0 - picture.astype(np.float32)
    return np.clip(255.0 - pigment * (1 + 0.3 * noise) + 4 * noise, 0, 255).astype(np.uint8)


def paint(look: Look, rng: np.random.Generator, size: int = 128, extra: Extra | None = None) -> Picture:
    """One portrait, uint8 [size, size, 3]."""
    surface = skia.Surface(size, size)
    canvas = surface.getCanvas()
    canvas.scale(size / 128, size / 128)
    manner = extra.manner if extra and extra.manner else MANNERS[look.style]
    pen = Pen(canvas, manner, rng)
    skin, locks = _vary(face.SKIN[look.skin], rng), _vary(hair.HAIR[look.hair_color], rng)
    cloth, eyes = _vary(wear.CLOTHES[look.clothes_color], rng), _vary(face.EYES[look.eyes], rng)
    wear.background(pen, look.background)
    _pose(canvas, rng)
    hair.back(pen, look.hair_style, locks)
    face.head(pen, skin)
    wear.clothes(pen, look.clothes, cloth, skin)
    face.fringe_shadow(pen, skin)
    face.features(pen, eyes, look.expression)
    if extra and extra.mark:
        unseen.mark(pen)
    if look.accessory in ("glasses", "scarf"):
        wear.accessory(pen, look.accessory, locks)
    hair.front(pen, look.hair_style, locks)
    if extra and extra.cloak:
        unseen.cloak(pen, extra.cloak)
    face.animal_ears(pen, look.ears, locks, skin)
    if look.accessory not in ("glasses", "scarf"):
        wear.accessory(pen, look.accessory, locks)
    if extra and extra.hat:
        unseen.hat(pen)
    pixels = surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)
    picture = np.ascontiguousarray(pixels[:, :, :3])
    return _wash(picture, rng) if manner is MANNERS["watercolor"] else picture


def portrait(seed: int, index: int, size: int = 128) -> tuple[Picture, Look]:
    """The portrait number ``index`` of the endless series ``seed``."""
    rng = np.random.default_rng([seed, index])
    look = sample_look(rng)
    return paint(look, rng, size), look


def sheet(pictures: list[Picture], columns: int) -> Image.Image:
    """A contact sheet of equally large pictures."""
    size = pictures[0].shape[0]
    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * size, rows * size), "white")
    for i, picture in enumerate(pictures):
        out.paste(Image.fromarray(picture), ((i % columns) * size, (i // columns) * size))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    sheet([portrait(args.seed, i)[0] for i in range(args.count)], 8).save(args.sheet)


if __name__ == "__main__":
    main()
