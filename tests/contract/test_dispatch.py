"""What every way to run a trainer must do. A new one is added to the list and gets these tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.front import Front, make
from trainer_bridge import job
from trainer_bridge.dispatch import DISPATCHES, Dispatch
from trainer_bridge.dispatch.base import EVENTS, LOG
from trainer_bridge.errors import AtelierError
from trainer_bridge.events import read_events
from trainer_bridge.platform import Process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fake trainer is started by a shell script")


@pytest.fixture(params=sorted(DISPATCHES))
def dispatch(request: pytest.FixtureRequest) -> Dispatch:
    return DISPATCHES[request.param]()


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Front:
    pytest.importorskip("PIL")
    made = make(tmp_path)
    monkeypatch.setenv("ATELIER_TRAINER_PYTHON", str(tmp_path / "python"))
    return made


@pytest.fixture
def folder(front: Front) -> Path:
    """A job's folder as the command line makes it, with a run that was stopped before its first step."""
    front.behave(steps=0)
    id_ = front.json(*front.train_arguments())["id"]
    for file in front.out.iterdir():
        file.unlink()
    found = front.root / "jobs" / id_
    (found / EVENTS).unlink()
    (found / LOG).unlink()
    return found


def types(folder: Path) -> list[str]:
    return [event["type"] for event, _ in read_events(folder / EVENTS)]


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_starts_at_once_and_is_alive_until_its_end(dispatch: Dispatch, front: Front, folder: Path) -> None:
    front.behave(seconds=0.05)
    process = dispatch.start(folder)
    assert dispatch.alive(process)
    assert not dispatch.alive(Process(process.pid, process.start - 5)), "a recycled number is another process"
    wait(lambda: not dispatch.alive(process))
    assert types(folder)[0] == "started" and types(folder)[-1] == "done"


def test_a_stop_is_obeyed_once(dispatch: Dispatch, front: Front, folder: Path) -> None:
    front.behave(seconds=0.1)
    process = dispatch.start(folder)
    wait(lambda: "step" in types(folder))
    dispatch.command(folder, "stop", 1)
    wait(lambda: not dispatch.alive(process))
    assert types(folder)[-1] == "stopped"
    front.behave()
    process = dispatch.start(folder)
    wait(lambda: not dispatch.alive(process))
    assert types(folder)[-1] == "done", "the wish of the last start is not one for this"


def test_a_killed_trainer_is_dead_and_may_go_on(dispatch: Dispatch, front: Front, folder: Path) -> None:
    front.behave(seconds=0.1)
    process = dispatch.start(folder)
    wait(lambda: "step" in types(folder))
    os.kill(process.pid, signal.SIGKILL)
    wait(lambda: not dispatch.alive(process))
    ending = dispatch.ending(folder, 0)
    assert ending.state == job.INTERRUPTED and ending.what and ending.way_out


def test_last_words_tell_why(dispatch: Dispatch, front: Front, folder: Path) -> None:
    front.behave(end="memory", at=2)
    process = dispatch.start(folder)
    wait(lambda: not dispatch.alive(process))
    first = dispatch.ending(folder, 0)
    assert (first.state, first.kind) == (job.FAILED, "memory")
    assert dispatch.ending(folder, (folder / LOG).stat().st_size).kind == "killed", "an earlier start's words"


def test_what_cannot_be_started_is_said_in_a_sentence(
    dispatch: Dispatch, front: Front, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_TRAINER_PYTHON", str(front.folder / "nowhere"))
    with pytest.raises(AtelierError):
        dispatch.start(folder)
