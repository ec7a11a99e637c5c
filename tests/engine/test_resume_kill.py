"""SIGKILL at any moment, then resume: the finished tensors are those of a run that was left alone."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from trainer_bridge.job import new_id  # noqa: E402

from . import kill  # noqa: E402
from .jobs import base_file, events, make_job, of_type, tensor_bytes  # noqa: E402

SETTINGS: dict[str, Any] = {"max_train_steps": 12, "gradient_accumulation_steps": 2, "network_dropout": 0.2}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_and_resumed_is_the_same_to_the_byte(tmp_path: Path) -> None:
    base = base_file(tmp_path)
    whole, _ = kill.run_whole(make_job(tmp_path / "whole", base, job=new_id(), samples=1, sample_steps=1, **SETTINGS))
    folder = make_job(tmp_path / "killed", base, job=new_id(), samples=1, sample_steps=1, **SETTINGS)
    # Killed while it starts, in an epoch's saves, and just after a state; each time it goes on.
    for moment in ("started", "epoch_saved", "state_saved"):
        seen = len(of_type(folder, moment)) if (folder / "events.jsonl").exists() else 0
        process = kill.start(folder)
        _wait_for(folder, moment, seen, process)
        process.kill()
        process.wait()
    killed, _ = kill.run_whole(folder)
    assert killed == whole
    assert [event["attempt"] for event in of_type(folder, "started")] == [1, 2, 3, 4]
    assert of_type(folder, "started")[-1]["step"] > 0


def test_started_is_said_before_torch_is_loaded_and_sigterm_stops(tmp_path: Path) -> None:
    folder = make_job(tmp_path, base_file(tmp_path), max_train_steps=100_000)
    process = kill.start(folder)
    try:
        _wait_for(folder, "started", 0, process)
        _wait_for(folder, "step", 0, process)
        process.terminate()
        assert process.wait(60) == 3
    finally:
        process.kill()
    told = events(folder)
    assert told[-1]["type"] == "stopped"
    assert tensor_bytes(Path(told[-1]["path"]))
    assert [event["type"] for event in told[:2]] == ["started", "phase"]


def _wait_for(folder: Path, type_: str, seen: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until one more event of a type has been told than were seen before."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if (folder / "events.jsonl").exists() and len(of_type(folder, type_)) > seen:
            return
        assert process.poll() is None, (folder / "trainer.log").read_text()[-2000:]
        time.sleep(0.02)
    raise AssertionError(f"no {type_} in time")
