from __future__ import annotations

import math

import pytest

np = pytest.importorskip("numpy")

from trainer_bridge.pocket.proof import Kept, Learned, measure_kept, measure_learned, verdict  # noqa: E402


def test_learned_is_the_distance_between_means() -> None:
    held_back = np.array([[0.0, 0.0], [0.0, 2.0]])
    before = np.array([[3.0, 5.0], [3.0, 5.0]])
    after = np.array([[1.0, 1.0]])
    found = measure_learned(held_back, before, after, at_08=before)
    assert math.isclose(found.before, 5.0) and math.isclose(found.after, 1.0) and math.isclose(found.at_08, 5.0)
    assert math.isclose(found.ratio, 0.2) and found.passed


def test_what_did_not_move_is_not_learned() -> None:
    assert not Learned(before=10.0, after=6.1, at_08=7.0).passed
    assert Learned(before=10.0, after=6.0, at_08=7.0).passed
    assert not Learned(before=0.0, after=0.0, at_08=0.0).passed


def test_kept_is_the_root_mean_square_of_each_picture() -> None:
    base = np.zeros((2, 4, 4, 3), np.uint8)
    other_seed = np.full_like(base, 10)
    with_lora = base.copy()
    with_lora[0] = 6  # one picture moved by 6, the other not at all
    labels = {"other": np.array([[0, 1], [2, 3]]), "other_after": np.array([[0, 1], [2, 0]])}
    pictures = {"other": base, "other_after": with_lora, "other_seed": other_seed}
    found = measure_kept(pictures, labels, required=True)
    assert math.isclose(found.change, 3.0) and math.isclose(found.seed_change, 10.0)
    assert math.isclose(found.ratio, 0.3) and math.isclose(found.same_labels, 0.75)


def test_only_what_must_keep_can_fail_to() -> None:
    assert not Kept(change=7.0, seed_change=10.0, same_labels=1.0, required=True).passed
    assert Kept(change=7.0, seed_change=10.0, same_labels=1.0, required=False).passed


def test_the_verdict_names_numbers_and_outcome() -> None:
    lines = verdict("Character", Learned(10.0, 7.0, 8.0), Kept(7.0, 10.0, 0.9, True))
    assert "0.70" in lines[0] and "NOT learned" in lines[0]
    assert "0.70" in lines[1] and "90%" in lines[1] and "NOT kept" in lines[1]
