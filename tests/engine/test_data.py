"""Pixels that the autoencoder is given, against numpy alone."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from trainer_bridge import fields  # noqa: E402
from trainer_bridge.dataset.buckets import Bucket, bucket_for  # noqa: E402
from trainer_bridge.dataset.manifest import Picture  # noqa: E402
from trainer_bridge.engine.data import pixels  # noqa: E402
from trainer_bridge.errors import RunFailed  # noqa: E402


def scene(width: int = 96, height: int = 80, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width, channels), np.uint8)


def stored(folder: Path, image: Image.Image, format_: str = "PNG", **options: Any) -> tuple[str, str]:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    (folder / digest).write_bytes(buffer.getvalue())
    return digest, str(folder / digest)


def exact(width: int, height: int, left: int = 0, top: int = 0, scaled: tuple[int, int] | None = None) -> Bucket:
    return Bucket(width, height, *(scaled or (width, height)), left, top)


def as_rgb(tensor: Any) -> np.ndarray:
    """Undo the normalisation: [3, H, W] from -1 to 1 back to [H, W, 3] from 0 to 255."""
    return (np.asarray(tensor, np.float64).transpose(1, 2, 0) + 1.0) * 127.5


def test_values_shape_and_type(tmp_path: Path) -> None:
    rgb = scene()
    picture = Picture(*stored(tmp_path, Image.fromarray(rgb)), 96, 80)
    tensor = pixels(picture, exact(96, 80), False)
    assert tensor.shape == (3, 80, 96) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert np.abs(as_rgb(tensor) - rgb).max() < 1e-4
    assert tensor.min() == -1.0 and tensor.max() == 1.0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("flip", [False, True])
def test_orientation_crop_and_mirror(tmp_path: Path, orientation: int, flip: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb = scene()
    digest, path = stored(tmp_path, Image.fromarray(rgb), exif=exif)
    turned = rgb.swapaxes(0, 1) if orientation > 4 else rgb
    turned = turned[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]
    height, width = turned.shape[:2]
    picture = Picture(digest, path, width, height, crop=(8, 4, 64, 60))
    wanted = turned[4:64, 8:72][6:54, 8:56]
    if flip:
        wanted = wanted[:, ::-1]
    tensor = pixels(picture, exact(48, 48, 8, 6, scaled=(64, 60)), flip)
    assert np.abs(as_rgb(tensor) - wanted).max() < 1e-4


@pytest.mark.parametrize(("flatten", "background"), [(None, (255, 255, 255)), ("#204060", (32, 64, 96))])
def test_transparent_parts_are_flattened(tmp_path: Path, flatten: str | None, background: tuple[int, ...]) -> None:
    rgba = scene(channels=4)
    picture = Picture(*stored(tmp_path, Image.fromarray(rgba)), 96, 80, flatten=flatten)
    alpha = rgba[:, :, 3:] / 255.0
    wanted = rgba[:, :, :3] * alpha + np.array(background) * (1.0 - alpha)
    assert np.abs(as_rgb(pixels(picture, exact(96, 80))) - wanted).max() <= 0.75


def lanczos(length: int, size: int) -> np.ndarray:
    """Return the matrix [size, length] of a Lanczos resampling with three lobes, widened when it shrinks."""
    scale = length / size
    support = max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    distance = (np.arange(length)[None, :] + 0.5 - centres[:, None]) / support
    weights = np.where(np.abs(distance) < 3.0, np.sinc(distance) * np.sinc(distance / 3.0), 0.0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(48, 40), (64, 40), (192, 160), (97, 81)])
def test_scaling_is_lanczos(tmp_path: Path, size: tuple[int, int]) -> None:
    rgb = scene()
    picture = Picture(*stored(tmp_path, Image.fromarray(rgb)), 96, 80)
    across, down = lanczos(96, size[0]), lanczos(80, size[1])
    wanted = np.clip(np.einsum("yh,hxc->yxc", down, np.einsum("xw,hwc->hxc", across, rgb.astype(float))), 0, 255)
    difference = np.abs(as_rgb(pixels(picture, exact(*size))) - wanted)
    # Pillow rounds to bytes between the two directions, and clips there where Lanczos overshoots.
    assert np.median(difference) <= 0.6 and np.quantile(difference, 0.8) <= 2.0


def test_strong_shrinking_averages_instead_of_picking(tmp_path: Path) -> None:
    """A fine chequerboard has to become its mean, never a pattern."""
    board = (np.indices((1200, 1600)).sum(0) % 2 * 255).astype(np.uint8)
    picture = Picture(*stored(tmp_path, Image.fromarray(board)), 1600, 1200)
    shown = as_rgb(pixels(picture, exact(64, 48)))
    assert np.abs(shown - 127.5).max() <= 1.5


def test_the_same_arguments_give_the_same_numbers(tmp_path: Path) -> None:
    picture = Picture(*stored(tmp_path, Image.fromarray(scene(300, 200)), "JPEG"), 300, 200)
    bucket = bucket_for(300, 200, fields.defaults() | {"resolution": 128, "bucket_reso_steps": 32})
    first, again = pixels(picture, bucket, True), pixels(picture, bucket, True)
    assert first.shape == (3, bucket.height, bucket.width)
    assert torch.equal(first, again) and torch.equal(first.flip(2), pixels(picture, bucket, False))


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "F", "P", "1", "LA"])
def test_every_mode_fills_three_channels(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(scene()[:, :, 0])
    if mode == "I;16":
        image = Image.fromarray(scene()[:, :, 0].astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(scene()[:, :, 0].astype(np.float32) / 255)
    else:
        image = (Image.fromarray(scene()) if mode in ("CMYK", "P") else grey).convert(mode)
    digest, path = stored(tmp_path, image, "TIFF" if mode in ("CMYK", "F") else "PNG")
    tensor = pixels(Picture(digest, path, 96, 80), exact(96, 80))
    assert tensor.shape == (3, 80, 96) and tensor.std() > 0.3
    if mode in ("I;16", "F", "LA"):
        assert np.abs(as_rgb(tensor) - scene()[:, :, :1]).max() <= 1.0


def test_a_picture_that_is_gone_changed_or_of_another_size_ends_the_run(tmp_path: Path) -> None:
    digest, path = stored(tmp_path, Image.fromarray(scene()))
    with pytest.raises(RunFailed, match="80 px instead of 96 x 64"):
        pixels(Picture(digest, path, 96, 64), exact(96, 64))
    Path(path).write_bytes(Path(path).read_bytes() + b"\0")
    with pytest.raises(RunFailed, match="has changed"):
        pixels(Picture(digest, path, 96, 80), exact(96, 80))
    Path(path).unlink()
    with pytest.raises(RunFailed, match="cannot be read"):
        pixels(Picture(digest, path, 96, 80), exact(96, 80))
