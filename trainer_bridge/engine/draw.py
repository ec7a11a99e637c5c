"""Draws pictures with networks that are in memory: for the samples of a run and for `generate`.

Pictures of equal size are drawn together. Each starts from noise of its own seed, made on the CPU, and its prompt
alone decides how many tokens it is given, so that it comes out the same whatever is drawn beside it, up to the
rounding of sums whose order a batch changes. How many go together depends on their size alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import ddim
from .families.base import ModelFamily, SizeInfo, TextFeatures
from .text import BODY, rows_needed

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from ..spec import SamplePrompt

#: Texts -> their features, for texts that were encoded before.
Features = Callable[[Sequence[str]], TextFeatures]

#: Pixels that are drawn together: 16 pictures of 128 px, one of 512 px.
_PIXELS_TOGETHER = 16 * 128 * 128
_LATENT_STEP = 8


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn.

    Attributes:
        steps: of the sampler.
        cfg: how strictly the prompt is followed; 1 leaves the negative prompt out.
        clip_skip: layer of the text encoder, counted from the last.
        velocity: whether the base predicts velocity instead of noise.
        zero_terminal_snr: whether its noisiest step is pure noise.
    """

    steps: int
    cfg: float
    clip_skip: int = 1
    velocity: bool = False
    zero_terminal_snr: bool = False


def draw(
    family: ModelFamily,
    modules: Mapping[str, nn.Module],
    prompts: Sequence[SamplePrompt],
    *,
    steps: int,
    cfg: float,
    clip_skip: int,
    device: torch.device | str,
    dtype: torch.dtype,
    text_features: Features | None = None,
    velocity: bool | None = None,
    zero_terminal_snr: bool | None = None,
) -> list[Image]:
    """Draw a picture for each prompt, in their order.

    Args:
        modules: `unet`, `vae`, and the text encoders unless `text_features` are given.
        dtype: of the computation; where the U-Net's weights have another one, torch's autocast is used.
        text_features: for prompts that were encoded before.
        velocity, zero_terminal_snr: what a job says; None: what the checkpoint says.
    """
    sampling = Sampling(
        steps,
        cfg,
        clip_skip,
        family.prediction_type == "v_prediction" if velocity is None else velocity,
        family.zero_terminal_snr if zero_terminal_snr is None else zero_terminal_snr,
    )
    encode = text_features or _encoder(family, modules, clip_skip)
    pictures: dict[int, Image] = {}
    for places in _together(prompts, long=text_features is None):
        chosen = [prompts[place] for place in places]
        made = draw_together(family, modules, chosen, sampling, encode=encode, device=device, dtype=dtype)
        pictures |= dict(zip(places, made, strict=True))
    return [pictures[place] for place in range(len(prompts))]


def draw_together(
    family: ModelFamily,
    modules: Mapping[str, nn.Module],
    prompts: Sequence[SamplePrompt],
    sampling: Sampling,
    *,
    encode: Features,
    device: torch.device | str,
    dtype: torch.dtype,
) -> list[Image]:
    """Draw pictures of one size in one batch."""
    import torch

    unet, vae = modules["unet"], modules["vae"]
    own = unet.get_parameter("conv_in.weight").dtype
    kind = torch.device(device).type
    # Before torch 2.2 even a disabled autocast refuses float32.
    mixed = torch.autocast(kind, dtype=dtype) if own != dtype else contextlib.nullcontext()
    with torch.inference_mode(), mixed:
        text = _conditioning(family, prompts, encode, with_negative=sampling.cfg != 1)
        noise = torch.stack([starting_noise(family, prompt) for prompt in prompts]).to(device)
        steps = ddim.plan(sampling.steps, family.alphas_cumprod(zero_terminal_snr=sampling.zero_terminal_snr))
        denoise = _guided(family, unet, text, prompts, sampling.cfg)
        latents = ddim.sample(noise, steps, denoise, velocity=sampling.velocity)
    with torch.inference_mode():
        # One by one: a decoder's activations are the largest of all.
        return [to_picture(family.decode_latents(vae, latents[place : place + 1])[0]) for place in range(len(prompts))]


def starting_noise(family: ModelFamily, prompt: SamplePrompt) -> Tensor:
    """Return the noise of a picture's seed [C, h, w]: the same as AUTOMATIC1111's, when that makes it on the CPU."""
    import torch

    shape = (family.latent_channels, prompt.height // _LATENT_STEP, prompt.width // _LATENT_STEP)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(prompt.seed))


def to_picture(pixels: Tensor) -> Image:
    """Return a picture of pixels [3, H, W] in -1..1."""
    from PIL import Image

    values = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu()
    return Image.fromarray(values.numpy(), "RGB")


def _encoder(family: ModelFamily, modules: Mapping[str, nn.Module], clip_skip: int) -> Features:
    encoders = {part: modules[part] for part in family.text_parts}

    def encode(texts: Sequence[str]) -> TextFeatures:
        longest = max(rows_needed(text) for text in texts)
        return family.encode_text(encoders, texts, clip_skip=clip_skip, max_tokens=longest * BODY)

    return encode


def _together(prompts: Sequence[SamplePrompt], *, long: bool) -> Iterator[list[int]]:
    """Yield the places of prompts that are drawn in one batch."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for place, prompt in enumerate(prompts):
        rows = max(rows_needed(prompt.prompt), rows_needed(prompt.negative)) if long else 1
        groups.setdefault((prompt.width, prompt.height, rows), []).append(place)
    for (width, height, _), places in groups.items():
        most = max(1, _PIXELS_TOGETHER // (width * height))
        for start in range(0, len(places), most):
            yield places[start : start + most]


def _conditioning(
    family: ModelFamily, prompts: Sequence[SamplePrompt], encode: Features, *, with_negative: bool
) -> TextFeatures:
    """Return the features of all prompts and behind them, where asked for, of all negative ones."""
    if not with_negative:
        return encode([prompt.prompt for prompt in prompts])
    both = encode([prompt.prompt for prompt in prompts] + [prompt.negative for prompt in prompts])
    blank = family.blank(both)
    empty = [False] * len(prompts) + [not prompt.negative for prompt in prompts]
    pooled = None if both.pooled is None or blank.pooled is None else _choose(empty, blank.pooled, both.pooled)
    return TextFeatures(_choose(empty, blank.hidden, both.hidden), pooled)


def _choose(where: Sequence[bool], this: Tensor, other: Tensor) -> Tensor:
    import torch

    mask = torch.tensor(where, device=this.device).view(-1, *[1] * (this.dim() - 1))
    return torch.where(mask, this, other)


def _guided(
    family: ModelFamily, unet: nn.Module, text: TextFeatures, prompts: Sequence[SamplePrompt], cfg: float
) -> Callable[[Tensor, int], Tensor]:
    """Return the denoiser with classifier-free guidance (arXiv 2207.12598)."""
    import torch

    sizes = [SizeInfo((p.width, p.height), (0, 0), (p.width, p.height)) for p in prompts]
    copies = 1 if cfg == 1 else 2

    def denoise(latents: Tensor, timestep: int) -> Tensor:
        times = torch.full((copies * len(latents),), timestep, device=latents.device)
        output = family.predict(unet, torch.cat([latents] * copies), times, text, sizes * copies).float()
        if copies == 1:
            return output
        wanted, unwanted = output.chunk(2)
        return unwanted + cfg * (wanted - unwanted)

    return denoise
