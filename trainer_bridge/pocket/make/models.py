"""The pocket base's three networks as diffusers / transformers classes, and their sizes in one place.

Sizes are what two CPU cores can train in an hour and what fits 32 MB in fp16. The U-Net attends at 8x8
only: attention at 16x16 cost a third of the throughput.
"""

from __future__ import annotations

import copy
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

NATIVE_SIZE = 128
SCALING_FACTOR = 0.18215

UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [96, 192],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": 64,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
}

VAE: dict[str, Any] = {
    "sample_size": NATIVE_SIZE,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [96, 96, 96, 96],
    "layers_per_block": 0,
    "norm_num_groups": 32,
    "act_fn": "silu",
    "scaling_factor": SCALING_FACTOR,
}

TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "projection_dim": 64,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}

# The same sizes in the words of the original yaml (what a WebUI reads beside the checkpoint).
LDM: dict[str, Any] = {
    "unet_config": {
        "image_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 96,
        "attention_resolutions": [2],
        "num_res_blocks": 1,
        "channel_mult": [1, 2],
        "num_heads": 4,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": 64,
        "use_checkpoint": False,
        "legacy": False,
    },
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 128,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 96,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 0,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}


def unet() -> UNet2DConditionModel:
    """A U-Net with random weights; latents [N, 4, 16, 16], text [N, 77, 64]."""
    return UNet2DConditionModel(**copy.deepcopy(UNET))


def vae() -> AutoencoderKL:
    """An autoencoder with random weights; pictures [N, 3, 128, 128] in -1..1, latents [N, 4, 16, 16]."""
    return AutoencoderKL(**copy.deepcopy(VAE))


def text_encoder() -> CLIPTextModel:
    """A CLIP text encoder with random weights; ids [N, 77] -> [N, 77, 64]."""
    return CLIPTextModel(CLIPTextConfig(**copy.deepcopy(TEXT)))


def scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x noise levels, sampled with DDIM."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )
