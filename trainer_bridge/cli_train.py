"""`train`: checks what costs nothing, puts the run into the store, prepares it, prints the decision, runs it."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import environment, fields, limits, paths, platform, preparation
from . import job as states
from .checkpoint import require_base
from .cli_answer import Answer, Desk, absolute, existing, opened, require_space
from .cli_runs import follow
from .console import Console, Steps
from .errors import AtelierError, RunStopped, UserError
from .fields import Value
from .paths import Layout
from .preparation import Prepared, Request
from .spec import TYPES, check_name, check_trigger
from .store import Store
from .store_names import free_stem
from .store_rows import Job, NewJob

_OUT_WAY_OUT = "Choose another folder with --out."
_SHOWN_LEFT_OUT = 10


def train(options: argparse.Namespace, console: Console) -> Answer:
    """Train a LoRA, or say what would be done.

    Raises:
        AtelierError: as its exit code says.
    """
    layout = Layout(paths.data_root(options.data))
    request = _check(options, layout)
    if options.dry_run:
        return _dry_run(request, layout, console)
    layout.make()
    paths.require_writable(request.out_dir, "folder", _OUT_WAY_OUT)
    require_space(layout.root, request.out_dir)
    with opened(options.data) as desk:
        run = _prepare(request, desk, console)
        return follow(desk, run, console)


def _check(options: argparse.Namespace, layout: Layout) -> Request:
    """Check all that needs neither the trainer's environment nor the store."""
    name = check_name(options.name)
    trigger = check_trigger(trigger_for(name) if options.trigger is None else options.trigger)
    if options.type not in TYPES:
        raise UserError(f"What to teach cannot be {options.type!r}.", f"Choose one of {', '.join(TYPES)}.")
    overrides = parse_settings(options.set)
    base = require_base(absolute(options.base))
    images = absolute(options.images)
    try:
        os.scandir(images).close()
    except OSError as error:
        raise UserError(
            f"The folder of pictures {images} cannot be read: {paths.why(error)}.", "Name a folder with --images."
        ) from None
    out_dir = paths.lora_folder(layout) if options.out is None else absolute(options.out)
    environment.trainer_python()
    return Request(name, trigger, options.type, base, images, out_dir, overrides)


def trigger_for(name: str) -> str:
    """Return the trigger word when none was said: the name's letters and digits in lower case."""
    return "".join(char for char in name.lower() if char.isalnum())[: limits.MAX_TRIGGER_CHARS]


def parse_settings(pairs: Sequence[str]) -> dict[str, Value]:
    """Read what `--set` said.

    Raises:
        UserError: no such setting, or a value that it cannot have.
    """
    found: dict[str, Value] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair[:60]!r} has no value.", "Write it as KEY=VALUE, for instance network_dim=16.")
        found[key.strip()] = fields.field(key.strip()).parse(text)
    return found


# ---- preparing


def _prepare(request: Request, desk: Desk, console: Console) -> Job:
    """Put the run into the store at once, read its pictures, and let it wait for its turn."""
    owner = platform.myself()
    new = NewJob(
        request.name,
        request.trigger,
        request.type,
        str(request.base.path),
        request.base.family or "",
        str(request.out_dir),
        (owner.pid, owner.start),
    )
    run = desk.store.add_job(new)
    folder = desk.layout.job(run.id)
    with _accounted_for(desk.store, run.id, folder):
        prepared = preparation.prepare(
            request,
            run.output_name,
            desk.layout,
            desk.layout.root,
            report=Steps(console),
            goes_on=lambda: _still_wanted(desk.store, run.id),
        )
        preparation.write_folder(folder, prepared)
        run = _enqueue(desk.store, run.id, prepared)
        _say_decision(console, request, run.output_name, prepared)
        console.say(f"Run {run.id}, in {folder}")
    return run


@contextmanager
def _accounted_for(store: Store, id_: str, folder: Path) -> Iterator[None]:
    """Let the store know what became of a preparation that did not get through."""
    try:
        yield
    except UserError:
        # Nothing of it is worth keeping: a corrected call starts anew.
        store.discard(id_)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        store.ask_stop(id_)
        raise _stopped_early() from None
    except states.IllegalTransition:
        raise _stopped_early() from None
    except RunStopped:
        raise
    except BaseException as error:
        _note_failure(store, id_, error)
        raise


def _enqueue(store: Store, id_: str, prepared: Prepared) -> Job:
    for note in prepared.notes:
        store.add_note(id_, note)
    count = len(prepared.manifest.pictures)
    return store.enqueue(id_, prepared.manifest.to_json(), count, prepared.left_out, prepared.resolved.sentence)


def _still_wanted(store: Store, id_: str) -> None:
    if store.job(id_).state != states.PREPARING:
        raise _stopped_early()


def _stopped_early() -> RunStopped:
    return RunStopped("The run was stopped before it began.", "Start it anew with `train`.")


def _note_failure(store: Store, id_: str, error: BaseException) -> None:
    what, way_out = f"A fault in Atelier ({type(error).__name__}).", "Please report it."
    if isinstance(error, AtelierError):
        what, way_out = error.what, error.way_out
    if store.job(id_).state == states.PREPARING:
        store.set_state(id_, states.FAILED, what=what, way_out=way_out, kind="preparing")


# ---- a trial


def _dry_run(request: Request, layout: Layout, console: Console) -> Answer:
    """Decide everything and leave nothing behind."""
    writable = existing(request.out_dir)
    if not writable.is_dir() or not os.access(writable, os.W_OK):
        raise UserError(f"The folder {request.out_dir} cannot be written.", _OUT_WAY_OUT)
    output_name = _next_name(request, layout)
    with tempfile.TemporaryDirectory(prefix="atelier-trial-") as passing:
        trial = layout if layout.root.is_dir() else Layout(Path(passing))
        prepared = preparation.prepare(request, output_name, trial, Path(passing), report=Steps(console))
    _say_decision(console, request, output_name, prepared)
    console.say("This was a trial: nothing was trained.")
    resolved, cost = prepared.resolved, prepared.resolved.estimate
    data: dict[str, Any] = {
        "dry_run": True,
        "sentence": resolved.sentence,
        "name": request.name,
        "output_name": output_name,
        "trigger": request.trigger,
        "out_dir": str(request.out_dir),
        "settings": dict(resolved.settings),
        "reasons": dict(resolved.reasons),
        "pictures": len(prepared.manifest.pictures),
        "left_out": [dict(entry) for entry in prepared.left_out],
        "notes": list(prepared.notes),
        "estimate": None if cost is None else {"memory": cost.memory, "seconds": cost.seconds},
    }
    return Answer(data)


def _next_name(request: Request, layout: Layout) -> str:
    if not layout.db.exists():
        return free_stem(request.name, request.out_dir)
    store = Store(layout.db)
    try:
        return store.next_name(request.name, request.out_dir)
    finally:
        store.close()


# ---- the decision in words


def _say_decision(console: Console, request: Request, output_name: str, prepared: Prepared) -> None:
    resolved = prepared.resolved
    console.say(resolved.sentence)
    trigger = f"Trigger word: {request.trigger}" if request.trigger else "No trigger word"
    console.say(f"{trigger}. Result: {request.out_dir / (output_name + '.safetensors')}")
    if output_name != request.name:
        console.say(f"There was a LoRA {request.name!r} before: this is its next version.")
    console.say()
    rows = [(name, _shown(value), resolved.reasons.get(name, "")) for name, value in resolved.settings.items()]
    console.table(("setting", "value", "why"), rows)
    console.say()
    _say_left_out(console.say, [(entry["name"], entry["reason"]) for entry in prepared.left_out])
    for note in prepared.notes:
        console.say(f"Note: {note}")


def _say_left_out(say: Callable[[str], None], left_out: Sequence[tuple[str, str]]) -> None:
    """Name a few pictures; many are counted by their reason."""
    if not left_out:
        return
    say(f"{len(left_out)} left out:")
    if len(left_out) <= _SHOWN_LEFT_OUT:
        for name, reason in left_out:
            say(f"  {name}: {reason}")
        return
    counted = Counter(reason for _, reason in left_out)
    for reason, count in counted.most_common(_SHOWN_LEFT_OUT):
        example = next(name for name, why in left_out if why == reason)
        say(f"  {count} times, as {example}: {reason}")
    rest = sum(count for _, count in counted.most_common()[_SHOWN_LEFT_OUT:])
    if rest:
        say(f"  {rest} more for other reasons; `show` with --json lists all.")


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
