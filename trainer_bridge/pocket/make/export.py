"""Writes the three networks as one LDM-layout fp16 checkpoint whose header says what it is.

python -m trainer_bridge.pocket.make.export --random --out FILE     (untrained, for developing loaders)
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from . import models

# What a preset changes for a base of these small widths, in sd-scripts' words.
PRESET: dict[str, Any] = {
    "network_dim": 8,
    "network_alpha": 8,
    "unet_lr": 5e-4,
    "text_encoder_lr": 2.5e-4,
    "train_batch_size": 8,
    "max_train_steps": 350,
    "min_snr_gamma": 5,
    "resolution": models.NATIVE_SIZE,
    "sample_cfg": 4,
    "style": {"caption_dropout_rate": 0.05},
}

_RES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_WORDS = (
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    ("mid_block.attentions.0.", "mid.attn_1."),
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("group_norm.", "norm."),
    ("to_q.", "q."),
    ("to_k.", "k."),
    ("to_v.", "v."),
    ("to_out.0.", "proj_out."),
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
    ("resnets.", "block."),
)


def _unet_places(net: UNet2DConditionModel) -> dict[str, str]:
    """Module paths of the blocks: diffusers' -> LDM's."""
    places = dict(_UNET_TOP)
    number = 1
    for i, block in enumerate(net.down_blocks):
        for j in range(len(block.resnets)):
            places[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers:
            places[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    for theirs, ours in (("resnets.0", 0), ("attentions.0", 1), ("resnets.1", 2)):
        places[f"mid_block.{theirs}"] = f"middle_block.{ours}"
    number = 0
    for i, block in enumerate(net.up_blocks):
        for j in range(len(block.resnets)):
            places[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{number}.1"
            number += 1
        if block.upsamplers:
            after = 2 if hasattr(block, "attentions") else 1
            places[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{after}.conv"
    return places


def unet_to_ldm(net: UNet2DConditionModel) -> dict[str, Tensor]:
    """The U-Net's tensors under LDM keys (without the model.diffusion_model. prefix)."""
    places = sorted(_unet_places(net).items(), key=lambda pair: -len(pair[0]))
    out: dict[str, Tensor] = {}
    for key, value in net.state_dict().items():
        theirs, ours = next(pair for pair in places if key.startswith(pair[0] + "."))
        rest = key[len(theirs) + 1 :]
        if "resnets" in theirs:
            part, _, leaf = rest.partition(".")
            rest = f"{_RES[part]}.{leaf}"
        out[f"{ours}.{rest}"] = value
    return out


def vae_to_ldm(net: AutoencoderKL) -> dict[str, Tensor]:
    """The autoencoder's tensors under LDM keys; its attention's linears become 1x1 convolutions."""
    levels = len(net.decoder.up_blocks)
    out: dict[str, Tensor] = {}
    for key, value in net.state_dict().items():
        name = key
        for theirs, ours in _VAE_WORDS:
            name = name.replace(theirs, ours)
        name = name.replace("down_blocks.", "down.")
        name = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", name)
        if "attn_1" in name and name.endswith("weight") and value.ndim == 2:
            value = value[:, :, None, None]
        out[name] = value
    return out


def text_to_ldm(net: CLIPTextModel) -> dict[str, Tensor]:
    """The text encoder's tensors under SD1.x keys (older and newer transformers name them differently)."""
    state = {k.removeprefix("text_model."): v for k, v in net.state_dict().items()}
    return {f"text_model.{k}": v for k, v in state.items() if not k.endswith("position_ids")}


def config() -> dict[str, Any]:
    """What a loader needs that the tensors do not say; stands in the header as ``atelier.config``."""
    text = models.TEXT
    return {
        "version": 1,
        "family": "sd15",
        "name": "Atelier pocket base",
        "prediction_type": "epsilon",
        "native_size": models.NATIVE_SIZE,
        "unet": models.UNET,
        "vae": models.VAE,
        "text_encoder": {
            "hidden_size": text["hidden_size"],
            "layers": text["num_hidden_layers"],
            "heads": text["num_attention_heads"],
            "intermediate": text["intermediate_size"],
            "act": text["hidden_act"],
            "vocab_size": text["vocab_size"],
            "max_positions": text["max_position_embeddings"],
            "pad_token": "<|endoftext|>",
        },
        "ldm": models.LDM,
        "preset": PRESET,
    }


def write_checkpoint(path: Path, unet: nn.Module, vae: nn.Module, text: nn.Module, note: str = "") -> None:
    """Writes the fp16 single file to ``path``, whole or not at all."""
    parts = {
        "model.diffusion_model.": unet_to_ldm(unet),
        "first_stage_model.": vae_to_ldm(vae),
        "cond_stage_model.transformer.": text_to_ldm(text),
    }
    state = {
        prefix + key: value.detach().to(torch.float16).contiguous()
        for prefix, part in parts.items()
        for key, value in part.items()
    }
    metadata = {
        "format": "pt",
        "atelier.config": json.dumps(config(), separators=(",", ":")),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": "Atelier pocket base",
        "modelspec.resolution": f"{models.NATIVE_SIZE}x{models.NATIVE_SIZE}",
        "modelspec.prediction_type": "epsilon",
        "modelspec.license": "Apache-2.0",
    }
    if note:
        metadata["atelier.note"] = note
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(state, str(temporary), metadata=metadata)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def from_work(work: Path, out: Path) -> None:
    """Puts the saves of a work folder together: averaged U-Net and text encoder, the best decoder there is."""
    from . import workers
    from .text import plain_state, trainable

    vae, unet = models.vae(), models.unet()
    decoder = work / "decoder.pt"
    chosen = workers.load(decoder if decoder.exists() else work / "vae_white.pt")
    saved = workers.load(work / "unet_train.pt")
    if chosen is None or saved is None:
        raise FileNotFoundError(f"{work} has no trained autoencoder or U-Net yet")
    vae.load_state_dict(chosen["model"])
    start = workers.load(work / "text.pt")
    assert start is not None
    plain = models.text_encoder()
    plain.load_state_dict(start["model"])
    text = trainable(plain)
    mean, at = saved["optimizer"]["mean"], 0
    with torch.no_grad():
        for p in (*unet.parameters(), *text.parameters()):
            p.copy_(mean[at : at + p.numel()].view(p.shape))
            at += p.numel()
    whole = models.text_encoder()
    whole.load_state_dict(plain_state(text))
    write_checkpoint(out, unet, vae, whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--random", action="store_true", help="untrained weights")
    source.add_argument("--work", type=Path, help="the training's work folder")
    args = parser.parse_args()
    if args.work:
        from_work(args.work, args.out)
    else:
        torch.manual_seed(0)
        write_checkpoint(args.out, models.unet(), models.vae(), models.text_encoder(), "untrained")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
