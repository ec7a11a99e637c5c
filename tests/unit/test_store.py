"""The store: transitions, names, finding, and databases that are not as they should be."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from trainer_bridge import job, store_schema
from trainer_bridge.errors import UserError
from trainer_bridge.store import Store
from trainer_bridge.store_lease import Claim, LeaseLost
from trainer_bridge.store_rows import Job, NewJob


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "atelier.db")


def add(store: Store, out: Path, name: str = "Mira") -> Job:
    return store.add_job(NewJob(name, "mira", "character", "/models/base.safetensors", "sd15", str(out), (1, 0.5)))


def queued(store: Store, out: Path, name: str = "Mira") -> Job:
    return store.enqueue(
        add(store, out, name).id, "{}", 5, [{"name": "a.png", "reason": "It is empty."}], "A sentence."
    )


def test_a_new_run_is_there_for_every_other_connection(store: Store, tmp_path: Path) -> None:
    run = add(store, tmp_path)
    other = Store(tmp_path / "atelier.db")
    found = other.job(run.id)
    assert found == run and found.state == job.PREPARING and found.output_name == "Mira" and found.active


def test_queueing_freezes_the_dataset_and_keeps_what_was_left_out(store: Store, tmp_path: Path) -> None:
    run = queued(store, tmp_path)
    assert run.state == job.QUEUED and run.dataset is not None and run.sentence == "A sentence."
    assert [(note.picture, note.text) for note in store.notes(run.id)] == [("a.png", "It is empty.")]


def test_every_illegal_transition_is_refused_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    for old in job.TRANSITIONS:
        run = add(store, tmp_path, f"from {old}")
        with store.transaction() as connection:
            connection.execute("UPDATE jobs SET state = ? WHERE id = ?", (old, run.id))
        for new in job.TRANSITIONS.keys() - job.TRANSITIONS[old]:
            with pytest.raises(job.IllegalTransition):
                store.set_state(run.id, new, what="must not be kept")
        assert store.job(run.id).state == old and store.job(run.id).what == ""


def test_stopping_a_run_that_waits_ends_it_and_one_that_runs_asks_it(store: Store, tmp_path: Path) -> None:
    assert store.ask_stop(queued(store, tmp_path).id).state == job.STOPPED
    run = queued(store, tmp_path, "Other")
    store.set_state(run.id, job.RUNNING)
    asked = store.ask_stop(run.id)
    assert asked.state == job.STOPPING and asked.control_serial == 1
    assert store.ask_stop(run.id).control_serial == 1, "asking twice is one wish"


def test_a_run_that_was_stopped_while_it_was_prepared_does_not_reach_the_queue(store: Store, tmp_path: Path) -> None:
    run = add(store, tmp_path)
    store.ask_stop(run.id)
    with pytest.raises(job.IllegalTransition):
        store.enqueue(run.id, "{}", 5, [], "")
    assert store.job(run.id).dataset is None and not store.job(run.id).resumable


def test_queueing_again_forgets_why_it_ended(store: Store, tmp_path: Path) -> None:
    run = queued(store, tmp_path)
    store.set_state(run.id, job.RUNNING)
    store.set_state(run.id, job.FAILED, what="The disk is full.", way_out="Free some.", kind="disk")
    assert store.job(run.id).resumable and store.job(run.id).ended is not None
    again = store.requeue(run.id)
    assert (again.state, again.what, again.way_out, again.kind, again.ended) == (job.QUEUED, "", "", "", None)


def test_the_queue_is_in_the_order_of_queueing(store: Store, tmp_path: Path) -> None:
    first, second = add(store, tmp_path, "a"), add(store, tmp_path, "b")
    store.enqueue(second.id, "{}", 3, [], "")
    store.enqueue(first.id, "{}", 3, [], "")
    assert [run.name for run in store.queue()] == ["b", "a"]


# ---- names


def test_a_name_of_ours_makes_the_next_version(store: Store, tmp_path: Path) -> None:
    assert [add(store, tmp_path).output_name for _ in range(3)] == ["Mira", "Mira-v2", "Mira-v3"]
    assert add(store, tmp_path, "MIRA").output_name == "MIRA-v4", "Windows and macOS take both for one file"
    assert add(store, tmp_path / "elsewhere").output_name == "Mira"


def test_the_same_folder_by_another_path_is_the_same(store: Store, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    add(store, tmp_path)
    assert add(store, tmp_path / "sub" / "..").output_name == "Mira-v2"


def test_a_foreign_file_is_refused_with_a_free_name(store: Store, tmp_path: Path) -> None:
    foreign = tmp_path / "Mira.safetensors"
    foreign.write_bytes(b"mine")
    (tmp_path / "Mira 2.safetensors").write_bytes(b"mine too")
    with pytest.raises(UserError) as caught:
        add(store, tmp_path)
    assert "'Mira 3'" in caught.value.way_out and store.jobs() == [] and foreign.read_bytes() == b"mine"


def test_a_link_to_nowhere_counts_as_a_foreign_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "Mira.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError):
        add(store, tmp_path)


def test_a_later_version_steps_over_foreign_files(store: Store, tmp_path: Path) -> None:
    add(store, tmp_path)
    (tmp_path / "Mira-v2.safetensors").write_bytes(b"mine")
    assert add(store, tmp_path).output_name == "Mira-v3"


def test_a_discarded_run_frees_its_name_and_a_queued_one_cannot_be_discarded(store: Store, tmp_path: Path) -> None:
    store.discard(add(store, tmp_path).id)
    assert store.jobs() == []
    run = queued(store, tmp_path)
    assert run.output_name == "Mira"
    store.discard(run.id)
    assert [found.id for found in store.jobs()] == [run.id]


def test_a_run_that_failed_before_the_queue_frees_its_name(store: Store, tmp_path: Path) -> None:
    store.set_state(add(store, tmp_path).id, job.FAILED, what="x")
    assert add(store, tmp_path).output_name == "Mira"


def test_two_runs_at_once_never_get_the_same_name(store: Store, tmp_path: Path) -> None:
    names: list[str] = []

    def work() -> None:
        own = Store(tmp_path / "atelier.db")
        names.extend(add(own, tmp_path).output_name for _ in range(10))
        own.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 40 and len(set(names)) == 40


# ---- finding


def test_a_run_is_found_by_id_start_of_id_or_name(store: Store, tmp_path: Path) -> None:
    first, second = add(store, tmp_path), add(store, tmp_path)
    assert store.find(first.id) == first
    assert store.find("Mira") == second, "the latest of that name"
    assert store.find("Mira-v2") == second
    length = next(n for n in range(16) if first.id[:n] != second.id[:n])
    assert store.find(second.id[:length].upper()) == second
    with pytest.raises(UserError, match="start of 2 ids"):
        store.find(first.id[: length - 1])


@pytest.mark.parametrize("text", ["", "nobody", "../../etc", "%", "'; DROP TABLE jobs; --", "\0", "x" * 10_000])
def test_what_is_no_run_is_said_in_a_sentence(store: Store, tmp_path: Path, text: str) -> None:
    add(store, tmp_path)
    with pytest.raises(UserError):
        store.find(text)


# ---- the file


def test_a_newer_database_is_refused_unharmed(tmp_path: Path) -> None:
    path = tmp_path / "atelier.db"
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(store_schema.MIGRATIONS) + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="newer"):
        Store(path)
    assert path.read_bytes() == before


def test_an_older_database_is_lifted_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "atelier.db"
    first = Store(path)
    run = add(first, tmp_path)
    first.close()
    steps = (
        *store_schema.MIGRATIONS,
        "ALTER TABLE jobs ADD COLUMN extra TEXT; CREATE TABLE more (x INTEGER)",
    )
    connection = store_schema.open_database(path, steps)
    assert connection.execute("SELECT id, extra FROM jobs").fetchone()[:] == (run.id, None)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(steps)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "atelier.db"
    Store(path).close()
    steps = (*store_schema.MIGRATIONS, "CREATE TABLE more (x INTEGER); CREATE TABLE jobs (x INTEGER)")
    with pytest.raises(UserError):
        store_schema.open_database(path, steps)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(store_schema.MIGRATIONS)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone()[0] == 0


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be read as one" * 40, b"SQLite format 3\0" * 9]
)
def test_a_damaged_database_is_said_in_a_sentence_and_left(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "atelier.db"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        Store(path)
    assert str(path) in caught.value.what and path.read_bytes() == content


def test_a_folder_in_its_place_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "atelier.db").mkdir()
    with pytest.raises(UserError):
        Store(tmp_path / "atelier.db")


def test_many_processes_may_make_it_at_once(tmp_path: Path) -> None:
    path = tmp_path / "atelier.db"
    faults: list[Exception] = []

    def work() -> None:
        try:
            Store(path).close()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.skipif(os.name != "posix", reason="the dot-file locks of SQLite are for POSIX")
def test_where_there_is_no_write_ahead_log_the_rollback_journal_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **more: connect(f"file:{path}?vfs=unix-dotfile", uri=True, **more)
    )
    first, second = Store(tmp_path / "atelier.db"), Store(tmp_path / "atelier.db")
    assert [add(first, tmp_path).output_name, add(second, tmp_path).output_name] == ["Mira", "Mira-v2"]
    with first.transaction() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_a_copy_of_the_folder_is_a_whole_store(store: Store, tmp_path: Path) -> None:
    run = add(store, tmp_path)
    store.close()
    (tmp_path / "copy").mkdir()
    for file in tmp_path.glob("atelier.db*"):
        shutil.copy(file, tmp_path / "copy")
    assert Store(tmp_path / "copy" / "atelier.db").job(run.id) == run


# ---- the lease


def test_one_holds_the_lease_and_another_gets_it_when_it_is_given_back(store: Store) -> None:
    first, second = Claim(), Claim()
    assert store.take_lease(first) and not store.take_lease(second) and store.take_lease(first)
    store.give_lease_back(second)
    assert not store.take_lease(second)
    store.give_lease_back(first)
    assert store.take_lease(second)


def test_a_dead_holder_loses_it_at_once_and_a_silent_one_in_time(store: Store) -> None:
    second = Claim()
    from trainer_bridge.platform import Process

    assert store.take_lease(Claim(process=Process(2**22 + 1, 1.0)))
    assert store.take_lease(second), "there is no such process"
    store.give_lease_back(second)
    first = Claim()
    store.take_lease(first)
    with store.transaction() as connection:
        connection.execute("UPDATE lease SET heartbeat = heartbeat - 1000")
    assert store.take_lease(second)
    with pytest.raises(LeaseLost):
        store.set_state("whatever", job.RUNNING, claim=first)
