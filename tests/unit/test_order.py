"""The order of a run: every picture its share, no mixed batches, the same from wherever one looks."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from trainer_bridge import fields
from trainer_bridge.counter import shuffled
from trainer_bridge.dataset.buckets import bucket_for
from trainer_bridge.dataset.order import Draw, Order

SIZES = [(512, 512), (512, 768), (768, 512), (300, 300)]
PICTURES = st.lists(st.sampled_from(SIZES), min_size=1, max_size=12)


def order(sizes: list[tuple[int, int]], **changes: Any) -> Order:
    values = fields.defaults() | changes
    return Order([bucket_for(*size, values) for size in sizes], [f"h{n}" for n in range(len(sizes))], values)


@given(PICTURES, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(0, 5))
@hypothesis_settings(max_examples=150)
def test_an_epoch_shows_each_picture_its_repeats(
    sizes: list[tuple[int, int]], batch: int, repeats: int, epoch: int, seed: int
) -> None:
    whole = order(sizes, train_batch_size=batch, num_repeats=repeats, seed=seed)
    count = whole.batches_per_epoch
    assert count == sum(-(-n * repeats // batch) for n in Counter(sizes).values())
    batches = [whole.batch(micro) for micro in range(epoch * count, (epoch + 1) * count)]
    assert all(1 <= len(draws) <= batch for draws in batches)
    assert all(len({sizes[draw.index] for draw in draws}) == 1 for draws in batches)
    shown = Counter(draw.index for draws in batches for draw in draws)
    assert shown == dict.fromkeys(range(len(sizes)), repeats)


def test_a_round_shows_every_picture_of_a_bucket_before_any_again() -> None:
    repeated = order([(512, 512)] * 7, num_repeats=3, train_batch_size=21)
    indices = [draw.index for draw in repeated.batch(0)]
    assert [sorted(indices[n : n + 7]) for n in (0, 7, 14)] == [list(range(7))] * 3
    assert indices[:7] != indices[7:14]


@given(PICTURES, st.integers(1, 3), st.lists(st.integers(0, 10**6), min_size=1, max_size=8))
@hypothesis_settings(max_examples=60)
def test_a_batch_does_not_depend_on_what_was_asked_before(
    sizes: list[tuple[int, int]], batch: int, asked: list[int]
) -> None:
    changes: dict[str, Any] = {"train_batch_size": batch, "flip_aug": True, "num_repeats": 2}
    used = order(sizes, **changes)
    for micro in asked:
        used.batch(micro)
    assert [used.batch(micro) for micro in reversed(asked)] == [
        order(sizes, **changes).batch(micro) for micro in reversed(asked)
    ]


def test_epochs_and_seeds_differ() -> None:
    one = order([(512, 512)] * 20)
    epochs = [[one.batch(epoch * 20 + n)[0].index for n in range(20)] for epoch in range(5)]
    assert len({tuple(epoch) for epoch in epochs}) == 5
    other = order([(512, 512)] * 20, seed=43)
    assert [other.batch(n)[0].index for n in range(20)] != epochs[0]


def test_the_buckets_of_an_epoch_are_mixed() -> None:
    mixed = order([(512, 512)] * 20 + [(512, 768)] * 20)
    first = [mixed.batch(n)[0].index < 20 for n in range(20)]
    assert 3 <= sum(first) <= 17


def test_half_of_the_draws_are_mirrored_if_asked() -> None:
    flipped = order([(512, 512)] * 10, flip_aug=True)
    assert 400 <= sum(flipped.batch(n)[0].flip for n in range(1000)) <= 600
    assert not any(order([(512, 512)] * 10).batch(n)[0].flip for n in range(200))


def test_variants_lie_within_those_of_the_cache() -> None:
    from trainer_bridge.dataset.captions import variants_per_picture

    values = fields.defaults()
    drawn = {order([(512, 512)] * 10).batch(n)[0].variant for n in range(2000)}
    assert drawn == set(range(variants_per_picture(values, 10)))


def test_accumulation_makes_fewer_steps_of_the_same_batches() -> None:
    plain, accumulated = order([(512, 512)] * 10), order([(512, 512)] * 10, gradient_accumulation_steps=4)
    assert (plain.batches_per_epoch, plain.steps_per_epoch) == (10, 10)
    assert (accumulated.batches_per_epoch, accumulated.steps_per_epoch) == (10, 3)
    assert accumulated.epoch(9) == 0 and accumulated.epoch(10) == 1


def test_a_very_long_epoch_costs_nothing_to_enter() -> None:
    longest = order([(512, 512)] * 1000, num_repeats=10_000)
    assert longest.batches_per_epoch == 10_000_000
    assert longest.batch(9_999_999_999) == longest.batch(9_999_999_999) != ()


def test_a_picture_draws_the_same_whatever_stands_beside_it() -> None:
    """Removing another picture moves batches, never the mirroring of this one."""
    alone, together = order([(512, 512)], flip_aug=True), order([(512, 512), (512, 768)], flip_aug=True)
    for epoch in range(20):
        beside = [d for n in range(2) for d in together.batch(epoch * 2 + n) if d.index == 0]
        assert [draw.flip for draw in alone.batch(epoch)] == [draw.flip for draw in beside]


def test_known_batches_stay_what_they_are() -> None:
    """If the order changed, a run that is resumed by a newer version would end up with another LoRA."""
    known = order([(512, 512), (512, 768), (512, 512), (512, 512)], train_batch_size=2, flip_aug=True)
    assert [known.batch(n) for n in range(3)] == [
        (Draw(0, False, 5), Draw(2, False, 2)),
        (Draw(1, True, 2),),
        (Draw(3, True, 6),),
    ]


def test_no_pictures_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="0 pictures"):
        order([])


@given(st.integers(1, 300), st.integers(0, 3))
@hypothesis_settings(max_examples=40)
def test_shuffled_is_an_order(count: int, seed: int) -> None:
    assert sorted(shuffled(place, count, seed) for place in range(count)) == list(range(count))


def test_all_orders_of_four_are_equally_likely() -> None:
    seen = Counter(tuple(shuffled(place, 4, seed) for place in range(4)) for seed in range(4800))
    assert set(seen) == set(permutations(range(4)))
    assert sum((number - 200) ** 2 / 200 for number in seen.values()) < 50  # chi square, 23 degrees of freedom
