"""One picture file: is it whole, how large is it, and its pixels as plain upright RGB.

Files come from anywhere. Only formats that are decoded in bounded memory are opened at all (never those that call
other programs), sizes are judged by the header before anything is decoded, and every decoder error becomes a
sentence.
"""

from __future__ import annotations

import importlib
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from .. import limits
from . import modes

#: Formats that are opened, by Pillow's names; those that this Pillow lacks are told apart in :func:`formats`.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "HEIF", "JXL")
_PLUGINS = ("Png", "Jpeg", "WebP", "Bmp", "Gif", "Tiff", "Ppm", "Avif", "Mpo")

_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}
#: Pictures above this are decoded one at a time, however many threads decode.
_BIG_PIXELS = 25_000_000
_one_big = threading.Lock()
_ORIENTATION = 0x0112
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"II*\0", b"MM\0*", b"BM")
_TILE_WIDTH, _TILE_LENGTH = 322, 323


class Unusable(Exception):
    """A file that cannot be trained on; the message is a sentence that says why."""


@dataclass(frozen=True)
class Facts:
    """What an examined picture is.

    Attributes:
        width, height: px, after the EXIF rotation.
        notes: sentences about what is converted when it is trained.
        parameters: text that WebUIs write into the pictures that they draw; empty if there is none.
    """

    width: int
    height: int
    notes: tuple[str, ...]
    parameters: str = ""


def examine(data: bytes) -> Facts:
    """Decode a picture once and tell what it is.

    Raises:
        Unusable: it is damaged, too large, or no picture.
    """
    with guarded(), _open(data) as image, _one_big if _area(image) > _BIG_PIXELS else nullcontext():
        frames = _is_animation(data, image)
        _check_whole(data, image)
        _load(image)
        width, height = image.size
        turn = _turn(image)
        if turn and turn[0] not in (_TURNS[2][0], _TURNS[3][0], _TURNS[4][0]):
            width, height = height, width
        notes = _notes(image, bool(turn), frames)
        return Facts(width, height, notes, _parameters(image))


def upright_rgb(data: bytes, flatten: str | None = None) -> Image.Image:
    """Return the picture's pixels: first frame, EXIF rotation applied, mode RGB.

    Args:
        flatten: colour behind transparent parts, `#rrggbb`; white if None.

    Raises:
        Unusable: as :func:`examine`.
    """
    with guarded(), _open(data) as image:
        _load(image)
        turn = _turn(image)
        rgb = modes.to_rgb(image, flatten)
    for method in turn:
        rgb = rgb.transpose(method)
    return rgb


class _Strict:
    """Decoding as we want it, whatever the program around set: counted, since it is global and threads share it."""

    lock = threading.Lock()
    users = 0
    before = False
    warned = warnings.catch_warnings()


@contextmanager
def guarded() -> Iterator[None]:
    """Decode strictly: files that are cut off are errors, big ones are judged by us, and no warnings are printed."""
    with _Strict.lock:
        if _Strict.users == 0:
            _Strict.before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            _Strict.warned = warnings.catch_warnings()
            _Strict.warned.__enter__()
            warnings.simplefilter("ignore")
        _Strict.users += 1
    try:
        yield
    finally:
        with _Strict.lock:
            _Strict.users -= 1
            if _Strict.users == 0:
                _Strict.warned.__exit__(None, None, None)
                ImageFile.LOAD_TRUNCATED_IMAGES = _Strict.before


def formats() -> tuple[str, ...]:
    """Return the names of the formats that this Pillow opens, of those that we allow."""
    Image.preinit()
    for plugin in _PLUGINS:
        try:
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
        except ImportError:
            continue  # older than the format: its files are reported as unreadable
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise Unusable("The file is empty.")
    if len(data) > limits.MAX_PICTURE_BYTES:
        raise Unusable(f"It is larger than {limits.MAX_PICTURE_BYTES // 2**20} MB.")
    try:
        image = Image.open(io.BytesIO(data), formats=formats())
    except UnidentifiedImageError:
        raise Unusable(_what_else(data)) from None
    except Image.DecompressionBombError:
        raise Unusable(_too_large()) from None
    except Exception as error:
        raise Unusable(_damaged(error)) from error
    width, height = image.size
    if _area(image) < 1:
        raise Unusable("It has no pixels.")
    if _area(image) > limits.MAX_PICTURE_PIXELS or max(width, height) > limits.MAX_PICTURE_SIDE:
        raise Unusable(_too_large(f" ({width} x {height} px)"))
    if image.mode not in modes.KNOWN:
        raise Unusable(f"Its colours are stored in a way that cannot be read ({image.mode}): save it as PNG.")
    return image


def _area(image: Image.Image) -> int:
    return image.size[0] * image.size[1]


def _load(image: Image.Image) -> None:
    tags = getattr(image, "tag_v2", {})
    try:
        tile = int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))
        if tile > max(limits.MAX_PICTURE_PIXELS // 4, 4 * _area(image)):
            raise Unusable("Its parts are larger than the picture: it is damaged.")
        image.load()
    except Unusable:
        raise
    except Image.DecompressionBombError:
        raise Unusable(_too_large()) from None
    except Exception as error:
        raise Unusable(_damaged(error)) from error


def _check_whole(data: bytes, image: Image.Image) -> None:
    """Check what decoding passes over: the checksums of a PNG, which tell a picture that rotted on its disk."""
    if not isinstance(image, PngImagePlugin.PngImageFile):
        return
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as second:
            second.verify()
    except Exception as error:
        raise Unusable(_damaged(error)) from error


def _is_animation(data: bytes, image: Image.Image) -> bool:
    """Say whether there are more frames or pages. A photograph's second view (MPO) is no animation."""
    if image.format == "MPO":
        return False
    if image.format not in ("GIF", "TIFF"):
        return bool(getattr(image, "is_animated", False))
    try:  # these look for the second frame, which moves the picture: another one is asked
        with Image.open(io.BytesIO(data), formats=(str(image.format),)) as second:
            return bool(getattr(second, "is_animated", False))
    except Exception:  # noqa: BLE001 - broken later frames do not matter to the first
        return False


def _turn(image: Image.Image) -> tuple[Image.Transpose, ...]:
    """Return the transposition that EXIF asks for. Pillow turns TIFF itself while it loads."""
    if image.format == "TIFF":
        return ()
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - damaged EXIF data says nothing about the pixels
        return ()
    return _TURNS.get(orientation, ()) if isinstance(orientation, int) else ()


def _notes(image: Image.Image, turned: bool, animated: bool) -> tuple[str, ...]:
    notes = []
    if animated:
        notes.append("Only its first frame is used." if image.format != "TIFF" else "Only its first page is used.")
    if turned:
        notes.append("It is turned as its EXIF data says.")
    if image.mode in modes.DEEP:
        notes.append("Its grey values are reduced to 8 bits.")
    elif image.mode in ("CMYK", "YCbCr"):
        notes.append(f"It is converted from {image.mode} to RGB.")
    elif modes.is_transparent(image):
        notes.append("Its transparent parts are filled.")
    if min(image.size) < 64:
        notes.append(f"It is very small ({image.size[0]} x {image.size[1]} px).")
    return tuple(notes)


def _parameters(image: Image.Image) -> str:
    text = image.info.get("parameters")
    return text[: limits.MAX_CAPTION_BYTES] if isinstance(text, str) else ""


def _too_large(size: str = "") -> str:
    return (
        f"It has too many pixels{size}: at most {limits.MAX_PICTURE_PIXELS // 1_000_000} megapixels"
        f" and {limits.MAX_PICTURE_SIDE} px a side are read."
    )


def _damaged(error: Exception) -> str:
    text = str(error).lower()
    if "truncated" in text or isinstance(error, EOFError):
        return "It is cut off: its end is missing."
    if "decompressed data too large" in text or "text chunks" in text:
        return "The text or colour profile stored in it is too large: save it again without metadata."
    if isinstance(error, MemoryError):
        return "There is not enough memory to decode it."
    return "It is damaged and cannot be decoded."


def _what_else(data: bytes) -> str:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if head.startswith((b"<svg", b"<?xml")) and b"<svg" in head:
        return "It is an SVG drawing, which has no pixels: export it as PNG."
    if data.startswith(_SIGNATURES):
        return "It is damaged and cannot be decoded."
    if data[4:12].startswith(b"ftyp") or data[:12].startswith(
        (b"\x00\x00\x00\x0cJXL ", b"\xff\x0a", b"\x00\x00\x00\x0cjP")
    ):
        return "Its format (HEIC, AVIF, JPEG XL or JPEG 2000) cannot be read here: save it as PNG or JPEG."
    return "It is not a picture that can be read: save it as PNG, JPEG or WebP."
