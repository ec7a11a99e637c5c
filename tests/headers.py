"""Writes small `.safetensors` files with given names and shapes, without torch."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "U8": 1, "I64": 8, "F64": 8}


def write(
    path: Path,
    tensors: Mapping[str, Sequence[int]],
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: str = "F16",
    values: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """Write zeros of these shapes, `values` of those names instead (F16, F32, BF16); return `path`.

    Shapes may be those of a full-size model: the file is sparse where the system can do that.
    """
    described: dict[str, Any] = {}
    at = 0
    for name, shape in tensors.items():
        end = at + math.prod(shape) * BYTES[dtype]
        described[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    write_raw(path, {**({"__metadata__": dict(metadata)} if metadata is not None else {}), **described}, at)
    for name, numbers in (values or {}).items():
        place = described[name]["data_offsets"][0]
        data = b"".join(_bytes(number, dtype) for number in numbers)
        with path.open("rb+") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            file.seek(start + place)
            file.write(data)
    return path


def write_raw(path: Path, header: object, data_bytes: int) -> Path:
    """Write `header` as it is (text or what JSON has) with that many zero bytes behind it; return `path`."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + data_bytes)
    return path


def _bytes(number: float, dtype: str) -> bytes:
    if dtype == "BF16":
        return struct.pack("<f", number)[2:]
    return struct.pack("<e" if dtype == "F16" else "<f", number)
