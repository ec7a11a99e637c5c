"""The run in one sentence, as it stands before the button."""

from __future__ import annotations

from collections.abc import Mapping

from .checkpoint import Checkpoint
from .estimate import Estimate
from .families import FAMILIES
from .fields import Value

_GB = 1 << 30


def of(base: Checkpoint, type_: str, pictures: int, values: Mapping[str, Value], cost: Estimate | None) -> str:
    """Return e.g. SD1.5 character, 24 pictures, 1 920 steps at 512 px: about 11 minutes, 5.2 of 12 GB."""
    family = FAMILIES.get(base.family or "")
    what = f"{family.short if family else base.title} {type_}"
    shown = "1 picture" if pictures == 1 else f"{number(pictures)} pictures"
    steps = int(values["max_train_steps"])
    length = "1 step" if steps == 1 else f"{number(steps)} steps"
    head = f"{what}, {shown}, {length} at {values['resolution']} px: "
    if cost is None:
        return head.removesuffix(": ") + "."
    time = "the time is known after the first minute" if cost.seconds is None else f"about {duration(cost.seconds)}"
    if cost.available is None:
        return f"{head}{time}, about {gigabytes(cost.memory)} GB."
    memory = f"{gigabytes(cost.memory)} of {round(cost.available / _GB)} GB"
    return f"{head}{time}, {memory}{'' if cost.fits else ', which will probably not fit'}."


def number(value: int) -> str:
    """Return a whole number with blanks between the thousands."""
    return f"{value:,}".replace(",", " ")


def gigabytes(value: float) -> str:
    """Return bytes as gigabytes with one decimal, without it from 100 on."""
    size = value / _GB
    return f"{size:.1f}" if size < 99.95 else number(round(size))


def duration(seconds: float) -> str:
    """Return a length of time in the words that one would use: seconds, minutes, hours and minutes, days."""
    if seconds < 90:
        return _counted(max(10, round(seconds / 10) * 10), "second")
    minutes = round(seconds / 60)
    if minutes < 60:
        return _counted(minutes, "minute")
    hours, rest = divmod(round(minutes / 5) * 5, 60)
    if hours < 10:
        return _counted(hours, "hour") + (f" {_counted(rest, 'minute')}" if rest else "")
    if hours < 48:
        return _counted(round(minutes / 60), "hour")
    return _counted(round(minutes / 60 / 24), "day")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{number(count)} {noun}s"
