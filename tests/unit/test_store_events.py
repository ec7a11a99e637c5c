"""Events into the store: what each changes, twice is harmless, nonsense is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer_bridge import events, job
from trainer_bridge.events import EventWriter
from trainer_bridge.store import Store
from trainer_bridge.store_lease import Claim, LeaseLost
from trainer_bridge.store_rows import Job, NewJob


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "atelier.db")


@pytest.fixture
def claim(store: Store) -> Claim:
    claim = Claim()
    store.take_lease(claim)
    return claim


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Job:
    added = store.add_job(NewJob("Mira", "mira", "style", "/b.safetensors", "sd15", str(tmp_path), (1, 0.5)))
    store.enqueue(added.id, "{}", 5, [], "")
    return store.set_state(added.id, job.RUNNING)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_a_whole_run(store: Store, claim: Claim, run: Job, log: Path) -> None:
    writer = EventWriter(log)
    writer.write("started", pid=5, attempt=1, step=0, total=100)
    writer.write("phase", name="caching", done=3, total=10)
    after = store.ingest(run.id, log, claim)
    assert (after.phase, after.phase_done, after.phase_total, after.total) == ("caching", 3, 10, 100)
    writer.write("step", step=7, total=100, epoch=1, epochs=10, loss=0.5, loss_avg=0.25, eta=9.5, seconds_per_step=0.1)
    writer.write("sample", path="samples/e001-p0.png", epoch=1, prompt_index=0, step=10)
    writer.write("epoch_saved", path=str(log.parent / "epochs" / "Mira-000001.safetensors"), epoch=1, step=10)
    writer.write("state_saved", step=7)
    writer.write("note", text="An animation took its first frame.")
    after = store.ingest(run.id, log, claim)
    assert (after.step, after.epoch, after.loss, after.eta, after.saved_step) == (7, 1, 0.25, 9.5, 7)
    assert [(file.kind, file.path) for file in store.files(run.id)] == [
        ("epoch", "epochs/Mira-000001.safetensors"),
        ("sample", "samples/e001-p0.png"),
    ]
    assert [note.text for note in store.notes(run.id)] == ["An animation took its first frame."]
    writer.write("done", path="/out/Mira.safetensors", sha256="ab" * 32, steps=100, seconds=61.0, peak_memory=2**30)
    after = store.ingest(run.id, log, claim)
    assert (after.state, after.result_path, after.seconds) == (job.DONE, "/out/Mira.safetensors", 61.0)
    assert after.ended is not None


def test_reading_twice_changes_nothing(store: Store, claim: Claim, run: Job, log: Path) -> None:
    writer = EventWriter(log)
    for step in range(2500):
        writer.write("step", step=step, total=2500)
        if step % 100 == 0:
            writer.write("note", text=f"at {step}")
    first = store.ingest(run.id, log, claim)
    second = store.ingest(run.id, log, claim)
    assert first == second and first.step == 2499 and first.event_offset == log.stat().st_size
    assert len(store.notes(run.id)) == 25


def test_half_a_line_waits_for_its_other_half(store: Store, claim: Claim, run: Job, log: Path) -> None:
    line = json.dumps({"v": 1, "type": "step", "step": 9, "total": 10}).encode() + b"\n"
    log.write_bytes(line[:20])
    assert store.ingest(run.id, log, claim).step == 0
    log.write_bytes(line)
    assert store.ingest(run.id, log, claim).step == 9


def test_a_stop_and_a_failure_keep_the_reason(store: Store, claim: Claim, run: Job, log: Path) -> None:
    writer = EventWriter(log)
    writer.write("stopped", step=40, path="epochs/step-40.safetensors")
    stopped = store.ingest(run.id, log, claim)
    assert (stopped.state, stopped.step, stopped.saved_step) == (job.STOPPED, 40, 40)
    assert [file.path for file in store.files(run.id)] == ["epochs/step-40.safetensors"]
    store.requeue(run.id)
    writer.write("started", pid=7, attempt=2, step=40, total=100)
    assert store.ingest(run.id, log, claim).state == job.RUNNING
    writer.write("failed", what="The loss is not a number.", way_out="Lower the rate.", kind="nan", step=50)
    failed = store.ingest(run.id, log, claim)
    assert (failed.state, failed.what, failed.way_out, failed.kind) == (
        job.FAILED,
        "The loss is not a number.",
        "Lower the rate.",
        "nan",
    )


def test_what_comes_after_the_end_changes_no_state(store: Store, claim: Claim, run: Job, log: Path) -> None:
    writer = EventWriter(log)
    writer.write("done", path="/out/Mira.safetensors", sha256="ab" * 32, steps=1, seconds=1.0, peak_memory=1)
    writer.write("failed", what="No.", way_out="", kind="x", step=1)
    writer.write("stopped", step=1, path="epochs/x.safetensors")
    after = store.ingest(run.id, log, claim)
    assert after.state == job.DONE and after.what == ""
    assert len(store.notes(run.id)) == 2


@pytest.mark.parametrize(
    "path", ["../x.png", "/etc/passwd", "a/../../x", "C:\\x.png", "C:x", "..\\x", "", "a\0b", 5, None]
)
def test_a_path_outside_the_folder_is_passed_over(store: Store, claim: Claim, run: Job, log: Path, path: Any) -> None:
    log.write_text(json.dumps({"type": "sample", "path": path, "epoch": 1}) + "\n")
    store.ingest(run.id, log, claim)
    assert store.files(run.id) == []


def test_without_the_lease_nothing_is_read(store: Store, claim: Claim, run: Job, log: Path) -> None:
    EventWriter(log).write("step", step=9, total=10)
    store.give_lease_back(claim)
    with pytest.raises(LeaseLost):
        store.ingest(run.id, log, claim)
    assert store.job(run.id).step == 0


_values = st.one_of(
    st.sampled_from([None, True, False, "\ud800", 10**400, [1, 2]]),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([*events.TYPES, "unknown"]),
    st.dictionaries(st.sampled_from(sorted({key for keys in events.TYPES.values() for key in keys})), _values),
)
def test_no_event_however_wrong_breaks_the_store(
    store: Store, claim: Claim, run: Job, log: Path, type_: str, values: dict[str, Any]
) -> None:
    with log.open("a") as file:
        file.write(json.dumps({"type": type_, **values}) + "\n")
    after = store.ingest(run.id, log, claim)
    assert after.event_offset == log.stat().st_size
