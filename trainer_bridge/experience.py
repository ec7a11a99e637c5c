"""Lets the forecast of the next run learn from the speed of one that is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import estimate, limits, platform
from .checkpoint import inspect
from .dataset.buckets import bucket_for
from .dataset.manifest import Manifest, Picture
from .device import read_device
from .errors import AtelierError
from .events import read_events
from .spec import JobSpec, read_spec


def remember(device_json: Path, job_folder: Path) -> None:
    """Note in `device.json` how fast the run in `job_folder` computed.

    A forecast is no more than that: where something is missing or cannot be read, nothing is noted.
    """
    device, seconds = read_device(device_json), seconds_per_step(job_folder)
    if device is None or seconds is None:
        return
    try:
        spec = read_spec(job_folder)
        base = inspect(spec.base.path)
        if base.workload is None or base.family is None:
            return
        settings = _as_planned(spec, job_folder)
        sizes = [picture.shown for picture in _pictures(job_folder)]
        cells = [bucket.width * bucket.height / 64 for bucket in (bucket_for(w, h, settings) for w, h in sizes)]
        operations = estimate.step_operations(base.workload, settings, cells)
        key = estimate.speed_key(base.family, base.workload)
        wiser = estimate.learn(device, str(settings["mixed_precision"]), key, operations, seconds)
        platform.write_atomic(device_json, wiser.to_json().encode())
    except (AtelierError, OSError, ValueError, ZeroDivisionError):
        return


def seconds_per_step(job_folder: Path) -> float | None:
    """Return how long the last steps of a run took each; None when it told nothing usable."""
    found = None
    for event, _ in read_events(job_folder / "events.jsonl"):
        value = event.get("seconds_per_step")
        if event["type"] == "step" and isinstance(value, (int, float)) and 0 < value < 1e6:
            found = float(value)
    return found


def _as_planned(spec: JobSpec, job_folder: Path) -> Mapping[str, Any]:
    """Return the settings with what the first start decided otherwise."""
    with (job_folder / "plan.json").open("rb") as file:
        plan = json.loads(file.read(limits.MAX_EVENT_BYTES))
    if not isinstance(plan, dict):
        raise ValueError("not a plan")
    decided = {"mixed_precision": plan.get("precision"), "gradient_checkpointing": plan.get("checkpointing")}
    return {**spec.settings, **{name: value for name, value in decided.items() if value is not None}}


def _pictures(job_folder: Path) -> tuple[Picture, ...]:
    with (job_folder / "dataset.json").open("rb") as file:
        return Manifest.from_json(file.read(limits.MAX_JSON_BYTES).decode()).pictures
