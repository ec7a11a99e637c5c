"""A pen that draws the same shape in every drawing style. Coordinates are in units of a 128 x 128 canvas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import skia

Rgb = tuple[float, float, float]


def mix(a: Rgb, b: Rgb, t: float) -> Rgb:
    """``a`` moved towards ``b`` by ``t`` (0..1); channels in 0..255."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def argb(color: Rgb, alpha: float = 1.0) -> int:
    r, g, b = (int(min(255, max(0, round(c)))) for c in color)
    return int(skia.Color(r, g, b, int(round(255 * alpha))))


@lru_cache(maxsize=1024)
def svg(text: str) -> skia.Path:
    """A path from "M x y L x y Q .. C .. Z" (absolute only). Shared: callers must not change it."""
    path = skia.Path()
    words = text.split()
    at = 0
    arity = {"M": 2, "L": 2, "Q": 4, "C": 6, "Z": 0}
    while at < len(words):
        verb = words[at]
        n = arity[verb]
        v = [float(w) for w in words[at + 1 : at + 1 + n]]
        {"M": path.moveTo, "L": path.lineTo, "Q": path.quadTo, "C": path.cubicTo, "Z": path.close}[verb](*v)
        at += 1 + n
    return path


def mirrored(path: skia.Path) -> skia.Path:
    """The path's mirror image about the picture's middle, x = 64."""
    matrix = skia.Matrix()
    matrix.setScale(-1, 1)
    matrix.postTranslate(128, 0)
    out = skia.Path()
    path.transform(matrix, out)
    return out


def oval(x: float, y: float, rx: float, ry: float) -> skia.Path:
    path = skia.Path()
    path.addOval(skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry))
    return path


@dataclass(frozen=True)
class Manner:
    """How a drawing style treats fills and lines."""

    line: float  # outline width in px, 0 = none
    ink: Rgb | None  # outline colour; None = a darker tone of the fill
    ink_alpha: float = 1.0
    fill_alpha: float = 1.0
    shadow: float = 0.0  # darkness of the shaded rim
    glow: float = 0.0  # lightness added at the top of a fill
    paper: Rgb | None = None
    vivid: float = 1.0  # saturation factor


MANNERS: dict[str, Manner] = {
    "anime": Manner(line=1.8, ink=None, shadow=0.17, glow=0.16),
    "flat": Manner(line=0.0, ink=None),
    "watercolor": Manner(
        line=1.1, ink=None, ink_alpha=0.35, fill_alpha=0.82, glow=0.35, paper=(250, 246, 236), vivid=0.9
    ),
    "sketch": Manner(line=1.7, ink=(66, 62, 70), ink_alpha=0.92, fill_alpha=0.55, paper=(246, 240, 226), vivid=0.95),
    "comic": Manner(line=3.0, ink=(20, 16, 26), shadow=0.3, vivid=1.2),
}


class Pen:
    """Draws onto a skia canvas in one manner; a private generator gives the small variations."""

    def __init__(self, canvas: skia.Canvas, manner: Manner, rng: np.random.Generator) -> None:
        self.canvas = canvas
        self.manner = manner
        self.rng = rng

    def tone(self, color: Rgb) -> Rgb:
        """The manner's version of a colour."""
        grey = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]
        out = mix((grey, grey, grey), color, self.manner.vivid)
        return mix(self.manner.paper, out, self.manner.fill_alpha) if self.manner.paper else out

    def ink(self, color: Rgb) -> Rgb:
        return self.manner.ink if self.manner.ink is not None else mix(color, (38, 18, 44), 0.62)

    def fill(self, path: skia.Path, color: Rgb, alpha: float = 1.0, shaded: bool = False) -> None:
        """Fills a path; ``shaded`` adds the manner's light from the upper left."""
        m, base = self.manner, self.tone(color)
        paint = skia.Paint(AntiAlias=True, Color=argb(base, alpha))
        if not shaded or (m.shadow == 0 and m.glow == 0):
            self.canvas.drawPath(path, paint)
            return
        box = path.getBounds()
        if m.glow:
            top = mix(base, (255, 255, 255), m.glow)
            ends = [skia.Point(box.left(), box.top()), skia.Point(box.left(), box.bottom())]
            paint.setShader(skia.GradientShader.MakeLinear(ends, [argb(top, alpha), argb(base, alpha)]))
        if not m.shadow:
            self.canvas.drawPath(path, paint)
            return
        dark = mix(base, (52, 24, 78), m.shadow)
        self.canvas.drawPath(path, skia.Paint(AntiAlias=True, Color=argb(dark, alpha)))
        self.canvas.save()
        self.canvas.clipPath(path, True)
        self.canvas.translate(-0.055 * box.width() - 1, -0.045 * box.height() - 1)
        self.canvas.drawPath(path, paint)
        self.canvas.restore()

    def outline(self, path: skia.Path, color: Rgb, width: float = 1.0) -> None:
        """The manner's outline; ``width`` scales it. Nothing where the manner has none."""
        m = self.manner
        if m.line:
            self._stroke(path, self.ink(color), m.line * width, m.ink_alpha)

    def shape(self, path: skia.Path, color: Rgb, width: float = 1.0) -> None:
        """A shaded fill with its outline."""
        self.fill(path, color, shaded=True)
        self.outline(path, color, width)

    def line(self, path: skia.Path, color: Rgb, width: float) -> None:
        """A line that belongs to the drawing itself (mouth, lash) and is there in every manner."""
        sketchy = self.manner.ink if self.manner.ink is not None and self.manner.paper else None
        extra = 0.6 if self.manner.line > 2.5 else 0.0
        self._stroke(path, sketchy or self.tone(color), width + extra, 1.0)

    def band(self, path: skia.Path, color: Rgb, width: float) -> None:
        """A thick coloured stroke with an outline (hair bands, frames, scarves)."""
        if self.manner.line:
            self._stroke(path, self.ink(color), width + 1.8 * self.manner.line, self.manner.ink_alpha)
        self._stroke(path, self.tone(color), width, 1.0)

    def _stroke(self, path: skia.Path, color: Rgb, width: float, alpha: float) -> None:
        paint = skia.Paint(
            AntiAlias=True,
            Style=skia.Paint.kStroke_Style,
            StrokeWidth=width,
            StrokeCap=skia.Paint.kRound_Cap,
            StrokeJoin=skia.Paint.kRound_Join,
            Color=argb(color, alpha),
        )
        self.canvas.drawPath(path, paint)
