"""What counts as learned and as kept, in numbers.

The pictures are compared in a feature space: each picture is a vector, a set of pictures the mean of its vectors.
*Learned*: with the LoRA, the pictures drawn for the trigger lie much nearer to pictures of the subject that were
held back from the training. *Kept*: pictures for other captions change much less than a new seed changes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating[Any]]

#: At most this share of the first distance may be left once the LoRA is on.
LEARNED_AT_MOST = 0.6
#: Other captions' pictures may change at most this share of what a new seed changes.
KEPT_AT_MOST = 0.6


@dataclass(frozen=True)
class Learned:
    """How far the pictures for the trigger lie from the held-back ones; the unit is the feature space's.

    Attributes:
        before: without the LoRA.
        after: with it at weight 1.
        at_08: with it at weight 0.8.
    """

    before: float
    after: float
    at_08: float

    @property
    def ratio(self) -> float:
        return self.after / self.before if self.before > 0 else 1.0

    @property
    def passed(self) -> bool:
        return self.ratio <= LEARNED_AT_MOST


@dataclass(frozen=True)
class Kept:
    """How far pictures for captions without the trigger move, against what another seed does to them.

    Attributes:
        change: mean distance between the pictures with and without the LoRA at the same seed.
        seed_change: mean distance between two seeds without the LoRA.
        required: whether the subject is of a kind that must leave other captions alone.
    """

    change: float
    seed_change: float
    required: bool

    @property
    def ratio(self) -> float:
        return self.change / self.seed_change if self.seed_change > 0 else 1.0

    @property
    def passed(self) -> bool:
        return not self.required or self.ratio <= KEPT_AT_MOST


def measure_learned(held_back: Features, before: Features, after: Features, at_08: Features) -> Learned:
    """Compare sets of feature vectors, each [pictures, features]."""
    target = held_back.mean(axis=0)

    def distance(features: Features) -> float:
        return float(np.linalg.norm(features.mean(axis=0) - target))

    return Learned(before=distance(before), after=distance(after), at_08=distance(at_08))


def measure_kept(base: Features, with_lora: Features, other_seed: Features, *, required: bool) -> Kept:
    """Compare picture by picture; row i of each array [pictures, features] belongs to the same caption."""
    change = np.linalg.norm(with_lora - base, axis=1).mean()
    seed_change = np.linalg.norm(other_seed - base, axis=1).mean()
    return Kept(change=float(change), seed_change=float(seed_change), required=required)


def as_json(learned: Learned, kept: Kept) -> Mapping[str, Any]:
    """Return both with their ratios and verdicts, ready for a report."""
    return {
        "learned": {
            **asdict(learned),
            "ratio": learned.ratio,
            "at_most": LEARNED_AT_MOST,
            "passed": learned.passed,
        },
        "kept": {**asdict(kept), "ratio": kept.ratio, "at_most": KEPT_AT_MOST, "passed": kept.passed},
    }


def verdict(name: str, learned: Learned, kept: Kept) -> Sequence[str]:
    """Say in sentences what was found."""
    lines = [
        f"{name}: with the LoRA the pictures lie {learned.ratio:.2f} of the first distance from the subject"
        f" ({learned.before:.1f} before, {learned.after:.1f} after, {learned.at_08:.1f} at weight 0.8;"
        f" at most {LEARNED_AT_MOST} counts as learned): {'learned' if learned.passed else 'NOT learned'}."
    ]
    shift = f"{name}: other captions change {kept.ratio:.2f} of what a new seed changes"
    if kept.required:
        lines.append(f"{shift} (at most {KEPT_AT_MOST} counts as kept): {'kept' if kept.passed else 'NOT kept'}.")
    else:
        lines.append(f"{shift}; a style may shift them, so this is reported only.")
    return lines
