"""What may go wrong, told in the user's words, and the exit codes that the command line answers with."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_INPUT = 2
EXIT_STOPPED = 3
EXIT_FAILED = 4


class AtelierError(Exception):
    """Base of every error that is shown to a user: what happened, and what to do next.

    Args:
        what: one sentence: what happened and why.
        way_out: one sentence: what the user can do next.
    """

    exit_code = EXIT_FAILED

    def __init__(self, what: str, way_out: str = "") -> None:
        super().__init__(what, way_out)
        self.what = what
        self.way_out = way_out

    def __str__(self) -> str:
        return f"{self.what} {self.way_out}".strip()


class UserError(AtelierError):
    """The input cannot be used as it is: nothing was changed, and a corrected call will go through."""

    exit_code = EXIT_INPUT


class RunFailed(AtelierError):
    """A run that had begun cannot go on: what it made so far is kept."""

    exit_code = EXIT_FAILED


class RunStopped(AtelierError):
    """A run ended early because somebody asked for it."""

    exit_code = EXIT_STOPPED
