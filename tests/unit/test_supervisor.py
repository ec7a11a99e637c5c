"""The supervisor with trainers in memory: queue, death, adoption, the lease, and a supervisor that dies midway."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.dispatch import InMemory
from trainer_bridge import job, supervisor
from trainer_bridge.dispatch.base import CONTROL
from trainer_bridge.errors import UserError
from trainer_bridge.paths import Layout
from trainer_bridge.store import Store
from trainer_bridge.store_rows import Job, NewJob
from trainer_bridge.supervisor import Supervisor


@dataclass
class Desk:
    layout: Layout
    store: Store
    dispatch: InMemory

    def add(self, name: str) -> Job:
        new = NewJob(name, "", "style", "/b.safetensors", "sd15", str(self.layout.loras), (1, 0.5))
        run = self.store.add_job(new)
        self.layout.job(run.id).mkdir(parents=True)
        return self.store.enqueue(run.id, "{}", 3, [], "")

    def supervisor(self) -> Supervisor:
        return Supervisor(self.store, self.layout, self.dispatch)

    def state(self, run: Job) -> str:
        return self.store.job(run.id).state

    def done(self, run: Job) -> None:
        path = str(self.layout.loras / "x.safetensors")
        self.dispatch.tell(self.layout.job(run.id), "done", path=path, sha256="0", steps=10, seconds=1.0, peak_memory=1)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.0)
    monkeypatch.setattr(supervisor, "PAUSE", 0.0)
    return Desk(Layout(tmp_path), Store(tmp_path / "atelier.db"), InMemory())


def test_one_run_at_a_time_in_the_order_of_the_queue(desk: Desk) -> None:
    first, second = desk.add("a"), desk.add("b")
    boss = desk.supervisor()
    for _ in range(3):
        assert boss.tick()
    assert (desk.state(first), desk.state(second)) == (job.RUNNING, job.QUEUED)
    desk.done(first)
    boss.tick()
    assert (desk.state(first), desk.state(second)) == (job.DONE, job.RUNNING)
    assert len(desk.dispatch.running) == 2, "the process of the first may still be on its way out"


def test_a_second_supervisor_only_watches_until_the_first_is_closed(desk: Desk) -> None:
    run = desk.add("a")
    boss, other = desk.supervisor(), desk.supervisor()
    assert boss.tick() and not other.tick()
    desk.done(run)
    assert not other.tick() and desk.state(run) == job.RUNNING
    boss.close()
    assert other.tick() and desk.state(run) == job.DONE


def test_a_supervisor_that_lost_its_lease_starts_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    boss, other = desk.supervisor(), desk.supervisor()
    assert boss.tick()
    with desk.store.transaction() as connection:
        connection.execute("UPDATE lease SET heartbeat = heartbeat - 1000")
    monkeypatch.setattr(supervisor, "HEARTBEAT", 1000.0)  # it does not look at its lease for long
    assert other.tick(start=False)
    run = desk.add("a")
    assert not boss.tick() and desk.state(run) == job.QUEUED and not desk.dispatch.running


def test_a_dead_trainer_is_noticed_after_its_last_words_were_read(desk: Desk) -> None:
    first, second = desk.add("a"), desk.add("b")
    boss = desk.supervisor()
    boss.tick()
    desk.done(first)
    desk.dispatch.end()
    boss.tick()
    assert desk.state(first) == job.DONE and desk.state(second) == job.RUNNING
    desk.dispatch.end()
    boss.tick()
    dead = desk.store.job(second.id)
    assert (dead.state, dead.what, dead.way_out) == (job.INTERRUPTED, "It died.", "Resume it.")


def test_adopting_starts_nothing_but_brings_everything_up_to_date(desk: Desk) -> None:
    first, second = desk.add("a"), desk.add("b")
    boss = desk.supervisor()
    boss.tick()
    boss.close()
    desk.dispatch.tell(desk.layout.job(first.id), "step", step=7, total=10)
    later = desk.supervisor()
    later.adopt()
    assert desk.store.job(first.id).step == 7 and desk.state(first) == job.RUNNING
    desk.dispatch.end()
    later.adopt()
    assert desk.state(first) == job.INTERRUPTED and desk.state(second) == job.QUEUED


def test_stop_and_resume(desk: Desk) -> None:
    run = desk.add("a")
    boss = desk.supervisor()
    boss.tick()
    control = desk.layout.job(run.id) / CONTROL
    assert boss.stop(run.id).state == job.STOPPING and control.read_text() == "stop 1"
    desk.dispatch.tell(desk.layout.job(run.id), "stopped", step=4, path=None)
    desk.dispatch.end()
    boss.tick()
    assert desk.state(run) == job.STOPPED
    assert boss.resume(run.id).state == job.QUEUED
    boss.tick()
    again = desk.store.job(run.id)
    assert (again.state, again.attempt) == (job.RUNNING, 2)
    assert not control.exists(), "the wish of the last start is not one for this"
    assert boss.resume(run.id).state == job.RUNNING, "resuming what runs changes nothing"


def test_a_stop_whose_wish_was_not_written_is_written_later(desk: Desk) -> None:
    run = desk.add("a")
    boss = desk.supervisor()
    boss.tick()
    desk.store.ask_stop(run.id)  # and whoever asked died before it could write the file
    boss.tick()
    assert (desk.layout.job(run.id) / CONTROL).read_text() == "stop 1"


def test_what_is_done_or_has_no_pictures_cannot_be_resumed(desk: Desk) -> None:
    run = desk.add("a")
    boss = desk.supervisor()
    boss.tick()
    desk.done(run)
    boss.tick()
    with pytest.raises(UserError, match="done"):
        boss.resume(run.id)
    bare = desk.store.add_job(NewJob("b", "", "style", "/b", "sd15", "/out", (1, 0.5)))
    boss.tick()
    assert desk.state(bare) == job.FAILED, "process 1 did not start half a second after the machine"
    with pytest.raises(UserError, match="pictures"):
        boss.resume(bare.id)


def test_a_start_that_fails_is_a_failed_run_and_the_next_gets_its_turn(desk: Desk) -> None:
    first, second = desk.add("a"), desk.add("b")
    boss = desk.supervisor()
    desk.dispatch.refuses = True
    boss.tick()
    assert desk.store.job(first.id).what == "It does not start." and desk.state(first) == job.FAILED
    desk.dispatch.refuses = False
    boss.tick()
    assert desk.state(second) == job.RUNNING


def test_a_job_folder_that_is_gone_is_a_failed_run(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    run = desk.add("a")
    desk.layout.job(run.id).rmdir()
    desk.layout.job(run.id).write_text("a file")
    desk.supervisor().tick()
    failed = desk.store.job(run.id)
    assert failed.state == job.FAILED and "folder" in failed.what


def test_a_supervisor_that_dies_while_it_starts_a_trainer_starts_no_second_one(desk: Desk) -> None:
    run = desk.add("a")
    boss = desk.supervisor()

    class Death(BaseException):
        pass

    start = desk.dispatch.start

    def start_and_die(folder: Path) -> None:
        start(folder)
        raise Death

    desk.dispatch.start = start_and_die  # type: ignore[method-assign, assignment]
    with pytest.raises(Death):
        boss.tick()
    boss.close()
    desk.dispatch.start = start  # type: ignore[method-assign]
    later = desk.supervisor()
    for _ in range(3):
        later.tick()
    found = desk.store.job(run.id)
    assert len(desk.dispatch.running) == 1
    assert found.pid == next(iter(desk.dispatch.running)).pid, "its first event told the number"


def test_a_start_that_nobody_noted_ends_as_interrupted_in_time(desk: Desk) -> None:
    run = desk.add("a")
    desk.store.set_state(run.id, job.RUNNING, spawned=time.time() - supervisor.START_SECONDS - 1)
    desk.supervisor().tick(start=False)
    assert desk.state(run) == job.INTERRUPTED


def test_watching_tells_each_change_and_may_be_left(desk: Desk) -> None:
    run = desk.add("a")
    boss = desk.supervisor()
    seen: list[str] = []
    left = boss.run(run.id, lambda now: seen.append(now.state), leave=lambda: len(seen) > 0)
    assert left.state == job.RUNNING and seen == [job.RUNNING]
    desk.done(run)
    assert boss.run(run.id, lambda now: seen.append(now.state)).state == job.DONE
    assert seen == [job.RUNNING, job.DONE]
