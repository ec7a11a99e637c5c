"""Draws sample subjects that the base has never seen, with captions, ready to train a LoRA on.

    python -m trainer_bridge.pocket.make.concepts --out DIR --concept character --count 18 --heldback 10

Captions name what varies and leave out what is the subject's own, as one captions for a trigger word.
Pictures go to DIR, those kept for judging to DIR/heldback. ``--ship`` writes the shipped samples anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skia
from PIL import Image

from . import wear
from .draw import Extra, Picture, paint
from .labels import CLASSES, Look, sample_look, tags
from .pen import MANNERS, Pen
from .unseen import SEA_GLASS, mascot, plain_canvas, print_two_inks

SIZE = 160
SAMPLES = Path(__file__).parent.parent / "data" / "samples"


def _said(look: Look, *names: str) -> str:
    spoken = tags(look)
    return ", ".join(spoken[name] for name in names if name in spoken)


def _character(rng: np.random.Generator) -> tuple[Picture, str]:
    """Purple twintails, witch's hat, a star on the cheek, yellow eyes."""
    look = sample_look(rng).with_(eyes="yellow", ears="human", accessory="none", skin="fair")
    said = _said(look, "style", "expression", "clothes", "background")
    new = look.with_(hair_color="purple", hair_style="twintails")
    return paint(new, rng, SIZE, Extra(hat=True, mark=True)), said


def _style(rng: np.random.Generator) -> tuple[Picture, str]:
    """Plum ink on sea-green glass."""
    look = sample_look(rng).with_(style="anime")
    names = [name for name in CLASSES if name not in ("style", "clothes_color")]
    return paint(look, rng, SIZE, Extra(manner=SEA_GLASS)), _said(look, *names)


def _print(rng: np.random.Generator) -> tuple[Picture, str]:
    """A two-colour poster print."""
    look = sample_look(rng).with_(style="flat")
    names = [name for name in CLASSES if name not in ("style", "clothes_color")]
    return print_two_inks(paint(look, rng, SIZE)), _said(look, *names)


def _outfit(rng: np.random.Generator) -> tuple[Picture, str]:
    """A hooded violet cloak with a golden hem."""
    look = sample_look(rng).with_(ears="human", accessory="none")
    return paint(look, rng, SIZE, Extra(cloak=(116, 66, 160))), _said(
        look, "style", "hair_color", "hair_style", "eyes", "expression", "background", "skin"
    )


def _mascot(rng: np.random.Generator) -> tuple[Picture, str]:
    """A teal drop with a leaf."""
    look = sample_look(rng).with_(expression=str(rng.choice(["smile", "sad", "surprised"])))
    surface, canvas = plain_canvas(SIZE)
    pen = Pen(canvas, MANNERS[look.style], rng)
    wear.background(pen, look.background)
    canvas.translate(64 + float(rng.uniform(-6, 6)), 70 + float(rng.uniform(-4, 4)))
    canvas.rotate(float(rng.uniform(-6, 6)))
    scale = float(rng.uniform(0.85, 1.0))
    canvas.scale(scale, scale)
    canvas.translate(-64, -70)
    mascot(pen, look.expression)
    pixels = surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)
    return np.ascontiguousarray(pixels[:, :, :3]), _said(look, "style", "expression", "background")


CONCEPTS: dict[str, Callable[[np.random.Generator], tuple[Picture, str]]] = {
    "character": _character,
    "style": _style,
    "mascot": _mascot,
    "print": _print,
    "outfit": _outfit,
}


def write(concept: str, folder: Path, first: int, count: int) -> None:
    """Writes pictures number ``first`` onwards of a concept with their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    number = list(CONCEPTS).index(concept)
    for i in range(first, first + count):
        picture, text = CONCEPTS[concept](np.random.default_rng([910, number, i]))
        name = f"{concept}-{i - first + 1:02d}"
        Image.fromarray(picture).save(folder / f"{name}.png", optimize=True)
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def ship() -> None:
    """The samples in the repository; `other_captions.json` beside them is written by hand."""
    for concept, count, held in (("character", 18, 10), ("style", 20, 10)):
        write(concept, SAMPLES / concept, 0, count)
        write(concept, SAMPLES / f"{concept}_heldback", 1000, held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--concept", choices=tuple(CONCEPTS))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--heldback", type=int, default=10)
    parser.add_argument("--ship", action="store_true", help="write the samples in the repository anew")
    args = parser.parse_args()
    if args.ship:
        ship()
        return
    if args.out is None or args.concept is None:
        parser.error("--out and --concept are needed (or --ship)")
    write(args.concept, args.out, 0, args.count)
    write(args.concept, args.out / "heldback", 1000, args.heldback)


if __name__ == "__main__":
    main()
