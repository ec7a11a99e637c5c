"""States of a run, and its id."""

from __future__ import annotations

import re
import time

import pytest

from trainer_bridge import job
from trainer_bridge.job import ACTIVE, RESUMABLE, TRANSITIONS, IllegalTransition, check_transition, is_id, new_id


@pytest.mark.parametrize("old", TRANSITIONS)
@pytest.mark.parametrize("new", TRANSITIONS)
def test_exactly_the_listed_transitions_are_legal(old: str, new: str) -> None:
    if new in TRANSITIONS[old]:
        check_transition(old, new)
    else:
        with pytest.raises(IllegalTransition, match=f"{old} to {new}"):
            check_transition(old, new)


def test_unknown_states_are_illegal() -> None:
    for old, new in (("nonsense", job.QUEUED), (job.QUEUED, "nonsense")):
        with pytest.raises(IllegalTransition):
            check_transition(old, new)


def test_every_state_can_be_reached_and_every_active_one_can_end() -> None:
    reached, border = {job.PREPARING}, {job.PREPARING}
    while border:
        border = {new for old in border for new in TRANSITIONS[old]} - reached
        reached |= border
    assert reached == set(TRANSITIONS)
    assert set(TRANSITIONS) == ACTIVE | RESUMABLE | {job.DONE}
    assert not ACTIVE & RESUMABLE
    for state in ACTIVE:
        assert TRANSITIONS[state] & {job.STOPPED, job.DONE}
        assert job.FAILED in TRANSITIONS[state]


def test_what_can_be_resumed_goes_back_to_the_queue_and_done_is_final() -> None:
    for state in TRANSITIONS:
        assert (job.QUEUED in TRANSITIONS[state]) == (state in RESUMABLE or state == job.PREPARING)
    assert TRANSITIONS[job.DONE] == frozenset()


def test_the_docstring_draws_every_state() -> None:
    assert job.__doc__ is not None
    drawn = set(re.findall(r"[a-z]+", job.__doc__.split("::")[1].split("A run is")[0]))
    assert set(TRANSITIONS) <= drawn


def test_ids_sort_by_time_are_distinct_and_known_as_ids() -> None:
    ids = [new_id(second + 0.5) for second in (0, 1, 59, 1_700_000_000, 1_800_000_000, 30_000_000_000)]
    assert ids == sorted(ids)
    many = {new_id(1_700_000_000) for _ in range(2000)}
    assert len(many) == 2000
    assert all(is_id(text) for text in many)
    before = new_id(time.time() - 1)
    assert before < new_id() < new_id(time.time() + 1)


@pytest.mark.parametrize("text", ["", "a" * 15, "a" * 17, "../../../etc/pas", "A" * 16, "i" * 16, "ａ" * 16, " " * 16])
def test_anything_else_is_no_id(text: str) -> None:
    assert not is_id(text)
