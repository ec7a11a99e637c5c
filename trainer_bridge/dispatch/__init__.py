"""Ways to run a trainer. Each is one file, passes the same contract test, and stands in the list here."""

from __future__ import annotations

from .base import Dispatch, Ending
from .local import Local

#: Name -> how runs are dispatched.
DISPATCHES: dict[str, type[Dispatch]] = {Local.name: Local}

__all__ = ["DISPATCHES", "Dispatch", "Ending", "Local"]
