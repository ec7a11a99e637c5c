"""States of a run and the transitions that are legal.

::

    preparing --> queued --> running --> done
        |           |  ^      |  |  |
        |           |  |      |  |  +--> failed ------+
        |           |  |      |  +--> stopping --+    |
        |           |  |      |          |       |    |
        |           |  |      |          v       v    |
        |           |  |      |       stopped   done  |
        |           |  |      v          |            |
        |           |  |  interrupted    |            |
        |           |  +------+----------+------------+   (resume)
        |           +--> stopped
        +--> failed, stopped

A run is `preparing` while its pictures are read, `queued` until a trainer starts, `interrupted` when its
trainer died without a word (power, kill, crash): like `stopped` and `failed` it can be resumed. `done` is
final.
"""

from __future__ import annotations

import secrets
import threading
import time

PREPARING = "preparing"
QUEUED = "queued"
RUNNING = "running"
STOPPING = "stopping"
STOPPED = "stopped"
FAILED = "failed"
INTERRUPTED = "interrupted"
DONE = "done"

TRANSITIONS: dict[str, frozenset[str]] = {
    PREPARING: frozenset({QUEUED, FAILED, STOPPED}),
    QUEUED: frozenset({RUNNING, STOPPED, FAILED}),
    RUNNING: frozenset({STOPPING, STOPPED, DONE, FAILED, INTERRUPTED}),
    STOPPING: frozenset({STOPPED, DONE, FAILED, INTERRUPTED}),
    STOPPED: frozenset({QUEUED}),
    FAILED: frozenset({QUEUED}),
    INTERRUPTED: frozenset({QUEUED}),
    DONE: frozenset(),
}

ACTIVE = frozenset({PREPARING, QUEUED, RUNNING, STOPPING})
RESUMABLE = frozenset({STOPPED, FAILED, INTERRUPTED})


class IllegalTransition(ValueError):
    """A state cannot follow the other: a bug of the caller, never the user's fault."""


def check_transition(old: str, new: str) -> None:
    """Raise :class:`IllegalTransition` unless `new` may follow `old`."""
    if new not in TRANSITIONS.get(old, frozenset()):
        raise IllegalTransition(f"a run cannot go from {old} to {new}")


_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"


_lock = threading.Lock()
_latest = 0


def _next_millisecond() -> int:
    """Return the time, or one more than the last answer, so that ids made at once sort in the order of their making."""
    global _latest
    with _lock:
        _latest = max(int(time.time() * 1000), _latest + 1)
        return _latest


def new_id(now: float | None = None) -> str:
    """Return a short id that sorts by time and cannot be guessed: 9 digits of milliseconds, 7 of chance.

    The alphabet is Crockford's base 32 in lower case, so that ids are safe as file names everywhere.
    """
    milliseconds = _next_millisecond() if now is None else int(now * 1000)
    stamp = "".join(_DIGITS[(milliseconds >> shift) & 31] for shift in range(40, -1, -5))
    return stamp + "".join(secrets.choice(_DIGITS) for _ in range(7))


def is_id(text: str) -> bool:
    """Say whether `text` has the form of an id; anything else never becomes a path."""
    return len(text) == 16 and all(char in _DIGITS for char in text)
