"""Tiny twins of real checkpoints: every weight of the real file, by the same name, of a small size, at random.

The names and shapes are written down here from the structure of the original programs (CompVis `openaimodel.py` and
`model.py`, Hugging Face's and OpenCLIP's text encoders), not from the code under test. With the published sizes the
same functions give the real files' lists of weights.

    write("sd15" | "sd2" | "sdxl", path)            a checkpoint that can be trained on and drawn with
    shapes(SIZES["sdxl"])                           {name in the file: shape} of the published model
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Unet:
    """LDM's `unet_config`. `depths`: transformer blocks at each level, 0 for none; `label`: size conditioning."""

    channels: int = 320
    mult: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    depths: tuple[int, ...] = (1, 1, 1, 0)
    middle: int = 1
    context: int = 768
    linear: bool = False
    label: int = 0
    in_channels: int = 4


@dataclass(frozen=True)
class Vae:
    """LDM's `ddconfig`."""

    channels: int = 128
    mult: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    latent: int = 4


@dataclass(frozen=True)
class Text:
    """A text encoder; `fused`: in OpenCLIP's layout, with a projection to `projection`."""

    prefix: str
    width: int
    layers: int
    inner: int
    fused: bool = False
    projection: int = 0
    vocabulary: int = 49408


@dataclass(frozen=True)
class Sizes:
    unet: Unet
    vae: Vae
    texts: tuple[Text, ...]


_SD1 = "cond_stage_model.transformer.text_model."
_SD2 = "cond_stage_model.model."
_XL1 = "conditioner.embedders.0.transformer.text_model."
_XL2 = "conditioner.embedders.1.model."
_XL_UNET = Unet(320, (1, 2, 4), 2, (0, 2, 10), 10, 2048, linear=True, label=2816)

#: The published models.
SIZES: Mapping[str, Sizes] = {
    "sd15": Sizes(Unet(), Vae(), (Text(_SD1, 768, 12, 3072),)),
    "sd2": Sizes(Unet(context=1024, linear=True), Vae(), (Text(_SD2, 1024, 24, 4096, True, 1024),)),
    "sdxl": Sizes(_XL_UNET, Vae(), (Text(_XL1, 768, 12, 3072), Text(_XL2, 1280, 32, 5120, True, 1280))),
}

_SMALL_VAE = Vae(channels=8)
#: Their twins.
TWINS: Mapping[str, Sizes] = {
    "sd15": Sizes(Unet(8, context=16), _SMALL_VAE, (Text(_SD1, 16, 12, 32),)),
    "sd2": Sizes(Unet(8, context=24, linear=True), _SMALL_VAE, (Text(_SD2, 24, 24, 48, True, 24),)),
    "sdxl": Sizes(
        replace(_XL_UNET, channels=8, context=40, label=16 + 6 * 8),
        _SMALL_VAE,
        (Text(_XL1, 16, 12, 32), Text(_XL2, 24, 32, 48, True, 16)),
    ),
}
_GROUPS = 8
_HEADS: Mapping[str, Any] = {"sd15": 2, "sd2": [1, 2, 4, 4], "sdxl": [1, 2, 4]}
_SCALES: Mapping[str, float] = {"sd15": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
NATIVE_SIZE = 64


def config(family: str, **changes: Any) -> dict[str, Any]:
    """Return `atelier.config` of a twin: what its weights' shapes do not say."""
    said: dict[str, Any] = {
        "version": 1,
        "family": family,
        "native_size": NATIVE_SIZE,
        "unet": {"attention_head_dim": _HEADS[family], "norm_num_groups": _GROUPS},
        "vae": {"norm_num_groups": _GROUPS, "scaling_factor": _SCALES[family]},
    }
    for table, _text in zip(("text_encoder", "text_encoder_2"), TWINS[family].texts, strict=False):
        said[table] = {"heads": 2}
    return said | changes


def shapes(sizes: Sizes) -> Shapes:
    """Return name in the file -> shape, for all weights of the networks."""
    named = {f"model.diffusion_model.{name}": shape for name, shape in _unet(sizes.unet)}
    named |= {f"first_stage_model.{name}": shape for name, shape in _vae(sizes.vae)}
    for text in sizes.texts:
        layout = _open_clip(text) if text.fused else _clip(text)
        named |= {text.prefix + name: shape for name, shape in layout}
    return named


def weights(family: str, seed: int = 0, *, extras: bool = True) -> dict[str, Any]:
    """Return the tensors of a twin, fp32, at random but of sound size.

    Args:
        extras: with what real files hold beside their networks.
    """
    import torch

    chance = torch.Generator().manual_seed(seed)
    made = {name: _random(name, shape, chance) for name, shape in shapes(TWINS[family]).items()}
    if extras:
        made |= _extras(family)
    return made


def write(
    family: str,
    path: Path,
    *,
    seed: int = 0,
    dtype: str = "float16",
    v_pred: bool = False,
    extras: bool = True,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a twin to `path` and return it.

    Args:
        v_pred: with the marks of a v-prediction model of zero terminal SNR.
        changes: keys of its `atelier.config` to replace.
    """
    import torch
    from safetensors.torch import save_file

    made = weights(family, seed, extras=extras)
    if v_pred:
        made |= {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    kept = {
        name: value if value.dtype == torch.int64 else value.to(getattr(torch, dtype)) for name, value in made.items()
    }
    said = config(family, **(changes or {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, str(path), metadata={"format": "pt", "atelier.config": json.dumps(said)})
    return path


def _extras(family: str) -> dict[str, Any]:
    import torch

    extras: dict[str, Any] = {
        "alphas_cumprod": torch.linspace(0.999, 0.005, 1000),
        "model_ema.decay": torch.tensor(0.9999),
    }
    for text in TWINS[family].texts:
        if text.fused:
            extras[text.prefix + "logit_scale"] = torch.tensor(4.6)
        else:
            extras[text.prefix + "embeddings.position_ids"] = torch.arange(77)[None]
    return extras


def _random(name: str, shape: tuple[int, ...], chance: Any) -> Any:
    import torch

    noise = torch.randn(shape, generator=chance)
    if name.endswith("bias"):
        return 0.05 * noise
    if len(shape) == 1:
        return 1 + 0.05 * noise
    if "embedding" in name and "proj" not in name:
        return 0.1 * noise
    fan_in = noise[0].numel()
    return noise / fan_in**0.5


def _module(name: str, *shape: int, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def _unet(s: Unet) -> Iterator[tuple[str, tuple[int, ...]]]:
    time = 4 * s.channels
    yield from _module("time_embed.0", time, s.channels)
    yield from _module("time_embed.2", time, time)
    if s.label:
        yield from _module("label_emb.0.0", time, s.label)
        yield from _module("label_emb.0.2", time, time)
    yield from _module("input_blocks.0.0", s.channels, s.in_channels, 3, 3)
    kept, now, at = [s.channels], s.channels, 1
    for level, mult in enumerate(s.mult):
        for _ in range(s.blocks):
            yield from _resnet(f"input_blocks.{at}.0", now, s.channels * mult, time)
            now = s.channels * mult
            yield from _attention(f"input_blocks.{at}.1", now, s.depths[level], s)
            kept.append(now)
            at += 1
        if level < len(s.mult) - 1:
            yield from _module(f"input_blocks.{at}.0.op", now, now, 3, 3)
            kept.append(now)
            at += 1
    yield from _resnet("middle_block.0", now, now, time)
    yield from _attention("middle_block.1", now, s.middle, s)
    yield from _resnet("middle_block.2", now, now, time)
    yield from _unet_up(s, kept, now, time)
    yield from _module("out.0", s.channels)
    yield from _module("out.2", 4, s.channels, 3, 3)


def _unet_up(s: Unet, kept: list[int], now: int, time: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    at = 0
    for level in reversed(range(len(s.mult))):
        for block in range(s.blocks + 1):
            yield from _resnet(f"output_blocks.{at}.0", now + kept.pop(), s.channels * s.mult[level], time)
            now = s.channels * s.mult[level]
            yield from _attention(f"output_blocks.{at}.1", now, s.depths[level], s)
            if level and block == s.blocks:
                yield from _module(f"output_blocks.{at}.{2 if s.depths[level] else 1}.conv", now, now, 3, 3)
            at += 1


def _resnet(name: str, before: int, after: int, time: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _module(f"{name}.in_layers.0", before)
    yield from _module(f"{name}.in_layers.2", after, before, 3, 3)
    yield from _module(f"{name}.emb_layers.1", after, time)
    yield from _module(f"{name}.out_layers.0", after)
    yield from _module(f"{name}.out_layers.3", after, after, 3, 3)
    if before != after:
        yield from _module(f"{name}.skip_connection", after, before, 1, 1)


def _attention(name: str, width: int, depth: int, s: Unet) -> Iterator[tuple[str, tuple[int, ...]]]:
    if not depth:
        return
    kernel = () if s.linear else (1, 1)
    yield from _module(f"{name}.norm", width)
    yield from _module(f"{name}.proj_in", width, width, *kernel)
    for index in range(depth):
        block = f"{name}.transformer_blocks.{index}"
        for attention, context in (("attn1", width), ("attn2", s.context)):
            yield from _module(f"{block}.{attention}.to_q", width, width, bias=False)
            yield from _module(f"{block}.{attention}.to_k", width, context, bias=False)
            yield from _module(f"{block}.{attention}.to_v", width, context, bias=False)
            yield from _module(f"{block}.{attention}.to_out.0", width, width)
        yield from _module(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from _module(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            yield from _module(f"{block}.{norm}", width)
    yield from _module(f"{name}.proj_out", width, width, *kernel)


def _vae(s: Vae) -> Iterator[tuple[str, tuple[int, ...]]]:
    widths = [s.channels * mult for mult in s.mult]
    yield from _module("encoder.conv_in", s.channels, 3, 3, 3)
    now = s.channels
    for level, width in enumerate(widths):
        for block in range(s.blocks):
            yield from _vae_resnet(f"encoder.down.{level}.block.{block}", now, width)
            now = width
        if level < len(widths) - 1:
            yield from _module(f"encoder.down.{level}.downsample.conv", now, now, 3, 3)
    yield from _vae_ends("encoder", now, now, 2 * s.latent)
    yield from _module("decoder.conv_in", now, s.latent, 3, 3)
    top = now
    for level in reversed(range(len(widths))):
        for block in range(s.blocks + 1):
            yield from _vae_resnet(f"decoder.up.{level}.block.{block}", now, widths[level])
            now = widths[level]
        if level:
            yield from _module(f"decoder.up.{level}.upsample.conv", now, now, 3, 3)
    yield from _vae_ends("decoder", top, now, 3)
    yield from _module("quant_conv", 2 * s.latent, 2 * s.latent, 1, 1)
    yield from _module("post_quant_conv", s.latent, s.latent, 1, 1)


def _vae_ends(half: str, middle: int, last: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _vae_resnet(f"{half}.mid.block_1", middle, middle)
    yield from _module(f"{half}.mid.attn_1.norm", middle)
    for side in ("q", "k", "v", "proj_out"):
        yield from _module(f"{half}.mid.attn_1.{side}", middle, middle, 1, 1)
    yield from _vae_resnet(f"{half}.mid.block_2", middle, middle)
    yield from _module(f"{half}.norm_out", last)
    yield from _module(f"{half}.conv_out", out, last, 3, 3)


def _vae_resnet(name: str, before: int, after: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _module(f"{name}.norm1", before)
    yield from _module(f"{name}.conv1", after, before, 3, 3)
    yield from _module(f"{name}.norm2", after)
    yield from _module(f"{name}.conv2", after, after, 3, 3)
    if before != after:
        yield from _module(f"{name}.nin_shortcut", after, before, 1, 1)


def _clip(s: Text) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "embeddings.token_embedding.weight", (s.vocabulary, s.width)
    yield "embeddings.position_embedding.weight", (77, s.width)
    for index in range(s.layers):
        layer = f"encoder.layers.{index}"
        for side in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _module(f"{layer}.self_attn.{side}", s.width, s.width)
        yield from _module(f"{layer}.layer_norm1", s.width)
        yield from _module(f"{layer}.layer_norm2", s.width)
        yield from _module(f"{layer}.mlp.fc1", s.inner, s.width)
        yield from _module(f"{layer}.mlp.fc2", s.width, s.inner)
    yield from _module("final_layer_norm", s.width)


def _open_clip(s: Text) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embedding.weight", (s.vocabulary, s.width)
    yield "positional_embedding", (77, s.width)
    for index in range(s.layers):
        layer = f"transformer.resblocks.{index}"
        yield f"{layer}.attn.in_proj_weight", (3 * s.width, s.width)
        yield f"{layer}.attn.in_proj_bias", (3 * s.width,)
        yield from _module(f"{layer}.attn.out_proj", s.width, s.width)
        yield from _module(f"{layer}.ln_1", s.width)
        yield from _module(f"{layer}.ln_2", s.width)
        yield from _module(f"{layer}.mlp.c_fc", s.inner, s.width)
        yield from _module(f"{layer}.mlp.c_proj", s.width, s.inner)
    yield from _module("ln_final", s.width)
    yield "text_projection", (s.width, s.projection)
