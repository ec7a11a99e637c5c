"""Chance by counting: the same everywhere and always, evenly spread, and in no order that one could see."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_bridge.counter import below, number, permutation, shuffled, uniform

KEYS = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=8).filter(lambda t: "\x1f" not in t), max_size=4)


def test_the_numbers_are_these_for_ever() -> None:
    """A run that was begun with an older version must go on with the same decisions."""
    assert number(42, "noise", 7) == 8439226673510962860
    assert uniform(42, "x") == 0.6418150773458401
    assert permutation(6, 1, "order") == [1, 3, 4, 5, 2, 0]
    assert [shuffled(place, 6, 1, "order") for place in range(6)] == [0, 3, 1, 5, 4, 2]


@settings(deadline=None)
@given(KEYS)
def test_bounds(keys: list[int | str]) -> None:
    assert 0 <= number(*keys) < 2**63
    assert 0.0 <= uniform(*keys) < 1.0
    assert 0 <= below(7, *keys) < 7
    assert number(*keys) == number(*keys)


@settings(deadline=None)
@given(KEYS, KEYS)
def test_other_keys_give_other_numbers(one: list[int | str], other: list[int | str]) -> None:
    if one != other:
        assert number(*one) != number(*other)


def test_a_text_and_a_number_of_the_same_look_differ() -> None:
    assert number(1) != number("1")
    assert number(1, 2) != number(12)
    assert number("a", "b") != number("ab")


def test_uniform_is_even_and_neighbours_do_not_hang_together() -> None:
    values = [uniform(3, "even", step) for step in range(20_000)]
    tenths = Counter(int(value * 10) for value in values)
    # Chi-squared with 9 degrees of freedom lies below 27.9 in 999 of 1000 cases.
    assert sum((count - 2000) ** 2 / 2000 for count in tenths.values()) < 27.9
    mean = sum(values) / len(values)
    together = sum((a - mean) * (b - mean) for a, b in zip(values, values[1:])) / len(values) * 12
    assert abs(together) < 0.03


@settings(deadline=None)
@given(st.integers(0, 60), KEYS)
def test_permutations_hold_every_place_once(count: int, keys: list[int | str]) -> None:
    assert sorted(permutation(count, *keys)) == list(range(count))
    assert sorted(shuffled(place, count, *keys) for place in range(count)) == list(range(count))


@pytest.mark.parametrize("order", [permutation, lambda count, *keys: [shuffled(p, count, *keys) for p in range(count)]])
def test_all_orders_of_four_come_equally_often(order: object) -> None:
    assert callable(order)
    counted = Counter(tuple(order(4, 9, "orders", draw)) for draw in range(4800))
    assert set(counted) == set(permutations(range(4)))
    # Chi-squared with 23 degrees of freedom lies below 49.7 in 999 of 1000 cases.
    assert sum((count - 200) ** 2 / 200 for count in counted.values()) < 49.7


def test_a_place_in_a_very_long_order_is_found_at_once() -> None:
    count = 10**15
    places = {shuffled(place, count, 5) for place in range(100)}
    assert len(places) == 100
    assert all(0 <= place < count for place in places)
