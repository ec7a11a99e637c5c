"""Job folders for tests: a tiny twin as base, a few drawn pictures of different shapes, a short run."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from trainer_bridge import fields
from trainer_bridge.checkpoint import inspect
from trainer_bridge.dataset.manifest import Manifest, Picture
from trainer_bridge.events import read_events
from trainer_bridge.spec import BaseFile, JobSpec, SamplePrompt

from .. import twins

JOB = "0123456789abcdef"
SIZES = ((64, 64), (128, 64), (64, 64), (50, 80), (64, 64))
SMALL: dict[str, fields.Value] = {
    "resolution": 64,
    "bucket_reso_steps": 32,
    "min_bucket_reso": 32,
    "max_bucket_reso": 128,
    "train_batch_size": 2,
    "network_dim": 4,
    "network_alpha": 4.0,
    "unet_lr": 1e-3,
    "max_train_steps": 8,
    "sample_count": 0,
}


def base_file(folder: Path, family: str = "sd15", **options: Any) -> Path:
    """Write a twin once."""
    path = folder / f"{family}.safetensors"
    return path if path.exists() else twins.write(family, path, **options)


def make_job(
    root: Path,
    base: Path,
    *,
    job: str = JOB,
    samples: int = 0,
    images: Path | None = None,
    **settings: fields.Value,
) -> Path:
    """Write the folder of a job and return it; the data root is `root`, the LoRA goes to `root/out`.

    Args:
        images: folder of PNG files with a .txt beside each, instead of the drawn pictures.
    """
    folder = root / "jobs" / job
    folder.mkdir(parents=True)
    found = inspect(base)
    if images is None:
        pictures = tuple(_picture(root / "pictures", place, size) for place, size in enumerate(SIZES))
    else:
        pictures = tuple(_from_file(path) for path in sorted(images.glob("*.png")))
    (folder / "dataset.json").write_text(Manifest("ohwx", pictures).to_json(), encoding="utf-8")
    chosen = {**fields.defaults(), **SMALL, "sample_count": samples, **settings}
    prompts = (SamplePrompt("ohwx, red", "", 7, 64, 64), SamplePrompt("ohwx, blue, smile", "dark", 8, 64, 96))
    spec = JobSpec(
        name="Test",
        output_name="test",
        trigger="ohwx",
        type="character",
        base=BaseFile(str(found.path), found.size, found.mtime_ns, str(found.family), str(found.prediction_type)),
        out_dir=str(root / "out"),
        settings=chosen,
        sample_prompts=prompts,
    )
    (folder / "spec.json").write_text(spec.to_json(), encoding="utf-8")
    return folder


def events(folder: Path) -> list[dict[str, Any]]:
    """Return all events of a job."""
    return [event for event, _ in read_events(folder / "events.jsonl")]


def of_type(folder: Path, type_: str) -> list[dict[str, Any]]:
    """Return the events of one type."""
    return [event for event in events(folder) if event["type"] == type_]


def tensor_bytes(path: Path) -> bytes:
    """Return what stands behind the header of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 + length :]


def texts(path: Path) -> Mapping[str, Any]:
    """Return the metadata of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    found: Mapping[str, Any] = json.loads(data[8 : 8 + length])["__metadata__"]
    return found


def _from_file(path: Path) -> Picture:
    data = path.read_bytes()
    with Image.open(path) as image:
        width, height = image.size
    caption = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
    return Picture(hashlib.sha256(data).hexdigest(), str(path.resolve()), width, height, caption=caption)


def _picture(folder: Path, place: int, size: tuple[int, int]) -> Picture:
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (40 * place, 90, 200 - 30 * place))
    ImageDraw.Draw(image).ellipse((10, 12, 30 + 4 * place, 40), fill=(250, 40 * place, 60))
    image.save(folder / "part.png")
    data = (folder / "part.png").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    (folder / "part.png").replace(folder / digest)
    caption = ("red hair, smile", "blue eyes, long hair, hat", "", "smile", "a, b, c, d")[place]
    return Picture(digest, str(folder / digest), size[0], size[1], caption=caption)
