"""Names of weights: those of the single file that users have -> those of the networks here.

The single file keeps the names of the original programs (LDM's U-Net and autoencoder, Hugging Face's or OpenCLIP's
text encoder). Names alone are handled here; which sizes a model has is read in :mod:`.sizes`. Sources: CompVis
latent-diffusion `openaimodel.py` and `model.py` for the structure, diffusers' `single_file_utils.py` for the check
(tests/engine/test_keys.py holds both against each other).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import UserError

Form = Literal["same", "flat", "transposed"]


@dataclass(frozen=True)
class Piece:
    """What becomes of one tensor of the file.

    Attributes:
        source: its name in the file.
        target: the weight of the module that it fills.
        form: `same`; `flat` drops the two trailing dimensions of size 1 of a 1x1 convolution; `transposed`.
        third: which third of its rows is taken (a fused query-key-value matrix fills three weights); None takes all.
    """

    source: str
    target: str
    form: Form = "same"
    third: int | None = None


@dataclass(frozen=True)
class Level:
    """One resolution of a U-Net, as its names tell it: module names of the file."""

    blocks: tuple[str, ...]
    attentions: tuple[str, ...]
    sampler: str | None


@dataclass(frozen=True)
class UnetNames:
    """The structure of a U-Net, told from names alone.

    Attributes:
        down: from the finest to the coarsest resolution.
        up: from the coarsest to the finest.
        modules: module of the file -> module of diffusers' class, for every module that has weights.
    """

    down: tuple[Level, ...]
    up: tuple[Level, ...]
    modules: Mapping[str, str]


_RESNET: Mapping[str, str] = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_ENDS: Mapping[str, str] = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_MIDDLE: Mapping[str, str] = {
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}


def module_of(name: str) -> str:
    """Return the module that a weight belongs to: its name without the last word."""
    return name.rpartition(".")[0]


def unet_names(names: Collection[str]) -> UnetNames:
    """Read the structure of a U-Net in LDM's layout.

    Args:
        names: its weights' names without the prefix `model.diffusion_model.`.

    Raises:
        UserError: the names do not make a U-Net of the known layout.
    """
    places: dict[str, str] = dict(_MIDDLE)
    down = _walk(names, "input_blocks", 1, "down_blocks", places)
    up = _walk(names, "output_blocks", 0, "up_blocks", places)
    modules = {module: _unet_module(module, places) for module in dict.fromkeys(map(module_of, names))}
    return UnetNames(down, up, modules)


def _walk(names: Collection[str], trunk: str, first: int, ours: str, places: dict[str, str]) -> tuple[Level, ...]:
    """Number the blocks of one half of the U-Net; `places` receives file module -> diffusers module."""
    levels: list[Level] = []
    blocks: list[str] = []
    attentions: list[str] = []
    at = first
    while members := _members(names, f"{trunk}.{at}"):
        for module, kind in members:
            stem = f"{ours}.{len(levels)}"
            if kind == "resnet":
                places[module] = f"{stem}.resnets.{len(blocks)}"
                blocks.append(module)
            elif kind == "attention":
                places[module] = f"{stem}.attentions.{len(attentions)}"
                attentions.append(module)
            else:
                places[module] = f"{stem}.{kind}.0"
                levels.append(Level(tuple(blocks), tuple(attentions), module))
                blocks, attentions = [], []
        at += 1
    levels.append(Level(tuple(blocks), tuple(attentions), None))
    return tuple(levels)


def _members(names: Collection[str], block: str) -> list[tuple[str, str]]:
    """Return the modules of a block in their order, with what each is."""
    marks = (
        ("in_layers.0", "resnet"),
        ("proj_in", "attention"),
        ("op", "downsamplers"),
        ("conv", "upsamplers"),
    )
    found = []
    for index in range(3):
        module = f"{block}.{index}"
        kind = next((kind for mark, kind in marks if f"{module}.{mark}.weight" in names), None)
        if kind is None:
            break
        found.append((module, kind))
    return found


def _unet_module(module: str, places: Mapping[str, str]) -> str:
    if module in _UNET_ENDS:
        return _UNET_ENDS[module]
    words = module.split(".")
    length = 2 if words[0] == "middle_block" else 3
    place, rest = places.get(".".join(words[:length])), ".".join(words[length:])
    if place is None:
        raise _unknown("U-Net", module)
    if ".resnets." in place:
        if rest not in _RESNET:
            raise _unknown("U-Net", module)
        return f"{place}.{_RESNET[rest]}"
    if place.endswith("samplers.0"):
        return f"{place}.conv"
    return f"{place}.{rest}"


_VAE_RESNET: Mapping[str, str] = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
_VAE_ATTENTION: Mapping[str, str] = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
_VAE_MIDDLE: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "block_1": ("mid_block.resnets.0", _VAE_RESNET),
    "attn_1": ("mid_block.attentions.0", _VAE_ATTENTION),
    "block_2": ("mid_block.resnets.1", _VAE_RESNET),
}


def vae_levels(names: Iterable[str]) -> int:
    """Return how many resolutions the autoencoder has: one more than its decoder enlarges."""
    return 1 + len({name.split(".")[2] for name in names if name.startswith("decoder.up.") and ".upsample." in name})


def unet_pieces(sources: Mapping[str, str], names: UnetNames) -> list[Piece]:
    """Map a U-Net's weights.

    Args:
        sources: name without prefix -> name in the file.
        names: as :func:`unet_names` read them.
    """
    pieces = []
    for name, source in sources.items():
        module, _, leaf = name.rpartition(".")
        pieces.append(Piece(source, f"{names.modules[module]}.{leaf}"))
    return pieces


def vae_pieces(sources: Mapping[str, str], levels: int) -> list[Piece]:
    """Map an autoencoder's weights.

    Args:
        sources: name without prefix -> name in the file.
        levels: as :func:`vae_levels` says.

    Raises:
        UserError: a name that no such autoencoder has.
    """
    pieces = []
    for name, source in sources.items():
        module, _, leaf = name.rpartition(".")
        target = _vae_module(module, levels)
        attends = ".attentions." in target and leaf == "weight" and not target.endswith("group_norm")
        pieces.append(Piece(source, f"{target}.{leaf}", "flat" if attends else "same"))
    return pieces


def _vae_module(module: str, levels: int) -> str:
    words = module.split(".")
    if words in (["quant_conv"], ["post_quant_conv"]):
        return module
    half, rest = words[0], words[1:]
    if half not in ("encoder", "decoder") or not rest:
        raise _unknown("VAE", module)
    if rest in (["conv_in"], ["conv_out"]):
        return module
    if rest == ["norm_out"]:
        return f"{half}.conv_norm_out"
    if rest[0] == "mid" and len(rest) == 3 and rest[1] in _VAE_MIDDLE:
        place, table = _VAE_MIDDLE[rest[1]]
        if rest[2] in table:
            return f"{half}.{place}.{table[rest[2]]}"
    if rest[0] == {"encoder": "down", "decoder": "up"}[half] and len(rest) in (4, 5) and _is_index(rest[1]):
        level = int(rest[1]) if half == "encoder" else levels - 1 - int(rest[1])
        place = f"{half}.{rest[0]}_blocks.{level}"
        if rest[2:] == [f"{rest[0]}sample", "conv"]:
            return f"{place}.{rest[0]}samplers.0.conv"
        if rest[2] == "block" and rest[4:] and rest[4] in _VAE_RESNET:
            return f"{place}.resnets.{rest[3]}.{_VAE_RESNET[rest[4]]}"
    raise _unknown("VAE", module)


_OPEN_CLIP_LAYER: Mapping[str, str] = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OPEN_CLIP_ENDS: Mapping[str, str] = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
PROJECTION = "text_projection.weight"
#: What stands before all names of a text encoder but its projection.
TEXT_BODY = "text_model."


def clip_pieces(sources: Mapping[str, str]) -> list[Piece]:
    """Map a text encoder in Hugging Face's layout.

    Args:
        sources: name without prefix and without `text_model.` -> name in the file.
    """
    return [Piece(source, TEXT_BODY + name) for name, source in sources.items()]


def open_clip_pieces(sources: Mapping[str, str]) -> list[Piece]:
    """Map a text encoder in OpenCLIP's layout.

    OpenCLIP fuses query, key and value, and multiplies by its text projection from the other side.

    Raises:
        UserError: a name that no such encoder has.
    """
    pieces: list[Piece] = []
    for name, source in sources.items():
        if name == "text_projection":
            pieces.append(Piece(source, PROJECTION, "transposed"))
        elif name in _OPEN_CLIP_ENDS:
            pieces.append(Piece(source, TEXT_BODY + _OPEN_CLIP_ENDS[name]))
        else:
            pieces += _open_clip_layer(name, source)
    return pieces


def _open_clip_layer(name: str, source: str) -> list[Piece]:
    words = name.split(".")
    if words[:2] != ["transformer", "resblocks"] or len(words) < 5 or not words[2].isdecimal():
        raise _unknown("text encoder", name)
    layer = f"{TEXT_BODY}encoder.layers.{words[2]}"
    rest = ".".join(words[3:])
    if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        leaf = rest.rpartition("_")[2]
        sides = ("q_proj", "k_proj", "v_proj")
        return [Piece(source, f"{layer}.self_attn.{s}.{leaf}", "same", i) for i, s in enumerate(sides)]
    module, _, leaf = rest.rpartition(".")
    if module not in _OPEN_CLIP_LAYER:
        raise _unknown("text encoder", name)
    return [Piece(source, f"{layer}.{_OPEN_CLIP_LAYER[module]}.{leaf}")]


def _is_index(text: str) -> bool:
    """A number of a thousand digits takes Python long, or an exception."""
    return text.isdecimal() and len(text) < 5


def _unknown(part: str, name: str) -> UserError:
    return UserError(
        f"The {part} in the checkpoint has a weight {name[:80]!r} that is not known in this model family.",
        "Choose an unmodified checkpoint of the family.",
    )


def shape_of(piece: Piece, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the weight that `piece` makes of a tensor of `shape`.

    Raises:
        UserError: the tensor does not have the form that the piece expects.
    """
    fits = {
        "same": True,
        "flat": len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1)),
        "transposed": len(shape) == 2,
    }[piece.form]
    if not fits or (piece.third is not None and (not shape or shape[0] % 3)):
        raise UserError(
            f"The weight {piece.source[:80]!r} of the checkpoint has the shape {list(shape)}, which does not fit.",
            "Choose an unmodified checkpoint of the family.",
        )
    if piece.form == "flat":
        return shape[:2]
    if piece.form == "transposed":
        return shape[::-1]
    return shape if piece.third is None else (shape[0] // 3, *shape[1:])
