"""Says what a model file is, from its header alone: no weights are loaded, nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from . import families, prediction, workload
from .errors import UserError
from .families import Family, Variant
from .file_kinds import kind_after_base, kind_before_base
from .lora_info import LoraInfo, read_lora
from .model_config import read_config
from .precision import precision_of, quantisation
from .safetensors_header import Header, read_header
from .signatures import Weights
from .workload import Workload

__all__ = ["Checkpoint", "LoraInfo", "inspect", "read_header", "require_base"]


@dataclass(frozen=True)
class Checkpoint:
    """What a file is.

    Attributes:
        path: absolute.
        size, mtime_ns: bytes and time of the last change, to notice that it was replaced.
        kind: a key of :data:`trainer_bridge.file_kinds.KINDS`.
        family: key of :data:`trainer_bridge.families.FAMILIES`, or None when it belongs to none that is
            known.
        title: what people call it.
        prediction_type: `epsilon` or `v_prediction`; None where the family has no such choice.
        prediction_source: what said so, in words.
        zero_terminal_snr: whether its noisiest step is pure noise.
        precision: fp32, fp16, bf16, fp8, a name of a quantised form, or mixed.
        native_size: side in px of the squares that it was trained on; 0 when it is no base.
        trainable: whether a LoRA can be trained on it here, now.
        reason: why not; empty when it can.
        config: what its writer says of a base with unusual sizes (`atelier.config`), checked; None without.
        metadata: the texts in its header.
        lora: what kind of LoRA it is, if it is one.
        workload: what a picture costs it; known for bases that can be trained.
    """

    path: Path
    size: int
    mtime_ns: int
    kind: str
    family: str | None
    title: str
    prediction_type: str | None
    prediction_source: str
    zero_terminal_snr: bool
    precision: str
    native_size: int
    trainable: bool
    reason: str
    config: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    lora: LoraInfo | None = None
    workload: Workload | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return all but the metadata as values that JSON has."""
        data = {key: value for key, value in vars(self).items() if key != "metadata"}
        data["path"] = str(self.path)
        data["config"] = None if self.config is None else dict(self.config)
        data["lora"] = None if self.lora is None else self.lora.to_json()
        data["workload"] = None if self.workload is None else asdict(self.workload)
        return data


def inspect(path: str | Path) -> Checkpoint:
    """Say what the file at `path` is.

    Raises:
        UserError: it cannot be read, or is no safetensors file.
    """
    header = read_header(path)
    told = kind_before_base(header.tensors)
    if told is None:
        weights = Weights(header.tensors)
        found = families.find(weights)
        if found is not None:
            return _base(header, weights, *found)
        told = kind_after_base(header.tensors)
    kind, title = told
    return _lora(header) if kind == "lora" else _plain(header, kind, title, None, None)


def require_base(path: str | Path) -> Checkpoint:
    """Return what the file at `path` is, if a LoRA can be trained on it now.

    Raises:
        UserError: it cannot be, and why.
    """
    found = inspect(path)
    if found.trainable:
        return found
    if found.kind != "base":
        raise UserError(f"{found.path.name} is {found.title}, not a base model.", "Choose a checkpoint.")
    raise UserError(f"{found.path.name} ({found.title}) cannot be trained: {found.reason}.", _way_out())


def _way_out() -> str:
    titles = [family.title for family in families.FAMILIES_IN_ORDER if family.trainable]
    return f"Choose a complete checkpoint of {', '.join(sorted(titles))}."


def _base(header: Header, weights: Weights, family: Family, variant: Variant | None) -> Checkpoint:
    config = read_config(header)
    foretold = prediction.read(header, weights, family, config)
    title = variant.title.format(family=family.title) if variant else family.title
    reason = _why_not(weights, family, variant)
    return Checkpoint(
        path=header.path,
        size=header.size,
        mtime_ns=header.mtime_ns,
        kind="base",
        family=family.key,
        title=title,
        prediction_type=foretold.type,
        prediction_source=foretold.source,
        zero_terminal_snr=foretold.zero_terminal_snr,
        precision=precision_of(header.tensors, weights),
        native_size=_native_size(family, foretold, config),
        trainable=not reason,
        reason=reason,
        config=config,
        metadata=header.metadata,
        workload=None if reason else workload.measure(header.tensors, weights),
    )


def _native_size(family: Family, foretold: prediction.Prediction, config: Mapping[str, Any] | None) -> int:
    if config and "native_size" in config:
        return int(config["native_size"])
    # Stability's v-prediction SD2 models are the 768 px ones; the 512 px base predicts noise.
    if family.key == "sd2" and foretold.type == "v_prediction":
        return 768
    return family.native_size


def _why_not(weights: Weights, family: Family, variant: Variant | None) -> str:
    """Return why the file cannot be trained, as the end of a sentence; empty when it can."""
    if variant is not None and variant.refusal:
        return variant.refusal
    if not family.trainable:
        return "this family is not built in yet"
    quantised = quantisation(weights.everything)
    if quantised:
        return f"its weights are reduced ({quantised}), which serves for drawing only"
    if "conv_in.weight" in weights:
        return "it holds only the U-Net in diffusers' layout, without text encoder and VAE"
    for part in family.parts:
        if not any(name.startswith(prefix) for prefix in part.prefixes for name in weights.everything):
            return f"the {part.title} is missing in it"
    return ""


def _lora(header: Header) -> Checkpoint:
    lora = read_lora(header)
    family = families.FAMILIES.get(lora.base or "")
    title = f"a {lora.type}" + (f" for {family.title}" if family else "")
    return _plain(header, "lora", title, lora.base, lora)


def _plain(header: Header, kind: str, title: str, family: str | None, lora: LoraInfo | None) -> Checkpoint:
    return Checkpoint(
        path=header.path,
        size=header.size,
        mtime_ns=header.mtime_ns,
        kind=kind,
        family=family,
        title=title,
        prediction_type=None,
        prediction_source="",
        zero_terminal_snr=False,
        precision=precision_of(header.tensors, header.tensors),
        native_size=0,
        trainable=False,
        reason="this family is not known here" if kind == "base" else "it is not a base model",
        metadata=header.metadata,
        lora=lora,
    )
