"""Caption variants and cleaning: what stays, what moves, what is dropped and how often."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_bridge import fields, limits
from trainer_bridge.dataset import captions

TAGS = st.lists(st.text("abcdefgh XYZé猫_", min_size=1, max_size=8).filter(str.strip), max_size=12)
TRIGGERS = st.sampled_from(["", "ohwx", "two words"])


def settings(**changes: Any) -> dict[str, Any]:
    return fields.defaults() | {"caption_dropout_rate": 0.0} | changes


def make(caption: str, trigger: str = "ohwx", variant: int = 1, picture: str = "p", **changes: Any) -> str:
    return captions.variant(caption, trigger, settings(**changes), seed=7, picture=picture, variant=variant)


@given(TAGS, TRIGGERS, st.integers(0, 9), st.integers(0, 15), st.booleans())
def test_shuffling_loses_and_adds_nothing(tags: list[str], trigger: str, keep: int, number: int, shuffle: bool) -> None:
    plain = captions.with_trigger(captions.split(", ".join(tags)), trigger)
    shown = captions.split(make(", ".join(tags), trigger, number, keep_tokens=keep, shuffle_caption=shuffle))
    assert Counter(shown) == Counter(plain)
    assert shown[:keep] == plain[:keep]
    if trigger:
        assert shown[0] == trigger
    if not shuffle:
        assert shown == plain


@given(TAGS, TRIGGERS, st.integers(0, 9), st.floats(0, 1))
def test_tag_dropout_takes_from_the_tail_alone(tags: list[str], trigger: str, keep: int, rate: float) -> None:
    plain = captions.with_trigger(captions.split(", ".join(tags)), trigger)
    shown = captions.split(make(", ".join(tags), trigger, keep_tokens=keep, caption_tag_dropout_rate=rate))
    assert Counter(shown) <= Counter(plain)
    assert shown[:keep] == plain[:keep]
    assert not trigger or shown[0] == trigger
    if rate == 1.0:
        assert len(shown) <= max(keep, 1 if trigger else 0)


@given(TAGS, st.integers(0, 15))
def test_a_variant_is_a_function_of_its_arguments(tags: list[str], number: int) -> None:
    assert make(", ".join(tags), variant=number) == make(", ".join(tags), variant=number)


def test_variants_and_pictures_shuffle_independently() -> None:
    caption = ", ".join(f"tag{n}" for n in range(12))
    assert len({make(caption, variant=number) for number in range(16)}) == 16
    assert make(caption, picture="p") != make(caption, picture="q")


def test_the_dropped_caption_is_empty_and_keeps_no_trigger() -> None:
    assert make("a, b", caption_dropout_rate=0.1, variant=0) == ""
    assert make("a, b", caption_dropout_rate=0.1, variant=1).startswith("ohwx, ")
    assert make("a, b", variant=0) != ""


def test_a_picture_without_a_caption_is_trained_on_the_trigger() -> None:
    assert make("") == "ohwx"
    assert make("", trigger="") == ""


@pytest.mark.parametrize(
    ("tags", "result"),
    [
        (["ohwx", "smile"], ["ohwx", "smile"]),
        (["smile", "ohwx"], ["ohwx", "smile"]),
        (["OHWX", "smile"], ["ohwx", "smile"]),
        (["ohwx girl in a park", "smile"], ["ohwx girl in a park", "smile"]),
        (["ohwxy", "smile"], ["ohwx", "ohwxy", "smile"]),
        (["smile"], ["ohwx", "smile"]),
    ],
)
def test_the_trigger_stands_first_and_once(tags: list[str], result: list[str]) -> None:
    assert captions.with_trigger(tags, "ohwx") == result


def test_one_variant_where_nothing_is_random() -> None:
    assert captions.variants_per_picture(settings(shuffle_caption=False), 20) == 1
    assert captions.variants_per_picture(settings(caption_dropout_rate=1.0), 20) == 1
    assert captions.variants_per_picture(settings(shuffle_caption=False, caption_dropout_rate=0.1), 20) == 2
    assert captions.variants_per_picture(settings(max_train_steps=1), 20) == 1


@given(st.integers(1, limits.MAX_PICTURES), st.integers(1, 1_000_000), st.integers(1, 64))
def test_the_features_of_all_variants_stay_small(count: int, steps: int, batch: int) -> None:
    number = captions.variants_per_picture(settings(max_train_steps=steps, train_batch_size=batch), count)
    assert 1 <= number <= captions.MAX_VARIANTS
    assert number * count * 77 * 768 * 4 <= 256 * 2**20


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0])
def test_captions_are_dropped_as_often_as_asked(rate: float) -> None:
    values = settings(caption_dropout_rate=rate, max_train_steps=2000)
    drawn = [captions.draw_variant(values, 20, 1, epoch, "p") for epoch in range(4000)]
    assert max(drawn) < captions.variants_per_picture(values, 20)
    texts = [captions.variant("a, b", "ohwx", values, seed=1, picture="p", variant=number) for number in drawn]
    assert texts.count("") / 4000 == pytest.approx(rate, abs=0.03)
    if rate < 1.0:
        assert len(set(drawn) - {0}) >= 15


def test_tags_are_dropped_as_often_as_asked() -> None:
    caption = ", ".join(f"t{n}" for n in range(50))
    kept = sum(
        len(captions.split(make(caption, "", number, caption_tag_dropout_rate=0.3))) - 1 for number in range(100)
    )
    assert kept / (49 * 100) == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("1girl, smile\n", "1girl, smile"),
        ("1girl,\r\nsmile,\n\n\nred hair", "1girl, smile, red hair"),
        ("a\u2028b\x85c", "a, b, c"),
        ("a\tb\x00\x07\x1b[31mc", "a b[31mc"),
        ("\ufeffcat\ud800\u202e", "cat"),
        ("\U0001f468\u200d\U0001f469 family", "\U0001f468\u200d\U0001f469 family"),
        ("", ""),
        (" , ,\n , ", ""),
    ],
)
def test_cleaning(text: str, result: str) -> None:
    assert captions.clean(text) == result


@given(st.text(max_size=200), st.integers(1, 60))
def test_a_cleaned_caption_is_short_one_line_and_stays_as_it_is(text: str, times: int) -> None:
    once = captions.clean(text * times)
    assert len(once) <= limits.MAX_CAPTION_CHARS
    assert len(once.splitlines()) <= 1 and once == once.strip()
    assert isinstance(once.encode("utf-8"), bytes)  # no lone surrogates
    assert captions.clean(once) == once


def test_a_long_caption_is_cut_at_a_tag() -> None:
    cut = captions.clean(", ".join(["seven77"] * 1000))
    assert set(captions.split(cut)) == {"seven77"} and len(cut) > limits.MAX_CAPTION_CHARS - 20
