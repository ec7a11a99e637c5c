"""Captions: cleaning what comes from files, and the random variants that a run trains on.

A caption is a list of tags between commas. The order of work is sd-scripts': caption dropout, then shuffling of
all but the first `keep_tokens` tags, then tag dropout; the trigger word is put first by us and never moves.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from ..counter import number, permutation, uniform
from ..fields import Value
from ..limits import MAX_CAPTION_CHARS

SEPARATOR = ", "

#: Text features of all variants of all pictures stay below this, at 77 tokens x 768 numbers of 4 bytes each.
MAX_FEATURE_BYTES = 256 * 1024 * 1024
FEATURE_BYTES = 77 * 768 * 4
#: Beyond this many orders of the same tags a run gains nothing, and each costs a pass of the text encoder.
MAX_VARIANTS = 16


def variant(caption: str, trigger: str, settings: Mapping[str, Value], *, seed: int, picture: str, variant: int) -> str:
    """Return one of the captions that a picture is trained with.

    Args:
        picture: hash of the picture; pictures shuffle independently of each other.
        variant: from 0 to :func:`variants_per_picture` - 1. Where captions are dropped at all, variant 0 is the
            empty caption: the share of draws that take it is decided by :func:`draw_variant`, so that it is right
            however few variants there are.
    """
    if variant == 0 and float(settings["caption_dropout_rate"]) > 0.0:
        return ""
    tags = with_trigger(split(caption), trigger)
    kept = max(int(settings["keep_tokens"]), 1 if trigger else 0)
    head, tail = tags[:kept], tags[kept:]
    keys = (seed, "caption", picture, variant)
    if settings["shuffle_caption"]:
        tail = [tail[place] for place in permutation(len(tail), *keys)]
    rate = float(settings["caption_tag_dropout_rate"])
    if rate > 0.0:
        tail = [tag for place, tag in enumerate(tail) if uniform(*keys, "tag", place) >= rate]
    return SEPARATOR.join(head + tail)


def variants_per_picture(settings: Mapping[str, Value], count: int) -> int:
    """Return how many captions each of `count` pictures is trained with, the empty one included.

    1 where nothing is random. The number is bounded by what a run can draw and by the memory that keeping all
    text features costs (:data:`MAX_FEATURE_BYTES`; the empty caption is the same for all and costs nothing).
    """
    rate = float(settings["caption_dropout_rate"])
    if rate >= 1.0:
        return 1
    return _arrangements(settings, max(1, count)) + (1 if rate > 0.0 else 0)


def draw_variant(settings: Mapping[str, Value], count: int, *keys: int | str) -> int:
    """Return the variant that one draw is trained with, decided by `keys` alone.

    Args:
        count: number of pictures, as for :func:`variants_per_picture`.
    """
    rate = float(settings["caption_dropout_rate"])
    if rate > 0.0 and uniform(*keys, "caption dropout") < rate:
        return 0
    first = 1 if rate > 0.0 else 0
    return first + number(*keys, "variant") % _arrangements(settings, max(1, count))


def _arrangements(settings: Mapping[str, Value], count: int) -> int:
    if not settings["shuffle_caption"] and float(settings["caption_tag_dropout_rate"]) == 0.0:
        return 1
    batch = int(settings["train_batch_size"]) * int(settings["gradient_accumulation_steps"])
    draws = -(-int(settings["max_train_steps"]) * batch // count)
    return max(1, min(MAX_VARIANTS, draws, MAX_FEATURE_BYTES // FEATURE_BYTES // count))


def split(caption: str) -> list[str]:
    """Return the tags of a caption without blanks around them and without empty ones."""
    return [tag for tag in (part.strip() for part in caption.split(",")) if tag]


def with_trigger(tags: list[str], trigger: str) -> list[str]:
    """Return `tags` with the trigger first, once: a caption that begins with it, alone or in a sentence, has it.

    Text encoders lower the case, so a trigger in other letters is the same word and takes the trigger's spelling.
    """
    if not trigger:
        return tags
    folded = trigger.casefold()
    if tags and tags[0].startswith(trigger) and not tags[0][len(trigger) : len(trigger) + 1].isalnum():
        return tags
    for place, tag in enumerate(tags):
        if tag.casefold() == folded:
            return [trigger, *tags[:place], *tags[place + 1 :]]
    return [trigger, *tags]


def clean(text: str) -> str:
    """Return the text of a caption file as one line: line breaks become commas, control characters go.

    The result has at most :data:`MAX_CAPTION_CHARS` characters; a longer text is cut at a tag.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").splitlines()
    joined = SEPARATOR.join(line for line in (_plain(line).strip(" ,") for line in lines) if line)
    if len(joined) <= MAX_CAPTION_CHARS:
        return joined
    cut = joined[: MAX_CAPTION_CHARS + 1]
    return cut[: cut.rfind(",")].rstrip(" ,") if "," in cut else cut[:MAX_CAPTION_CHARS].rstrip()


def _plain(line: str) -> str:
    """Drop what no text encoder reads and what could garble a terminal; emoji keep the joiner inside them."""
    kept = (" " if char.isspace() else char for char in line)
    return "".join(char for char in kept if unicodedata.category(char) not in _UNREADABLE or char in _JOINERS)


#: Unicode categories: control, format (direction marks, byte-order mark), surrogate.
_UNREADABLE = frozenset({"Cc", "Cf", "Cs"})
_JOINERS = "\u200c\u200d"
