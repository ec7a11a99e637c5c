"""The database file: opening it, its tables, and the numbered steps that lift an older one to today."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .errors import AtelierError, UserError
from .paths import why

#: How long a writer waits for another one.
BUSY_SECONDS = 20.0

_VERSION_1 = """
CREATE TABLE datasets (
    id TEXT PRIMARY KEY,
    created REAL NOT NULL,
    trigger_word TEXT NOT NULL,
    count INTEGER NOT NULL,
    manifest TEXT NOT NULL,
    left_out TEXT NOT NULL
);
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    output_name TEXT NOT NULL,
    trigger_word TEXT NOT NULL,
    type TEXT NOT NULL,
    base TEXT NOT NULL,
    family TEXT NOT NULL,
    out_dir TEXT NOT NULL,
    dataset TEXT REFERENCES datasets (id),
    sentence TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL,
    created REAL NOT NULL,
    updated REAL NOT NULL,
    queued REAL,
    ended REAL,
    owner_pid INTEGER,
    owner_start REAL,
    attempt INTEGER NOT NULL DEFAULT 0,
    pid INTEGER,
    pid_start REAL,
    spawned REAL,
    log_offset INTEGER NOT NULL DEFAULT 0,
    event_offset INTEGER NOT NULL DEFAULT 0,
    control_serial INTEGER NOT NULL DEFAULT 0,
    phase TEXT NOT NULL DEFAULT '',
    phase_done INTEGER,
    phase_total INTEGER,
    step INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    epoch INTEGER NOT NULL DEFAULT 0,
    epochs INTEGER NOT NULL DEFAULT 0,
    loss REAL,
    seconds_per_step REAL,
    eta REAL,
    memory INTEGER,
    saved_step INTEGER NOT NULL DEFAULT 0,
    what TEXT NOT NULL DEFAULT '',
    way_out TEXT NOT NULL DEFAULT '',
    kind TEXT NOT NULL DEFAULT '',
    result_path TEXT,
    sha256 TEXT,
    seconds REAL,
    peak_memory INTEGER
);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE TABLE job_files (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    path TEXT NOT NULL,
    epoch INTEGER,
    step INTEGER,
    prompt_index INTEGER,
    PRIMARY KEY (job, path)
) WITHOUT ROWID;
CREATE TABLE job_notes (
    number INTEGER PRIMARY KEY,
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    picture TEXT NOT NULL DEFAULT '',
    text TEXT NOT NULL
);
CREATE INDEX job_notes_by_job ON job_notes (job);
CREATE TABLE loras (
    job TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    output_name TEXT NOT NULL,
    folder_key TEXT NOT NULL,
    file_key TEXT NOT NULL,
    path TEXT,
    sha256 TEXT,
    created REAL NOT NULL,
    UNIQUE (folder_key, file_key)
);
CREATE TABLE lease (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    token TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start REAL NOT NULL,
    heartbeat REAL NOT NULL
);
"""

#: Entry `n` lifts a database of `user_version` n to n + 1. Never change one that was released: add the next.
MIGRATIONS: tuple[str, ...] = (_VERSION_1,)


def open_database(path: Path, migrations: tuple[str, ...] = MIGRATIONS) -> sqlite3.Connection:
    """Open the database, make it if it is missing, and lift it to today's form.

    Raises:
        UserError: it is newer than this program (and left as it is), damaged, or cannot be written.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        _refuse_newer(connection, path, len(migrations))
        _choose_journal(connection)
        connection.execute("PRAGMA foreign_keys = ON")
        _migrate(connection, path, migrations)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise told(error, path) from error
    except UserError:
        if connection is not None:
            connection.close()
        raise
    return connection


def told(error: sqlite3.Error, path: Path) -> AtelierError:
    """Return an error of the database as a sentence."""
    text = str(error)
    if "disk is full" in text:
        return UserError(f"The disk of the data folder {path.parent} is full.", "Free some space and try again.")
    if "locked" in text or "busy" in text:
        return UserError(
            f"The store {path} is in use by another process for too long.",
            "Try again; if it stays so, restart it.",
        )
    if "not a database" in text or "malformed" in text:
        return UserError(
            f"The store {path} is damaged.",
            "Move it away: a new one is made; pictures and LoRAs stay where they are.",
        )
    return UserError(
        f"The store {path} cannot be opened or written: {_cause(path, text)}.",
        "Choose another data folder with --data or ATELIER_DATA.",
    )


def _cause(path: Path, text: str) -> str:
    """SQLite says little: what the system says of the folder tells more."""
    try:
        with path.open("ab"):
            return text
    except OSError as error:
        return why(error)


def _refuse_newer(connection: sqlite3.Connection, path: Path, known: int) -> None:
    found = _user_version(connection)
    if found > known:
        raise UserError(
            f"The store {path} was written by a newer Atelier (form {found}, this one knows {known}).",
            "Update Atelier, or use another data folder with --data.",
        )


def _choose_journal(connection: sqlite3.Connection) -> None:
    """Use a write-ahead log; where the file system cannot (some network folders), the rollback journal."""
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if "locking protocol" not in str(error) and "disk I/O" not in str(error):
            raise
        (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    # With a write-ahead log a power cut costs at most the last changes, which the events bring again.
    connection.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")


def _migrate(connection: sqlite3.Connection, path: Path, migrations: tuple[str, ...]) -> None:
    if _user_version(connection) == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have done it, or a newer program even more, while this one waited for the lock.
        _refuse_newer(connection, path, len(migrations))
        for number in range(_user_version(connection), len(migrations)):
            for statement in migrations[number].split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _user_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
