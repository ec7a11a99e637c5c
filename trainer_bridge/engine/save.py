"""LoRA files: written atomically, read back and compared before anything is said to be done.

The layout is kohya's: all tensors in one precision, texts in the header (:mod:`.metadata`). The finished LoRA
goes into the user's folder under a name that nobody has, with a preview picture and the host's own
description beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from .. import platform
from ..errors import RunFailed
from .state import same_bytes

PRECISIONS: dict[str, torch.dtype] = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
#: kohya's `sshs_legacy_hash` is taken of this much of the file, from this place on.
_LEGACY_START, _LEGACY_LENGTH = 0x100000, 0x10000
_MOST_NAMES = 1000
_JOB = "atelier.job"
_HOST_VERSIONS = {"sd15": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
_WEIGHT = 0.8


def lora_bytes(state: Mapping[str, Tensor], metadata: Mapping[str, str], precision: str) -> bytes:
    """Return the bytes of a LoRA file.

    Args:
        state: fp32, by kohya's keys.
        metadata: texts of the header; kohya's two hashes of the content are added.
        precision: key of :data:`PRECISIONS`.

    Raises:
        RunFailed: a number is not finite, or too large for the precision.
    """
    tensors = {name: tensor.detach().cpu().to(PRECISIONS[precision]).contiguous() for name, tensor in state.items()}
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise RunFailed(
            f"The LoRA holds numbers that {precision} cannot express, for instance in {broken[0]}.",
            "Lower the learning rate, or set save_precision to float.",
        )
    (length,) = struct.unpack("<Q", (plain := dump_tensors(tensors))[:8])
    header, body = json.loads(plain[8 : 8 + length]), plain[8 + length :]
    trained = {key: text for key, text in metadata.items() if key.startswith("ss_")}
    legacy = _with_metadata(header, body, trained)[_LEGACY_START : _LEGACY_START + _LEGACY_LENGTH]
    hashes = {
        "sshs_model_hash": hashlib.sha256(body).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(legacy).hexdigest()[:8],
    }
    return _with_metadata(header, body, {**metadata, **hashes})


def write_lora(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str], precision: str) -> None:
    """Write a LoRA inside the job's folder, replacing what a killed run left there.

    Raises:
        OSError, RunFailed: it cannot be written; nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    platform.write_atomic(path, lora_bytes(state, metadata, precision))


def publish(
    folder: Path, name: str, state: Mapping[str, Tensor], metadata: Mapping[str, str], precision: str
) -> tuple[Path, str]:
    """Write the finished LoRA as `folder/name.safetensors`, or `name-v2` and so on where that name is taken.

    A file that an earlier, killed start of the same job has put there counts as ours when its tensors are the
    same.

    Returns:
        The file and the sha256 of its bytes.

    Raises:
        RunFailed: what was read back differs, or no name is free.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = lora_bytes(state, metadata, precision)
    part = folder / f".{name}.{os.getpid()}.part"
    try:
        _write_through(part, data)
        read_back = part.read_bytes()
        if not same_bytes(parse_tensors(read_back), parse_tensors(data)):
            raise RunFailed("The LoRA that was written differs from what is read back.", "Check the disk.")
        for number in range(1, _MOST_NAMES):
            target = folder / (f"{name}.safetensors" if number == 1 else f"{name}-v{number}.safetensors")
            if _is_ours(target, data, metadata):
                return target, hashlib.sha256(target.read_bytes()).hexdigest()
            if platform.publish_new(part, target):
                return target, hashlib.sha256(data).hexdigest()
    finally:
        part.unlink(missing_ok=True)
    raise RunFailed(f"All names from {name} on are taken in {folder}.", "Choose another name.")


def describe(lora: Path, family: str, trigger: str, preview: Path | None) -> None:
    """Put the preview and the host's description beside a LoRA, where no file of that name is.

    The description is what A1111 and Forge show on the LoRA's card: activation text, version, preferred
    weight.
    """
    description = {
        "description": "",
        "sd version": _HOST_VERSIONS.get(family, "Unknown"),
        "activation text": trigger,
        "preferred weight": _WEIGHT,
        "notes": "",
    }
    _place(lora.with_suffix(".json"), json.dumps(description, ensure_ascii=False, indent=4).encode())
    if preview is not None and preview.is_file():
        _place(lora.with_suffix(".png"), preview.read_bytes())


def _is_ours(target: Path, data: bytes, metadata: Mapping[str, str]) -> bool:
    try:
        found = target.read_bytes() if target.stat().st_size < 2 * len(data) else b""
        theirs = _header(found).get("__metadata__", {})
        return theirs.get(_JOB) == metadata.get(_JOB) is not None and same_bytes(
            parse_tensors(found), parse_tensors(data)
        )
    except (OSError, ValueError, struct.error, AttributeError):
        return False


def _place(target: Path, data: bytes) -> None:
    """Write a file that may not be there yet, whole or not at all."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _write_through(part, data)
        platform.publish_new(part, target)
    finally:
        part.unlink(missing_ok=True)


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _with_metadata(header: Mapping[str, object], body: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file of this header and body with these texts, padded to 8 bytes as the format wants."""
    texts = {"__metadata__": dict(metadata)} if metadata else {}
    tensors = {key: value for key, value in header.items() if key != "__metadata__"}
    text = json.dumps({**texts, **tensors}, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _header(data: bytes) -> dict[str, dict[str, str]]:
    (length,) = struct.unpack("<Q", data[:8])
    found: dict[str, dict[str, str]] = json.loads(data[8 : 8 + length])
    return found
