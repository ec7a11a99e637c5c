"""A run as JSON: what `show`, `train`, `resume` and `stop` answer with."""

from __future__ import annotations

from typing import Any

from . import job as states
from .dispatch.base import LOG
from .paths import Layout
from .store import Store
from .store_rows import Job

_PLAIN = (
    "id", "name", "output_name", "state", "type", "base", "family", "out_dir", "sentence", "created", "updated",
    "ended", "attempt", "phase", "step", "total", "epoch", "epochs", "loss", "seconds_per_step", "eta", "memory",
)  # fmt: skip


def brief(run: Job) -> dict[str, Any]:
    """Return what a list shows of a run."""
    keys = ("id", "name", "output_name", "state", "type", "step", "total", "created", "updated")
    return {**{key: getattr(run, key) for key in keys}, "path": run.result_path}


def whole(run: Job, store: Store, layout: Layout) -> dict[str, Any]:
    """Return everything about a run; paths are absolute."""
    folder = layout.job(run.id)
    files = store.files(run.id)
    notes = store.notes(run.id)
    shown = {key: getattr(run, key) for key in _PLAIN}
    shown["trigger"] = run.trigger_word
    shown["resumable"] = run.resumable
    shown["folder"] = str(folder)
    shown["log"] = str(folder / LOG)
    for key, kind in (("samples", "sample"), ("epoch_files", "epoch")):
        shown[key] = [
            {"path": str(folder / file.path), "epoch": file.epoch, "step": file.step, "prompt_index": file.prompt_index}
            for file in files
            if file.kind == kind
        ]
    shown["left_out"] = [{"name": note.picture, "reason": note.text} for note in notes if note.picture]
    shown["notes"] = [note.text for note in notes if not note.picture]
    shown["reason"] = _reason(run)
    shown["result"] = _result(run)
    # The outcome flat as well: what scripts want first.
    shown.update(
        path=run.result_path, sha256=run.sha256, steps=run.step, seconds=run.seconds, peak_memory=run.peak_memory
    )
    if run.state in (states.FAILED, states.INTERRUPTED):
        shown["error"] = f"{run.what} {run.way_out}".strip()
    return shown


def _reason(run: Job) -> dict[str, str] | None:
    if not run.what:
        return None
    return {"what": run.what, "way_out": run.way_out, "kind": run.kind}


def _result(run: Job) -> dict[str, Any] | None:
    if run.state != states.DONE:
        return None
    return {
        "path": run.result_path,
        "sha256": run.sha256,
        "steps": run.step,
        "seconds": run.seconds,
        "peak_memory": run.peak_memory,
    }
