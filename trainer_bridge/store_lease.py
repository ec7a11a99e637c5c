"""The lease: which process supervises the runs of a data root. One at a time.

The holder renews its heartbeat. The lease is taken over when the holder's process is dead, or has been silent
for longer than :data:`SILENT_SECONDS`, as a suspended one is.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from dataclasses import dataclass, field

from . import platform
from .platform import Process

SILENT_SECONDS = 20.0


class LeaseLost(Exception):
    """Another process supervises now: this one may only watch."""


@dataclass(frozen=True)
class Claim:
    """Who asks for the lease; the token tells two of one process apart."""

    process: Process = field(default_factory=platform.myself)
    token: str = field(default_factory=lambda: secrets.token_hex(8))


def take(connection: sqlite3.Connection, claim: Claim) -> bool:
    """Take or renew the lease, inside the caller's transaction; False when a living process holds it."""
    row = connection.execute("SELECT token, pid, start, heartbeat FROM lease").fetchone()
    now = time.time()
    if row is not None and row["token"] != claim.token:
        # A heartbeat from the future says that the clock was set back: it tells nothing.
        silent = not -SILENT_SECONDS <= now - row["heartbeat"] <= SILENT_SECONDS
        if not silent and platform.alive(Process(row["pid"], row["start"])):
            return False
    connection.execute(
        "INSERT OR REPLACE INTO lease (one, token, pid, start, heartbeat) VALUES (1, ?, ?, ?, ?)",
        (claim.token, claim.process.pid, claim.process.start, now),
    )
    return True


def give_back(connection: sqlite3.Connection, claim: Claim) -> None:
    """Give the lease back, if it is still this one's."""
    connection.execute("DELETE FROM lease WHERE token = ?", (claim.token,))


def require(connection: sqlite3.Connection, claim: Claim) -> None:
    """Make sure, inside the caller's transaction, that the lease is still this one's.

    Raises:
        LeaseLost: it is not.
    """
    row = connection.execute("SELECT token FROM lease").fetchone()
    if row is None or row["token"] != claim.token:
        raise LeaseLost
