"""Why a trainer ended without a word, read from the last lines of its log, where an error that ends it stands.

The traceback stays in the log: it is for whoever mends the program. The user gets a sentence and a way out.
"""

from __future__ import annotations

import re
from pathlib import Path

from .. import job
from .base import Ending

_TAIL = 64 * 1024
#: How many lines at the end are looked at: messages of the C++ parts of torch are followed by their own frames.
_LINES = 25
#: The same for an exception of Python, whose line is the last one or nearly so.
_LAST_LINES = 4

_MEMORY = re.compile(
    r"out of memory|not enough memory|std::bad_alloc|^MemoryError|can(?:no|')t allocate memory|oom-?kill", re.I | re.M
)
_DISK = re.compile(r"no space left on device|disk quota exceeded|There is not enough space on the disk", re.I)
_IMPORT = re.compile(r"^(?:ModuleNotFoundError|ImportError): (.{1,200})", re.M)
_LIBRARY = re.compile(r"^OSError: .*(?:\.so|\.dll)\b.*", re.M | re.I)
_NO_PYTHON = re.compile(r"^Fatal Python error|can't open file|No module named trainer_bridge", re.M)
_CRASH = re.compile(r"Segmentation fault|Illegal instruction|core dumped|Windows fatal exception", re.I)
_ERROR = re.compile(r"^([A-Za-z_][\w.]{0,80}(?:Error|Exception|Interrupt|Exit)\b.{0,200})$", re.M)

_CHECK = "`python install.py --check` says whether the trainer's environment is sound."


def diagnose(log: Path, offset: int) -> Ending:
    """Return why the trainer that wrote `log` from byte `offset` on is dead."""
    return explain(_tail(log, offset), str(log))


def explain(output: str, where: str) -> Ending:
    """Return why a process ended that had printed `output`, which stands in `where`."""
    lines = [line for line in output.splitlines() if line.strip()]
    text, last = "\n".join(lines[-_LINES:]), "\n".join(lines[-_LAST_LINES:])
    if _MEMORY.search(text):
        return Ending(
            job.FAILED,
            "The trainer ran out of memory.",
            "Close other programs, or train anew with a smaller resolution or rank.",
            "memory",
        )
    if _DISK.search(text):
        return Ending(
            job.FAILED, "The disk is full.", "Free some space, then resume: what was learned is kept.", "disk"
        )
    missing = _IMPORT.search(last)
    if missing is not None:
        return Ending(
            job.FAILED, f"A part of the trainer cannot be loaded ({missing[1].strip()}).", _CHECK, "environment"
        )
    if _CRASH.search(text):
        return Ending(job.FAILED, f"The trainer crashed in a library. Its messages are in {where}.", _CHECK, "crash")
    if _LIBRARY.search(last) or _NO_PYTHON.search(text):
        return Ending(job.FAILED, "The trainer's Python cannot start.", _CHECK, "environment")
    faults = _ERROR.findall(last)
    if faults:
        return Ending(
            job.FAILED,
            f"A fault in the trainer ({faults[-1]}).",
            f"The traceback is in {where}; please report it.",
            "fault",
        )
    return Ending(
        job.INTERRUPTED,
        "The trainer ended without a word: it was killed, the machine ran out of memory, or it lost power.",
        "Resume the run: it goes on from its last saved state.",
        "killed",
    )


def _tail(log: Path, offset: int) -> str:
    """Return the last part of what this start wrote; nothing when there is no log."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(offset, size - _TAIL))
            return file.read(_TAIL).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""
