"""Hats and marks that no training picture has: for the sample subjects."""

from __future__ import annotations

from .pen import Pen, oval, svg


def hat(pen: Pen, kind: str) -> None:
    if kind != "witch":
        raise ValueError(f"unknown hat {kind!r}")
    cloth = (62, 44, 92)
    pen.shape(svg("M 30 34 C 44 10 58 2 80 -10 C 88 -4 84 2 78 2 C 88 12 94 22 98 34 Q 64 26 30 34 Z"), cloth)
    pen.shape(svg("M 31 34 Q 64 24 97 34 L 95 25 Q 64 15 35 25 Z"), (250, 190, 60))
    pen.shape(svg("M 6 38 C 26 26 102 26 122 38 C 104 48 24 48 6 38 Z"), cloth)


def mark(pen: Pen, kind: str) -> None:
    if kind != "star":
        raise ValueError(f"unknown mark {kind!r}")
    star = "M 90 78 L 93 85 L 100 85 L 95 90 L 97 97 L 90 93 L 83 97 L 85 90 L 80 85 L 87 85 Z"
    pen.shape(svg(star), (255, 214, 40), 0.6)
    pen.fill(oval(88, 88, 1.2, 1.2), (255, 246, 190))
