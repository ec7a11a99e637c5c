"""What is computed once, before the first step: latents of the pictures and features of the captions.

An encoder is loaded only when something is missing in the cache, and leaves memory before the next thing is
loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..counter import uniform
from ..dataset.buckets import Bucket
from ..dataset.captions import variant, variants_per_picture
from ..dataset.manifest import Manifest, Picture
from ..fields import Value
from . import device
from .cache import Cache, key_of, stack
from .data import pixels
from .families.base import ModelFamily, TextFeatures

#: Raised when the content of entries changes although their keys would not.
_LATENTS_VERSION = 1
_TEXT_VERSION = 1

OnProgress = Callable[[int, int], None]


class TextBank:
    """Features of all captions of a run, in one tensor.

    Args:
        captions: all different.
        hidden: [captions, T, D].
        pooled: [captions, P], or None.
    """

    def __init__(self, captions: Sequence[str], hidden: Tensor, pooled: Tensor | None) -> None:
        self._row = {caption: row for row, caption in enumerate(captions)}
        self._hidden, self._pooled = hidden, pooled

    def features(self, captions: Sequence[str]) -> TextFeatures:
        """Return the features of some of the captions, in their order."""
        rows = torch.tensor([self._row[caption] for caption in captions], device=self._hidden.device)
        return TextFeatures(self._hidden[rows], None if self._pooled is None else self._pooled[rows])


@dataclass(frozen=True)
class Captions:
    """Every caption that a run is trained with.

    Attributes:
        variants: picture's index -> its captions by variant.
        plain: the same without the trigger word; empty where the base is not held.
    """

    variants: tuple[tuple[str, ...], ...]
    plain: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, manifest: Manifest, settings: Mapping[str, Value]) -> Captions:
        """Make all variants of all pictures."""
        count = variants_per_picture(settings, len(manifest.pictures))
        seed = int(settings["seed"])

        def all_of(trigger: str) -> tuple[tuple[str, ...], ...]:
            return tuple(
                tuple(
                    variant(picture.caption, trigger, settings, seed=seed, picture=picture.hash, variant=number)
                    for number in range(count)
                )
                for picture in manifest.pictures
            )

        held = bool(manifest.trigger) and float(settings["prior_preservation_rate"]) > 0.0
        return cls(all_of(manifest.trigger), all_of("") if held else ())

    def held(self, picture: int, variant: int, keys: tuple[int | str, ...]) -> str:
        """Return the caption that the base is held with at one place of the run, decided by `keys`."""
        return "" if uniform(*keys) < 0.25 else self.plain[picture][variant]

    def different(self) -> list[str]:
        """Return each caption once, in a fixed order."""
        own = [caption for captions in self.variants + self.plain for caption in captions]
        return list(dict.fromkeys([*own, *([""] if self.plain else [])]))


def latents(
    family: ModelFamily,
    pictures: Sequence[Picture],
    buckets: Sequence[Bucket],
    *,
    flips: Sequence[bool],
    cache: Path,
    kind: str,
    on_progress: OnProgress,
) -> dict[tuple[int, bool], Tensor]:
    """Return the latents [C, H/8, W/8] fp32 of each picture, by index and flip; the VAE is gone afterwards.

    The VAE computes in fp32 whatever the run's precision: it is run once, and SDXL's overflows in fp16.
    """
    wanted = [(index, flip) for index in range(len(pictures)) for flip in flips]
    fingerprint = family.vae_fingerprint()
    keys = [
        key_of("latents", _LATENTS_VERSION, fingerprint, _look(pictures[index]), _cut(buckets[index]), flip)
        for index, flip in wanted
    ]
    store = Cache(cache / "latents")
    encoder = _Lazy(lambda: family.load(["vae"], device=kind, dtype=torch.float32))
    counter = _Counter(store.missing(keys), on_progress)

    @torch.no_grad()
    def make(place: int) -> dict[str, Tensor]:
        index, flip = wanted[place]
        picture = pixels(pictures[index], buckets[index], flip)[None].to(kind)
        return {"latents": family.encode_pixels(encoder.get()["vae"], picture)[0]}

    entries = store.get(keys, make, counter.one)
    encoder.drop(kind)
    return {where: entry["latents"].to(kind) for where, entry in zip(wanted, entries, strict=True)}


def text_features(
    family: ModelFamily,
    captions: Sequence[str],
    *,
    clip_skip: int,
    dtype: torch.dtype,
    cache: Path,
    kind: str,
    on_progress: OnProgress,
) -> TextBank:
    """Return the features of the captions; the text encoders are gone afterwards.

    Args:
        captions: all different, at least one.
        dtype: of the features that are returned; they are computed and cached in fp32.
    """
    fingerprint = family.text_fingerprint()
    keys = [key_of("text", _TEXT_VERSION, fingerprint, clip_skip, caption) for caption in captions]
    store = Cache(cache / "text")
    encoders = _Lazy(lambda: family.load(family.text_parts, device=kind, dtype=torch.float32))
    counter = _Counter(store.missing(keys), on_progress)

    @torch.no_grad()
    def make(place: int) -> dict[str, Tensor]:
        features = family.encode_text(encoders.get(), [captions[place]], clip_skip=clip_skip)
        made = {"hidden": features.hidden[0].float()}
        return made if features.pooled is None else {**made, "pooled": features.pooled[0].float()}

    entries = store.get(keys, make, counter.one)
    encoders.drop(kind)
    pooled = stack(entries, "pooled", dtype, kind) if "pooled" in entries[0] else None
    return TextBank(captions, stack(entries, "hidden", dtype, kind), pooled)


class _Lazy:
    """Networks that are loaded when they are first needed."""

    def __init__(self, load: Callable[[], dict[str, nn.Module]]) -> None:
        self._load = load
        self._made: dict[str, nn.Module] | None = None

    def get(self) -> dict[str, nn.Module]:
        if self._made is None:
            self._made = self._load()
        return self._made

    def drop(self, kind: str) -> None:
        self._made = None
        device.forget_unused(kind)


class _Counter:
    """Counts entries as they are made."""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress
        if total:
            on_progress(0, total)

    def one(self) -> None:
        self._done += 1
        self._on_progress(self._done, max(self._done, self._total))


def _look(picture: Picture) -> list[object]:
    """Return what decides a picture's pixels before they are scaled."""
    return [picture.hash, picture.crop, picture.flatten]


def _cut(bucket: Bucket) -> Iterable[int]:
    return [
        bucket.width,
        bucket.height,
        bucket.scaled_width,
        bucket.scaled_height,
        bucket.crop_left,
        bucket.crop_top,
    ]
