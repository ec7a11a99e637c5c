"""Face: skin, ears, eyes, brows and mouth. Large on purpose: a latent cell is 8 px, an eye is 24 x 28."""

from __future__ import annotations

import skia

from .pen import Pen, Rgb, argb, mirrored, mix, oval, svg

SKIN: dict[str, Rgb] = {"fair": (255, 226, 206), "tan": (232, 178, 132), "dark": (158, 104, 74)}
EYES: dict[str, Rgb] = {
    "blue": (52, 136, 240),
    "green": (44, 176, 92),
    "red": (224, 48, 60),
    "yellow": (250, 190, 30),
    "purple": (160, 80, 220),
}
_DARK: Rgb = (54, 30, 48)
_EYE_X, _EYE_Y = 43.0, 68.0


def head(pen: Pen, skin: Rgb) -> None:
    """Neck and face."""
    neck = svg("M 53 96 L 53 112 Q 64 120 75 112 L 75 96 Z")
    pen.shape(neck, mix(skin, (150, 70, 80), 0.2))
    pen.shape(svg("M 26 60 C 24 84 38 103 64 103 C 90 103 104 84 102 60 C 102 30 26 30 26 60 Z"), skin)


def fringe_shadow(pen: Pen, skin: Rgb) -> None:
    """The soft shadow that hair throws on the forehead."""
    if pen.manner.shadow or pen.manner.glow:
        pen.fill(svg("M 27 56 C 26 34 102 34 101 56 Q 64 44 27 56 Z"), mix(skin, (150, 60, 80), 0.28))


def animal_ears(pen: Pen, kind: str, hair: Rgb, skin: Rgb) -> None:
    """Ears that are not human; cat and rabbit ears take the hair's colour, elf ears the skin's."""
    inner = mix((255, 150, 170), hair, 0.12)
    if kind == "cat":
        outer, hole = (
            svg("M 22 42 C 16 22 18 8 22 2 C 34 6 46 14 54 26 Z"),
            svg("M 27 34 C 24 22 25 15 27 11 L 44 25 Z"),
        )
        for path, color in ((outer, hair), (hole, inner)):
            pen.shape(path, color)
            pen.shape(mirrored(path), color)
    elif kind == "rabbit":
        outer, hole = oval(42, 14, 10.5, 22), oval(42, 13, 5.2, 15)
        for path, color in ((outer, hair), (hole, inner)):
            pen.shape(path, color)
            pen.shape(mirrored(path), color)
    elif kind == "elf":
        outer, hole = (
            svg("M 28 62 C 18 56 8 54 -2 50 C 0 68 12 86 28 84 Z"),
            svg("M 26 68 L 8 59 Q 14 74 26 78 Z"),
        )
        for path, color in ((outer, skin), (hole, mix(skin, (210, 80, 90), 0.35))):
            pen.shape(path, color)
            pen.shape(mirrored(path), color)


def _eye(pen: Pen, color: Rgb, expression: str) -> None:
    """The left eye, in place. The right one is its mirror image except for the lights in it."""
    c = pen.canvas
    wide = expression == "surprised"
    white = oval(_EYE_X, _EYE_Y, 12.5, 15.5 if wide else 14)
    c.save()
    c.clipPath(white, True)
    if expression == "angry":
        c.clipPath(svg("M 26 50 L 26 58 L 60 69 L 60 90 L 26 90 Z"), True)
    elif expression == "sad":
        c.clipPath(svg("M 26 69 L 60 57 L 60 90 L 26 90 Z"), True)
    pen.fill(white, (255, 255, 255))
    rx, ry = (7.0, 8.5) if wide else (10.0, 12.2)
    iris = oval(_EYE_X + 0.6, _EYE_Y + 0.6, rx, ry)
    top, low = mix(pen.tone(color), _DARK, 0.42), mix(pen.tone(color), (255, 255, 255), 0.22)
    if pen.manner.shadow == 0 and pen.manner.glow == 0:
        top = low = pen.tone(color)
    ends = [skia.Point(0, _EYE_Y - ry), skia.Point(0, _EYE_Y + ry)]
    middle = pen.tone(color)
    shader = skia.GradientShader.MakeLinear(ends, [argb(top), argb(middle), argb(low)])
    c.drawPath(iris, skia.Paint(AntiAlias=True, Shader=shader))
    pen.outline(iris, color, 0.5)
    pen.fill(oval(_EYE_X + 0.6, _EYE_Y - 0.4, rx * 0.36, ry * 0.4), _DARK)
    c.restore()


def _lids(pen: Pen, expression: str) -> None:
    """Upper lash and brow of the left side."""
    lash, brow = {
        "smile": ("M 29 64 Q 32 53 43 53 Q 54 53 57 63", "M 31 47 Q 41 42 52 46"),
        "laughing": ("M 29 64 Q 32 53 43 53 Q 54 53 57 63", "M 30 44 Q 41 37 53 43"),
        "sad": ("M 29 68 Q 42 61 57 58", "M 30 52 Q 42 48 52 40"),
        "angry": ("M 29 58 Q 44 61 57 68", "M 28 45 Q 42 47 56 57"),
        "surprised": ("M 29 63 Q 32 51 43 51 Q 54 51 57 62", "M 31 40 Q 42 33 53 39"),
    }[expression]
    for text, width in ((lash, 3.6), (brow, 3.4 if expression == "angry" else 2.6)):
        pen.line(svg(text), _DARK, width)
        pen.line(mirrored(svg(text)), _DARK, width)


def _lights(pen: Pen, expression: str) -> None:
    """White lights in both eyes, from the same side; tears when sad."""
    for x in (_EYE_X, 128 - _EYE_X):
        size = 2.6 if expression == "surprised" else 3.7
        drop = 3.5 if expression in ("angry", "sad") else 0.0
        pen.fill(oval(x - 3.4, _EYE_Y - 5 + drop, size, size), (255, 255, 255))
        pen.fill(oval(x + 4, _EYE_Y + 5.5, 1.9, 1.9), (255, 255, 255))
    if expression == "sad":
        tear = svg("M 33 80 C 25 92 28 99 33 99 C 38 99 41 92 33 80 Z")
        for path in (tear, mirrored(tear)):
            pen.shape(path, (120, 196, 255), 0.7)


def _mouth(pen: Pen, expression: str) -> None:
    if expression == "smile":
        pen.line(svg("M 49 88 Q 64 101 79 88"), (150, 40, 50), 3.0)
    elif expression == "sad":
        pen.line(svg("M 50 97 Q 64 84 78 97"), (150, 40, 50), 3.2)
    elif expression == "laughing":
        mouth = svg("M 47 84 Q 64 89 81 84 C 81 96 74 101 64 101 C 54 101 47 96 47 84 Z")
        pen.fill(mouth, (150, 30, 44))
        pen.canvas.save()
        pen.canvas.clipPath(mouth, True)
        pen.fill(oval(64, 101, 11, 6), (255, 120, 130))
        pen.fill(svg("M 48 80 L 80 80 L 78 89 Q 64 92 50 89 Z"), (255, 255, 255))
        pen.canvas.restore()
        pen.line(mouth, _DARK, 1.6)
    elif expression == "angry":
        mouth = svg("M 50 97 L 54 87 Q 64 85 74 87 L 78 97 Q 64 93 50 97 Z")
        pen.fill(mouth, (255, 255, 255))
        pen.line(mouth, _DARK, 2.2)
        pen.line(svg("M 53 92 Q 64 89 75 92"), _DARK, 1.4)
    else:
        mouth = oval(64, 93, 7.5, 8.5)
        pen.fill(mouth, (140, 28, 44))
        pen.fill(oval(64, 98, 5, 3), (255, 120, 130))
        pen.line(mouth, _DARK, 1.8)


def features(pen: Pen, eyes: Rgb, expression: str) -> None:
    """Eyes, brows, cheeks and mouth."""
    blush = (255, 110, 120)
    strength = {"laughing": 0.5, "angry": 0.4}.get(expression, 0.28)
    for x in (33, 95):
        pen.fill(oval(x, 87, 8, 4.5), blush, strength)
    _eye(pen, eyes, expression)
    pen.canvas.save()
    pen.canvas.translate(128, 0)
    pen.canvas.scale(-1, 1)
    _eye(pen, eyes, expression)
    pen.canvas.restore()
    _lids(pen, expression)
    _lights(pen, expression)
    _mouth(pen, expression)
