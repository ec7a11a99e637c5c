"""`list`, `show`, `inspect` and `settings`: commands that look and change nothing."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

from . import checkpoint, fields, paths, run_view
from .checkpoint import Checkpoint
from .cli_answer import Answer, absolute, opened
from .console import Console, ending, line
from .dispatch.base import LOG
from .errors import UserError
from .families import FAMILIES
from .paths import Layout
from .sentence import gigabytes
from .store_rows import Job

_SHOWN_LEFT_OUT = 20


def list_(options: argparse.Namespace, console: Console) -> Answer:
    """List all runs, oldest first."""
    layout = Layout(paths.data_root(options.data))
    runs: list[Job] = []
    if layout.db.exists():
        with opened(options.data) as desk:
            desk.supervisor.adopt()
            runs = desk.store.jobs()
    if runs:
        rows = [(run.id, run.output_name, run.state, _steps(run), _when(run.created)) for run in runs]
        console.table(("id", "name", "state", "steps", "started"), rows)
    else:
        console.say(f"There are no runs in {layout.root} yet.")
    return Answer([run_view.brief(run) for run in runs])


def show(options: argparse.Namespace, console: Console) -> Answer:
    """Show everything about one run."""
    layout = Layout(paths.data_root(options.data))
    if not layout.db.exists():
        raise UserError(f"There are no runs in {layout.root} yet.", "`--data` names another data folder.")
    with opened(options.data) as desk:
        desk.supervisor.adopt()
        run = desk.store.find(options.job)
        data = run_view.whole(run, desk.store, layout)
    for text in _run_lines(run, data, layout):
        console.say(text)
    return Answer(data)


def inspect(options: argparse.Namespace, console: Console) -> Answer:
    """Say what a model file is."""
    found = checkpoint.inspect(absolute(options.file))
    for label, text in _file_lines(found):
        console.say(f"{label + ':':14} {text}")
    return Answer(found.to_json())


def settings(options: argparse.Namespace, console: Console) -> Answer:
    """List all settings, group by group."""
    for key, title in fields.GROUPS:
        console.say(f"{title}")
        rows = [
            (
                field.name,
                f"{field.default}".lower() if field.kind == "bool" else f"{field.default}",
                field.allowed(),
                field.help,
            )
            for field in fields.FIELDS
            if field.group == key
        ]
        console.table(
            ("  setting", "default", "allowed", "what it does"), [("  " + name, *rest) for name, *rest in rows]
        )
        console.say()
    console.say("Defaults give way to what suits the base, the pictures and the machine; `train --dry-run` shows that.")
    return Answer({"settings": [_setting(field) for field in fields.FIELDS]})


def _setting(field: fields.Field) -> dict[str, Any]:
    return {**vars(field), "choices": list(field.choices), "allowed": field.allowed()}


def _run_lines(run: Job, data: dict[str, Any], layout: Layout) -> Iterator[str]:
    yield f"{run.output_name} ({run.id}): {run.state}"
    if run.sentence:
        yield run.sentence
    if run.active:
        yield line(run)
    else:
        yield from ending(run)
    yield f"Base:    {run.base}"
    if run.trigger_word:
        yield f"Trigger: {run.trigger_word}"
    yield f"Started: {_when(run.created)}"
    yield f"Folder:  {layout.job(run.id)}"
    yield f"Log:     {layout.job(run.id) / LOG}"
    for title, key in (("Samples", "samples"), ("LoRAs of epochs", "epoch_files")):
        if data[key]:
            yield f"{title}:"
            yield from (f"  {file['path']}" for file in data[key])
    for note in data["notes"]:
        yield f"Note: {note}"
    if data["left_out"]:
        yield f"Left out: {len(data['left_out'])}"
        yield from (f"  {entry['name']}: {entry['reason']}" for entry in data["left_out"][:_SHOWN_LEFT_OUT])


def _file_lines(found: Checkpoint) -> Iterator[tuple[str, str]]:
    family = FAMILIES.get(found.family or "")
    yield (
        "File",
        f"{found.path} ({gigabytes(found.size)} GB)"
        if found.size > 1 << 28
        else f"{found.path} ({found.size:,} bytes)",
    )
    yield "What it is", found.title
    yield "Kind", found.kind.replace("_", " ")
    if family is not None and found.kind == "base":
        yield "Family", family.title
    if found.prediction_type:
        zero = ", zero terminal SNR" if found.zero_terminal_snr else ""
        yield "Prediction", f"{found.prediction_type}{zero} ({found.prediction_source})"
    yield "Precision", found.precision
    if found.native_size:
        yield "Native size", f"{found.native_size} px"
    if found.kind == "base":
        yield "Trainable", "yes" if found.trainable else f"no: {found.reason}"
    if found.lora is not None:
        lora = found.lora
        yield "For", family.title if family is not None else "an unknown base"
        yield "Rank", "unknown" if lora.rank is None else str(lora.rank)
        yield "Alpha", "unknown" if lora.alpha is None else f"{lora.alpha:g}"
        yield "Trigger", lora.trigger or "unknown"
        yield "Layers", str(lora.modules)


def _steps(run: Job) -> str:
    return f"{run.step}/{run.total}" if run.total else "-"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
