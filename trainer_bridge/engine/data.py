"""A picture of the manifest as the numbers that the autoencoder is given."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .. import limits
from ..dataset.buckets import Bucket
from ..dataset.files import read_bounded
from ..dataset.manifest import Picture
from ..dataset.picture import Unusable, upright_rgb
from ..errors import RunFailed

#: Before Lanczos, a much larger picture is averaged down by whole factors to no less than this many times its size.
REDUCING_GAP = 3.0


def pixels(picture: Picture, bucket: Bucket, flip: bool = False) -> torch.Tensor:
    """Return a picture as float32 [3, bucket height, bucket width] from -1 to 1, channels red, green, blue.

    EXIF rotation, flattening, the manifest's crop, scaling to cover the bucket, its centre crop and mirroring are
    done in this order. The same arguments give the same numbers.

    Raises:
        RunFailed: the file in the data root is gone, changed or cannot be decoded any more.
    """
    image = _upright(picture)
    if picture.crop is not None:
        left, top, width, height = picture.crop
        image = image.crop((left, top, left + width, top + height))
    image = _scaled(image, (bucket.scaled_width, bucket.scaled_height))
    right, bottom = bucket.crop_left + bucket.width, bucket.crop_top + bucket.height
    image = image.crop((bucket.crop_left, bucket.crop_top, right, bottom))
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    values = torch.from_numpy(np.array(image, dtype=np.uint8))  # [H, W, 3]
    return values.permute(2, 0, 1).to(torch.float32).div(127.5).sub(1.0).contiguous()


def _upright(picture: Picture) -> Image.Image:
    try:
        data = read_bounded(Path(picture.path), limits.MAX_PICTURE_BYTES)
    except OSError as error:
        why = error.strerror or "it is not an ordinary file"
        raise RunFailed(f"The picture {picture.path} cannot be read ({why}).", _WAY_OUT) from None
    if hashlib.sha256(data).hexdigest() != picture.hash:
        raise RunFailed(f"The picture {picture.path} has changed since it was imported.", _WAY_OUT)
    try:
        image = upright_rgb(data, picture.flatten)
    except Unusable as error:
        raise RunFailed(f"The picture {picture.path} cannot be decoded. {error}", _WAY_OUT) from None
    if image.size != (picture.width, picture.height):
        size = f"{image.width} x {image.height} px instead of {picture.width} x {picture.height}"
        raise RunFailed(f"The picture {picture.path} is {size}.", _WAY_OUT)
    return image


_WAY_OUT = "Import the pictures again with a new training."


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
