"""From answers to a job folder: reads the pictures, measures the machine once, resolves, writes what the engine reads.

The reading and measuring are done by the trainer's environment; here is the standard library alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import draft, limits, platform, tool
from .checkpoint import Checkpoint
from .dataset.manifest import Manifest, Picture
from .device import DeviceFacts, read_device
from .draft import Answers, DatasetFacts, Resolved
from .errors import AtelierError, RunFailed, UserError
from .fields import Value
from .paths import Layout, why

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What a user asked for, checked as far as that costs nothing.

    Attributes:
        images: folder of pictures.
        out_dir: absolute folder for the finished LoRA.
        overrides: settings changed by hand, and no others.
    """

    name: str
    trigger: str
    type: str
    base: Checkpoint
    images: Path
    out_dir: Path
    overrides: Mapping[str, Value]


@dataclass(frozen=True)
class Prepared:
    """What a run would be.

    Attributes:
        left_out: pictures that are not used, as {"name", "reason"}.
        notes: sentences for the user.
    """

    resolved: Resolved
    manifest: Manifest
    left_out: tuple[Mapping[str, str], ...]
    notes: tuple[str, ...]


def prepare(
    request: Request,
    output_name: str,
    layout: Layout,
    pictures_root: Path,
    *,
    report: Report = lambda what, done, total: None,
    goes_on: Callable[[], None] = lambda: None,
) -> Prepared:
    """Read the pictures and decide everything.

    Args:
        pictures_root: where the originals are kept: the data root, or a passing folder for a trial.
        report: told what is being done and how far it is.
        goes_on: called every moment; what it raises ends the preparation.

    Raises:
        UserError: the pictures or the settings cannot be used.
        RunFailed: the trainer's environment does not work.
    """
    imported = _import(request, pictures_root, report, goes_on)
    pictures = tuple(_picture(entry) for entry in imported["pictures"])
    notes = [str(note) for note in imported.get("notes", ())] + _picture_notes(imported["pictures"])
    device = _device(layout, report, goes_on, notes)
    facts = DatasetFacts(
        count=len(pictures),
        sizes=tuple(picture.shown for picture in pictures),
        captioned=sum(bool(picture.caption) for picture in pictures),
        captions=tuple(picture.caption for picture in pictures),
    )
    answers = Answers(request.name, request.trigger, request.type, request.base, request.out_dir, output_name)
    resolved = draft.resolve(answers, request.overrides, facts, device)
    _refuse(resolved.errors)
    left_out = tuple({"name": str(e["name"]), "reason": str(e["reason"])} for e in imported.get("left_out", ()))
    return Prepared(resolved, Manifest(request.trigger, pictures), left_out, tuple(notes))


def write_folder(folder: Path, prepared: Prepared) -> None:
    """Write `spec.json` and `dataset.json` of a job.

    Raises:
        UserError: the folder cannot be written.
    """
    spec = prepared.resolved.spec
    assert spec is not None, "what has errors is not written"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        platform.write_atomic(folder / "dataset.json", prepared.manifest.to_json().encode())
        platform.write_atomic(folder / "spec.json", spec.to_json().encode())
    except OSError as error:
        raise UserError(
            f"The job's folder {folder} cannot be written: {why(error)}.", "Choose another data folder with --data."
        ) from None


def _import(request: Request, root: Path, report: Report, goes_on: Callable[[], None]) -> Mapping[str, Any]:
    asked = {"images": str(request.images), "root": str(root), "trigger": request.trigger}
    with tempfile.TemporaryDirectory(prefix="atelier-") as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(asked), encoding="ascii")
        answers = tool.call(
            "trainer_bridge.dataset",
            ["import", str(file)],
            on_line=lambda line: _told_progress(line, "Reading pictures", report),
            goes_on=goes_on,
        )
    if not answers or not isinstance(answers[-1].get("pictures"), list):
        raise RunFailed("The pictures were read, but no answer came.", "`python install.py --check` may say why.")
    return answers[-1]


def _told_progress(line: str, what: str, report: Report) -> None:
    if not line.startswith("{"):
        return
    try:
        done, total = json.loads(line)["progress"]
        report(what, int(done), int(total))
    except (ValueError, KeyError, TypeError):
        return  # another tool's line that only looks like ours


def _picture(entry: Mapping[str, Any]) -> Picture:
    return Picture(
        hash=entry["hash"],
        path=entry["path"],
        width=entry["width"],
        height=entry["height"],
        caption=str(entry.get("caption", ""))[: limits.MAX_CAPTION_CHARS],
    )


def _picture_notes(entries: list[Mapping[str, Any]]) -> list[str]:
    """Gather equal notes of many pictures into one sentence each."""
    named: dict[str, list[str]] = {}
    for entry in entries:
        for note in entry.get("notes", ()):
            named.setdefault(str(note), []).append(str(entry.get("name", "?")))
    found = []
    for note, names in named.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        found.append(f"{shown}: {note}")
    return found


def _device(layout: Layout, report: Report, goes_on: Callable[[], None], notes: list[str]) -> DeviceFacts | None:
    """Return what the machine can do; without it the run goes on, only the forecast of its time is missing."""
    device = read_device(layout.device_json)
    if device is None:
        report("Measuring this machine, once", 0, 0)
        try:
            tool.call("trainer_bridge.engine", ["facts", "--out", str(layout.device_json)], goes_on=goes_on)
        except AtelierError as error:
            notes.append(f"The machine could not be measured: {error.what}")
        device = read_device(layout.device_json)
    return device


def _refuse(errors: Mapping[str, str]) -> None:
    if errors:
        (name, sentence), *others = errors.items()
        more = f" Also: {'; '.join(f'{key}: {text}' for key, text in others)}" if others else ""
        raise UserError(f"{name}: {sentence}{more}")
