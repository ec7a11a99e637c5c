"""Hair: a part behind the head and a part in front of it, for each style of :data:`labels.CLASSES`."""

from __future__ import annotations

from collections.abc import Callable

import skia

from .pen import Pen, Rgb, mirrored, mix, oval, svg

HAIR: dict[str, Rgb] = {
    "black": (52, 48, 66),
    "brown": (138, 84, 50),
    "blonde": (250, 212, 104),
    "red": (214, 58, 44),
    "pink": (250, 144, 184),
    "blue": (70, 118, 222),
    "green": (78, 176, 98),
    "white": (232, 234, 244),
    "purple": (136, 82, 196),  # never in training: the sample character's
}

_DOME = "M 20 70 C 14 34 34 12 64 12 C 94 12 114 34 108 70"


def _ring(pen: Pen, color: Rgb, clip: skia.Path) -> None:
    """The light band on the crown of the head."""
    light = mix(color, (255, 255, 255), 0.5 if sum(color) > 250 else 0.32)
    pen.canvas.save()
    pen.canvas.clipPath(clip, True)
    band = svg("M 24 44 Q 34 30 52 27 L 55 33 Q 38 37 29 49 Z")
    spot = svg("M 62 25 Q 84 26 97 38 L 93 44 Q 80 33 62 31 Z")
    pen.fill(band, light)
    pen.fill(spot, light)
    pen.canvas.restore()


def back(pen: Pen, style: str, color: Rgb) -> None:
    """Everything behind face and shoulders. ``color`` is the hair's own; the back is drawn a tone darker."""
    shade = mix(color, (40, 20, 70), 0.16)
    if style == "curly":
        for x, y, r in (
            (24, 40, 16),
            (16, 62, 16),
            (18, 84, 15),
            (104, 40, 16),
            (112, 62, 16),
            (110, 84, 15),
        ):
            pen.shape(oval(x, y, r, r), shade)
        pen.fill(oval(64, 58, 46, 42), shade)
        return
    if style == "ponytail":
        pen.shape(svg("M 92 30 C 112 14 130 34 124 70 C 122 92 116 106 106 116 C 108 96 100 70 90 44 Z"), color)
    outline = {
        "short": _DOME + " L 106 80 L 98 92 L 30 92 L 22 80 Z",
        "ponytail": _DOME + " L 104 74 L 96 84 L 32 84 L 24 74 Z",
        "bob": _DOME + " C 114 84 112 100 100 106 L 28 106 C 16 100 14 84 20 70 Z",
        "long": _DOME + " C 116 90 120 112 122 132 L 6 132 C 8 112 12 90 20 70 Z",
        "braids": _DOME + " L 108 92 L 96 98 L 32 98 L 20 92 Z",
        "twintails": _DOME + " L 104 78 L 96 86 L 32 86 L 24 78 Z",
    }[style]
    if style == "twintails":
        tail = svg("M 24 40 C 4 40 -4 66 2 92 C 4 108 8 118 16 124 C 22 104 28 84 30 58 Z")
        pen.shape(tail, color)
        pen.shape(mirrored(tail), color)
    pen.shape(svg(outline), shade)


def _short(pen: Pen, color: Rgb) -> None:
    fringe = svg(
        _DOME + " L 106 78 L 101 60 L 97 48 L 90 58 L 84 44 L 76 56 L 66 42 L 60 57 L 50 43 L 43 58 L 35 46"
        " L 30 56 L 26 78 L 20 70 Z"
    )
    pen.shape(fringe, color)
    _ring(pen, color, fringe)


def _bob(pen: Pen, color: Rgb) -> None:
    fringe = svg(
        _DOME + " C 113 86 112 98 102 106 C 98 98 97 76 96 55 Q 80 49 64 50 Q 48 49 32 55 C 31 76 30 98 26 106"
        " C 16 98 15 86 20 70 Z"
    )
    pen.shape(fringe, color)
    for x in (44, 64, 84):
        pen.outline(svg(f"M {x} 36 L {x} 48"), color, 0.6)
    _ring(pen, color, fringe)


def _long(pen: Pen, color: Rgb) -> None:
    half = svg("M 64 12 C 34 12 14 34 20 70 C 12 92 12 112 14 128 L 28 128 C 26 104 24 84 29 62 C 44 58 58 46 64 28 Z")
    pen.shape(half, color)
    pen.shape(mirrored(half), color)
    both = skia.Path()
    both.addPath(half)
    both.addPath(mirrored(half))
    _ring(pen, color, both)


def _ponytail(pen: Pen, color: Rgb) -> None:
    fringe = svg(_DOME + " L 103 76 C 102 62 98 50 90 40 C 76 56 50 62 30 56 L 26 76 L 20 70 Z")
    pen.shape(fringe, color)
    pen.outline(svg("M 86 24 C 76 42 56 52 36 54"), color, 0.6)
    _ring(pen, color, fringe)
    pen.shape(oval(98, 30, 6.5, 6.5), (244, 84, 110), 0.8)


def _braids(pen: Pen, color: Rgb) -> None:
    fringe = svg(
        _DOME + " L 107 84 C 102 76 100 62 96 50 C 84 58 72 50 70 34 C 62 50 46 58 32 50 C 28 62 26 76 21 84 L 20 70 Z"
    )
    pen.shape(fringe, color)
    _ring(pen, color, fringe)
    for y, r in ((90, 10.5), (105, 10), (119, 9)):
        pen.shape(oval(18, y, r, r * 0.92), color)
        pen.shape(oval(110, y, r, r * 0.92), color)


def _curly(pen: Pen, color: Rgb) -> None:
    circles = (
        (26, 50, 12), (102, 50, 12), (34, 34, 14), (94, 34, 14),
        (48, 25, 14), (80, 25, 14), (64, 22, 14), (44, 42, 11), (84, 42, 11), (64, 40, 12),
    )  # fmt: skip
    for x, y, r in circles:
        pen.shape(oval(x, y, r, r), color)
    light = mix(color, (255, 255, 255), 0.4)
    for x, y, r in circles[2:7]:
        pen.fill(oval(x - r * 0.3, y - r * 0.3, r * 0.32, r * 0.26), light)


def _twintails(pen: Pen, color: Rgb) -> None:
    _bob_fringe = svg(
        _DOME + " L 103 76 L 98 54 L 88 58 L 80 48 L 70 57 L 64 46 L 58 57 L 48 48 L 40 58 L 30 54 L 25 76 L 20 70 Z"
    )
    pen.shape(_bob_fringe, color)
    _ring(pen, color, _bob_fringe)
    for x in (24, 104):
        pen.shape(oval(x, 42, 6, 7), (244, 200, 70), 0.8)


_FRONT: dict[str, Callable[[Pen, Rgb], None]] = {
    "short": _short,
    "bob": _bob,
    "long": _long,
    "ponytail": _ponytail,
    "braids": _braids,
    "curly": _curly,
    "twintails": _twintails,
}


def front(pen: Pen, style: str, color: Rgb) -> None:
    """Fringe, light band and whatever hangs in front of the shoulders."""
    _FRONT[style](pen, color)
