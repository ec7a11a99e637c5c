"""Which tensor of a checkpoint belongs to which network: every one is accounted for, none is taken twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..errors import UserError
from ..safetensors_header import Tensor

Style = Literal["unet", "vae", "clip", "open_clip"]


@dataclass(frozen=True)
class Part:
    """One network in a single file.

    Attributes:
        name: `unet`, `vae`, `te1` or `te2`.
        style: whose names its weights have.
        prefix: what stands before them.
        unused: beginnings of names (without prefix) of weights that the network has, but that are never used.
    """

    name: str
    style: Style
    prefix: str
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accounts:
    """Where all tensors of a file went.

    Attributes:
        tensors: part -> name without prefix -> tensor.
        sources: part -> name without prefix -> name in the file.
        unused: tensors of the file that no network needs -> why.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    sources: Mapping[str, Mapping[str, str]]
    unused: Mapping[str, str]


#: Tensors that the original programs store beside the networks.
_SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
    "denoiser.sigmas",
)
_BESIDE: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(_SCHEDULE, "the noise schedule, which is computed")
    | {
        "v_pred": "a mark, read as such",
        "ztsnr": "a mark, read as such",
        "scale_factor": "the latent scale, which is known",
    }
)
_BESIDE_BEGINNINGS: tuple[tuple[str, str], ...] = (
    ("model_ema.", "a second, averaged U-Net"),
    ("first_stage_model.loss.", "what the VAE was trained against"),
    ("first_stage_model.model_ema.", "a second, averaged VAE"),
)
_UNUSED_ENDS: tuple[tuple[str, str], ...] = (
    ("position_ids", "the numbers from 0 on"),
    ("logit_scale", "used for comparing texts with pictures only"),
)
_TEXT_BODY = "text_model."


def account(tensors: Mapping[str, Tensor], parts: Sequence[Part]) -> Accounts:
    """Sort the tensors of a file into its parts.

    Raises:
        UserError: a tensor that belongs nowhere, one that stands twice, or a part without any.
    """
    found: dict[str, dict[str, Tensor]] = {part.name: {} for part in parts}
    sources: dict[str, dict[str, str]] = {part.name: {} for part in parts}
    unused: dict[str, str] = {}
    strange: list[str] = []
    for full, tensor in tensors.items():
        why = _why_unused(full)
        part = None if why else next((part for part in parts if full.startswith(part.prefix)), None)
        if part is None:
            if why:
                unused[full] = why
            else:
                strange.append(full)
            continue
        name = full[len(part.prefix) :]
        if part.style == "clip":
            name = name.removeprefix(_TEXT_BODY)
        if any(name.startswith(beginning) for beginning in part.unused):
            unused[full] = f"not needed of the {part.name}"
            continue
        if name in found[part.name]:
            raise UserError(f"The checkpoint holds the weight {full[:80]!r} twice.", "Choose an unmodified checkpoint.")
        found[part.name][name] = tensor
        sources[part.name][name] = full
    _refuse(strange, found)
    return Accounts(found, sources, unused)


def _why_unused(name: str) -> str:
    if name in _BESIDE:
        return _BESIDE[name]
    for beginning, why in _BESIDE_BEGINNINGS:
        if name.startswith(beginning):
            return why
    for ending, why in _UNUSED_ENDS:
        if name.rpartition(".")[2] == ending:
            return why
    return ""


def _refuse(strange: Sequence[str], found: Mapping[str, Mapping[str, Tensor]]) -> None:
    if strange:
        raise UserError(
            f"The checkpoint holds {len(strange)} weights that no part of this model family has, for instance"
            f" {strange[0][:80]!r}.",
            "Choose an unmodified checkpoint of the family.",
        )
    empty = [part for part, names in found.items() if not names]
    if empty:
        raise UserError(f"The checkpoint lacks the {empty[0]}.", "Choose a complete checkpoint.")
