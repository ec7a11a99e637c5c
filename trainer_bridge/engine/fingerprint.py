"""A name for the weights of one network: what caches of its outputs are filed under."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import UserError
from ..safetensors_header import Tensor

_PIECE = 8 * 1024 * 1024
_THREADS = 4


def fingerprint(path: Path, tensors: Mapping[str, Tensor], said: Iterable[str] = ()) -> str:
    """Return 32 hex digits of the names, forms and bytes of `tensors`; where in the file they lie does not matter.

    Args:
        said: further texts that the outputs depend on.

    Raises:
        UserError: the file cannot be read any more.
    """
    whole = hashlib.sha256("\x1f".join(said).encode())
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            view = memoryview(data)

            def digest(span: tuple[int, int]) -> bytes:
                with view[span[0] : span[1]] as piece:
                    return hashlib.sha256(piece).digest()

            with ThreadPoolExecutor(_THREADS) as pool:
                for name in sorted(tensors):
                    tensor = tensors[name]
                    whole.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
                    for part in pool.map(digest, _spans(tensor)):
                        whole.update(part)
            view.release()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}).", "Check that the file is still there.") from None
    return whole.hexdigest()[:32]


def _spans(tensor: Tensor) -> list[tuple[int, int]]:
    return [(at, min(at + _PIECE, tensor.end)) for at in range(tensor.start, tensor.end, _PIECE)]
