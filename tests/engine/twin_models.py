"""Twins loaded once for all tests of a session: tests must leave the networks as they found them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests import twins
from trainer_bridge.checkpoint import Checkpoint, require_base
from trainer_bridge.engine.families import ModelFamily, for_checkpoint, unet
from trainer_bridge.safetensors_header import Header, Tensor

FAMILIES = ("sd15", "sd2", "sdxl")


def of_header(key: str, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None = None) -> Any:
    """Return a family bound to a header of these shapes, of which no file is needed."""
    tensors = {name: Tensor("F16", shape, 0, 0) for name, shape in shapes.items()}
    header = Header(Path("x"), 0, 0, {}, tensors)
    checkpoint = Checkpoint(
        Path("x"), 0, 0, "base", key, key, "epsilon", "", False, "fp16", 512, True, "", config=config
    )
    with mock.patch.object(unet, "read_header", lambda _path: header):
        return for_checkpoint(checkpoint)


@lru_cache(maxsize=1)
def folder() -> Path:
    """Return a folder that is removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="atelier-twins-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def file(key: str, v_pred: bool = False) -> Path:
    """Return the file of a twin."""
    return twins.write(key, folder() / f"{key}{'-v' if v_pred else ''}.safetensors", v_pred=v_pred)


@cache
def family(key: str, v_pred: bool = False) -> ModelFamily:
    """Return the family bound to a twin."""
    return for_checkpoint(require_base(file(key, v_pred)))


@cache
def networks(key: str) -> dict[str, Any]:
    """Return all networks of a twin in fp32."""
    bound = family(key)
    return bound.load(["unet", "vae", *bound.text_parts], device="cpu", dtype=torch.float32)
