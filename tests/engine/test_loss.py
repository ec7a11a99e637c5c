"""Noise, timesteps, targets and weights against the documented formulas, written again in plain Python."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from trainer_bridge import fields  # noqa: E402
from trainer_bridge.engine import loss  # noqa: E402


def alphas() -> list[float]:
    product, values = 1.0, []
    for place in range(1000):
        root = 0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * place / 999
        product *= 1.0 - root * root
        values.append(product)
    return values


def shifted() -> list[float]:
    """arXiv 2305.08891, algorithm 1."""
    roots = [math.sqrt(a) for a in alphas()]
    first, last = roots[0], roots[-1]
    return [((root - last) * first / (first - last)) ** 2 for root in roots]


def schedule(*, velocity: bool = False, zero: bool = False) -> loss.Schedule:
    plain = torch.tensor(alphas(), dtype=torch.float64)
    used = torch.tensor(shifted(), dtype=torch.float64) if zero else plain
    return loss.Schedule.of(used, plain, v_prediction=velocity)


def values(**changes: Any) -> dict[str, Any]:
    return {**fields.defaults(), **changes}


@given(timestep=st.integers(0, 999), gamma=st.floats(0.1, 50.0), velocity=st.booleans(), zero=st.booleans())
@settings(max_examples=60, deadline=None)
def test_min_snr_weights(timestep: int, gamma: float, velocity: bool, zero: bool) -> None:
    snr = alphas()[timestep] / (1 - alphas()[timestep])
    expected = min(snr, gamma) / (snr + 1 if velocity else snr)
    found = loss.weights(schedule(velocity=velocity, zero=zero), torch.tensor([timestep]), gamma)
    assert float(found[0]) == pytest.approx(expected, rel=1e-4)
    assert float(loss.weights(schedule(), torch.tensor([timestep]), 0.0)[0]) == 1.0


@given(timestep=st.integers(0, 999), zero=st.booleans())
@settings(max_examples=40, deadline=None)
def test_noisy_latents_and_targets(timestep: int, zero: bool) -> None:
    a = (shifted() if zero else alphas())[timestep]
    x, n = torch.randn(1, 4, 3, 5), torch.randn(1, 4, 3, 5)
    at = torch.tensor([timestep])
    made = schedule(velocity=True, zero=zero)
    torch.testing.assert_close(
        loss.add_noise(made, x, n, at), math.sqrt(a) * x + math.sqrt(1 - a) * n, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        loss.target(made, x, n, at), math.sqrt(a) * n - math.sqrt(1 - a) * x, rtol=1e-5, atol=1e-6
    )
    assert torch.equal(loss.target(schedule(), x, n, at), n)


def test_zero_terminal_snr_ends_in_pure_noise_and_stays_finite() -> None:
    made = schedule(velocity=True, zero=True)
    last = torch.tensor([999])
    x, n = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    torch.testing.assert_close(loss.add_noise(made, x, n, last), n)
    torch.testing.assert_close(loss.target(made, x, n, last), -x)
    assert bool(torch.isfinite(loss.weights(made, torch.arange(1000), 5.0)).all())


def test_batch_loss_is_weighted_per_sample() -> None:
    prediction, wanted = torch.randn(3, 4, 2, 5), torch.randn(3, 4, 2, 5)
    weights = torch.tensor([0.5, 1.0, 0.1])
    expected = 0.0
    for sample in range(3):
        squares = [(float(p) - float(w)) ** 2 for p, w in zip(prediction[sample].flatten(), wanted[sample].flatten())]
        expected += float(weights[sample]) * sum(squares) / len(squares) / 3
    assert float(loss.batch_loss(prediction, wanted, weights)) == pytest.approx(expected, rel=1e-5)


@given(first=st.integers(0, 998), width=st.integers(1, 1000), micro=st.integers(0, 10**6), place=st.integers(0, 63))
@settings(max_examples=100, deadline=None)
def test_timesteps_stay_inside_and_depend_on_the_place_alone(first: int, width: int, micro: int, place: int) -> None:
    chosen = values(min_timestep=first, max_timestep=min(1000, first + width))
    found = loss.draw_timestep(chosen, micro, place)
    assert first <= found < min(1000, first + width)
    assert found == loss.draw_timestep(chosen, micro, place)


def test_timesteps_are_uniform() -> None:
    counts = [0] * 10
    for micro in range(5000):
        counts[loss.draw_timestep(values(), micro, 0) // 100] += 1
    # 500 each are expected; 6 standard deviations are 127.
    assert min(counts) > 373 and max(counts) < 627


def test_noise_is_standard_normal_and_different_everywhere() -> None:
    noises = torch.stack(
        [loss.draw_noise(values(), (4, 8, 8), micro, place) for micro in range(40) for place in range(4)]
    )
    assert abs(float(noises.mean())) < 0.02
    assert float(noises.std()) == pytest.approx(1.0, abs=0.02)
    assert len({float(noise[0, 0, 0]) for noise in noises}) == 160
    assert torch.equal(noises[0], loss.draw_noise(values(), (4, 8, 8), 0, 0))
    assert not torch.equal(noises[0], loss.draw_noise(values(seed=43), (4, 8, 8), 0, 0))


def test_noise_offset_moves_whole_channels() -> None:
    plain = loss.draw_noise(values(), (4, 8, 8), 3, 1)
    moved = loss.draw_noise(values(noise_offset=0.5), (4, 8, 8), 3, 1) - plain
    per_channel = moved.flatten(1)
    assert float(per_channel.std(dim=1).max()) < 1e-5
    assert float(per_channel.mean(dim=1).std()) > 0.01
    offsets = torch.stack(
        [
            (loss.draw_noise(values(noise_offset=0.5), (4, 2, 2), n, 0) - loss.draw_noise(values(), (4, 2, 2), n, 0))[
                :, 0, 0
            ]
            for n in range(500)
        ]
    )
    assert float(offsets.std()) == pytest.approx(0.5, rel=0.1)
