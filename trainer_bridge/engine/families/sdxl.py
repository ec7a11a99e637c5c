"""Stable Diffusion XL: two text encoders, and conditioning on the picture's sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..parts import Part
from ..text import BODY, encode, pooled, token_ids
from .base import SizeInfo, TextFeatures
from .unet import PAD_END, PAD_ZERO, UnetFamily

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ...spec import JobSpec

#: Both encoders are read before their last layer and its norm; `clip_skip` can only go deeper.
_LAYER = 2


class SDXL(UnetFamily):
    """CLIP-L and OpenCLIP-bigG side by side; the pooled text of the latter goes with the sizes."""

    key = "sdxl"
    texts = {"te1": ("quick_gelu", PAD_END), "te2": ("gelu", PAD_ZERO)}
    text_stems = {"te1": ("lora_te1_",), "te2": ("lora_te2_",)}
    heads = None
    ldm_lora_names = True

    @classmethod
    def parts(cls, names: Collection[str]) -> tuple[Part, ...]:
        return (
            Part("unet", "unet", "model.diffusion_model."),
            Part("vae", "vae", "first_stage_model."),
            Part("te1", "clip", "conditioner.embedders.0.transformer.", unused=("text_projection",)),
            Part("te2", "open_clip", "conditioner.embedders.1.model."),
        )

    def encode_text(
        self,
        encoders: Mapping[str, nn.Module],
        captions: Sequence[str],
        *,
        clip_skip: int,
        max_tokens: int = 75,
    ) -> TextFeatures:
        import torch

        rows = max_tokens // BODY
        networks: Mapping[str, Any] = encoders
        states = []
        for part in self.text_parts:
            ids = token_ids(captions, rows, self.texts[part][1])
            states.append(encode(networks[part], ids, rows, max(_LAYER, clip_skip)))
        hidden = torch.cat([state.hidden for state in states], dim=-1)
        # `ids` are the second encoder's: the pooled text is its alone.
        return TextFeatures(hidden, pooled(networks["te2"], ids, rows, states[1].last))

    def blank(self, text: TextFeatures) -> TextFeatures:
        """SDXL's own program and the hosts feed zeros for an empty negative prompt."""
        import torch

        assert text.pooled is not None
        return TextFeatures(torch.zeros_like(text.hidden), torch.zeros_like(text.pooled))

    def metadata(self, spec: JobSpec) -> dict[str, str]:
        return {
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_v2": "False",
            "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
            "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
            "modelspec.prediction_type": "v" if spec.settings["v_parameterization"] else "epsilon",
        }

    def _added(
        self, noisy: Tensor, text: TextFeatures, sizes: Sequence[SizeInfo], dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """Height stands before width, as in every trainer and host (FACTS section 2)."""
        import torch

        assert text.pooled is not None
        numbers = [[*s.original[::-1], *s.crop[::-1], *s.target[::-1]] for s in sizes]
        return {
            "text_embeds": text.pooled.to(dtype),
            # In bf16 sizes above 256 px would be rounded.
            "time_ids": torch.tensor(numbers, device=noisy.device, dtype=torch.float32),
        }

    def _projected(self, part: str) -> bool:
        return part == "te2"

    def _pooled_width(self) -> int | None:
        projection = self._accounts.tensors["te2"].get("text_projection")
        return projection.shape[1] if projection and len(projection.shape) == 2 else 0

    def _dtype(self, part: str, dtype: torch.dtype) -> torch.dtype:
        """SDXL's VAE overflows in fp16 (its authors' own finding; every host keeps it in fp32)."""
        import torch

        return torch.float32 if part == "vae" and dtype == torch.float16 else dtype
