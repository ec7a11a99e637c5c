"""Watches the loss: stops a run that has broken, and never one that is merely noisy.

The loss of a single step says little: it depends on the timestep far more than on what was learnt. So averages are
judged, against two bounds. *Worse than nothing*: over twenty steps the loss averages more than what drawing nothing
at all would have cost for the same pictures, noise and timesteps. A burnt run ends there, and no sound base is ever so
bad; one that was no better to begin with is measured against its own start. *Diverging*: the average over about fifty
steps stays above three times the best that it had, for thirty steps on end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_WINDOW = 50
_RECENT = 20
_NOTHING = 1.05
#: A base whose first loss is below this multiple of what nothing costs knows something.
_SOUND = 0.9
_WORSE = 2.0
_DIVERGED = 3.0
_PATIENCE = 30
_CALM = 2.0


@dataclass
class Judge:
    """The running averages, which are part of the resume state.

    Attributes:
        steps: losses seen.
        average: exponential average over about fifty steps, started as a plain one.
        best: lowest average after fifty steps; None before.
        bad: steps on end that the average was too high.
        first: the first loss, which is the base's own, as a multiple of what nothing would have cost.
        recent: the last twenty losses as such multiples.
    """

    steps: int = 0
    average: float = 0.0
    best: float | None = None
    bad: int = 0
    first: float = 0.0
    recent: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Judge:
        """Make one from what :meth:`to_json` returned."""
        return cls(**data)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def see(self, loss: float, nothing: float) -> str | None:
        """Take the loss of a step; return `nan` or `diverged` when the run has broken.

        Args:
            nothing: the loss that a prediction of zeros would have had.
        """
        if not math.isfinite(loss):
            return "nan"
        self.steps += 1
        self.average += (loss - self.average) / min(self.steps, _WINDOW)
        multiple = loss / max(nothing, 1e-12)
        self.recent = [*self.recent[1 - _RECENT :], multiple]
        if self.steps == 1:
            self.first = multiple
        if self.steps >= _WINDOW:
            self.best = self.average if self.best is None else min(self.best, self.average)
            self.bad = self.bad + 1 if self.average > _DIVERGED * self.best else 0
        bound = _NOTHING if self.first < _SOUND else _WORSE * max(1.0, self.first)
        worse = len(self.recent) == _RECENT and sum(self.recent) / _RECENT > bound
        return "diverged" if worse or self.bad >= _PATIENCE else None

    @property
    def calm(self) -> bool:
        """Whether what is saved now is worth going back to."""
        return self.best is None or self.average <= _CALM * self.best
