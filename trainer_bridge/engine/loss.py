"""What a step learns from: noise, timestep, target and weights of the loss, as functions of the place in the
run.

The formulas are those of kohya-ss sd-scripts (`train_network.py`, `custom_train_functions.py`) for the
families that learn by denoising at 1000 timesteps; `a` is the cumulative product of 1 - beta, SNR is a / (1 -
a).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..counter import below, number
from ..fields import Value


@dataclass(frozen=True)
class Schedule:
    """How much picture and how much noise each of the timesteps holds.

    Attributes:
        signal, noise: sqrt(a) and sqrt(1 - a), [T] fp32.
        snr: [T] fp32, of the schedule *before* it was shifted to zero terminal SNR (sd-scripts takes it so;
        after
            the shift the last weight would be 0 / 0).
        v_prediction: whether the target is the velocity.
    """

    signal: Tensor
    noise: Tensor
    snr: Tensor
    v_prediction: bool

    @classmethod
    def of(cls, alphas: Tensor, unshifted: Tensor, *, v_prediction: bool) -> Schedule:
        """Make one from the cumulative alphas [T] in fp64: those used, and those before any shift."""
        return cls(
            signal=alphas.sqrt().float(),
            noise=(1.0 - alphas).sqrt().float(),
            snr=(unshifted / (1.0 - unshifted)).float(),
            v_prediction=v_prediction,
        )

    def to(self, kind: str) -> Schedule:
        """Return it with its tables on a device."""
        return replace(self, signal=self.signal.to(kind), noise=self.noise.to(kind), snr=self.snr.to(kind))


def draw_noise(settings: Mapping[str, Value], shape: Sequence[int], micro_step: int, place: int) -> Tensor:
    """Return the noise of one sample, [C, H, W] fp32 on the CPU, decided by its place in the run alone."""
    seed, offset = int(settings["seed"]), float(settings["noise_offset"])
    noise = torch.randn(tuple(shape), generator=_generator(seed, "noise", micro_step, place))
    if offset > 0.0:
        noise += offset * torch.randn((shape[0], 1, 1), generator=_generator(seed, "offset", micro_step, place))
    return noise


def draw_timestep(settings: Mapping[str, Value], micro_step: int, place: int) -> int:
    """Return the timestep of one sample, uniform in [min_timestep, max_timestep)."""
    first, last = int(settings["min_timestep"]), int(settings["max_timestep"])
    return first + below(last - first, int(settings["seed"]), "timestep", micro_step, place)


def add_noise(schedule: Schedule, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return sqrt(a) x + sqrt(1 - a) n, [B, C, H, W] fp32."""
    return _at(schedule.signal, timesteps) * latents + _at(schedule.noise, timesteps) * noise


def target(schedule: Schedule, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what the U-Net should say: the noise, or the velocity sqrt(a) n - sqrt(1 - a) x."""
    if not schedule.v_prediction:
        return noise
    return _at(schedule.signal, timesteps) * noise - _at(schedule.noise, timesteps) * latents


def weights(schedule: Schedule, timesteps: Tensor, gamma: float) -> Tensor:
    """Return the min-SNR weight of each sample, [B]: min(SNR, gamma) / SNR, for velocity / (SNR + 1).

    With gamma 0 all weigh the same.
    """
    snr = schedule.snr[timesteps]
    if gamma <= 0.0:
        return torch.ones_like(snr)
    return snr.clamp(max=gamma) / (snr + 1.0 if schedule.v_prediction else snr)


def batch_loss(prediction: Tensor, wanted: Tensor, sample_weights: Tensor) -> Tensor:
    """Return the loss: squared error, mean per sample, times the sample's weight, mean over the batch."""
    per_sample = torch.nn.functional.mse_loss(prediction, wanted, reduction="none").mean(dim=(1, 2, 3))
    return (per_sample * sample_weights).mean()


def of_nothing(wanted: Tensor, sample_weights: Tensor) -> Tensor:
    """Return the loss that a prediction of zeros would have."""
    return (wanted.square().mean(dim=(1, 2, 3)) * sample_weights).mean()


def _at(table: Tensor, timesteps: Tensor) -> Tensor:
    return table[timesteps].view(-1, 1, 1, 1)


def _generator(*keys: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(number(*keys))
