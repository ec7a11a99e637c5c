"""Deterministic DDIM sampling (arXiv 2010.02502, eta 0), for noise and velocity prediction.

Timesteps are chosen as AUTOMATIC1111's DDIM chooses them, so that the same seed gives the same composition there;
bases with zero terminal SNR start at the very last timestep instead ("trailing", arXiv 2305.08891), where nothing
but noise is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .schedule import TIMESTEPS

if TYPE_CHECKING:
    from torch import Tensor


class Step(NamedTuple):
    """One step of the sampler.

    Attributes:
        timestep: what the denoiser is told.
        signal: share of signal power now.
        next_signal: share of signal power after the step.
    """

    timestep: int
    signal: float
    next_signal: float


def plan(steps: int, alphas: Tensor) -> list[Step]:
    """Return the steps from the noisiest on.

    Args:
        steps: how many; where it does not divide 1000, AUTOMATIC1111's rule makes a few more, and so does this.
        alphas: [1000] share of signal power; a last one of 0 means zero terminal SNR.
    """
    if float(alphas[-1]) == 0.0:
        times = [round(TIMESTEPS - step * TIMESTEPS / steps) - 1 for step in range(steps)]
    else:
        times = [min(time + 1, TIMESTEPS - 1) for time in range(0, TIMESTEPS, TIMESTEPS // steps)][::-1]
    signals = [float(alphas[time]) for time in times]
    return [
        Step(time, now, after)
        for time, now, after in zip(times, signals, [*signals[1:], float(alphas[0])], strict=True)
    ]


def sample(noise: Tensor, steps: list[Step], denoise: Callable[[Tensor, int], Tensor], *, velocity: bool) -> Tensor:
    """Return latents made from `noise`, [B, C, h, w] fp32.

    Args:
        denoise: latents and timestep -> what the denoiser predicts.
        velocity: whether that is the velocity or the noise.
    """
    now = noise
    for step in steps:
        predicted = denoise(now, step.timestep).float()
        signal, noisiness = step.signal**0.5, (1 - step.signal) ** 0.5
        if velocity:
            clean = signal * now - noisiness * predicted
            noise_in_it = signal * predicted + noisiness * now
        else:
            clean = (now - noisiness * predicted) / signal
            noise_in_it = predicted
        now = step.next_signal**0.5 * clean + (1 - step.next_signal) ** 0.5 * noise_in_it
    return now
