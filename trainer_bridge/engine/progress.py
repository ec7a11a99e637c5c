"""Tells how far a run is: throttled, with an estimate that the last steps and samples correct."""

from __future__ import annotations

import statistics
import time
from collections import deque

from ..events import EventWriter

_EVERY = 0.2
_RECENT = 25


class Progress:
    """Writes a run's events and knows where it stands.

    Args:
        events: of the job.
        total: steps of the whole run.

    Attributes:
        step: optimiser steps done.
    """

    def __init__(self, events: EventWriter, total: int) -> None:
        self.events, self.total, self.step = events, total, 0
        self._durations: deque[float] = deque(maxlen=_RECENT)
        self._sample_seconds = 0.0
        self._phase, self._phase_at, self._step_at = "", 0.0, 0.0

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        """Tell what is being done; repeated calls within one phase are thinned out, its end is always told."""
        now = time.monotonic()
        if name == self._phase and done < total and now - self._phase_at < _EVERY:
            return
        self._phase, self._phase_at = name, now
        self.events.write("phase", name=name, done=done, total=total)

    def note(self, text: str) -> None:
        """Tell something that the user should know."""
        self.events.write("note", text=text)

    def sampled(self, seconds: float) -> None:
        """Note how long a round of samples took."""
        self._sample_seconds = seconds

    def stepped(
        self,
        place: tuple[int, int, int],
        loss: tuple[float, float],
        rate: float,
        seconds: float,
        memory: int,
        rounds: int,
    ) -> None:
        """Tell of a step.

        Args:
            place: steps done, epoch from 1, epochs.
            loss: of this step, and its running average.
            rate: learning rate.
            seconds: that the step took.
            memory: most bytes so far.
            rounds: of samples that are still to be drawn.
        """
        self.step, epoch, epochs = place
        self._durations.append(seconds)
        now = time.monotonic()
        if now - self._step_at < _EVERY and self.step not in (1, self.total):
            return
        self._step_at = now
        usual = statistics.median(self._durations)
        self.events.write(
            "step",
            step=self.step,
            total=self.total,
            epoch=epoch,
            epochs=epochs,
            loss=loss[0],
            loss_avg=loss[1],
            lr=rate,
            seconds_per_step=round(usual, 4),
            eta=round(usual * (self.total - self.step) + rounds * self._sample_seconds, 1),
            memory=memory,
        )
