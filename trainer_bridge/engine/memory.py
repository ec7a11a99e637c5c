"""What the first start decides and every later start obeys: device, threads, precision, and what fits into
memory.

Kept as `plan.json` in the job's folder. The result of a run depends on it, so a resumed run takes it as it
is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import platform
from ..checkpoint import Checkpoint
from ..dataset.buckets import Bucket
from ..dataset.captions import variants_per_picture
from ..errors import RunFailed
from ..estimate import USABLE, peak_memory
from ..fields import Value
from ..spec import JobSpec
from ..workload import Workload
from . import device

VERSION = 1

_KINDS = ("cpu", "cuda", "mps")
_PRECISIONS = ("no", "bf16", "fp16")
_MOST_THREADS = 1024
_PX_PER_CELL = 64
#: Parameters from which on channels last is faster: on Zen 4 in fp32 it saves 4 % of a step of SD1.5 and costs 5 %
#: of one of a network of 6 million (11 % in bf16).
_LARGE = 100_000_000


@dataclass(frozen=True)
class Plan:
    """How a run computes.

    Attributes:
        device: kind of device.
        threads: of the CPU.
        precision: of the base and the computation; the LoRA is fp32 always.
        chunk: pictures that are computed at once; a batch is taken in chunks, which changes no random choice.
        checkpointing: whether activations are computed twice instead of kept.
        text_variants: captions a picture is trained with, all encoded before the start.
        channels_last: whether pictures lie in memory channel by channel at each place.
        environment: fingerprint of the packages, for the metadata.
    """

    device: str
    threads: int
    precision: str
    chunk: int
    checkpointing: bool
    text_variants: int
    channels_last: bool
    environment: str
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lighter(self) -> Plan | None:
        """Return the plan one rung down, which needs less memory; None from the lowest."""
        if not self.checkpointing:
            return replace(self, checkpointing=True)
        return replace(self, chunk=self.chunk // 2) if self.chunk > 1 else None


def write_plan(folder: Path, plan: Plan) -> None:
    """Keep the plan in the job's folder."""
    platform.write_atomic(folder / "plan.json", json.dumps(plan.to_json(), indent=2, sort_keys=True).encode())


def read_plan(folder: Path) -> Plan | None:
    """Return the plan of an earlier start; None before the first.

    Raises:
        RunFailed: it is there but damaged, so that the same result cannot be promised.
    """
    try:
        data = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        data = None
    if not _is_plan(data):
        raise RunFailed("The plan of this run (plan.json) is damaged.", "Start the training anew.")
    return Plan(**data)


def decide(spec: JobSpec, base: Checkpoint, buckets: Sequence[Bucket], environment: str) -> Plan:
    """Return the plan of a first start: the job's wishes, one or more rungs lower where memory would not suffice.

    Where even the lowest rung is not expected to fit it is tried all the same: an estimate must not refuse
    what may work. Threads are those that the process was started with (OMP_NUM_THREADS), else every
    processor.
    """
    settings = spec.settings
    kind = device.choose()
    plan = Plan(
        device=kind,
        threads=_threads(),
        precision=str(settings["mixed_precision"]),
        chunk=int(settings["train_batch_size"]),
        checkpointing=bool(settings["gradient_checkpointing"]),
        text_variants=variants_per_picture(settings, len(buckets)),
        channels_last=base.workload is None or base.workload.parameters >= _LARGE,
        environment=environment,
    )
    cells = max(bucket.width * bucket.height for bucket in buckets) / _PX_PER_CELL
    free = device.free_memory(kind)
    while base.workload is not None and memory_needed(base.workload, plan, settings, cells) > free * USABLE:
        lighter = plan.lighter()
        if lighter is None:
            return plan
        plan = lighter
    return plan


def memory_needed(work: Workload, plan: Plan, settings: Mapping[str, Value], cells: float) -> int:
    """Return the bytes that a run by this plan takes at its peak; `cells` as in :func:`estimate.peak_memory`."""
    planned: dict[str, Value] = {
        **settings,
        "train_batch_size": plan.chunk,
        "gradient_checkpointing": plan.checkpointing,
        "mixed_precision": plan.precision,
    }
    return peak_memory(work, planned, cells, plan.device)


def _threads() -> int:
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and 0 < int(said) < _MOST_THREADS else platform.cpu_count()


def _is_plan(data: object) -> bool:
    if not isinstance(data, dict) or data.keys() != Plan.__dataclass_fields__.keys():
        return False
    numbers = (data["threads"], data["chunk"], data["text_variants"])
    return (
        data["version"] == VERSION
        and data["device"] in _KINDS
        and data["precision"] in _PRECISIONS
        and all(type(number) is int and 0 < number < 100_000 for number in numbers)
        and isinstance(data["environment"], str)
        and all(isinstance(data[name], bool) for name in ("checkpointing", "channels_last"))
    )
