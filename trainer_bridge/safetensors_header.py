"""Reads the header of a `.safetensors` file: names, shapes and places of its tensors, never the tensors.

The form is the one that the safetensors library checks (its README, "Format"): eight bytes of length, that
many bytes of JSON, then the tensors back to back. Everything here may come from a stranger, so each number is
bounded before it is used, and a file that is something else is named for what it is.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NoReturn, TypeGuard

from . import limits
from .errors import UserError

#: dtype -> bits of one value, as safetensors names them.
BITS: Mapping[str, int] = MappingProxyType(
    {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
    | dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
    | dict.fromkeys(("U16", "I16", "F16", "BF16"), 16)
    | dict.fromkeys(("U32", "I32", "F32"), 32)
    | dict.fromkeys(("U64", "I64", "F64", "C64"), 64)
)

_MAX_DIMENSIONS = 16
_AGAIN = "Download or copy it again."
_PICKLE = "is a pickle, which can run any program when it is opened, so it is never opened here."
_CONVERT = (
    "Convert it to .safetensors (in the WebUI: Checkpoint Merger, one model, No interpolation, safetensors),"
    " or get the safetensors version from where it came."
)


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies.

    Attributes:
        dtype: a key of :data:`BITS`.
        shape: sizes of its dimensions; empty for a single number.
        start, end: first byte and the one behind the last, counted from the start of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says about itself.

    Attributes:
        path: the file, absolute.
        size: bytes of the whole file.
        mtime_ns: time of its last change.
        metadata: free texts that its writer left.
        tensors: by name.
    """

    path: Path
    size: int
    mtime_ns: int
    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]


def read_header(path: str | Path) -> Header:
    """Read the header of `path`.

    Raises:
        UserError: the file is missing, cut off, too long, a pickle, a GGUF file or anything else that cannot
            be read, with the way out.
    """
    path = Path(os.path.abspath(os.path.expanduser(path)))
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            return _read(path, file)
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.", "Check the path.") from None
    except (OSError, ValueError) as error:
        raise _cannot_read(path, error) from None


def read_numbers(header: Header, name: str, *, at_most: int = 4096) -> tuple[float, ...] | None:
    """Return the few values of a small float tensor; None when it is missing, no float or larger.

    Raises:
        UserError: the file cannot be read any more.
    """
    tensor = header.tensors.get(name)
    if tensor is None or tensor.dtype not in ("F16", "BF16", "F32", "F64"):
        return None
    count = math.prod(tensor.shape)
    if count > at_most:
        return None
    try:
        with header.path.open("rb") as file:
            file.seek(tensor.start)
            data = file.read(tensor.end - tensor.start)
    except OSError as error:
        raise _cannot_read(header.path, error) from None
    if len(data) != tensor.end - tensor.start:
        raise UserError(f"{header.path.name} was changed while it was read.", "Try again once it is complete.")
    if tensor.dtype == "BF16":  # the upper half of a float32
        data = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2))
    code = {"F16": "e", "F64": "d"}.get(tensor.dtype, "f")
    return struct.unpack(f"<{count}{code}", data)


def _read(path: Path, file: BinaryIO) -> Header:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a file.", "Choose a .safetensors file.")
    size = status.st_size
    start = file.read(64)
    length = _header_length(path, start, size)
    file.seek(8)
    text = file.read(length)
    if len(text) != length:
        raise UserError(f"{path.name} was changed while it was read.", "Try again once it is complete.")
    data = _parse(path, text)
    metadata = _metadata(path, data.pop("__metadata__", None))
    if len(data) > limits.MAX_HEADER_TENSORS:
        _refuse(path, f"lists {len(data)} tensors, more than any model has")
    tensors = {name: _tensor(path, name, value, 8 + length) for name, value in data.items()}
    _check_places(path, tensors, 8 + length, size)
    return Header(path, size, status.st_mtime_ns, MappingProxyType(metadata), MappingProxyType(tensors))


def _header_length(path: Path, start: bytes, size: int) -> int:
    """Return the length of the JSON, or say what the file is instead."""
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:9] != b"{" or length > limits.MAX_HEADER_BYTES:
        _say_what_it_is(path, start, size)
    if 8 + length > size:
        raise UserError(f"{path.name} is cut off: its header alone has {length} bytes, the file {size}.", _AGAIN)
    return length


def _say_what_it_is(path: Path, start: bytes, size: int) -> NoReturn:
    if size == 0:
        raise UserError(f"{path.name} is empty.", _AGAIN)
    if not start.strip(b"\0"):
        raise UserError(f"{path.name} begins with nothing but zeros: the download was not finished.", _AGAIN)
    if start.startswith(b"GGUF"):
        raise UserError(
            f"{path.name} is a GGUF file, whose weights are reduced for drawing only.",
            "Choose the original .safetensors checkpoint.",
        )
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path.name} is a pointer of Git LFS, not the model.", "Fetch it with `git lfs pull`.")
    if start.lstrip()[:1] == b"<":
        raise UserError(
            f"{path.name} is a web page that was saved in place of the model.",
            "Download it again, logged in where the site asks for it.",
        )
    pickled = start[:1] == b"\x80" and 2 <= start[1] <= 5 if len(start) > 1 else False
    if start.startswith(b"PK\x03\x04") or pickled or path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin", ".pkl"):
        raise UserError(f"{path.name} {_PICKLE}", _CONVERT)
    if len(start) < 9:
        raise UserError(f"{path.name} is cut off: it has {size} bytes.", _AGAIN)
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{":
        _refuse(path, f"claims a header of {length} bytes, more than any model has")
    raise UserError(f"{path.name} is not a safetensors file.", "Choose a .safetensors file.")


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    # Counted before parsing, since a few MB of brackets become gigabytes of objects.
    if text.count(b"[") + text.count(b"{") > limits.MAX_HEADER_MARKS or text.count(b":") > limits.MAX_HEADER_MARKS:
        _refuse(path, "has a header that is larger than any model's")
    if text.count(b",") > 4 * limits.MAX_HEADER_MARKS:
        _refuse(path, "has a header that is larger than any model's")
    try:
        data = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_distinct,
            parse_int=_small_int,
            parse_constant=_no_constant,
        )
    except _Twice as twice:
        _refuse(path, f"names {_short(str(twice))} twice in its header")
    except (ValueError, RecursionError):
        _refuse(path, "has a header that is not valid JSON")
    if not isinstance(data, dict):
        _refuse(path, "has a header that is not a table of tensors")
    return data


class _Twice(Exception):
    """A key stands twice."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key)
        found[key] = value
    return found


def _small_int(text: str) -> int:
    """Python 3.10 before its 7th release converts a number of a million digits, for hours."""
    if len(text) > 20:
        raise ValueError("number too long")
    return int(text)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _metadata(path: Path, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        _refuse(path, "has metadata that is not a table of texts")
    return {_printable(key): _printable(item) for key, item in value.items()}


def _printable(text: str) -> str:
    """JSON can spell half a character (a lone surrogate), which no file and no terminal takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _tensor(path: Path, name: str, value: object, data_start: int) -> Tensor:
    if not isinstance(value, dict) or name != _printable(name):
        _refuse(path, f"describes the tensor {_short(name)} wrongly")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not _sizes(shape) or len(shape) > _MAX_DIMENSIONS or not _sizes(offsets) or len(offsets) != 2:
        _refuse(path, f"describes the tensor {_short(name)} wrongly")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise UserError(
            f"{path.name} holds numbers of the kind {_short(str(dtype))}, which is not known here.",
            "Choose a checkpoint in fp16, bf16 or fp32.",
        )
    bits = math.prod(shape) * BITS[dtype]
    start, end = offsets
    if bits % 8 or bits // 8 != end - start:
        _refuse(
            path,
            f"gives the tensor {_short(name)} {end - start} bytes, but its shape and kind need {bits // 8}",
        )
    return Tensor(dtype, tuple(shape), data_start + start, data_start + end)


def _sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 48 for item in value)


def _check_places(path: Path, tensors: Mapping[str, Tensor], data_start: int, size: int) -> None:
    """The tensors must follow one another and fill the file to its last byte."""
    at = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != at:
            fault = "overlaps the one before it" if tensor.start < at else "leaves a gap before it"
            _refuse(path, f"is damaged: the tensor {_short(name)} {fault}")
        at = tensor.end
    if at > size:
        raise UserError(f"{path.name} is cut off: {at - size} of {at} bytes are missing.", _AGAIN)
    if at < size:
        raise UserError(f"{path.name} has {size - at} bytes more than its header tells of: it is damaged.", _AGAIN)


def _short(text: str) -> str:
    return ascii(text[:80])


def _refuse(path: Path, fault: str) -> NoReturn:
    raise UserError(f"{path.name} {fault}.", "Download or copy it again; if that does not help, the file is broken.")


def _cannot_read(path: Path, error: Exception) -> UserError:
    if os.path.isdir(path):
        return UserError(f"{path} is a folder.", "Choose the .safetensors file in it.")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(f"{path} cannot be read ({reason}).", "Check the path and the rights of the file.")
