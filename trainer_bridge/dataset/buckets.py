"""Which size each picture is trained at: buckets of equal area and different aspect ratios.

The rule is sd-scripts' (`enable_bucket`): sides are multiples of `bucket_reso_steps`, no area is above
`resolution` squared. Two things differ on purpose. The nearest ratio is measured as a quotient, so that a portrait
gets the mirrored bucket of the same landscape. And a picture that is trained at its own size is scaled by less than
one step and then cropped, instead of being cropped alone, so that less of its edge is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ..fields import Value


class Size(NamedTuple):
    """Width and height in px."""

    width: int
    height: int

    @property
    def area(self) -> int:
        return self.width * self.height


@dataclass(frozen=True)
class Bucket:
    """How one picture is brought to its training size. All values in px.

    Attributes:
        width, height: size that is trained.
        scaled_width, scaled_height: size that the whole picture is scaled to; covers width x height.
        crop_left, crop_top: where the centre crop begins in the scaled picture.
    """

    width: int
    height: int
    scaled_width: int
    scaled_height: int
    crop_left: int
    crop_top: int

    @property
    def size(self) -> Size:
        """Return what pictures of one batch must share."""
        return Size(self.width, self.height)


def bucket_for(width: int, height: int, settings: Mapping[str, Value]) -> Bucket:
    """Return the bucket of a picture of `width` x `height` px.

    With `bucket_no_upscale` no side is enlarged, unless the picture is thinner than one `bucket_reso_steps`.

    Raises:
        ValueError: a side below 1: a bug of the caller.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a picture cannot be {width} x {height} px")
    return _cover(width, height, _choose(width, height, settings))


@lru_cache(maxsize=64)
def grid(resolution: int, step: int, shortest: int, longest: int) -> tuple[Size, ...]:
    """Return every bucket size: for each width the largest height within the area, both ways round, and the square.

    Args:
        resolution: side of the square whose area no bucket exceeds.
        step: sides are multiples of it, and at least one.
        shortest, longest: bounds of a side. Where the square itself lies outside them, `longest` lowers it, and
            `shortest` gives way to half of its side (as sd-scripts' defaults are: 256 for 512), since otherwise
            every picture of a base with a small native size would be cropped to the square.
    """
    longest = max(step, longest // step * step)
    side = min(max(step, resolution // step * step), longest)
    if shortest > side:
        shortest = side // 2
    shortest = max(1, -(-shortest // step)) * step
    sizes = {Size(side, side)}
    for width in range(shortest, longest + 1, step):
        height = min(longest, resolution * resolution // width // step * step)
        if height >= shortest:
            sizes |= {Size(width, height), Size(height, width)}
    return tuple(sorted(sizes))


def _choose(width: int, height: int, settings: Mapping[str, Value]) -> Size:
    resolution, step = int(settings["resolution"]), int(settings["bucket_reso_steps"])
    longest = int(settings["max_bucket_reso"])
    own = Size(_floor(width, step, longest), _floor(height, step, longest))
    if not settings["enable_bucket"]:
        side = max(step, resolution // step * step)
        if settings["bucket_no_upscale"]:
            side = min(side, _floor(width, step, side), _floor(height, step, side))
        return Size(side, side)
    sizes = grid(resolution, step, int(settings["min_bucket_reso"]), longest)
    if settings["bucket_no_upscale"]:
        if own.area <= resolution * resolution:
            return own
        sizes = _within(own, sizes) or _within(own, grid(resolution, step, step, longest))
    return min(sizes, key=lambda size: (_ratio_error(size, width, height), size))


def _floor(side: int, step: int, longest: int) -> int:
    return max(step, min(side, longest) // step * step)


def _within(own: Size, sizes: tuple[Size, ...]) -> tuple[Size, ...]:
    return tuple(size for size in sizes if size.width <= own.width and size.height <= own.height)


def _ratio_error(size: Size, width: int, height: int) -> float:
    """Return how many times too wide or too narrow the bucket is: 1 is exact."""
    ours, theirs = size.width * height, size.height * width
    return max(ours, theirs) / min(ours, theirs)


def _cover(width: int, height: int, size: Size) -> Bucket:
    """Scale so that both sides reach the bucket, the nearer one exactly, and crop the middle."""
    if size.width * height >= size.height * width:
        scaled = Size(size.width, max(size.height, _rounded(height * size.width, width)))
    else:
        scaled = Size(max(size.width, _rounded(width * size.height, height)), size.height)
    left, top = (scaled.width - size.width) // 2, (scaled.height - size.height) // 2
    return Bucket(size.width, size.height, scaled.width, scaled.height, left, top)


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
