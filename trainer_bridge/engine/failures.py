"""What becomes of an error that ends a run: a sentence, a kind, an exit code. The traceback stays in the
log.
"""

from __future__ import annotations

import errno
import re
import sys
import traceback
from dataclasses import dataclass

from ..errors import EXIT_FAILED, AtelierError, UserError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC})
_FULL_WORDS = re.compile(r"no space left|disk quota|os error (28|122|112)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """How a run failed.

    Attributes:
        what, way_out: sentences.
        kind: `input`, `disk`, `memory`, `nan`, `diverged`, `failed` or `fault`.
        exit_code: of the process.
    """

    what: str
    way_out: str
    kind: str
    exit_code: int = EXIT_FAILED


class Broken(AtelierError):
    """The training itself went wrong.

    Args:
        kind: `nan` or `diverged`.
    """

    def __init__(self, kind: str, what: str, way_out: str) -> None:
        super().__init__(what, way_out)
        self.kind = kind


def failure_of(error: BaseException, log: str) -> Failure:
    """Tell an error in a user's words; what is a bug keeps its traceback on standard error.

    Args:
        log: where standard error goes, in words.
    """
    if isinstance(error, UserError):
        return Failure(error.what, error.way_out, "input", error.exit_code)
    if isinstance(error, Broken):
        return Failure(error.what, error.way_out, error.kind)
    if isinstance(error, AtelierError):
        return Failure(error.what, error.way_out, "failed", error.exit_code)
    traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
    if _is_full_disk(error):
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        return Failure(
            f"The disk is full{where}.",
            "Free some space and resume: the training goes on from its last state.",
            "disk",
        )
    if _is_out_of_memory(error):
        return Failure(
            "The memory does not suffice, even with the lightest plan.",
            "Close other programs, or choose a smaller resolution or rank.",
            "memory",
        )
    if isinstance(error, OSError):
        return Failure(f"A file cannot be used: {error}.", "Check the folder and its rights, then resume.", "disk")
    return Failure(
        f"A fault in the trainer ({type(error).__name__}).",
        f"The traceback is in {log}; please report it.",
        "fault",
    )


def _is_full_disk(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return type(error).__name__ == "SafetensorError" and _FULL_WORDS.search(str(error)) is not None


def _is_out_of_memory(error: BaseException) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from .device import is_out_of_memory

    return is_out_of_memory(error)
