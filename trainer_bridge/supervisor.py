"""Supervises runs: starts the next one, follows its events into the store, notices its death, stops and adopts.

Any process may supervise while it holds the lease of the data root; the others watch the store. One run at a time
trains in a data root, in the order of the queue. A trainer outlives its supervisor: the next one adopts it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from . import experience
from . import job as states
from .dispatch import Dispatch
from .dispatch.base import CONTROL, EVENTS, LOG
from .errors import AtelierError, UserError
from .paths import Layout, why
from .platform import Process, alive, identify
from .store import Store
from .store_lease import Claim, LeaseLost
from .store_rows import Job

#: Between two looks at the files of a run, in seconds.
PAUSE = 0.15
#: Between two heartbeats, in seconds; well below what counts as silent.
HEARTBEAT = 3.0
#: How long a start may take to be noted, if the supervisor died in the middle of it.
START_SECONDS = 60.0


class Supervisor:
    """One process's part in looking after the runs of a data root.

    Args:
        dispatch: how trainers are run.
    """

    def __init__(self, store: Store, layout: Layout, dispatch: Dispatch) -> None:
        self._store, self._layout, self._dispatch = store, layout, dispatch
        self._claim = Claim()
        self._leads = False
        self._beaten = 0.0
        self._sizes: dict[str, int] = {}

    def run(
        self,
        id_: str,
        on_change: Callable[[Job], None] = lambda run: None,
        *,
        leave: Callable[[], bool] = lambda: False,
        start: bool = True,
    ) -> Job:
        """Wait until a run has ended, and return it; supervise meanwhile unless another process does.

        Args:
            on_change: called with the run whenever something about it changed.
            leave: asked at each look; once it says yes, the run is returned as it is then.
            start: whether runs that wait may be started.
        """
        seen: Job | None = None
        while True:
            self.tick(start=start)
            run = self._store.job(id_)
            if run != seen:
                seen = run
                on_change(run)
            if not run.active or leave():
                return run
            time.sleep(PAUSE)

    def tick(self, *, start: bool = True) -> bool:
        """Do what is to be done now; False when another process supervises.

        Args:
            start: whether the next run of the queue may be started.
        """
        try:
            if not self._lead():
                return False
            busy = [self._look_after(run) for run in self._store.jobs(*states.ACTIVE - {states.QUEUED})]
            if start and not any(run.state in (states.RUNNING, states.STOPPING) for run in busy):
                self._start_next()
        except LeaseLost:
            self._leads = False
        return self._leads

    def adopt(self) -> None:
        """Bring the store up to date, start nothing: read what trainers did unwatched, mark dead ones."""
        self.tick(start=False)

    def stop(self, id_: str) -> Job:
        """Ask a run to stop and keep what it has.

        Raises:
            UserError: the wish cannot be written.
        """
        run = self._store.ask_stop(id_)
        if run.state == states.STOPPING:
            self._command_stop(run)
        return run

    def resume(self, id_: str) -> Job:
        """Let a run that ended early wait for its turn again; a run that waits or trains is left as it is.

        Raises:
            UserError: it is done, or ended before its pictures were read.
        """
        run = self._store.job(id_)
        if run.active:
            return run
        if not run.resumable:
            what = "It is done." if run.state == states.DONE else "It ended before its pictures were read."
            raise UserError(f"The run {run.id} cannot be gone on with. {what}", "Start a new one with `train`.")
        return self._store.requeue(id_)

    def close(self) -> None:
        """Let another process supervise. What trains goes on."""
        if self._leads:
            self._leads = False
            # On a full disk it cannot be given back: it is taken over as soon as this process has ended.
            with contextlib.suppress(AtelierError):
                self._store.give_lease_back(self._claim)

    # ---- the lease

    def _lead(self) -> bool:
        now = time.monotonic()
        if self._leads and now - self._beaten < HEARTBEAT:
            return True
        if not self._leads and now - self._beaten < HEARTBEAT / 4:
            return False
        self._beaten = now
        self._leads = self._store.take_lease(self._claim)
        return self._leads

    # ---- one run

    def _look_after(self, run: Job) -> Job:
        if run.state == states.PREPARING:
            return self._look_after_preparation(run)
        folder = self._layout.job(run.id)
        if run.state == states.STOPPING and not (folder / CONTROL).exists():
            self._command_stop(run)
        # Asked before the events are read: a trainer that was dead by then has written its last one.
        lives = self._lives(run)
        if not lives or self._has_grown(folder):
            run = self._store.ingest(run.id, folder / EVENTS, self._claim)
        if not lives and run.active:
            ending = self._dispatch.ending(folder, run.log_offset)
            columns = {"what": ending.what, "way_out": ending.way_out, "kind": ending.kind}
            run = self._store.set_state(run.id, ending.state, claim=self._claim, **columns)
        if run.state == states.DONE:
            experience.remember(self._layout.device_json, folder)
        return run

    def _look_after_preparation(self, run: Job) -> Job:
        if run.owner_pid is None or alive(Process(run.owner_pid, run.owner_start or 0.0)):
            return run
        what = "The command ended while the pictures were read."
        return self._store.set_state(
            run.id, states.FAILED, claim=self._claim, what=what, way_out="Start it anew.", kind="interrupted"
        )

    def _lives(self, run: Job) -> bool:
        if run.pid is None:
            # The supervisor that started it may have died before it could note the process.
            return time.time() - (run.spawned or 0.0) < START_SECONDS
        if run.pid_start is None:
            # Its first event told the number alone.
            process = identify(run.pid)
            if process is not None:
                self._store.started(run.id, process, self._claim)
            return process is not None
        return self._dispatch.alive(Process(run.pid, run.pid_start))

    def _has_grown(self, folder: Path) -> bool:
        try:
            size = os.stat(folder / EVENTS).st_size
        except OSError:
            return False
        key = folder.name
        grown = self._sizes.get(key) != size
        self._sizes[key] = size
        return grown

    def _command_stop(self, run: Job) -> None:
        try:
            self._dispatch.command(self._layout.job(run.id), "stop", run.control_serial)
        except OSError as error:
            raise UserError(
                f"The run {run.id} cannot be asked to stop: {why(error)}.", "Try again, or end its process."
            ) from error

    # ---- the queue

    def _start_next(self) -> None:
        for run in self._store.queue()[:1]:
            folder = self._layout.job(run.id)
            try:
                (folder / CONTROL).unlink(missing_ok=True)
                log_offset = _size(folder / LOG)
                self._store.set_state(
                    run.id,
                    states.RUNNING,
                    claim=self._claim,
                    spawned=time.time(),
                    log_offset=log_offset,
                    attempt=run.attempt + 1,
                )
                self._store.started(run.id, self._dispatch.start(folder), self._claim)
            except states.IllegalTransition:
                continue  # stopped by another process a moment ago
            except (AtelierError, OSError) as error:
                self._could_not_start(run, error)

    def _could_not_start(self, run: Job, error: AtelierError | OSError) -> None:
        told = error
        if isinstance(told, OSError):
            told = AtelierError(f"The job's folder cannot be used: {why(told)}.", "Mend that, then resume.")
        if self._store.job(run.id).active:
            self._store.set_state(
                run.id, states.FAILED, claim=self._claim, what=told.what, way_out=told.way_out, kind="start"
            )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
