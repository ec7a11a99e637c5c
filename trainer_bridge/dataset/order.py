"""Which pictures make up which batch, as a function of the place in the run alone.

Nothing is drawn in advance and nothing is remembered: a resumed run asks for the batch that it stopped at and gets
the one that the uninterrupted run would have seen.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from ..counter import shuffled, uniform
from ..fields import Value
from .buckets import Bucket, Size
from .captions import draw_variant


@dataclass(frozen=True)
class Draw:
    """One picture of a batch.

    Attributes:
        index: which picture, as numbered in the manifest.
        flip: whether it is mirrored.
        variant: which of its captions, see :func:`trainer_bridge.dataset.captions.variant`.
    """

    index: int
    flip: bool
    variant: int


class Order:
    """The batches of a run.

    In an epoch each picture is shown `num_repeats` times, in as many rounds that each show every picture of a
    bucket once. A batch never mixes buckets, so the last batch of a bucket may be smaller: an epoch has
    sum over buckets of ceil(pictures x repeats / batch size) batches.

    Batches are numbered through the run by micro step; with gradient accumulation a step takes as many in a row.
    An epoch whose batches do not divide evenly ends inside a step, and the next one begins there.

    Args:
        bucket_of: bucket of each picture.
        hashes: hash of each picture.
        settings: `seed`, `train_batch_size`, `num_repeats`, `flip_aug` and those of captions are read.

    Raises:
        ValueError: no picture, or not as many hashes as buckets: a bug of the caller.
    """

    def __init__(self, bucket_of: Sequence[Bucket], hashes: Sequence[str], settings: Mapping[str, Value]) -> None:
        if not hashes or len(hashes) != len(bucket_of):
            raise ValueError(f"{len(hashes)} pictures have {len(bucket_of)} buckets")
        self._hashes = tuple(hashes)
        self._settings = settings
        self._seed = int(settings["seed"])
        self._size = int(settings["train_batch_size"])
        self._repeats = int(settings["num_repeats"])
        members: dict[Size, list[int]] = {}
        for index, bucket in enumerate(bucket_of):
            members.setdefault(bucket.size, []).append(index)
        self._members = dict(sorted(members.items()))
        self._ends = list(accumulate(-(-len(m) * self._repeats // self._size) for m in self._members.values()))
        self.batches_per_epoch: int = self._ends[-1]
        self.steps_per_epoch: int = -(-self.batches_per_epoch // int(settings["gradient_accumulation_steps"]))

    def epoch(self, micro_step: int) -> int:
        """Return the epoch that a micro step belongs to, counted from 0."""
        return micro_step // self.batches_per_epoch

    def batch(self, micro_step: int) -> tuple[Draw, ...]:
        """Return the pictures of the batch with this number, counted from 0 through the whole run."""
        epoch, place = divmod(micro_step, self.batches_per_epoch)
        slot = shuffled(place, self.batches_per_epoch, self._seed, "batches", epoch)
        which = bisect_right(self._ends, slot)
        size, members = list(self._members.items())[which]
        first = (slot - (self._ends[which - 1] if which else 0)) * self._size
        last = min(first + self._size, len(members) * self._repeats)
        return tuple(self._draw(epoch, size, members, place) for place in range(first, last))

    def _draw(self, epoch: int, size: Size, members: list[int], place: int) -> Draw:
        """Return the picture at a place of its bucket's epoch: round by round, each shuffled anew."""
        turn, place = divmod(place, len(members))
        where = (self._seed, epoch, turn)
        index = members[shuffled(place, len(members), *where, "round", size.width, size.height)]
        keys = (*where, self._hashes[index])
        flip = bool(self._settings["flip_aug"]) and uniform(*keys, "flip") < 0.5
        return Draw(index, flip, draw_variant(self._settings, len(self._hashes), *keys))
