"""What a WebUI needs beside a shrunken SD1.x checkpoint: a ``.yaml`` and a folder with CLIP config and tokenizer.

The yaml has to name that folder by an absolute path as the WebUI's process sees it, so both are written on the
user's machine. Source: modules/sd_models_config.py and modules/sd_disable_initialization.py of A1111 1.10.1.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from ..clip_vocab import write_tokenizer
from ..errors import UserError

MARK = "# Written by Atelier for the checkpoint of this name; it is replaced when that is installed again."
_MAX_HEADER = 16 * 1024 * 1024


def read_config(checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's ``atelier.config``. Raises UserError where the file or the entry is not as expected."""
    way_out = "Fetch the file anew."
    try:
        with open(checkpoint, "rb") as file:
            head = file.read(8)
            size = struct.unpack("<Q", head)[0] if len(head) == 8 else _MAX_HEADER + 1
            if size > _MAX_HEADER:
                raise UserError(f"{checkpoint.name} is no safetensors file.", way_out)
            header = json.loads(file.read(size))
        text = header["__metadata__"]["atelier.config"]
        config = json.loads(text)
    except FileNotFoundError:
        raise UserError(f"There is no file {checkpoint}.", "Give the path of the pocket base.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{checkpoint.name} does not say how it is built (no atelier.config).", way_out) from error
    if not isinstance(config, dict) or config.get("family") != "sd15":
        raise UserError(f"{checkpoint.name} is of no family that this can describe.", way_out)
    return config


def write_host_files(checkpoint: Path, folder: Path) -> Path:
    """Writes the yaml beside ``checkpoint`` and CLIP's config and tokenizer into ``folder``; returns the yaml.

    Files of ours are replaced, each whole or not at all; a yaml that is not ours is left and a UserError raised.
    """
    config = read_config(checkpoint)
    yaml = checkpoint.with_suffix(".yaml")
    if yaml.exists() and not yaml.read_text(encoding="utf-8", errors="replace").startswith(MARK):
        raise UserError(f"{yaml} is there already and is not ours.", "Move it away or rename the checkpoint.")
    write_tokenizer(folder, pad_token=config["text_encoder"]["pad_token"])
    _replace(folder / "config.json", json.dumps(clip_config(config), indent=1) + "\n")
    _replace(yaml, yaml_text(config, folder.resolve()))
    return yaml


def clip_config(config: dict[str, Any]) -> dict[str, Any]:
    """``config.json`` for transformers' CLIPTextModel."""
    text = config["text_encoder"]
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": text["vocab_size"],
        "hidden_size": text["hidden_size"],
        "intermediate_size": text["intermediate"],
        "num_hidden_layers": text["layers"],
        "num_attention_heads": text["heads"],
        "max_position_embeddings": text["max_positions"],
        "hidden_act": text["act"],
        "projection_dim": text["hidden_size"],
        "layer_norm_eps": 1e-05,
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    }


def yaml_text(config: dict[str, Any], clip_folder: Path) -> str:
    """The original Stable Diffusion v1 yaml with this checkpoint's sizes."""
    unet, dd = config["ldm"]["unet_config"], config["ldm"]["ddconfig"]
    params: dict[str, Any] = {
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": 1000,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": unet["image_size"],
        "channels": 4,
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": config["vae"]["scaling_factor"],
        "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": 4,
                "monitor": "val/rec_loss",
                "ddconfig": dd,
                "lossconfig": {"target": "torch.nn.Identity"},
            },
        },
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
            "params": {"version": str(clip_folder)},
        },
    }
    model = {
        "base_learning_rate": 1.0e-4,
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": params,
    }
    return MARK + "\nmodel:\n" + "\n".join(_yaml(model, 1)) + "\n"


def _yaml(value: dict[str, Any], depth: int) -> list[str]:
    """Nested mappings as yaml lines; everything else is written as JSON, which yaml reads alike."""
    lines: list[str] = []
    for key, item in value.items():
        pad = "  " * depth + f"{key}:"
        if isinstance(item, dict):
            lines += [pad, *_yaml(item, depth + 1)]
        else:
            lines.append(f"{pad} {json.dumps(item)}")
    return lines


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
