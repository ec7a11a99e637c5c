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
