"""Draws pictures with the base: DDIM with classifier-free guidance, for looking at and for the probe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel

from . import models
from .fast import speed_up
from .text import padded


@dataclass
class Base:
    """The three networks, bfloat16 and channels_last; the text encoder float32."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: CLIPTextModel

    @staticmethod
    def load(path: Path) -> Base:
        """Reads a single-file checkpoint through diffusers' own conversion."""
        state = {k: v.float() for k, v in load_file(str(path)).items()}
        unet, vae, text = models.unet(), models.vae(), models.text_encoder()
        unet.load_state_dict(convert_ldm_unet_checkpoint(dict(state), dict(unet.config)))
        vae.load_state_dict(convert_ldm_vae_checkpoint(dict(state), dict(vae.config)))
        prefix = "cond_stage_model.transformer.text_model."
        words = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        mine = {k: words[k.removeprefix("text_model.")] for k in text.state_dict() if "position_ids" not in k}
        text.load_state_dict(mine, strict=False)
        return Base(speed_up(unet).eval(), speed_up(vae).eval(), text.eval())


@torch.no_grad()
def latents(base: Base, texts: list[str], seed: int, steps: int = 20, cfg: float = 4.0) -> Tensor:
    """Latents [N, 4, 16, 16], float32; noise depends on the seed and the place in the list."""
    scheduler = models.scheduler()
    scheduler.set_timesteps(steps)
    context = torch.cat([base.text(input_ids=padded(t)).last_hidden_state for t in ([""] * len(texts), texts)])
    context = context.to(base.unet.dtype)
    seeds = [torch.Generator().manual_seed(seed * 100_003 + i) for i in range(len(texts))]
    x = torch.stack([torch.randn(4, 16, 16, generator=g) for g in seeds])
    for t in scheduler.timesteps:
        both = torch.cat([x, x]).to(base.unet.dtype).contiguous(memory_format=torch.channels_last)
        plain, told = base.unet(both, t, context).sample.float().chunk(2)
        x = scheduler.step(plain + cfg * (told - plain), t, x).prev_sample
    return x


@torch.no_grad()
def decode(base: Base, x: Tensor) -> NDArray[np.uint8]:
    """Pictures uint8 [N, 128, 128, 3] of latents."""
    dtype = next(base.vae.parameters()).dtype
    parts = [base.vae.decode((z / models.SCALING_FACTOR).to(dtype)).sample.float() for z in x.split(4)]
    pixels = ((torch.cat(parts).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def draw(base: Base, texts: list[str], seed: int = 0, steps: int = 20, cfg: float = 4.0) -> NDArray[np.uint8]:
    """Pictures uint8 [N, 128, 128, 3] of captions."""
    parts = [
        decode(base, latents(base, texts[i : i + 16], seed * 1000 + i, steps, cfg)) for i in range(0, len(texts), 16)
    ]
    return np.concatenate(parts)
