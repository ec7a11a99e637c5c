"""What a LoRA file says about itself: its base, rank, alpha and trigger word."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from . import families, limits
from .file_kinds import lora_type
from .safetensors_header import Header, Tensor, read_numbers

TRIGGER_KEY = "atelier.trigger"

_MAX_TAG_TEXT = 8 * 1024 * 1024


@dataclass(frozen=True)
class LoraInfo:
    """What a LoRA is.

    Attributes:
        type: `LoRA`, or a relative: `LoHa`, `LoKr`, `DoRA`, `OFT`, `IA3`, `GLoRA`, `full difference`.
        base: family of the base that it is for; None when nothing tells.
        rank: its usual rank; None where the type has none.
        alpha: its usual alpha; None when it is not stored (loaders then take the rank).
        trigger: the word that calls it; empty when nothing tells.
        modules: how many layers it changes.
    """

    type: str
    base: str | None
    rank: int | None
    alpha: float | None
    trigger: str
    modules: int

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as values that JSON has."""
        return asdict(self)


def read_lora(header: Header) -> LoraInfo:
    """Read what `header`, which is a LoRA's, says.

    Raises:
        UserError: the file cannot be read any more.
    """
    return LoraInfo(
        type=lora_type(header.tensors) or "LoRA",
        base=_base(header),
        rank=_rank(header),
        alpha=_alpha(header),
        trigger=_trigger(header.metadata),
        modules=len({_module(name) for name in header.tensors}),
    )


# ---- rank and alpha

#: End of the name -> which dimension of that weight is the rank.
_RANKS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"(?:\.lora_down|[._]lora\.down|\.lora_A|\.lora_A\.default)\.weight$"), 0),
    (re.compile(r"\.hada_w1_b$"), 0),
    (re.compile(r"\.lokr_w2_b$"), 0),
    (re.compile(r"\.a1\.weight$"), 0),
)


def _rank(header: Header) -> int | None:
    """The rank of most layers: convolutions may have another, and metadata is lost in merges."""
    counted: Counter[int] = Counter()
    for name, tensor in header.tensors.items():
        for pattern, dimension in _RANKS:
            if len(tensor.shape) > dimension and pattern.search(name):
                counted[tensor.shape[dimension]] += 1
    return counted.most_common(1)[0][0] if counted else int(_number(header.metadata, "ss_network_dim") or 0) or None


def _alpha(header: Header) -> float | None:
    told = _number(header.metadata, "ss_network_alpha")
    if told is not None:
        return told
    name = next((name for name in header.tensors if name.endswith(".alpha")), None)
    values = read_numbers(header, name, at_most=1) if name else None
    return values[0] if values and abs(values[0]) < 1e6 else None


def _number(metadata: Mapping[str, str], key: str) -> float | None:
    try:
        number = float(metadata.get(key, "")[:40])
    except ValueError:
        return None
    return number if 0 < number < 1e6 else None


def _module(name: str) -> str:
    """`lora_unet_x.lora_up.weight` -> `lora_unet_x`; dotted names lose what stands from `lora_` on."""
    return re.split(
        r"(?:\.lora_(?:down|up|mid|A|B|magnitude_vector)|[._]lora\.(?:up|down)|\.hada_|\.lokr_|\.oft_|\.on_input"
        r"|\.alpha$|\.diff(?:_b)?$|\.dora_scale|\.[ab][12]\.weight$|\.weight$|\.bias$|\.scale$)",
        name,
        maxsplit=1,
    )[0]


# ---- base


def _base(header: Header) -> str | None:
    metadata = header.metadata
    told = families.by_kohya_version(metadata.get("ss_base_model_version", "")[:100])
    told = told or families.by_architecture(metadata.get("modelspec.architecture", "")[:100])
    if told is None and metadata.get("ss_v2", "") == "True":
        return "sd2"
    return told.key if told else _base_by_names(header.tensors)


#: Family -> a part of its layers' names (with `_` for `.`), asked in this order.
_NAMES: tuple[tuple[str, str], ...] = (
    ("flux2", "double_stream_modulation"),
    ("chroma", "distilled_guidance_layer"),
    ("flux", "single_blocks_"),
    ("flux", "double_blocks_"),
    ("flux", "single_transformer_blocks_"),
    ("sd3", "joint_blocks_"),
    ("qwen_image", "_txt_mlp_"),
    ("qwen_image", "_img_mlp_"),
    ("anima", "blocks_0_mlp_layer1"),
    ("anima", "blocks_0_cross_attn_q_proj"),
    ("sd3", "transformer_blocks_0_attn_add_q_proj"),
)
#: Width of the caption that cross-attention reads -> family with such U-Nets.
_CONTEXTS: Mapping[int, str] = {768: "sd15", 1024: "sd2", 2048: "sdxl", 1280: "sdxl_refiner"}
_CROSS = re.compile(r"attn2_to_[kv]_?(?:lora)?$|attn2_processor_to_[kv]_lora$")
_DIT = re.compile(r"(?:^|_)layers_\d+_(attention_qkv|attention_to_q|feed_forward_w1)$")


def _base_by_names(tensors: Mapping[str, Tensor]) -> str | None:
    layers = [(_module(name).replace(".", "_"), tensor) for name, tensor in _inner(tensors)]
    names = "\n".join(sorted({name for name, _ in layers}))
    for family, part in _NAMES:
        if part in names:
            return family
    for name, tensor in layers:
        width = tensor.shape[1] if len(tensor.shape) > 1 else 0
        if _CROSS.search(name) and width in _CONTEXTS:
            return _CONTEXTS[width]
        found = _DIT.search(name)
        if found:
            return "zimage" if width == 3840 or found[1] == "attention_to_q" else "lumina2"
    if "lora_te2_" in names:
        return "sdxl"
    return None


def _inner(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The matrices whose second dimension is the width that a layer reads; of other types, any tensor."""
    ends = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", "lora.down.weight", ".hada_w1_b")
    found = [(name, tensor) for name, tensor in tensors.items() if name.endswith(ends)]
    return iter(found or tensors.items())


# ---- trigger


def _trigger(metadata: Mapping[str, str]) -> str:
    """Our own note, the modelspec's, or the tag that stands in the most captions."""
    for key in (TRIGGER_KEY, "modelspec.trigger_phrase"):
        if metadata.get(key, "").strip():
            return metadata[key].strip()[: limits.MAX_TRIGGER_CHARS]
    text = metadata.get("ss_tag_frequency", "")
    if not 2 < len(text) <= _MAX_TAG_TEXT:
        return ""
    try:
        folders = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    counted: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(tag, str) and type(count) is int and 0 < count < 1 << 40:
                counted[tag.strip()] += count
    top = max(counted, key=lambda tag: (counted[tag], -len(tag)), default="")
    return top[: limits.MAX_TRIGGER_CHARS]
