"""Captions beside pictures: which text file belongs to a picture, and what its bytes say.

Nothing tells the encoding of such a file. Byte-order marks are believed first, then UTF-8, which hardly any other
text happens to be, then Shift-JIS if the result looks Japanese, GB 18030 if it looks Chinese, and Windows-1252,
in which everything is some text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import limits
from .captions import SEPARATOR, clean
from .files import printable, read_bounded
from .scan import CAPTION_ENDINGS

_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_NAMES = {"cp932": "Shift-JIS", "gb18030": "GB 18030", "cp1252": "Windows-1252"}


@dataclass(frozen=True)
class Caption:
    """A caption, where it came from (empty: nowhere), and sentences about how it was read."""

    text: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()


def read_caption(picture: Path, names: Mapping[str, str]) -> Caption:
    """Return the caption that stands beside a picture: `a.txt`, `a.caption`, `a.png.txt` or `a.png.caption`.

    Args:
        names: the files in the picture's folder, by name and by name in lower case (:class:`.scan.Found`); a file
            that is not among them is never opened.
    """
    for stem in (picture.stem, picture.name):
        for ending in CAPTION_ENDINGS:
            wanted = stem + ending
            name = names.get(wanted) or names.get(wanted.casefold())
            if name is not None:
                return _read(picture.with_name(name))
    return Caption()


def _read(path: Path) -> Caption:
    shown = printable(path.name)
    try:
        data = read_bounded(path, limits.MAX_CAPTION_BYTES)
    except OSError as error:
        why = error.strerror or "it is not an ordinary file"
        return Caption(notes=(f"Its caption {shown} cannot be read ({why}).",))
    text, encoding = decode(data[: limits.MAX_CAPTION_BYTES])
    cleaned = clean(text)
    notes = []
    if encoding in _NAMES:
        notes.append(f"Its caption {shown} is read as {_NAMES[encoding]}: save it as UTF-8 if it looks wrong.")
    if len(data) > limits.MAX_CAPTION_BYTES or len(text) > limits.MAX_CAPTION_CHARS:
        notes.append(f"Its caption {shown} is cut to {limits.MAX_CAPTION_CHARS:,} characters.")
    return Caption(cleaned, shown if cleaned else "", tuple(notes))


def decode(data: bytes) -> tuple[str, str]:
    """Return the text of a caption file and the encoding that it was read in. Any bytes are some text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace"), encoding
    wide = _wide(data)
    if wide:
        return data.decode(wide, "replace"), wide
    for encoding, plausible in _GUESSES:
        text = _whole(data, encoding)
        if text is not None and plausible(text):
            return text, encoding
    return data.decode("cp1252", "replace"), "cp1252"


def _wide(data: bytes) -> str:
    """Say which UTF-16 a text without a mark is: Latin letters and commas leave every other byte zero."""
    pairs = len(data) // 2
    high, low = data[1::2].count(0), data[::2].count(0)
    if max(high, low) * 10 < pairs or not pairs:
        return ""
    return "utf-16-le" if high > low else "utf-16-be"


def _whole(data: bytes, encoding: str) -> str | None:
    """Decode strictly; only a last character that the limit cut in two does not count against an encoding."""
    forgiven = 4 if len(data) >= limits.MAX_CAPTION_BYTES else 1
    for cut in range(forgiven):
        try:
            return data[: len(data) - cut].decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


#: One foreign character beside a Latin letter: so an accented letter and its neighbour look in an Asian encoding.
_STUCK = re.compile(r"[A-Za-z][^\x00-\x7f](?![^\x00-\x7f])|(?<![^\x00-\x7f])[^\x00-\x7f][a-z]")


def _looks_japanese(text: str) -> bool:
    """Tell Shift-JIS from what else passes for it: Latin accents become private characters, Chinese half-width kana."""
    foreign = [char for char in text if ord(char) > 127]
    if any(unicodedata.category(char) == "Co" for char in foreign):
        return False
    if sum("\uff61" <= char <= "\uff9f" for char in foreign) * 2 > len(foreign):
        return False
    return not _STUCK.search(text)


def _looks_chinese(text: str) -> bool:
    foreign = [char for char in text if ord(char) > 127]
    common = sum("\u4e00" <= char <= "\u9fff" or "\u3000" <= char <= "\u303f" for char in foreign)
    return common * 5 >= len(foreign) * 4 and not _STUCK.search(text)


_GUESSES: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("utf-8", lambda text: True),
    ("cp932", _looks_japanese),
    ("gb18030", _looks_chinese),
)


def from_parameters(text: str) -> Caption:
    """Return the prompt out of the generation parameters that WebUIs write into their pictures.

    The negative prompt, extra networks (`<lora:x:1>`), weights and brackets are no part of what is seen.
    """
    prompt = re.split(r"(?:^|\n)(?:Negative prompt:|Steps: \d)", text, maxsplit=1)[0]
    prompt = re.sub(r"<[^<>\n]{0,200}>", "", prompt[: limits.MAX_PROMPT_CHARS])
    prompt = re.sub(r"\b(?:BREAK|AND)\b", ",", prompt)
    prompt = re.sub(r"(?<!\\):-?[0-9.]+(?=\s*[)\]])", "", prompt)
    prompt = re.sub(r"(?<!\\)[()\[\]{}]", "", prompt).replace("\\(", "(").replace("\\)", ")")
    caption = clean(SEPARATOR.join(tag for tag in (part.strip() for part in prompt.split(",")) if tag))
    return Caption(caption, "generation parameters" if caption else "")
