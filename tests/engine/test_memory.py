from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from trainer_bridge.checkpoint import require_base  # noqa: E402
from trainer_bridge.dataset.buckets import bucket_for  # noqa: E402
from trainer_bridge.engine import device, memory  # noqa: E402
from trainer_bridge.errors import RunFailed, UserError  # noqa: E402
from trainer_bridge.spec import read_spec  # noqa: E402

from .jobs import base_file, make_job  # noqa: E402

PLAN = memory.Plan("cpu", 2, "no", 4, False, 3, True, "abc")


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert memory.read_plan(tmp_path) is None
    memory.write_plan(tmp_path, PLAN)
    assert memory.read_plan(tmp_path) == PLAN


@pytest.mark.parametrize(
    "change", [{"device": "tpu"}, {"threads": 0}, {"threads": True}, {"chunk": "4"}, {"precision": "int1"}, {"more": 1}]
)
def test_a_damaged_plan_is_no_plan(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({**PLAN.to_json(), **change}))
    with pytest.raises(RunFailed, match="plan.json"):
        memory.read_plan(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(RunFailed):
        memory.read_plan(tmp_path)


def test_the_rungs_down() -> None:
    plans = [PLAN]
    while (lighter := plans[-1].lighter()) is not None:
        plans.append(lighter)
    assert [(plan.checkpointing, plan.chunk) for plan in plans] == [(False, 4), (True, 4), (True, 2), (True, 1)]


def test_the_plan_follows_the_job_and_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    folder = make_job(tmp_path, base_file(tmp_path), train_batch_size=4)
    spec = read_spec(folder)
    base = require_base(spec.base.path)
    assert base.workload is not None
    # With as many activations as SD1.5 has, so that they count beside drawing.
    base = replace(base, workload=replace(base.workload, outputs_per_cell=80_000.0))
    buckets = [bucket_for(64, 64, spec.settings)]
    plan = memory.decide(spec, base, buckets, "abc")
    assert (plan.device, plan.threads, plan.precision) == (device.choose(), 3, "no")
    assert (plan.chunk, plan.checkpointing, plan.environment) == (4, False, "abc")
    assert base.workload is not None
    full = memory.memory_needed(base.workload, plan, spec.settings, 64.0)
    lowest = memory.memory_needed(base.workload, replace(plan, chunk=1, checkpointing=True), spec.settings, 64.0)
    assert lowest < full
    monkeypatch.setattr(device, "free_memory", lambda kind: int((lowest + 1) / 0.9))
    assert memory.decide(spec, base, buckets, "abc").checkpointing
    monkeypatch.setattr(device, "free_memory", lambda kind: 1)
    least = memory.decide(spec, base, buckets, "abc")
    assert (least.chunk, least.checkpointing) == (1, True)


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(UserError, match="fp16"):
        device.check_precision("cpu", "fp16")
    device.check_precision("cpu", "bf16")
    device.check_precision("cpu", "no")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert device.is_out_of_memory(error) is expected
