"""Single picture files: every mode and format that people have, damaged ones, and bombs."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from trainer_bridge.dataset.modes import to_rgb
from trainer_bridge.dataset.picture import Unusable, examine, formats, upright_rgb


def gradient(mode: str = "RGB", size: tuple[int, int] = (96, 80)) -> Image.Image:
    across = np.linspace(0, 255, size[0])[None, :].repeat(size[1], 0)
    down = np.linspace(255, 0, size[1])[:, None].repeat(size[0], 1)
    rgb = np.stack([across, down, (across + down) / 2], -1).astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


def saved(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + body + chunk(b"IEND", b"")


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    return tuple(int(value) for value in np.asarray(image)[y, x])


@pytest.mark.parametrize("format_", ["PNG", "BMP", "GIF", "TIFF", "PPM"])
def test_lossless_formats_keep_their_pixels(format_: str) -> None:
    data = saved(gradient("P" if format_ == "GIF" else "RGB"), format_)
    facts = examine(data)
    assert (facts.width, facts.height, facts.notes) == (96, 80, ())
    with Image.open(io.BytesIO(data)) as plain:
        assert upright_rgb(data).tobytes() == plain.convert("RGB").tobytes()


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_look_alike(format_: str) -> None:
    if format_ not in formats():
        pytest.skip(f"this Pillow has no {format_}")
    image = upright_rgb(saved(gradient(), format_, quality=95))
    assert np.abs(np.asarray(image, int) - np.asarray(gradient(), int)).mean() < 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_every_eight_bit_mode_becomes_rgb(mode: str) -> None:
    image = gradient("L").convert("LA") if mode == "LA" else gradient(mode)
    format_ = "TIFF" if mode == "CMYK" else "PNG"
    data = saved(image, format_)
    facts, rgb = examine(data), upright_rgb(data)
    assert rgb.mode == "RGB" and rgb.size == (96, 80) == (facts.width, facts.height)
    wanted = gradient("L").convert("RGB") if mode == "LA" else image.convert("RGB")
    assert np.abs(np.asarray(rgb, int) - np.asarray(wanted, int)).max() <= 1
    assert any("CMYK" in note for note in facts.notes) == (mode == "CMYK")


@pytest.mark.parametrize(
    ("format_", "dtype", "white", "mode"),
    [
        ("PNG", np.uint16, 65535, None),
        ("TIFF", np.uint16, 65535, None),
        ("TIFF", np.int32, 65535, "I"),
        ("TIFF", np.int32, 255, "I"),
        ("TIFF", np.int32, 2**31 - 1, "I"),
        ("TIFF", np.float32, 1.0, "F"),
        ("TIFF", np.float32, 255.0, "F"),
        ("TIFF", np.float32, 9e9, "F"),
    ],
)
def test_deep_grey_is_scaled_not_clipped(format_: str, dtype: Any, white: float, mode: str | None) -> None:
    ramp = np.linspace(0.0, 1.0, 128)[None, :].repeat(64, 0)
    image = Image.fromarray((ramp * white).astype(dtype))
    assert mode is None or image.mode == mode
    data = saved(image, format_)
    grey = np.asarray(upright_rgb(data), float)
    assert np.abs(grey - (ramp * 255.0)[:, :, None]).max() <= 1.0
    assert "8 bits" in examine(data).notes[0]


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_every_png_colour_type(colour: int, channels: int) -> None:
    values = np.random.default_rng(4).integers(0, 65536, (64, 70, channels)).astype(">u2")
    if channels in (2, 4):
        values[:, :, -1] = 65535
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    rgb = np.asarray(upright_rgb(png(70, 64, depth=16, colour=colour, rows=rows)), float)
    wanted = values[:, :, :3] if channels > 2 else values[:, :, :1]
    assert np.abs(rgb - wanted.astype(float) / 257.0).max() <= 1.0


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_of_grey_reach_from_black_to_white(depth: int) -> None:
    rows = (b"\0" + b"\0" * depth * 4 + b"\xff" * depth * 4) * 64
    rgb = np.asarray(upright_rgb(png(64, 64, depth=depth, colour=0, rows=rows)))
    assert (rgb[:, :32] == 0).all() and (rgb[:, 32:] == 255).all()


def test_a_printers_jpeg_is_not_inverted() -> None:
    rgb = np.asarray(upright_rgb(saved(gradient("CMYK"), "JPEG", quality=95)), int)
    assert np.abs(rgb - np.asarray(gradient(), int)).mean() < 6


def test_a_dark_sixteen_bit_picture_stays_dark() -> None:
    data = saved(Image.fromarray(np.full((64, 64), 200, np.uint16)))
    assert pixel(upright_rgb(data), 5, 5) == (1, 1, 1)


def test_floats_that_are_no_numbers_are_black() -> None:
    values = np.full((64, 64), 0.5, np.float32)
    values[0, :4] = [np.nan, np.inf, -np.inf, -7.0]
    rgb = np.asarray(upright_rgb(saved(Image.fromarray(values), "TIFF")))
    assert rgb[0, :4].max() == 0 and rgb[1, 1, 0] == 128


@pytest.mark.parametrize(("flatten", "shown"), [(None, (255, 255, 255)), ("#102030", (16, 32, 48))])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_parts_show_the_background(mode: str, flatten: str | None, shown: tuple[int, ...]) -> None:
    if mode in ("RGBA", "LA"):
        image = gradient("RGBA")
        image.putalpha(Image.fromarray(np.repeat([[0] * 48 + [255] * 48], 80, 0).astype(np.uint8)))
        data = saved(image.convert(mode))
    else:
        image = Image.new("RGB", (96, 80), (200, 0, 0))
        image.paste((0, 200, 0), (0, 0, 48, 80))
        palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
        green = palette.getpixel((0, 0))
        data = saved(palette, transparency=green) if mode == "P" else saved(image, transparency=(0, 200, 0))
    rgb = upright_rgb(data, flatten)
    assert pixel(rgb, 3, 3) == shown
    assert pixel(rgb, 90, 3) != shown
    assert examine(data).notes == ("Its transparent parts are filled.",)


def test_half_transparent_parts_are_mixed() -> None:
    rgb = upright_rgb(saved(Image.new("RGBA", (64, 64), (0, 0, 0, 51))))
    assert pixel(rgb, 1, 1) == (204, 204, 204)


def test_an_alpha_channel_that_hides_nothing_is_not_mentioned() -> None:
    assert examine(saved(gradient("RGBA"))).notes == ()


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(format_: str, orientation: int) -> None:
    """What each EXIF orientation means, written with numpy: which corner of the scene the first pixel is."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = (
        {"lossless": True} if format_ == "WEBP" else {"quality": 100, "subsampling": 0} if format_ == "JPEG" else {}
    )
    data = saved(gradient(), format_, exif=exif, **options)
    stored = np.asarray(gradient(), int)
    if orientation in (5, 6, 7, 8):
        stored = stored.swapaxes(0, 1)
    upside = orientation in (3, 4, 7, 8)
    mirrored = orientation in (2, 3, 6, 7)
    scene = stored[:: -1 if upside else 1, :: -1 if mirrored else 1]
    rgb, facts = upright_rgb(data), examine(data)
    assert (facts.height, facts.width) == scene.shape[:2]
    assert np.abs(np.asarray(rgb, int) - scene).max() <= (6 if format_ == "JPEG" else 0)


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 90],
)
def test_damaged_exif_does_not_matter(exif: bytes) -> None:
    assert examine(saved(gradient(), "JPEG", exif=exif)).notes == ()


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_takes_its_first_frame(format_: str) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = saved(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    assert "first" in examine(data).notes[0]
    assert pixel(upright_rgb(data), 9, 9) == (255, 0, 0)


def test_an_animation_that_breaks_later_still_has_its_first_frame() -> None:
    frames = [gradient("P"), Image.new("P", (96, 80), 3)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert examine(data[: len(saved(gradient("P"), "GIF")) + 20]).width == 96


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_file_that_is_cut_off_is_unusable(format_: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (80, 96, 3), np.uint8))
    data = saved(noise, format_)
    with pytest.raises(Unusable):
        examine(data[: int(len(data) * share)])


def test_a_program_around_that_accepts_cut_off_files_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(Unusable, match="cut off|damaged"):
        examine(saved(gradient(), "JPEG")[:700])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_a_rotten_byte_in_a_png_is_found() -> None:
    data = bytearray(saved(gradient()))
    data[len(data) // 2] ^= 1
    with pytest.raises(Unusable, match="damaged"):
        examine(bytes(data))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"MZ\x90\0" + b"\0" * 2000, "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99, "HEIC"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "damaged"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture"),
        (b"8BPS\0\x01" + b"\0" * 60, "not a picture"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_said_in_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(Unusable, match=sentence):
        examine(data)


@pytest.mark.parametrize(
    ("width", "height"), [(10_001, 10_000), (65_000, 65_000), (2**31 - 1, 2**31 - 1), (40_000, 10)]
)
def test_a_bomb_is_judged_by_its_header(width: int, height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Unusable, match="too many pixels"):
            examine(png(width, height))


def test_a_file_that_is_too_large_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer_bridge import limits

    monkeypatch.setattr(limits, "MAX_PICTURE_BYTES", 1000)
    with pytest.raises(Unusable, match="larger than"):
        examine(saved(gradient()) + b"\0" * 1000)


def test_a_text_bomb_is_not_unpacked() -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 20_000_000))
    rows = (b"\0" + b"\0" * 192) * 64
    with pytest.raises(Unusable, match="text"):
        examine(png(64, 64, text, rows=rows))


def test_colours_that_nothing_here_converts_are_said() -> None:
    with pytest.raises(Unusable, match="LAB"):
        examine(saved(Image.new("LAB", (64, 64)), "TIFF"))


def test_generation_parameters_are_kept() -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "1girl, smile\nSteps: 20")
    assert examine(saved(gradient(), pnginfo=info)).parameters == "1girl, smile\nSteps: 20"


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA"])
def test_rarer_kinds_of_alpha_are_known(mode: str) -> None:
    assert pixel(to_rgb(Image.new(mode, (64, 64))), 0, 0) == (255, 255, 255)


def test_video_colours_are_known() -> None:
    difference = np.asarray(to_rgb(gradient("YCbCr")), int) - np.asarray(gradient(), int)
    assert np.abs(difference).max() <= 3


def test_rotated_palette_file_from_disk_keeps_its_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    path.write_bytes(saved(gradient("P"), exif=exif))
    assert (examine(path.read_bytes()).width, upright_rgb(path.read_bytes()).width) == (80, 80)
