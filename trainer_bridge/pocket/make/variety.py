"""Pictures that are no portraits, so that the autoencoder also passes what a user's LoRA may be about.

Random palettes, shapes, outlines, stripes, dots, line drawings, washes, round mascots; and portraits whose
colours were permuted or inverted. Only the autoencoder sees them.
"""

from __future__ import annotations

import numpy as np
import skia

from .draw import Extra, Picture, paint, portrait
from .labels import sample_look
from .pen import Manner, argb


def _color(rng: np.random.Generator) -> tuple[float, float, float]:
    r, g, b = (float(c) for c in rng.uniform(0, 255, 3))
    if rng.random() < 0.3:
        grey = (r + g + b) / 3
        return (grey, grey, grey)
    return (r, g, b)


def _blob(rng: np.random.Generator) -> skia.Path:
    """A closed, possibly spiky outline."""
    n = int(rng.integers(3, 10))
    x, y = rng.uniform(0, 128, 2)
    radius = rng.uniform(6, 60)
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False) + rng.uniform(0, 6)
    radii = radius * rng.uniform(0.4, 1.2, n)
    points = [(float(x + r * np.cos(a)), float(y + r * np.sin(a))) for r, a in zip(radii, angles, strict=True)]
    path = skia.Path()
    path.moveTo(*points[0])
    soft = rng.random() < 0.6
    for i in range(1, n + 1):
        px, py = points[i % n]
        if soft:
            qx, qy = points[(i - 1) % n]
            path.quadTo(qx + float(rng.uniform(-9, 9)), qy + float(rng.uniform(-9, 9)), (px + qx) / 2, (py + qy) / 2)
        else:
            path.lineTo(px, py)
    path.close()
    return path


def _paint(rng: np.random.Generator, stroke: bool) -> skia.Paint:
    paint = skia.Paint(AntiAlias=True, Color=argb(_color(rng), 1.0 if rng.random() < 0.7 else 0.5))
    if stroke:
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(float(rng.uniform(1.2, 5)))
    elif rng.random() < 0.4:
        ends = [skia.Point(*(float(v) for v in rng.uniform(0, 128, 2))) for _ in range(2)]
        paint.setShader(skia.GradientShader.MakeLinear(ends, [argb(_color(rng)), argb(_color(rng))]))
    return paint


def _pattern(canvas: skia.Canvas, rng: np.random.Generator) -> None:
    """Stripes or dots of 5 px and wider."""
    step = float(rng.uniform(10, 36))
    paint = _paint(rng, False)
    canvas.save()
    canvas.rotate(float(rng.uniform(0, 90)), 64, 64)
    dots = rng.random() < 0.5
    for i in np.arange(-64, 192, step):
        if not dots:
            canvas.drawRect(skia.Rect.MakeXYWH(float(i), -64, step * 0.5, 256), paint)
            continue
        for j in np.arange(-64, 192, step):
            canvas.drawCircle(float(i), float(j), step * 0.3, paint)
    canvas.restore()


def _mascot(canvas: skia.Canvas, rng: np.random.Generator) -> None:
    """A round thing with a face."""
    x, y = (float(v) for v in rng.uniform(48, 80, 2))
    r = float(rng.uniform(25, 52))
    body = skia.Rect.MakeLTRB(x - r, y - r * 0.9, x + r, y + r)
    canvas.drawOval(body, _paint(rng, False))
    if rng.random() < 0.6:
        canvas.drawOval(body, _paint(rng, True))
    dark = skia.Paint(AntiAlias=True, Color=argb((30, 20, 40)))
    white = skia.Paint(AntiAlias=True, Color=argb((255, 255, 255)))
    for side in (-1, 1):
        canvas.drawOval(skia.Rect.MakeXYWH(x + side * r * 0.4 - 6, y - 10, 12, 16), dark)
        canvas.drawCircle(x + side * r * 0.4 - 2, y - 5, 2.6, white)


def _odd_manner(rng: np.random.Generator) -> Manner:
    """A drawing style that no portrait has: any ink, any paper, any strength of colour."""
    return Manner(
        line=float(rng.uniform(1.2, 4)),
        ink=_color(rng),
        fill_alpha=float(rng.uniform(0, 1)),
        shadow=float(rng.choice([0, 0.25])),
        paper=_color(rng),
        vivid=float(rng.uniform(0, 1.4)),
    )


def other(seed: int, index: int) -> Picture:
    """Picture number ``index`` of the series, uint8 [128, 128, 3]."""
    rng = np.random.default_rng([seed, index, 7])
    kind = rng.random()
    if kind < 0.25:
        return paint(sample_look(rng), rng, extra=Extra(manner=_odd_manner(rng)))
    if kind < 0.5:
        picture = portrait(seed + 1, index)[0]
        picture = np.ascontiguousarray(picture[:, :, rng.permutation(3)])
        return 255 - picture if rng.random() < 0.35 else picture
    surface = skia.Surface(128, 128)
    canvas = surface.getCanvas()
    canvas.drawPaint(_paint(rng, False))
    if rng.random() < 0.4:
        _pattern(canvas, rng)
    lines_only = rng.random() < 0.2
    for _ in range(int(rng.integers(2, 12))):
        path = _blob(rng)
        if not lines_only:
            canvas.drawPath(path, _paint(rng, False))
        if lines_only or rng.random() < 0.4:
            canvas.drawPath(path, _paint(rng, True))
    if rng.random() < 0.3:
        _mascot(canvas, rng)
    pixels = surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)
    return np.ascontiguousarray(pixels[:, :, :3])
