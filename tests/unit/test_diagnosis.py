"""Why a trainer ended, read from its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer_bridge import job
from trainer_bridge.dispatch.diagnosis import diagnose, explain

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n'


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        (TRACEBACK + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "memory"),
        (TRACEBACK + "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "memory"),
        (TRACEBACK + "MemoryError", "memory"),
        ("terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc", "memory"),
        (TRACEBACK + "OSError: [Errno 28] No space left on device: '/x'", "disk"),
        (TRACEBACK + "ModuleNotFoundError: No module named 'torch'", "environment"),
        (TRACEBACK + "ImportError: cannot import name 'x' from 'y'", "environment"),
        (TRACEBACK + "OSError: libcudart.so.12: cannot open shared object file", "environment"),
        ("/usr/bin/python3: No module named trainer_bridge", "environment"),
        ("Fatal Python error: init_fs_encoding", "environment"),
        ("Fatal Python error: Segmentation fault\n\nCurrent thread 0x1:\n  File x", "crash"),
        (TRACEBACK + "KeyError: 'down_blocks'", "fault"),
        (TRACEBACK + "trainer_bridge.engine.x.OddError: something", "fault"),
        ("", "killed"),
        ("UserWarning: ImportError was handled\nloading\nstep 1\nstep 2\nstep 3\nstep 4\nstep 5", "killed"),
        (TRACEBACK + "ImportError: an optional part\n" + "went on without it\n" * 9, "killed"),
    ],
)
def test_the_cause_is_found(log: str, kind: str) -> None:
    ending = explain(log, "trainer.log")
    assert ending.kind == kind
    assert ending.what.endswith((".", ").")) and ending.way_out
    assert ending.state == (job.INTERRUPTED if kind == "killed" else job.FAILED)
    assert "Traceback (most" not in ending.what + ending.way_out


def test_only_what_this_start_wrote_counts(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    log.write_text(TRACEBACK + "MemoryError\n")
    offset = log.stat().st_size
    assert diagnose(log, 0).kind == "memory"
    assert diagnose(log, offset).kind == "killed"
    with log.open("a") as file:
        file.write("x" * 200_000 + "\n" + TRACEBACK + "KeyError: 'x'\n")
    assert diagnose(log, offset).kind == "fault"


def test_a_missing_or_odd_log_is_no_fault(tmp_path: Path) -> None:
    assert diagnose(tmp_path / "none.log", 0).kind == "killed"
    (tmp_path / "odd.log").write_bytes(bytes(range(256)) * 100)
    assert diagnose(tmp_path / "odd.log", 10).kind == "killed"
