"""A run that is done teaches the forecast of the next one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import headers
from tests.ldm_keys import SD15_PARTS, UNet
from trainer_bridge import estimate
from trainer_bridge.checkpoint import Checkpoint, inspect
from trainer_bridge.dataset.manifest import Manifest, Picture
from trainer_bridge.device import DeviceFacts, read_device
from trainer_bridge.draft import Answers, DatasetFacts, resolve
from trainer_bridge.events import EventWriter
from trainer_bridge.experience import remember, seconds_per_step

TINY = UNet(channels=96, multiples=(1, 2), layers=1, depth=(0, 1), context=64)
CPU = DeviceFacts("Test CPU", "cpu", 24 << 30, {"no": 4e10})
SIZES = ((512, 512),) * 4


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    return inspect(headers.write(tmp_path / "base.safetensors", {**TINY.shapes(), **SD15_PARTS}))


@pytest.fixture
def job(tmp_path: Path, base: Checkpoint) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    answers = Answers("Mia", "mia", "character", base, tmp_path, "Mia")
    spec = resolve(answers, {}, DatasetFacts(len(SIZES), SIZES), CPU).spec
    assert spec is not None
    pictures = tuple(Picture(f"{n:064x}", f"/pictures/{n}", *size) for n, size in enumerate(SIZES))
    (folder / "spec.json").write_text(spec.to_json())
    (folder / "dataset.json").write_text(Manifest("mia", pictures).to_json())
    (folder / "plan.json").write_text(json.dumps({"precision": "no", "checkpointing": False}))
    writer = EventWriter(folder / "events.jsonl")
    for step, seconds in enumerate((9.0, 2.0, None)):
        writer.write("step", step=step, seconds_per_step=seconds)
    return folder


def forecast(base: Checkpoint, folder: Path, device: DeviceFacts | None) -> float:
    found = resolve(
        Answers("Mia", "mia", "character", base, folder, "Mia"), {}, DatasetFacts(len(SIZES), SIZES), device
    )
    assert found.estimate is not None
    assert found.estimate.seconds is not None
    return found.estimate.seconds


def test_the_next_forecast_follows_the_last_speed(tmp_path: Path, base: Checkpoint, job: Path) -> None:
    device = tmp_path / "device.json"
    device.write_text(CPU.to_json())
    remember(device, job)
    wiser = read_device(device)
    assert wiser is not None
    assert base.workload is not None
    cells = 64.0 * 64
    # The text encoder is trained too by the family's preset.
    operations = 2.15 * (base.workload.forward(cells) + 2 * 77 * base.workload.text_parameters)
    key = estimate.speed_key("sd15", base.workload)
    assert wiser.speeds == {f"{key}/no": pytest.approx(operations / 2.0)}
    steps = 4 * 50 * 10
    assert forecast(base, tmp_path, wiser) == pytest.approx(2.0 * steps, rel=0.3)
    assert forecast(base, tmp_path, wiser) > 2.0 * steps


def test_only_the_last_steps_count(job: Path) -> None:
    assert seconds_per_step(job) == 2.0


@pytest.mark.parametrize("name", ["spec.json", "dataset.json", "plan.json", "events.jsonl"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff", b"{}"])
def test_without_one_of_its_files_nothing_is_noted(tmp_path: Path, job: Path, name: str, content: bytes | None) -> None:
    device = tmp_path / "device.json"
    device.write_text(CPU.to_json())
    if content is None:
        (job / name).unlink()
    else:
        (job / name).write_bytes(content)
    remember(device, job)
    found = read_device(device)
    assert found is not None
    assert (found.speeds == {}) or (name == "plan.json" and content == b"{}")


def test_without_facts_or_base_nothing_is_noted(tmp_path: Path, base: Checkpoint, job: Path) -> None:
    device = tmp_path / "device.json"
    remember(device, job)
    assert not device.exists()
    device.write_text(CPU.to_json())
    base.path.unlink()
    remember(device, job)
    assert read_device(device) == CPU
