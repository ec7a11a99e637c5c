"""Sizes of the networks in a checkpoint, as arguments of their classes.

Whatever the shapes of the weights tell is taken from them. What they do not tell (heads, groups of a norm, the
activation) is known for the published sizes; any other size must say it in its header (`atelier.config`, whose
tables `unet`, `vae`, `text_encoder`, `text_encoder_2` use diffusers' names).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from ..safetensors_header import Tensor
from .keys import PROJECTION, TEXT_BODY, Level, UnetNames

Shapes = Mapping[str, Tensor]
Said = Mapping[str, Any]

#: LDM hard-codes it; narrow twins cannot have it and say so.
_GROUPS = 32
_STANDARD_CHANNELS = 320
_STANDARD_TEXT = (768, 1024, 1280)
_HEAD = 64
_MOST_HEADS = 1024


def unet_config(
    names: UnetNames, shapes: Shapes, said: Said, *, heads: int | None, pooled: int | None
) -> dict[str, Any]:
    """Return the arguments of `UNet2DConditionModel`.

    Args:
        names: the structure.
        shapes: the weights, without prefix.
        said: the header's table `unet`, maybe empty.
        heads: attention heads at the published size; None: one for every 64 channels (SD2, SDXL).
        pooled: width of the pooled text that the size conditioning goes with; None without such conditioning.

    Raises:
        UserError: sizes that no U-Net of the family has, or that are not said.
    """
    levels = names.down
    depths = [_depth(level, shapes) for level in levels]
    channels = [_shape(shapes, f"{level.blocks[-1]}.out_layers.3.weight", 4)[0] for level in levels if level.blocks]
    layers = {len(level.blocks) for level in levels} | {len(level.blocks) - 1 for level in names.up}
    if len(channels) != len(levels) or len(names.up) != len(levels) or len(layers) != 1:
        raise _odd("U-Net", "its levels have different numbers of blocks")
    if [bool(d) for d in depths] != [bool(level.attentions) for level in reversed(names.up)]:
        raise _odd("U-Net", "attention stands at other levels on the way up than on the way down")
    attending = next((level.attentions[0] for level in levels if level.attentions), "middle_block.1")
    config: dict[str, Any] = {
        "sample_size": None,
        "in_channels": _shape(shapes, "input_blocks.0.0.weight", 4)[1],
        "out_channels": _shape(shapes, "out.2.weight", 4)[0],
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths),
        "up_block_types": tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)),
        "block_out_channels": tuple(channels),
        "layers_per_block": layers.pop(),
        "cross_attention_dim": _shape(shapes, f"{attending}.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "attention_head_dim": _heads(said.get("attention_head_dim"), channels, heads),
        "transformer_layers_per_block": tuple(depth or 1 for depth in depths),
        "use_linear_projection": len(shapes[f"{attending}.proj_in.weight"].shape) == 2,
        "norm_num_groups": _whole(said, "norm_num_groups", _GROUPS, channels),
    }
    if pooled is not None:
        width = _shape(shapes, "label_emb.0.0.weight", 2)[1]
        if width <= pooled or (width - pooled) % 6:
            raise _odd("U-Net", "its size conditioning does not fit its second text encoder")
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (width - pooled) // 6,
            "projection_class_embeddings_input_dim": width,
        }
    return config


def vae_config(shapes: Shapes, levels: int, said: Said, scale: float) -> dict[str, Any]:
    """Return the arguments of `AutoencoderKL`.

    Args:
        shapes: the weights, without prefix.
        levels: number of resolutions.
        said: the header's table `vae`, maybe empty.
        scale: the family's latent scale, which the table may overrule.

    Raises:
        UserError: sizes that no such autoencoder has.
    """
    counts = {len(_vae_blocks(shapes, f"encoder.down.{level}")) for level in range(levels)}
    counts |= {len(_vae_blocks(shapes, f"decoder.up.{level}")) - 1 for level in range(levels)}
    if len(counts) != 1 or min(counts) < 0:
        raise _odd("VAE", "its levels have different numbers of blocks")
    middle = _shape(shapes, "encoder.mid.block_1.conv1.weight", 4)[0]
    channels = [_vae_channels(shapes, level, levels, middle) for level in range(levels)]
    return {
        "in_channels": _shape(shapes, "encoder.conv_in.weight", 4)[1],
        "out_channels": _shape(shapes, "decoder.conv_out.weight", 4)[0],
        "latent_channels": _shape(shapes, "decoder.conv_in.weight", 4)[1],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(channels),
        "layers_per_block": counts.pop(),
        "norm_num_groups": _whole(said, "norm_num_groups", _GROUPS, channels),
        "scaling_factor": _scale(said, scale),
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def text_config(shapes: Shapes, said: Said, *, activation: str, projected: bool) -> dict[str, Any]:
    """Return the arguments of :class:`.clip.ClipText`.

    Args:
        shapes: the weights under the names of that class.
        said: the header's table of this encoder, maybe empty.
        activation: `quick_gelu` for OpenAI's CLIP, `gelu` for OpenCLIP.
        projected: whether pooled text is read from it.

    Raises:
        UserError: sizes that no such encoder has, or that are not said.
    """
    vocabulary, width = _shape(shapes, f"{TEXT_BODY}embeddings.token_embedding.weight", 2)
    positions = _shape(shapes, f"{TEXT_BODY}embeddings.position_embedding.weight", 2)[0]
    layers = _count(shapes, f"{TEXT_BODY}encoder.layers")
    inner = _shape(shapes, f"{TEXT_BODY}encoder.layers.0.mlp.fc1.weight", 2)[0]
    heads = said.get("heads", width // _HEAD if width in _STANDARD_TEXT else None)
    if heads is None:
        raise _unsaid("text encoder")
    if type(heads) is not int or not 0 < heads <= _MOST_HEADS or width % heads:
        raise _odd("text encoder", f"{heads} heads do not fit a width of {width}")
    if said.get("act", activation) not in ("quick_gelu", "gelu"):
        raise _odd("text encoder", "its activation is not known")
    return {
        "vocabulary": vocabulary,
        "positions": positions,
        "width": width,
        "inner": inner,
        "layers": layers,
        "heads": heads,
        "activation": said.get("act", activation),
        "projection": _shape(shapes, PROJECTION, 2)[0] if projected else None,
    }


def _depth(level: Level, shapes: Shapes) -> int:
    """Return how many transformer blocks an attention of this level has; 0 where there is none."""
    depths = {_count(shapes, f"{module}.transformer_blocks") for module in level.attentions}
    if len(level.attentions) not in (0, len(level.blocks)) or len(depths) > 1:
        raise _odd("U-Net", "attention stands beside some blocks of a level only")
    return depths.pop() if depths else 0


def _count(shapes: Shapes, stem: str) -> int:
    """Return how many numbered modules `stem` has; they must run from 0 on without a gap."""
    place = stem.count(".") + 1
    found = {name.split(".")[place] for name in shapes if name.startswith(stem + ".")}
    if found != {str(index) for index in range(len(found))}:
        raise _odd("model", f"the numbering of {stem} has gaps")
    return len(found)


def _vae_blocks(shapes: Shapes, level: str) -> range:
    return range(_count(shapes, f"{level}.block"))


def _vae_channels(shapes: Shapes, level: int, levels: int, middle: int) -> int:
    """An encoder level without blocks keeps its channels: the convolution behind it tells them."""
    blocks = _vae_blocks(shapes, f"encoder.down.{level}")
    if blocks:
        return _shape(shapes, f"encoder.down.{level}.block.{blocks[-1]}.conv2.weight", 4)[0]
    if level == levels - 1:
        return middle
    return _shape(shapes, f"encoder.down.{level}.downsample.conv.weight", 4)[0]


def _heads(said: object, channels: Sequence[int], heads: int | None) -> int | tuple[int, ...]:
    """Return the number of attention heads, which diffusers' argument of U-Nets means by head dim."""
    if said is None:
        if channels[0] != _STANDARD_CHANNELS:
            raise _unsaid("U-Net")
        return heads if heads is not None else tuple(width // _HEAD for width in channels)
    each = [said] * len(channels) if isinstance(said, int) else said
    if not isinstance(each, (list, tuple)) or len(each) != len(channels):
        raise _odd("U-Net", "its heads are not one number or one for each level")
    for number, width in zip(each, channels, strict=True):
        if type(number) is not int or not 0 < number <= _MOST_HEADS or width % number:
            raise _odd("U-Net", f"{number} heads do not fit {width} channels")
    return said if isinstance(said, int) else tuple(each)


def _whole(said: Said, name: str, default: int, channels: Sequence[int]) -> int:
    number = said.get(name, default)
    if type(number) is not int or number <= 0 or any(width % number for width in channels):
        raise _odd("model", f"{name} {number} does not divide its channels")
    return number


def _scale(said: Said, default: float) -> float:
    scale = said.get("scaling_factor", default)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 1e-3 < scale < 1e3:
        raise _odd("VAE", "its scaling factor is out of bounds")
    return float(scale)


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    tensor = shapes.get(name)
    if tensor is None:
        raise UserError(f"The checkpoint lacks the weight {name}.", "Download or copy it again, or choose another one.")
    if len(tensor.shape) != dimensions or 0 in tensor.shape:
        raise _odd("model", f"the weight {name} has the shape {list(tensor.shape)}")
    return tensor.shape


def _odd(part: str, why: str) -> UserError:
    return UserError(
        f"The {part} in the checkpoint has sizes that are not known here: {why}.",
        "Choose another checkpoint.",
    )


def _unsaid(part: str) -> UserError:
    return UserError(
        f"The {part} in the checkpoint has an unusual size, and its header does not say how many heads it has.",
        "Get it from its maker with `atelier.config` in its header, or choose a checkpoint of the usual size.",
    )
