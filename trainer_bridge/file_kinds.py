"""Tells model files that are no base: LoRA, VAE, text encoder, ControlNet, embedding, upscaler."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .precision import quantisation
from .safetensors_header import Tensor

Tensors = Mapping[str, Tensor]

#: What a file can be; `base` is a complete checkpoint or its denoiser.
KINDS: tuple[str, ...] = (
    "base",
    "lora",
    "vae",
    "text_encoder",
    "controlnet",
    "embedding",
    "upscaler",
    "unknown",
)

#: Ends of the names that only LoRA files have, and the type that each tells (kohya, peft, diffusers,
#: LyCORIS).
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


def kind_before_base(tensors: Tensors) -> tuple[str, str] | None:
    """Return kind and title of an embedding, a LoRA or a ControlNet: they may hold what a base holds too."""
    if _is_embedding(tensors):
        return "embedding", "an embedding"
    if lora_type(tensors):
        return "lora", "a LoRA"
    if _is_controlnet(tensors):
        return "controlnet", "a ControlNet"
    return None


def kind_after_base(tensors: Tensors) -> tuple[str, str]:
    """Return the kind and its title of a file that no family claims."""
    # A base of a family that is not known holds encoders and a VAE as well.
    if any(name.startswith("model.diffusion_model.") for name in tensors):
        return "base", "a base model of a family that is not known here"
    for kind, title_of in _REST:
        title = title_of(tensors)
        if title:
            return kind, title
    return "unknown", "a file of a kind that is not known here"


def lora_type(tensors: Tensors) -> str | None:
    """Return the type of a LoRA file, as in :data:`LORA_ENDINGS`; None when it is none."""
    for ending, type_ in LORA_ENDINGS:
        if any(name.endswith(ending) for name in tensors):
            return type_
    # GLoRA's names are short enough to stand in other files too: both halves are asked for, in a LoRA's
    # place.
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


#: First layers of the VAE's decoder, as LDM, Wan and Qwen, and diffusers name them.
_VAE_MARKS = (
    "decoder.conv_in.weight",
    "decoder.middle.0.residual.0.gamma",
    "decoder.up_blocks.0.resnets.0.norm1.weight",
)
_VAE_PREFIXES = ("", "first_stage_model.", "vae.")

#: End of a weight's name, what its last dimension must be (None: any), and the encoder that this tells. Asked
#: in this order (ComfyUI's `detect_te_model`).
_ENCODERS: tuple[tuple[str, int | None, str], ...] = (
    ("encoder.layers.30.mlp.fc1.weight", None, "the text encoder CLIP bigG"),
    ("transformer.resblocks.30.mlp.c_fc.weight", None, "the text encoder CLIP bigG"),
    ("encoder.layers.22.mlp.fc1.weight", None, "the text encoder CLIP H"),
    ("transformer.resblocks.22.mlp.c_fc.weight", None, "the text encoder CLIP H"),
    ("encoder.layers.0.mlp.fc1.weight", None, "the text encoder CLIP L"),
    ("encoder.block.23.layer.1.DenseReluDense.wi_1.weight", 4096, "the text encoder T5-XXL"),
    ("encoder.block.0.layer.0.SelfAttention.q.weight", None, "a T5 text encoder"),
    ("layers.0.post_feedforward_layernorm.weight", None, "a Gemma text encoder"),
    ("layers.0.self_attn.k_proj.bias", 512, "the text encoder Qwen2.5-VL-7B"),
    ("layers.0.self_attn.q_norm.weight", None, "a Qwen3 text encoder"),
    ("layers.0.self_attn.q_proj.weight", None, "a text encoder"),
)


def _encoder(tensors: Tensors) -> str | None:
    for ending, width, title in _ENCODERS:
        for name, tensor in tensors.items():
            if (name == ending or name.endswith("." + ending)) and width in (None, *tensor.shape[-1:]):
                return title
    return None


def _vae(tensors: Tensors) -> str | None:
    for prefix in _VAE_PREFIXES:
        if prefix + _VAE_MARKS[0] in tensors:
            shape = tensors[prefix + _VAE_MARKS[0]].shape
            return f"a VAE of {shape[1]} channels" if len(shape) > 1 else "a VAE"
        if any(prefix + mark in tensors for mark in _VAE_MARKS):
            return "a VAE"
    return None


def _upscaler(tensors: Tensors) -> str | None:
    found = "conv_first.weight" in tensors or any(name.startswith("model.1.sub.") for name in tensors)
    return "an upscaler" if found else None


def _unknown_base(tensors: Tensors) -> str | None:
    return "a base model of a family that is not known here" if quantisation(tensors) else None


#: Asked in this order, after the families: a complete base holds a VAE and text encoders too.
_REST: tuple[tuple[str, Callable[[Tensors], str | None]], ...] = (
    ("vae", _vae),
    ("text_encoder", _encoder),
    ("upscaler", _upscaler),
    ("base", _unknown_base),
)
