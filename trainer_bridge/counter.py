"""Chance as a function of where we are, not of what was drawn before.

Every random decision of a run is a pure function of (seed, purpose, step, sample): a run that was killed and
resumed decides the same as one that never stopped, whatever happened in between.
"""

from __future__ import annotations

import hashlib

Key = int | str


def number(*keys: Key) -> int:
    """Return an integer in [0, 2**63) that `keys` alone decide, evenly spread (BLAKE2b)."""
    text = "\x1f".join(f"{type(key).__name__[0]}{key}" for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def uniform(*keys: Key) -> float:
    """Return a number in [0, 1) that `keys` alone decide."""
    return (number(*keys) >> 10) / float(1 << 53)


def below(bound: int, *keys: Key) -> int:
    """Return an integer in [0, bound)."""
    return number(*keys) % bound


def permutation(count: int, *keys: Key) -> list[int]:
    """Return the numbers 0 .. count-1 in an order that `keys` alone decide."""
    return sorted(range(count), key=lambda index: (number(*keys, index), index))


#: Halves are exchanged this often: enough that the orders of small counts come nearly equally often.
_ROUNDS = 10


def shuffled(place: int, count: int, *keys: Key) -> int:
    """Return the element at `place` of an order of 0 .. count-1 that `keys` alone decide, without listing the order.

    A Feistel network over the next power of four, walked until it lands below `count` (format-preserving
    encryption), so any element of a very long order costs the same few hashes.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (number(*keys, turn, right) & mask)
        place = left << half | right
        if place < count:
            return place
