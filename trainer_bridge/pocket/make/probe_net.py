"""The attribute probe itself: reads labels and features from a portrait's pixels. Needs nothing that draws."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from .labels import CLASSES, Look

WEIGHTS = Path(__file__).parent.parent / "data" / "probe.safetensors"
_WIDTHS = (3, 24, 48, 96, 128, 128)
_FEATURES = 192


class Probe(nn.Module):
    """Five strided convolutions, a feature layer of 192, one linear head over all classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip(_WIDTHS, _WIDTHS[1:], strict=False):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.feature = nn.Linear(_WIDTHS[-1] * 16, _FEATURES)
        self.head = nn.Linear(_FEATURES, sum(len(c) for c in CLASSES.values()))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [N, 3, 128, 128] in -1..1 -> features [N, 192], logits [N, all classes]."""
        features = nn.functional.silu(self.feature(self.body(pixels).flatten(1)))
        return features, self.head(features)


def to_pixels(images: NDArray[np.uint8]) -> Tensor:
    pixels = torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if pixels.shape[2:] != (128, 128):
        pixels = nn.functional.interpolate(pixels, (128, 128), mode="bilinear", antialias=True)
    return pixels


@lru_cache(maxsize=1)
def load_probe(path: Path = WEIGHTS) -> Probe:
    """The shipped probe."""
    net = Probe()
    net.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
    return net.eval()


def split_classes(logits: Tensor) -> list[Tensor]:
    return list(logits.split([len(c) for c in CLASSES.values()], dim=1))


@torch.no_grad()
def read(images: NDArray[np.uint8]) -> list[Look]:
    """What the probe sees in pictures uint8 [N, H, W, 3]."""
    outs = [load_probe()(p)[1] for p in to_pixels(images).split(64)]
    numbers = torch.stack([part.argmax(1) for part in split_classes(torch.cat(outs))], 1)
    return [Look.from_indices(row) for row in numbers.tolist()]


@torch.no_grad()
def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features [N, 192] of pictures uint8 [N, H, W, 3], for distances between sets of pictures."""
    return torch.cat([load_probe()(p)[0] for p in to_pixels(images).split(64)]).numpy()
