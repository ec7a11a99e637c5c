"""In which number format a file's weights are, and whether they were quantised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .safetensors_header import Tensor

_NAMES: Mapping[str, str] = {
    "F64": "fp64",
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F8_E4M3": "fp8",
    "F8_E5M2": "fp8",
    "F8_E4M3FNUZ": "fp8",
    "F8_E5M2FNUZ": "fp8",
    "I8": "int8",
    "U8": "int8",
}
#: Share of the bytes that one format must have to give its name to the whole file.
_MOST = 0.9

#: Ends of the names of the helper tensors that quantised files carry, and what the form is called.
_QUANTISED: tuple[tuple[str, str], ...] = (
    (".quant_state.bitsandbytes__nf4", "nf4"),
    (".quant_state.bitsandbytes__fp4", "fp4"),
    (".qweight", "Nunchaku"),
    (".comfy_quant", "scaled fp8"),
    (".scale_weight", "scaled fp8"),
    (".weight_scale", "scaled fp8"),
    (".absmax", "bitsandbytes"),
)


def quantisation(names: Iterable[str]) -> str:
    """Return what the quantised form is called; empty when the weights are plain numbers (plain fp8 is)."""
    for name in names:
        if name.rpartition(".")[2] == "scaled_fp8":
            return "scaled fp8"
        for ending, form in _QUANTISED:
            if name.endswith(ending):
                return form
    return ""


def precision_of(tensors: Mapping[str, Tensor], denoiser: Mapping[str, Tensor]) -> str:
    """Return the format of most bytes: of the denoiser's weights where there are any, else of all."""
    form = quantisation(tensors)
    if form:
        return form
    counted: Counter[str] = Counter()
    for name in denoiser or tensors:
        tensor = (denoiser or tensors)[name]
        counted[_NAMES.get(tensor.dtype, "other")] += tensor.end - tensor.start
    total = counted.total() if hasattr(counted, "total") else sum(counted.values())
    if not total:
        return "unknown"
    name, most = counted.most_common(1)[0]
    return name if most >= _MOST * total else "mixed"
