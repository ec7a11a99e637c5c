"""`dataset.json` of a job: the pictures that it trains on, frozen.

::

    {"version": 1, "trigger": "ohwx",
     "pictures": [{"hash": "<sha256>", "path": "/.../pictures/<sha256>", "width": 832, "height": 1216,
                   "crop": [x, y, width, height] or null, "flatten": "#rrggbb" or null, "caption": "1girl, smile"}]}

Width, height and crop are in px of the picture after its EXIF rotation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .. import limits
from ..errors import UserError
from ..spec import check_trigger

VERSION = 1

_HASH = re.compile(r"[0-9a-f]{64}")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Picture:
    """One picture of a dataset.

    Attributes:
        hash: sha256 of the file's bytes, hexadecimal.
        path: the file itself, as it came.
        width, height: px after EXIF rotation, before the crop.
        crop: left, top, width, height of the part that is trained, in px after EXIF rotation; None for all.
        flatten: colour behind transparent parts, `#rrggbb`; None for white.
        caption: without the trigger, which is added when it is trained.

    Raises:
        UserError: a value of the wrong type or out of bounds.
    """

    hash: str
    path: str
    width: int
    height: int
    crop: tuple[int, int, int, int] | None = None
    flatten: str | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        _require(_is_text(self.hash, 64) and _HASH.fullmatch(self.hash), "a hash that is none")
        _require(_is_text(self.path, 4096) and self.path and "\0" not in self.path, "a path that is none")
        _require(_is_side(self.width) and _is_side(self.height), "a size that no picture has")
        _require(self.width * self.height <= limits.MAX_PICTURE_PIXELS, "a picture that is too large")
        _require(self.flatten is None or _is_text(self.flatten, 7) and _COLOUR.fullmatch(self.flatten), "no colour")
        _require(_is_text(self.caption, limits.MAX_CAPTION_CHARS), "a caption that is too long")
        if self.crop is not None:
            left, top, width, height = self.crop
            _require(all(type(value) is int for value in self.crop), "a crop that is not in px")
            _require(left >= 0 and top >= 0 and width >= 1 and height >= 1, "an empty crop")
            _require(left + width <= self.width and top + height <= self.height, "a crop outside its picture")

    @property
    def shown(self) -> tuple[int, int]:
        """Return width and height in px of the part that is trained."""
        return (self.width, self.height) if self.crop is None else self.crop[2:]


@dataclass(frozen=True)
class Manifest:
    """The pictures of a job, in the order of their numbers, and the trigger word that stands first in captions.

    Raises:
        UserError: more pictures than a dataset holds, none, or a trigger that cannot be one.
    """

    trigger: str
    pictures: tuple[Picture, ...]
    version: int = VERSION

    def __post_init__(self) -> None:
        check_trigger(self.trigger)
        _require(0 < len(self.pictures) <= limits.MAX_PICTURES, f"{len(self.pictures)} pictures")

    def to_json(self) -> str:
        """Return the text of `dataset.json`. It can be encoded as UTF-8 whatever the paths are made of."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=1, sort_keys=True)
        return _SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the text of a `dataset.json`.

        Raises:
            UserError: it is not one, or one of a newer version.
        """
        _require(len(text) <= limits.MAX_JSON_BYTES, "more text than a list of pictures has")
        try:
            data: Any = json.loads(text)
        except (ValueError, RecursionError):
            data = None
        _require(isinstance(data, dict), "no JSON object")
        if type(data.get("version")) is not int or data["version"] != VERSION:
            raise UserError(
                f"The list of pictures is of version {str(data.get('version'))[:20]}, not {VERSION}.",
                "Update Atelier, or start the training anew.",
            )
        pictures = data.get("pictures")
        _require(isinstance(pictures, list) and len(pictures) <= limits.MAX_PICTURES, "no list of pictures")
        return cls(trigger=data.get("trigger"), pictures=tuple(_picture(item) for item in pictures))


def _picture(item: object) -> Picture:
    _require(isinstance(item, Mapping), "a picture that is none")
    assert isinstance(item, Mapping)
    values = {name: item[name] for name in Picture.__dataclass_fields__ if name in item}
    crop = values.get("crop")
    if crop is not None:
        _require(isinstance(crop, list) and len(crop) == 4, "a crop that is none")
        values["crop"] = tuple(crop)
    try:
        return Picture(**values)
    except TypeError:
        raise _broken("a picture with a value missing") from None


def _is_text(value: object, length: int) -> bool:
    return isinstance(value, str) and len(value) <= length


def _is_side(value: object) -> bool:
    return type(value) is int and 1 <= value <= limits.MAX_PICTURE_SIDE


def _require(condition: object, found: str) -> None:
    if not condition:
        raise _broken(found)


def _broken(found: str) -> UserError:
    return UserError(f"The list of pictures is damaged: it holds {found}.", "Start the training anew.")
