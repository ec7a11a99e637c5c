"""What a setting is: its name, its kind, its bounds, and the words that explain it."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from typing import Literal

from .errors import UserError

Value = int | float | bool | str
Kind = Literal["int", "float", "bool", "choice"]


@dataclass(frozen=True)
class Field:
    """One setting.

    Attributes:
        name: key in job files, `--set` and presets.
        kind: type of the value; a `choice` is one of `choices`.
        default: value when neither preset nor user says otherwise.
        group: key of :data:`GROUPS`.
        label: what the page calls it.
        help: one sentence: what a larger or smaller value does.
        minimum, maximum: inclusive bounds of a number.
        choices: the allowed values of a choice, as text.
        sd_scripts: whether sd-scripts has an argument of this name and meaning.
    """

    name: str
    kind: Kind
    default: Value
    group: str
    label: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    sd_scripts: bool = True

    def check(self, value: object) -> Value:
        """Return `value` as this field's type.

        Raises:
            UserError: wrong type, not finite, or outside the bounds; the sentence names the field and the
            bounds.
        """
        if self.kind == "bool":
            return self._bool(value)
        if self.kind == "choice":
            if isinstance(value, str) and value in self.choices:
                return value
            raise self._refuse(value, self.allowed())
        return self._number(value)

    def parse(self, text: str) -> Value:
        """Read the value from the text of a command line.

        Raises:
            UserError: as :meth:`check`.
        """
        text = text.strip()
        if self.kind == "bool":
            words = {
                "true": True,
                "1": True,
                "yes": True,
                "on": True,
                "false": False,
                "0": False,
                "no": False,
                "off": False,
            }
            return self._bool(words.get(text.lower(), text))
        if self.kind == "choice":
            return self.check(text)
        if len(text) > 40:
            raise self._refuse(text[:40] + "...", self.allowed())
        try:
            number = int(text) if self.kind == "int" else float(text)
        except ValueError:
            raise self._refuse(text, self.allowed()) from None
        return self._number(number)

    def allowed(self) -> str:
        """Say in words which values are allowed."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        noun = "a whole number" if self.kind == "int" else "a number"
        return f"{noun} from {self.minimum:g} to {self.maximum:g}"

    def _bool(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise self._refuse(value, self.allowed())

    def _number(self, value: object) -> Value:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._refuse(value, self.allowed())
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refuse(value, self.allowed())
        assert self.minimum is not None and self.maximum is not None, self.name
        if not self.minimum <= value <= self.maximum:
            raise self._refuse(value, self.allowed())
        if self.kind == "int":
            if isinstance(value, float) and not value.is_integer():
                raise self._refuse(value, self.allowed())
            return int(value)
        return float(value)

    def _refuse(self, value: object, allowed: str) -> UserError:
        return UserError(f"The setting {self.name} cannot be {_shown(value)}.", f"It takes {allowed}.")


def _shown(value: object) -> str:
    """Return `value` as a message may hold it: Python refuses to write out an int of thousands of digits."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    return reprlib.repr(value)
