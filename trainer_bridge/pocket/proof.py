"""What counts as learned and as kept, in numbers.

*Learned*: with the LoRA, the pictures drawn for the trigger lie much nearer to pictures of the subject that were held
back from the training; compared are the means of the probe's features. *Kept*: pictures for other captions change much
less than a new seed changes them; compared are the pictures themselves, point by point, so that nothing that the probe
does not look at is missed. What the probe reads from them is reported beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating[Any]]
Pictures = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer[Any]]

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
        change: mean distance between the pictures with and without the LoRA at the same seed, in levels of 255.
        seed_change: the same between two seeds without the LoRA.
        same_labels: share of the attributes that the probe reads as before.
        required: whether the subject is of a kind that must leave other captions alone.
    """

    change: float
    seed_change: float
    same_labels: float
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


def measure_kept(pictures: Mapping[str, Pictures], labels: Mapping[str, Labels], *, required: bool) -> Kept:
    """Compare picture by picture; each set holds the same captions in the same order.

    Args:
        pictures: sets `other`, `other_after` and `other_seed`, each uint8 [pictures, H, W, 3].
        labels: sets `other` and `other_after`, classes that the probe reads, [pictures, attributes].
    """

    def distance(one: str, two: str) -> float:
        difference = pictures[one].astype(np.float64) - pictures[two].astype(np.float64)
        return float(np.sqrt((difference**2).mean(axis=(1, 2, 3))).mean())

    return Kept(
        change=distance("other_after", "other"),
        seed_change=distance("other_seed", "other"),
        same_labels=float((labels["other_after"] == labels["other"]).mean()),
        required=required,
    )


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
    shift = (
        f"{name}: other captions' pictures change {kept.ratio:.2f} of what a new seed changes,"
        f" and {kept.same_labels:.0%} of their attributes read as before"
    )
    if kept.required:
        lines.append(f"{shift} (at most {KEPT_AT_MOST} counts as kept): {'kept' if kept.passed else 'NOT kept'}.")
    else:
        lines.append(f"{shift}; a style may shift them, so this is reported only.")
    return lines
