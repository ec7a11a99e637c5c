"""Whether a base predicts noise or velocity, and whether its noisiest step is pure noise.

No header must say so, hence several places are asked, the surest first (ComfyUI, Forge and A1111 trust the
`v_pred` key and the `.yaml`; sd-scripts writes modelspec; ComfyUI tells SD2 by one weight's deviation).
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .families import Family
from .safetensors_header import Header, read_numbers
from .signatures import Weights

EPSILON = "epsilon"
VELOCITY = "v_prediction"

_MAX_YAML_BYTES = 256 * 1024
_YAML_LINE = re.compile(
    r"^[ \t]{0,40}parameterization[ \t]{0,8}:[ \t]{0,8}[\"']?(v|eps)[\"']?[ \t]{0,8}(?:#.*)?$", re.MULTILINE
)
_YAML_SCALING = re.compile(r"^[ \t]{0,40}target[ \t]{0,8}:[^\n]{0,200}\.(V|Eps)Scaling\b", re.MULTILINE)
_V_NAME = re.compile(r"(?<![a-z])v[ _-]?pred", re.IGNORECASE)
_ZTSNR_NAME = re.compile(r"ztsnr|zero[ _-]?terminal|terminal[ _-]?snr", re.IGNORECASE)
#: ComfyUI's `supported_models.py`: the deviation of this bias lies above .09 in the v-prediction models
#: alone.
_SD2_BIAS = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SD2_DEVIATION = 0.09


class Prediction(NamedTuple):
    """What the base predicts.

    Attributes:
        type: `epsilon`, `v_prediction`, or None for a family that has no such choice.
        source: what said so, in words.
        zero_terminal_snr: whether the last timestep has no signal left.
    """

    type: str | None
    source: str
    zero_terminal_snr: bool


def read(header: Header, weights: Weights, family: Family, config: Mapping[str, Any] | None) -> Prediction:
    """Return what a base of `family` predicts.

    Raises:
        UserError: the file cannot be read any more.
    """
    if family.objective != "ddpm":
        return Prediction(None, "", False)
    kind, source = _type(header, weights, family, config)
    return Prediction(kind, source, kind == VELOCITY and _zero_terminal(header, weights, family, config, source))


def _type(header: Header, weights: Weights, family: Family, config: Mapping[str, Any] | None) -> tuple[str, str]:
    if config and "prediction_type" in config:
        return str(config["prediction_type"]), "its own configuration"
    if "v_pred" in weights:
        return VELOCITY, "its v_pred mark"
    for kind, source in (
        (_sidecar(header.path), "the .yaml beside it"),
        (_modelspec(header), "its metadata"),
    ):
        if kind:
            return kind, source
    if family.key == "sd2":
        bias = read_numbers(header, weights.prefix + _SD2_BIAS)
        if bias and len(bias) > 1:
            kind = VELOCITY if statistics.pstdev(bias) > _SD2_DEVIATION else EPSILON
            return kind, "one of its weights"
    if _V_NAME.search(header.path.stem) or _V_NAME.search(header.metadata.get("modelspec.title", "")[:200]):
        return VELOCITY, "its name"
    return EPSILON, "nothing in it says otherwise"


def _zero_terminal(
    header: Header, weights: Weights, family: Family, config: Mapping[str, Any] | None, source: str
) -> bool:
    if config and "zero_terminal_snr" in config:
        return bool(config["zero_terminal_snr"])
    if "ztsnr" in weights or _ZTSNR_NAME.search(header.path.stem):
        return True
    # A file with the v_pred mark would carry the ztsnr mark too. Without marks, an SDXL that predicts
    # velocity is one of those that were made with zero terminal SNR (NoobAI and its descendants).
    return family.key == "sdxl" and source != "its v_pred mark" and source != "its own configuration"


def _sidecar(path: Path) -> str | None:
    """Read the `.yaml` beside a checkpoint as text: two lines matter, and no YAML library is at hand."""
    sidecar = path.with_suffix(".yaml")
    if not sidecar.is_file():
        return None
    try:
        with sidecar.open("rb") as file:
            text = file.read(_MAX_YAML_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return None
    found = _YAML_LINE.search(text) or _YAML_SCALING.search(text)
    if found is None:
        return None
    return VELOCITY if found[1].lower() == "v" else EPSILON


def _modelspec(header: Header) -> str | None:
    said = header.metadata.get("modelspec.prediction_type", "").strip().lower()
    if said in ("v", "v_prediction", "v-prediction", "vpred"):
        return VELOCITY
    return EPSILON if said in ("epsilon", "eps") else None
