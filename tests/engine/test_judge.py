from __future__ import annotations

import json
import random

import pytest

pytest.importorskip("torch")

from trainer_bridge.engine.judge import Judge  # noqa: E402


def verdicts(losses: list[float], nothing: float = 0.5) -> tuple[str | None, int]:
    judge = Judge()
    for step, loss in enumerate(losses):
        verdict = judge.see(loss, nothing)
        if verdict is not None:
            return verdict, step
    return None, len(losses)


def noisy(seed: int, level: float, count: int) -> list[float]:
    """Losses of batch 1 spread over more than a decade, as the timestep has it."""
    chance = random.Random(seed)
    return [level * chance.lognormvariate(0.0, 1.0) for _ in range(count)]


@pytest.mark.parametrize("seed", range(30))
def test_noise_alone_never_stops_a_run(seed: int) -> None:
    assert verdicts(noisy(seed, 0.08, 3000))[0] is None


@pytest.mark.parametrize("seed", range(5))
def test_random_weights_with_a_large_loss_may_train(seed: int) -> None:
    chance = random.Random(seed)
    assert verdicts([3.0 * chance.uniform(0.5, 1.5) for _ in range(500)])[0] is None


def test_a_loss_that_settles_higher_is_no_divergence() -> None:
    assert verdicts(noisy(1, 0.06, 300) + noisy(2, 0.1, 300))[0] is None


def test_single_outliers_are_forgiven() -> None:
    losses = noisy(3, 0.08, 400)
    losses[200] = losses[300] = 5.0
    assert verdicts(losses)[0] is None


def test_an_explosion_at_the_start_is_seen_within_twenty_steps() -> None:
    verdict, step = verdicts([0.1, 0.3, *[1.5] * 30])
    assert verdict == "diverged" and step <= 20


def test_a_burnt_run_predicts_no_better_than_nothing_and_is_seen() -> None:
    """As measured on the pocket base with a learning rate of 0.3: from 0.27 to 1.0, where nothing costs 0.84."""
    chance = random.Random(8)
    verdict, step = verdicts([0.267, *[chance.uniform(0.8, 1.2) for _ in range(100)]], nothing=0.84)
    assert verdict == "diverged" and step < 40


def test_a_slow_divergence_is_seen() -> None:
    verdict, step = verdicts(noisy(4, 0.08, 300) + noisy(5, 0.6, 300))
    assert verdict == "diverged" and 300 < step < 450


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_number_stops_at_once(value: float) -> None:
    assert verdicts([0.1, value, 0.1]) == ("nan", 1)


def test_the_averages_survive_json_exactly() -> None:
    whole, split = Judge(), Judge()
    for place, loss in enumerate(noisy(6, 0.1, 200)):
        whole.see(loss, 0.5)
        split.see(loss, 0.5)
        if place % 37 == 0:
            split = Judge.of(json.loads(json.dumps(split.to_json())))
    assert whole == split


def test_calm_only_while_the_average_is_near_its_best() -> None:
    judge = Judge()
    for loss in noisy(7, 0.08, 200):
        judge.see(loss, 0.5)
    assert judge.calm
    for _ in range(40):
        judge.see(0.8, 0.5)
    assert not judge.calm
