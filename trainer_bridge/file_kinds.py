"""Tells model files that are no base: LoRA, VAE, text encoder, ControlNet, embedding, upscaler."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from .safetensors_header import Tensor

Tensors = Mapping[str, Tensor]

#: kind -> what it is called in a sentence.
KINDS: Mapping[str, str] = {
    "base": "a base model",
    "lora": "a LoRA",
    "vae": "a VAE",
    "text_encoder": "a text encoder",
    "controlnet": "a ControlNet",
    "embedding": "an embedding",
    "upscaler": "an upscaler",
    "unknown": "a file of a kind that is not known here",
}

#: Ends of the names that only LoRA files have, and the type that each tells (kohya, peft, diffusers, LyCORIS).
LORA_ENDINGS: tuple[tuple[str, str], ...] = (
    (".dora_scale", "DoRA"),
    (".lora_magnitude_vector", "DoRA"),
    (".hada_w1_a", "LoHa"),
    (".lokr_w1", "LoKr"),
    (".lokr_w1_a", "LoKr"),
    (".oft_diag", "OFT"),
    (".oft_blocks", "OFT"),
    (".on_input", "IA3"),
    (".lora_down.weight", "LoRA"),
    (".lora_A.weight", "LoRA"),
    (".lora_A.default.weight", "LoRA"),
    (".lora.down.weight", "LoRA"),
    ("_lora.down.weight", "LoRA"),
    (".diff", "full difference"),
)


def kind_beside_a_base(tensors: Tensors) -> str | None:
    """Return `embedding`, `lora` or `controlnet` if it is one; None lets the families be asked."""
    return next((kind for kind, test in _BEFORE if test(tensors)), None)


def kind_of_the_rest(tensors: Tensors) -> str:
    """Return the kind of a file that no family claims; `base` is one of a family that is not known here."""
    return next((kind for kind, test in _AFTER if test(tensors)), "unknown")


def lora_type(tensors: Tensors) -> str | None:
    """Return the type of a LoRA file, as in :data:`LORA_ENDINGS`; None when it is none."""
    for ending, type_ in LORA_ENDINGS:
        if any(name.endswith(ending) for name in tensors):
            return type_
    # GLoRA's names are short enough to stand in other files too: both halves are asked for, in a LoRA's place.
    if any(name.endswith(".a1.weight") and name[:-10] + ".b1.weight" in tensors for name in tensors):
        return "GLoRA"
    return None


def _is_controlnet(tensors: Tensors) -> bool:
    marks = ("control_model.", "controlnet_cond_embedding.", "input_hint_block.", "controlnet_blocks.")
    return any(name.startswith(marks) for name in tensors)


def _is_embedding(tensors: Tensors) -> bool:
    if len(tensors) > 16:
        return False
    return (
        "emb_params" in tensors
        or {"clip_g", "clip_l"} <= tensors.keys()
        or any(name.startswith("string_to_param") for name in tensors)
    )


_VAE_MARKS = (
    "decoder.conv_in.weight",
    "decoder.middle.0.residual.0.gamma",
    "decoder.up_blocks.0.resnets.0.norm1.weight",
)


def _is_vae(tensors: Tensors) -> bool:
    return any(
        mark in tensors or "first_stage_model." + mark in tensors or "vae." + mark in tensors
        for mark in _VAE_MARKS
    )


_ENCODER = re.compile(
    r"(?:[a-z0-9_]{1,20}\.){0,3}(?:"
    r"(?:text_model\.)?encoder\.layers\.0\.mlp\.fc1\.weight|"
    r"transformer\.resblocks\.0\.mlp\.c_fc\.weight|"
    r"encoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight|"
    r"(?:model\.)?layers\.0\.self_attn\.q_proj\.weight)"
)


def _is_encoder(tensors: Tensors) -> bool:
    return any(_ENCODER.fullmatch(name) for name in tensors)


def _is_upscaler(tensors: Tensors) -> bool:
    return "conv_first.weight" in tensors or any(name.startswith("model.1.sub.") for name in tensors)


def _is_base(tensors: Tensors) -> bool:
    return any(name.startswith("model.diffusion_model.") for name in tensors)


_Tests = tuple[tuple[str, Callable[[Tensors], bool]], ...]

#: Asked before the families: these files may hold weights that a base has too.
_BEFORE: _Tests = (
    ("embedding", _is_embedding),
    ("lora", lambda tensors: lora_type(tensors) is not None),
    ("controlnet", _is_controlnet),
)
#: Asked after the families: a complete base holds a VAE and text encoders.
_AFTER: _Tests = (
    ("base", _is_base),
    ("vae", _is_vae),
    ("text_encoder", _is_encoder),
    ("upscaler", _is_upscaler),
)
