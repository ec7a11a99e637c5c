"""Reads sets of pictures with the probe: `{"sets": {name: [path, ...]}, "out": path}` comes on standard input.

The answer is an `.npz` with two arrays a set: `NAME.features` [pictures, 192] fp32 and `NAME.labels` [pictures,
attributes].
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .probe_net import features, read

SIDE = 128


def pictures(paths: Sequence[str]) -> NDArray[np.uint8]:
    """Read pictures as uint8 [N, 128, 128, 3]."""
    arrays = []
    for path in paths:
        with Image.open(path) as image:
            arrays.append(np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    return np.stack(arrays)


def main() -> None:
    request = json.load(sys.stdin)
    torch.set_num_threads(1)
    arrays: dict[str, NDArray[Any]] = {}
    for name, paths in request["sets"].items():
        seen = pictures(paths)
        arrays[f"{name}.features"] = features(seen)
        arrays[f"{name}.labels"] = np.array([look.indices() for look in read(seen)])
    with open(request["out"], "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
