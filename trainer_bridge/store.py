"""The store: runs, their datasets and the LoRAs that came of them, in one SQLite file of the data root.

Every change of a state is checked against :data:`trainer_bridge.job.TRANSITIONS`. Events are read in the
same transaction as the state that they cause, by byte offset, so that reading them twice is harmless.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from . import job as states
from . import store_lease, store_names
from .errors import UserError
from .events import read_events
from .platform import Process
from .store_events import Changes, changes
from .store_lease import Claim
from .store_rows import Job, JobFile, NewJob, Note
from .store_schema import open_database, told

_EVENTS_AT_ONCE = 1_000
_MAX_NOTES = 3_000


class Store:
    """The database of one data root; may be shared by threads.

    Args:
        path: the file; it is made when missing, its folder must exist.

    Raises:
        UserError: it is newer than this program, damaged, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection = open_database(path)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all of the block or nothing of it.

        Raises:
            UserError: the database cannot be written (disk full, locked for too long).
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    # A full disk has rolled back by itself.
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                raise told(error, self._path) from error

    # ---- runs

    def add_job(self, new: NewJob) -> Job:
        """Put a run into the store, `preparing`, and take its LoRA's name.

        Raises:
            UserError: a foreign file has that name.
        """
        id_, now = states.new_id(), time.time()
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO jobs (id, name, output_name, trigger_word, type, base, family, out_dir, state,"
                " created, updated, owner_pid, owner_start) VALUES (?, ?, '', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (id_, new.name, new.trigger, new.type, new.base, new.family, new.out_dir)
                + (states.PREPARING, now, now, *new.owner),
            )
            reserved = store_names.reserve(connection, id_, new.name, Path(new.out_dir))
            connection.execute("UPDATE jobs SET output_name = ? WHERE id = ?", (reserved.output_name, id_))
            return _job(connection, id_)

    def next_name(self, name: str, out_dir: Path) -> str:
        """Return the stem that a run called `name` would get now, without taking it.

        Raises:
            UserError: a foreign file has that name.
        """
        with self._lock:
            return store_names.choose(self._connection, name, out_dir).output_name

    def discard(self, id_: str) -> None:
        """Forget a run that never got as far as the queue, and free its name."""
        with self.transaction() as connection:
            connection.execute(
                "DELETE FROM jobs WHERE id = ? AND dataset IS NULL AND state = ?", (id_, states.PREPARING)
            )

    def enqueue(self, id_: str, manifest: str, count: int, left_out: Sequence[Mapping[str, str]], sentence: str) -> Job:
        """Freeze the run's dataset and let it wait for its turn.

        Raises:
            IllegalTransition: it was stopped meanwhile.
        """
        dataset, now = states.new_id(), time.time()
        with self.transaction() as connection:
            run = _job(connection, id_)
            if run.state != states.PREPARING:
                raise states.IllegalTransition(f"a run that is {run.state} gets no dataset")
            connection.execute(
                "INSERT INTO datasets (id, created, trigger_word, count, manifest, left_out) VALUES (?, ?, ?, ?, ?, ?)",
                (dataset, now, run.trigger_word, count, manifest, json.dumps(list(left_out))),
            )
            for entry in list(left_out)[:_MAX_NOTES]:
                _add_note(connection, id_, entry.get("name", "?"), entry.get("reason", ""))
            columns = {
                "dataset": dataset,
                "sentence": sentence,
                "queued": now,
                "owner_pid": None,
                "owner_start": None,
            }
            return _move(connection, run, states.QUEUED, columns)

    def set_state(self, id_: str, state: str, /, claim: Claim | None = None, **columns: Any) -> Job:
        """Move a run to another state and change columns of it.

        Args:
            claim: the lease that must still be held, if the caller acts as the supervisor.

        Raises:
            IllegalTransition: the state cannot follow the present one.
            LeaseLost: another process supervises.
        """
        with self.transaction() as connection:
            if claim is not None:
                store_lease.require(connection, claim)
            return _move(connection, _job(connection, id_), state, columns)

    def started(self, id_: str, process: Process, claim: Claim) -> Job:
        """Note the trainer of a run.

        Raises:
            LeaseLost: another process supervises.
        """
        with self.transaction() as connection:
            store_lease.require(connection, claim)
            _update(connection, id_, {"pid": process.pid, "pid_start": process.start})
            return _job(connection, id_)

    def ask_stop(self, id_: str) -> Job:
        """Ask a run to stop: one that waits ends at once, one that runs is `stopping` until it has saved."""
        with self.transaction() as connection:
            run = _job(connection, id_)
            if run.state in (states.PREPARING, states.QUEUED):
                columns = {"what": "The run was stopped before it began.", "kind": "stopped"}
                return _move(connection, run, states.STOPPED, columns)
            if run.state == states.RUNNING:
                return _move(connection, run, states.STOPPING, {"control_serial": run.control_serial + 1})
            return run

    def requeue(self, id_: str) -> Job:
        """Let a run that ended early wait for its turn again.

        Raises:
            IllegalTransition: it did not end early.
        """
        columns: dict[str, Any] = {"queued": time.time(), "what": "", "way_out": "", "kind": "", "phase": ""}
        columns.update(dict.fromkeys(("ended", "eta", "pid", "pid_start", "spawned")))
        with self.transaction() as connection:
            return _move(connection, _job(connection, id_), states.QUEUED, columns)

    def add_note(self, id_: str, text: str) -> None:
        """Keep a sentence with a run."""
        with self.transaction() as connection:
            _add_note(connection, id_, "", text)

    def ingest(self, id_: str, events: Path, claim: Claim) -> Job:
        """Read what the run's `events.jsonl` holds that was not read yet.

        Raises:
            LeaseLost: another process supervises.
        """
        while True:
            with self.transaction() as connection:
                store_lease.require(connection, claim)
                run = _job(connection, id_)
                batch = list(islice(read_events(events, run.event_offset), _EVENTS_AT_ONCE))
                for event, offset in batch:
                    run = _apply(connection, run, changes(run, event, events.parent), offset)
            if len(batch) < _EVENTS_AT_ONCE:
                return run

    # ---- looking

    def job(self, id_: str) -> Job:
        """Return a run.

        Raises:
            UserError: there is none of that id.
        """
        with self._lock:
            return _job(self._connection, id_)

    def jobs(self, *wanted: str) -> list[Job]:
        """Return the runs in one of the `wanted` states, or all, oldest first."""
        marks = ", ".join("?" * len(wanted))
        where = f"WHERE state IN ({marks}) " if wanted else ""
        with self._lock:
            rows = self._connection.execute(f"SELECT * FROM jobs {where}ORDER BY id", wanted)
            return [Job.of(row) for row in rows]

    def queue(self) -> list[Job]:
        """Return the runs that wait, in their order."""
        return sorted(self.jobs(states.QUEUED), key=lambda run: (run.queued or 0.0, run.id))

    def find(self, text: str) -> Job:
        """Return the run that `text` means: an id, a LoRA's name (its latest run), or the start of an id.

        Raises:
            UserError: there is none, or more than one.
        """
        runs = self.jobs()
        for found in ([run for run in runs if run.id == text], _named(runs, text)):
            if found:
                return found[-1]
        started = [run for run in runs if run.id.startswith(text.lower())] if text else []
        if len(started) == 1:
            return started[0]
        if started:
            listed = ", ".join(f"{run.id} ({run.name})" for run in started[:5])
            raise UserError(f"{text!r} is the start of {len(started)} ids: {listed}.", "Give more of it.")
        raise UserError(f"There is no run {text[:60]!r}.", "`python -m trainer_bridge list` shows all of them.")

    def files(self, id_: str) -> list[JobFile]:
        """Return what a run made: samples and the LoRAs of its epochs."""
        columns = "kind, path, epoch, step, prompt_index"
        order = "ORDER BY step, epoch, prompt_index, path"
        with self._lock:
            rows = self._connection.execute(f"SELECT {columns} FROM job_files WHERE job = ? {order}", (id_,))
            return [JobFile(*row) for row in rows]

    def notes(self, id_: str, after: int = 0) -> list[Note]:
        """Return what a run had to say, from note number `after` on."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT number, picture, text FROM job_notes WHERE job = ? AND number > ? ORDER BY number",
                (id_, after),
            )
            return [Note(*row) for row in rows]

    # ---- the lease

    def take_lease(self, claim: Claim) -> bool:
        """Take or renew the lease; False when another living process holds it."""
        with self.transaction() as connection:
            return store_lease.take(connection, claim)

    def give_lease_back(self, claim: Claim) -> None:
        """Give the lease back, if it is still this one's."""
        with self.transaction() as connection:
            store_lease.give_back(connection, claim)


def _job(connection: sqlite3.Connection, id_: str) -> Job:
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (id_,)).fetchone()
    if row is None:
        raise UserError(f"There is no run {id_[:60]!r}.", "`python -m trainer_bridge list` shows all of them.")
    return Job.of(row)


def _named(runs: Sequence[Job], text: str) -> list[Job]:
    """People mean the latest run of a name; an older version is called by its file's name or its id."""
    return [run for run in runs if run.name == text] or [run for run in runs if run.output_name == text]


def _move(connection: sqlite3.Connection, run: Job, state: str, columns: Mapping[str, Any]) -> Job:
    states.check_transition(run.state, state)
    ended = {} if state in states.ACTIVE else {"ended": time.time()}
    _update(connection, run.id, {**ended, **columns, "state": state})
    if ended and run.dataset is None:
        # It can never become a LoRA: its name is free again.
        connection.execute("DELETE FROM loras WHERE job = ?", (run.id,))
    return _job(connection, run.id)


def _apply(connection: sqlite3.Connection, run: Job, change: Changes, offset: int) -> Job:
    columns = {**change.columns, "event_offset": offset}
    state = columns.pop("state", None)
    if change.file is not None:
        file = change.file
        connection.execute(
            "INSERT OR REPLACE INTO job_files (job, kind, path, epoch, step, prompt_index) VALUES (?, ?, ?, ?, ?, ?)",
            (run.id, file.kind, file.path, file.epoch, file.step, file.prompt_index),
        )
    if change.note is not None:
        _add_note(connection, run.id, *change.note)
    if state is None:
        _update(connection, run.id, columns)
        return _job(connection, run.id)
    moved = _move(connection, run, state, columns)
    if state == states.DONE:
        _keep_lora(connection, moved)
    return moved


def _keep_lora(connection: sqlite3.Connection, run: Job) -> None:
    """Keep where the LoRA is: the trainer may have had to take another name than the reserved one."""
    connection.execute("UPDATE loras SET path = ?, sha256 = ? WHERE job = ?", (run.result_path, run.sha256, run.id))


def _update(connection: sqlite3.Connection, id_: str, columns: Mapping[str, Any]) -> None:
    changed = {"updated": time.time(), **columns}
    assignments = ", ".join(f"{name} = ?" for name in changed)
    connection.execute(f"UPDATE jobs SET {assignments} WHERE id = ?", (*changed.values(), id_))


def _add_note(connection: sqlite3.Connection, id_: str, picture: str, text: str) -> None:
    (count,) = connection.execute("SELECT count(*) FROM job_notes WHERE job = ?", (id_,)).fetchone()
    if count < _MAX_NOTES:
        connection.execute("INSERT INTO job_notes (job, picture, text) VALUES (?, ?, ?)", (id_, picture, text))
