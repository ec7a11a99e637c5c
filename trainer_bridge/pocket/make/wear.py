"""Clothes, accessories and backgrounds."""

from __future__ import annotations

import skia

from .pen import Pen, Rgb, argb, mirrored, mix, oval, svg

CLOTHES: dict[str, Rgb] = {
    "red": (216, 52, 58),
    "blue": (58, 104, 210),
    "green": (62, 158, 90),
    "yellow": (250, 206, 66),
    "black": (58, 54, 66),
    "white": (244, 244, 248),
    "purple": (136, 82, 196),
    "orange": (244, 136, 48),
}
_WHITE: Rgb = (250, 250, 252)
_TORSO = "M 8 130 C 12 116 30 110 52 106 L 76 106 C 98 110 116 116 120 130 Z"


def _contrast(color: Rgb) -> Rgb:
    return (226, 60, 70) if color[0] < 150 or min(color) > 200 else (250, 214, 80)


def _sailor(pen: Pen, color: Rgb, skin: Rgb) -> None:
    pen.shape(svg(_TORSO), color)
    collar = _WHITE if min(color) < 200 else (70, 100, 170)
    pen.fill(svg("M 52 104 L 64 122 L 76 104 Z"), skin)
    side = svg("M 50 102 L 64 124 L 50 130 L 24 130 L 26 114 Z")
    for path in (side, mirrored(side)):
        pen.shape(path, collar)
    knot = _contrast(color)
    wing = svg("M 64 121 L 48 113 L 48 130 Z")
    for path in (wing, mirrored(wing)):
        pen.shape(path, knot, 0.8)
    pen.shape(oval(64, 121, 4, 4.5), knot, 0.8)


def _hoodie(pen: Pen, color: Rgb, skin: Rgb) -> None:
    pen.shape(svg(_TORSO), color)
    pen.shape(
        svg("M 28 118 C 22 100 40 98 50 100 Q 64 114 78 100 C 88 98 106 100 100 118 Q 64 130 28 118 Z"),
        mix(color, _WHITE, 0.1),
    )
    pen.fill(svg("M 48 103 Q 64 116 80 103 Q 64 124 48 103 Z"), mix(color, (30, 20, 50), 0.45))
    for x in (54, 74):
        pen.band(svg(f"M {x} 115 L {x} 127"), _WHITE if min(color) < 200 else (150, 150, 170), 2.4)


def _kimono(pen: Pen, color: Rgb, skin: Rgb) -> None:
    pen.shape(svg(_TORSO), color)
    pen.fill(svg("M 50 102 L 62 126 L 78 102 Z"), skin)
    light = mix(color, _WHITE, 0.75) if min(color) < 200 else (226, 150, 170)
    right = svg("M 82 100 L 92 106 L 52 134 L 40 134 Z")
    left = svg("M 46 100 L 36 106 L 76 134 L 90 134 Z")
    pen.shape(right, light)
    pen.shape(left, light)
    for x, y in ((26, 122), (104, 121)):
        for dx, dy in ((0, -4), (4, 0), (0, 4), (-4, 0)):
            pen.fill(oval(x + dx, y + dy, 3, 3), light)


def _dress(pen: Pen, color: Rgb, skin: Rgb) -> None:
    pen.shape(svg(_TORSO), skin)
    body = svg("M 22 132 C 28 120 36 116 44 117 Q 56 112 64 121 Q 72 112 84 117 C 92 116 100 120 106 132 Z")
    pen.shape(body, color)
    for text in ("M 42 104 L 40 118", "M 86 104 L 88 118"):
        pen.band(svg(text), color, 4.5)
    frill = _WHITE if min(color) < 200 else (250, 190, 206)
    for x, y in ((40, 118), (50, 117), (59, 120), (69, 120), (78, 117), (88, 118)):
        pen.shape(oval(x, y, 5, 4), frill, 0.7)


def _suit(pen: Pen, color: Rgb, skin: Rgb) -> None:
    pen.shape(svg(_TORSO), color)
    shirt = _WHITE if min(color) < 200 else (120, 150, 200)
    pen.shape(svg("M 50 103 L 64 110 L 78 103 L 76 130 L 52 130 Z"), shirt)
    pen.shape(svg("M 60 110 L 68 110 L 71 130 L 57 130 Z"), _contrast(color), 0.8)
    lapel = svg("M 48 102 L 38 112 L 44 118 L 39 121 L 56 132 L 60 130 Z")
    for path in (lapel, mirrored(lapel)):
        pen.shape(path, mix(color, (20, 16, 40), 0.22))


def clothes(pen: Pen, kind: str, color: Rgb, skin: Rgb) -> None:
    {"sailor": _sailor, "hoodie": _hoodie, "kimono": _kimono, "dress": _dress, "suit": _suit}[kind](pen, color, skin)


def _glasses(pen: Pen) -> None:
    frame = (40, 36, 60)
    for x in (42, 86):
        pen.fill(oval(x, 69, 17, 17), (225, 240, 255), 0.22)
        pen.line(oval(x, 69, 17, 17), frame, 3.6)
    pen.line(svg("M 59 66 Q 64 62 69 66"), frame, 3.4)


def _flower(pen: Pen) -> None:
    for x, y in ((30, 26), (41, 34), (37, 47), (23, 47), (19, 34)):
        pen.shape(oval(x, y, 8.5, 8.5), (255, 250, 252), 0.8)
    pen.shape(oval(30, 38, 7, 7), (252, 196, 40), 0.8)


def _bow(pen: Pen, hair: Rgb) -> None:
    color: Rgb = (228, 40, 70) if not (hair[0] > 190 and hair[1] < 100) else (250, 250, 255)
    wing = svg("M 64 20 C 54 2 38 2 34 8 C 32 18 36 30 42 33 C 52 34 58 28 64 20 Z")
    for path in (wing, mirrored(wing)):
        pen.shape(path, color)
    pen.shape(oval(64, 20, 6.5, 7.5), mix(color, (40, 10, 50), 0.15))


def _headphones(pen: Pen) -> None:
    shell = (64, 70, 88)
    pen.band(svg("M 14 64 C 12 -8 116 -8 114 64"), shell, 6.5)
    for x in (14, 114):
        pen.shape(oval(x, 70, 11, 17), shell)
        pen.shape(oval(x, 70, 6, 11), (40, 214, 226), 0.7)


def _crown(pen: Pen) -> None:
    gold = (252, 200, 50)
    pen.shape(svg("M 40 30 L 36 4 L 50 16 L 64 0 L 78 16 L 92 4 L 88 30 Q 64 24 40 30 Z"), gold)
    pen.shape(oval(64, 19, 5, 5.5), (220, 40, 70), 0.7)
    for x in (48, 80):
        pen.shape(oval(x, 22, 3.4, 3.6), (60, 130, 230), 0.6)


def _scarf(pen: Pen) -> None:
    color = (238, 124, 44)
    pen.shape(
        svg("M 30 100 Q 64 118 98 100 C 106 108 104 116 98 119 Q 64 132 30 119 C 24 116 22 108 30 100 Z"),
        color,
    )
    for x in (40, 62, 84):
        pen.fill(svg(f"M {x} 106 L {x + 6} 107 L {x + 5} 124 L {x - 1} 122 Z"), (255, 246, 226))
    pen.shape(svg("M 82 112 L 98 110 L 102 132 L 84 132 Z"), color)


def accessory(pen: Pen, kind: str, hair: Rgb) -> None:
    if kind == "bow":
        _bow(pen, hair)
    elif kind != "none":
        {"glasses": _glasses, "flower": _flower, "headphones": _headphones, "crown": _crown, "scarf": _scarf}[kind](pen)


def _gradient(pen: Pen, *colors: Rgb) -> None:
    ends = [skia.Point(0, -8), skia.Point(0, 136)]
    shades = [argb(pen.tone(c)) for c in colors]
    pen.canvas.drawPaint(skia.Paint(Shader=skia.GradientShader.MakeLinear(ends, shades)))


def _night(pen: Pen) -> None:
    _gradient(pen, (22, 26, 84), (70, 62, 150))
    pen.fill(oval(110, 16, 11, 11), (255, 244, 190))
    pen.fill(oval(105, 13, 9.5, 9.5), (26, 30, 90))
    for x, y, r in ((8, 14, 2.4), (28, 6, 1.8), (6, 52, 2), (122, 54, 2.4), (10, 90, 2), (120, 92, 1.8)):
        pen.fill(oval(x, y, r, r), (255, 250, 220))


def _sky(pen: Pen) -> None:
    _gradient(pen, (84, 176, 250), (190, 230, 255))
    for x, y, s in ((8, 26, 1.0), (112, 14, 1.1), (122, 84, 1.0), (2, 92, 0.9)):
        for dx, dy, r in ((-9, 2, 7), (0, -2, 9), (10, 2, 7)):
            pen.fill(oval(x + dx * s, y + dy * s, r * s * 1.2, r * s * 0.85), (255, 255, 255))


def _stripes(pen: Pen) -> None:
    _gradient(pen, (255, 240, 200), (255, 240, 200))
    for x in range(-120, 140, 32):
        pen.fill(svg(f"M {x} 0 L {x + 16} 0 L {x + 144} 128 L {x + 128} 128 Z"), (140, 208, 206))


def background(pen: Pen, kind: str) -> None:
    """Covers the whole canvas."""
    plain: dict[str, tuple[Rgb, ...]] = {
        "white": ((253, 253, 253), (240, 241, 246)),
        "pink": ((255, 186, 208), (255, 222, 230)),
        "green": ((140, 206, 130), (206, 236, 180)),
        "sunset": ((110, 70, 150), (240, 110, 100), (255, 200, 110)),
    }
    if kind in plain:
        _gradient(pen, *plain[kind])
    else:
        {"night": _night, "sky": _sky, "stripes": _stripes}[kind](pen)
