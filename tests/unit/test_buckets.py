"""Buckets against their definition, searched by brute force without the code's own grid."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from trainer_bridge import fields
from trainer_bridge.dataset.buckets import Bucket, bucket_for

SIDES = st.integers(1, 9000)


@st.composite
def choices(draw: st.DrawFn, **fixed: Any) -> dict[str, Any]:
    step = draw(st.sampled_from([8, 16, 32, 64, 128]))
    values = fields.defaults() | {
        "bucket_reso_steps": step,
        "resolution": draw(st.integers(max(64, step), 1536)),
        "min_bucket_reso": draw(st.integers(32, 768)),
        "max_bucket_reso": draw(st.integers(768, 2048)),
        "enable_bucket": draw(st.booleans()),
        "bucket_no_upscale": draw(st.booleans()),
    }
    return values | fixed


def error(size: tuple[int, int], width: int, height: int) -> Fraction:
    ratio = Fraction(size[0] * height, size[1] * width)
    return max(ratio, 1 / ratio)


@given(SIDES, SIDES, choices())
@hypothesis_settings(max_examples=400)
def test_a_bucket_keeps_its_promises(width: int, height: int, values: dict[str, Any]) -> None:
    bucket = bucket_for(width, height, values)
    step, resolution = values["bucket_reso_steps"], values["resolution"]
    assert bucket.width >= step and bucket.height >= step
    assert bucket.width % step == 0 and bucket.height % step == 0
    assert bucket.width * bucket.height <= resolution**2
    assert bucket.scaled_width >= bucket.width and bucket.scaled_height >= bucket.height
    assert bucket.scaled_width == bucket.width or bucket.scaled_height == bucket.height
    assert 0 <= bucket.crop_left <= bucket.scaled_width - bucket.width
    assert 0 <= bucket.crop_top <= bucket.scaled_height - bucket.height
    right = bucket.scaled_width - bucket.width - bucket.crop_left
    below = bucket.scaled_height - bucket.height - bucket.crop_top
    assert 0 <= right - bucket.crop_left <= 1 and 0 <= below - bucket.crop_top <= 1
    if values["enable_bucket"]:
        assert max(bucket.width, bucket.height) <= values["max_bucket_reso"]
    else:
        assert bucket.width == bucket.height


@given(SIDES, SIDES, choices())
@hypothesis_settings(max_examples=300)
def test_scaling_keeps_the_aspect_ratio_to_half_a_pixel(width: int, height: int, values: dict[str, Any]) -> None:
    bucket = bucket_for(width, height, values)
    scale = max(Fraction(bucket.width, width), Fraction(bucket.height, height))
    assert abs(bucket.scaled_width - width * scale) <= Fraction(1, 2)
    assert abs(bucket.scaled_height - height * scale) <= Fraction(1, 2)


@given(SIDES, SIDES, choices(bucket_no_upscale=True))
@hypothesis_settings(max_examples=400)
def test_nothing_is_enlarged(width: int, height: int, values: dict[str, Any]) -> None:
    bucket = bucket_for(width, height, values)
    step = values["bucket_reso_steps"]
    if min(width, height) >= step:
        assert bucket.scaled_width <= width and bucket.scaled_height <= height
    else:
        assert min(bucket.width, bucket.height) == step


@given(SIDES, SIDES, choices(bucket_no_upscale=True, enable_bucket=True))
@hypothesis_settings(max_examples=200)
def test_a_small_picture_keeps_its_own_size(width: int, height: int, values: dict[str, Any]) -> None:
    step, longest = values["bucket_reso_steps"], values["max_bucket_reso"]
    own = [max(step, min(side, longest) // step * step) for side in (width, height)]
    if own[0] * own[1] <= values["resolution"] ** 2:
        bucket = bucket_for(width, height, values)
        assert [bucket.width, bucket.height] == own


@given(SIDES, SIDES, choices(bucket_no_upscale=False, enable_bucket=True))
@hypothesis_settings(max_examples=60)
def test_no_other_bucket_fits_the_ratio_better(width: int, height: int, values: dict[str, Any]) -> None:
    step, resolution = values["bucket_reso_steps"], values["resolution"]
    longest = values["max_bucket_reso"] // step * step
    square = min(resolution // step * step, longest)
    least = values["min_bucket_reso"] if values["min_bucket_reso"] <= square else square / 2
    shortest = math.ceil(least / step) * step
    sides = range(shortest, longest + 1, step)
    fitting = {(w, h) for w in sides for h in sides if w * h <= resolution**2}
    # A size is a bucket when nothing of the same width, or of the same height, is larger; the square is one too.
    buckets = {(w, h) for w, h in fitting if (w, h + step) not in fitting or (w + step, h) not in fitting}
    bucket = bucket_for(width, height, values)
    best = min(error(size, width, height) for size in buckets | {(square, square)})
    assert error((bucket.width, bucket.height), width, height) == best


@given(SIDES, SIDES, choices())
@hypothesis_settings(max_examples=200)
def test_a_turned_picture_gets_the_turned_bucket(width: int, height: int, values: dict[str, Any]) -> None:
    one, other = bucket_for(width, height, values), bucket_for(height, width, values)
    if error((one.width, one.height), width, height) != error((one.height, one.width), width, height):
        assert (one.width, one.height) == (other.height, other.width)


@pytest.mark.parametrize(
    ("size", "changes", "bucket"),
    [
        ((1024, 1024), {}, Bucket(512, 512, 512, 512, 0, 0)),
        ((1920, 1080), {}, Bucket(640, 384, 683, 384, 21, 0)),
        ((600, 400), {}, Bucket(576, 384, 576, 384, 0, 0)),
        ((100, 5000), {}, Bucket(64, 1024, 64, 3200, 0, 1088)),
        ((10, 10), {}, Bucket(64, 64, 64, 64, 0, 0)),
        ((300, 700), {"enable_bucket": False}, Bucket(256, 256, 256, 597, 0, 170)),
        ((100, 100), {"bucket_no_upscale": False}, Bucket(512, 512, 512, 512, 0, 0)),
        ((512, 768), {"resolution": 128, "bucket_reso_steps": 16}, Bucket(96, 160, 107, 160, 5, 0)),
    ],
)
def test_known_pictures(size: tuple[int, int], changes: dict[str, Any], bucket: Bucket) -> None:
    assert bucket_for(*size, fields.defaults() | changes) == bucket


def test_a_picture_without_area_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="0 x 5"):
        bucket_for(0, 5, fields.defaults())


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"bucket_reso_steps": 20}, "bucket_reso_steps"),
        ({"bucket_reso_steps": 256, "resolution": 128}, "bucket_reso_steps"),
        ({"max_bucket_reso": 448}, None),
        ({"bucket_reso_steps": 8, "resolution": 64, "min_bucket_reso": 32}, None),
    ],
)
def test_settings_that_no_bucket_can_keep_are_refused(changes: dict[str, Any], wrong: str | None) -> None:
    assert list(fields.check_together(fields.defaults() | changes)) == ([wrong] if wrong else [])
