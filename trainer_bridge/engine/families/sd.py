"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..parts import Part
from ..text import BODY, encode, token_ids
from .base import TextFeatures
from .unet import PAD_END, PAD_ZERO, UnetFamily

if TYPE_CHECKING:
    from torch import nn

    from ...spec import JobSpec

_UNET = Part("unet", "unet", "model.diffusion_model.")
_VAE = Part("vae", "vae", "first_stage_model.")
_LAYER = "cond_stage_model.model.transformer.resblocks."


class _SD(UnetFamily):
    text_stems = {"te1": ("lora_te_", "lora_te1_")}
    ldm_lora_names = False

    def encode_text(
        self,
        encoders: Mapping[str, nn.Module],
        captions: Sequence[str],
        *,
        clip_skip: int,
        max_tokens: int = 75,
    ) -> TextFeatures:
        encoder: Any = encoders["te1"]
        rows = max_tokens // BODY
        ids = token_ids(captions, rows, self.texts["te1"][1])
        encoded = encode(encoder, ids, rows, clip_skip)
        return TextFeatures(encoder.text_model.final_layer_norm(encoded.hidden), None)

    def _metadata(self, version: str, architecture: str, *, v2: bool, velocity: bool) -> dict[str, str]:
        return {
            "ss_base_model_version": version + ("_v" if velocity else ""),
            "ss_v2": str(v2),
            "modelspec.architecture": architecture + "/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.prediction_type": "v" if velocity else "epsilon",
        }


class SD15(_SD):
    """Stable Diffusion 1.x: OpenAI's CLIP-L, last hidden layer behind the final norm."""

    key = "sd15"
    texts = {"te1": ("quick_gelu", PAD_END)}
    heads = 8

    @classmethod
    def parts(cls, names: Collection[str]) -> tuple[Part, ...]:
        return (
            _UNET,
            _VAE,
            Part("te1", "clip", "cond_stage_model.transformer.", unused=("text_projection",)),
        )

    def metadata(self, spec: JobSpec) -> dict[str, str]:
        velocity = bool(spec.settings["v_parameterization"])
        return self._metadata("sd_v1", "stable-diffusion-v1", v2=False, velocity=velocity)


class SD2(_SD):
    """Stable Diffusion 2.x: OpenCLIP-H without its last layer, linear projections around attention."""

    key = "sd2"
    texts = {"te1": ("gelu", PAD_ZERO)}
    heads = None

    @classmethod
    def parts(cls, names: Collection[str]) -> tuple[Part, ...]:
        layers = {name[len(_LAYER) :].partition(".")[0] for name in names if name.startswith(_LAYER)}
        last = max((int(layer) for layer in layers if layer.isdecimal() and len(layer) < 5), default=0)
        unused = ("text_projection", f"transformer.resblocks.{last}.")
        return (_UNET, _VAE, Part("te1", "open_clip", "cond_stage_model.model.", unused))

    def metadata(self, spec: JobSpec) -> dict[str, str]:
        velocity = bool(spec.settings["v_parameterization"])
        architecture = "stable-diffusion-v2-768-v" if velocity else "stable-diffusion-v2-512"
        return self._metadata("sd_v2", architecture, v2=True, velocity=velocity)
