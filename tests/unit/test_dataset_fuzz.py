"""Real picture files with bytes changed at random: a reason or a picture, never anything else."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from trainer_bridge import limits
from trainer_bridge.dataset.importer import import_folder
from trainer_bridge.dataset.picture import Unusable, examine, formats, upright_rgb


@cache
def seeds() -> tuple[bytes, ...]:
    """Return one small file of each kind, with EXIF data, frames, a palette, tiles and alpha among them."""
    noise = np.random.default_rng(3).integers(0, 255, (24, 32, 4), np.uint8)
    rgba, rgb = Image.fromarray(noise), Image.fromarray(noise[:, :, :3].copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgba, "PNG", {"exif": exif}),
        (rgb.convert("P"), "PNG", {"transparency": 3}),
        (rgb, "JPEG", {"exif": exif}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgba, "WEBP", {"exif": exif}),
        (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(90)], "lossless": True}),
        (rgb, "GIF", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        (rgb, "TIFF", {"exif": exif}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (Image.fromarray(noise[:, :, 0].astype(np.float32)), "TIFF", {}),
        (rgb, "BMP", {}),
        (rgb, "PPM", {}),
    ]
    if "AVIF" in formats():
        kinds.append((rgba, "AVIF", {}))
    files = []
    for image, format_, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, format_, **options)
        files.append(buffer.getvalue())
    return tuple(files)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(seeds())))
    for _ in range(draw(st.integers(1, 6))):
        # Headers are where decoders believe the file, so most changes go there.
        end = draw(st.sampled_from([64, 200, len(data)]))
        place = draw(st.integers(0, max(0, min(end, len(data)) - 1)))
        change = draw(st.sampled_from(["byte", "cut", "insert", "repeat"]))
        if change == "byte" and data:
            data[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
        elif change == "cut":
            del data[place : place + draw(st.integers(1, 40))]
        elif change == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        else:
            data[place:place] = data[place : place + 64]
    return bytes(data)


def check(data: bytes) -> None:
    try:
        facts = examine(data)
    except Unusable as error:
        assert str(error).endswith((".", ")"))
        json.dumps(str(error))
        return
    assert 1 <= facts.width * facts.height <= limits.MAX_PICTURE_PIXELS
    image = upright_rgb(data)
    assert (image.mode, image.size) == ("RGB", (facts.width, facts.height))


def test_the_seeds_themselves_are_pictures() -> None:
    for data in seeds():
        assert examine(data).width in (24, 32)


@given(mutated())
@hypothesis_settings(max_examples=400, suppress_health_check=list(HealthCheck))
def test_mutated_files_end_in_a_picture_or_a_sentence(data: bytes) -> None:
    check(data)


@given(
    st.sampled_from(
        [
            b"",
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff\xe1",
            b"GIF89a",
            b"II*\0",
            b"RIFF\0\0\0\0WEBPVP8 ",
            b"BM",
            b"P6\n",
        ]
    ),
    st.binary(max_size=200),
)
@hypothesis_settings(max_examples=200)
def test_random_bytes_behind_a_signature(signature: bytes, data: bytes) -> None:
    check(signature + data)


def test_a_folder_of_broken_files_is_imported_to_its_end(tmp_path: Path) -> None:
    random = np.random.default_rng(9)
    for number in range(60):
        data = bytearray(seeds()[number % len(seeds())])
        if number >= len(seeds()):
            for place in random.integers(0, min(len(data), 300), 4):
                data[place] = random.integers(0, 256)
        (tmp_path / f"{number}.png").write_bytes(data)
        (tmp_path / f"{number}.txt").write_bytes(random.bytes(int(random.integers(0, 60))))
    result = import_folder(tmp_path, tmp_path / "root")
    assert len(result.pictures) + len(result.left_out) == 60
    assert len(result.pictures) >= len(seeds()) and len(result.left_out) >= 10
    assert json.dumps(result.to_json(), ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize("number", range(3))
def test_every_way_to_cut_a_file(number: int) -> None:
    data = seeds()[number]
    for end in range(0, len(data), max(1, len(data) // 60)):
        check(data[:end])
