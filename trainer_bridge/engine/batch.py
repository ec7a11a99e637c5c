"""What one micro-batch consists of, as a function of its number alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..counter import uniform
from ..dataset.buckets import Bucket
from ..dataset.manifest import Picture
from ..dataset.order import Draw, Order
from ..fields import Value
from . import loss
from .families.base import SizeInfo
from .prepare import Captions


@dataclass(frozen=True)
class Chunk:
    """As many pictures of a micro-batch as are computed at once.

    Attributes:
        noisy, target: [B, C, h, w] fp32.
        timesteps: [B] int64.
        weights: [B], of the samples' losses.
        captions: of the pictures.
        plain: the same without the trigger word, where this micro-batch also holds the base; else empty.
        sizes: of the pictures.
        share: of the micro-batch's pictures that are in this chunk.
    """

    noisy: Tensor
    target: Tensor
    timesteps: Tensor
    weights: Tensor
    captions: list[str]
    plain: list[str]
    sizes: list[SizeInfo]
    share: float


class Batches:
    """The micro-batches of a run.

    Args:
        order: which pictures make up which batch.
        latents: by picture's index and flip, on the device.
        schedule: of the base.
    """

    def __init__(
        self,
        order: Order,
        pictures: Sequence[Picture],
        buckets: Sequence[Bucket],
        latents: Mapping[tuple[int, bool], Tensor],
        captions: Captions,
        schedule: loss.Schedule,
        settings: Mapping[str, Value],
    ) -> None:
        self.order, self._pictures, self._buckets = order, pictures, buckets
        self._latents, self._captions = latents, captions
        self._schedule, self._settings = schedule, settings

    def chunks(self, micro_step: int, most: int) -> Iterator[Chunk]:
        """Yield a micro-batch in chunks of at most `most` pictures.

        Noise and timestep of a picture depend on its place in the micro-batch, not on the chunk that it falls
        into.
        """
        draws = self.order.batch(micro_step)
        for first in range(0, len(draws), most):
            yield self._chunk(micro_step, first, draws[first : first + most], len(draws))

    def _chunk(self, micro_step: int, first: int, draws: Sequence[Draw], whole: int) -> Chunk:
        latents = torch.stack([self._latents[draw.index, draw.flip] for draw in draws])
        places = range(first, first + len(draws))
        shape = latents.shape[1:]
        noise = torch.stack([loss.draw_noise(self._settings, shape, micro_step, place) for place in places])
        noise = noise.to(latents.device)
        numbers = [loss.draw_timestep(self._settings, micro_step, place) for place in places]
        timesteps = torch.tensor(numbers, device=latents.device)
        gamma = float(self._settings["min_snr_gamma"])
        return Chunk(
            noisy=loss.add_noise(self._schedule, latents, noise, timesteps),
            target=loss.target(self._schedule, latents, noise, timesteps),
            timesteps=timesteps,
            weights=loss.weights(self._schedule, timesteps, gamma),
            captions=[self._captions.variants[draw.index][draw.variant] for draw in draws],
            plain=self._plain(micro_step, first, draws),
            sizes=[self._size(draw) for draw in draws],
            share=len(draws) / whole,
        )

    def _plain(self, micro_step: int, first: int, draws: Sequence[Draw]) -> list[str]:
        """Return the captions that the base is held with, if this micro-batch holds it.

        A quarter are empty, since guidance subtracts what the empty caption draws; the rest are the pictures' own
        without the trigger word.
        """
        seed, rate = int(self._settings["seed"]), float(self._settings["prior_preservation_rate"])
        if not self._captions.plain or uniform(seed, "hold", micro_step) >= rate:
            return []
        return [
            self._captions.held(draw.index, draw.variant, (seed, "held", micro_step, place))
            for place, draw in enumerate(draws, first)
        ]

    def _size(self, draw: Draw) -> SizeInfo:
        """What SDXL is told: the picture before scaling, what was cut off, and the size that is trained.

        Mirroring moves what was cut off on the right to the left.
        """
        picture, bucket = self._pictures[draw.index], self._buckets[draw.index]
        left = bucket.crop_left
        if draw.flip:
            left = bucket.scaled_width - bucket.width - left
        return SizeInfo(picture.shown, (left, bucket.crop_top), (bucket.width, bucket.height))
