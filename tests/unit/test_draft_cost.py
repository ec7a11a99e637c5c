"""Memory and time: the workload against torch's own counter, and how the estimate and its words follow it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import headers
from tests.ldm_keys import SD15, SD15_PARTS, SDXL, UNet
from trainer_bridge import estimate, fields, sentence
from trainer_bridge.checkpoint import inspect
from trainer_bridge.device import DeviceFacts, parse, read_device
from trainer_bridge.families import FAMILIES
from trainer_bridge.preset import choices
from trainer_bridge.safetensors_header import Tensor
from trainer_bridge.signatures import Weights
from trainer_bridge.spec import TYPES
from trainer_bridge.workload import Workload, measure

GB = 1 << 30
GPU = DeviceFacts("Test GPU", "cuda", 12 * GB, {"no": 2e13, "bf16": 5e13}, {"no": 1e13}, True, {"sd15-860M/no": 3e12})


def workload(net: UNet) -> Workload:
    tensors = {name: Tensor("F16", shape, 0, 0) for name, shape in net.shapes().items()}
    return measure(tensors, Weights(tensors))


@pytest.mark.parametrize(
    ("net", "cells", "tera"), [(SD15, 64 * 64, 0.8033), (SD15, 96 * 96, 2.1482), (SDXL, 128 * 128, 6.7612)]
)
def test_the_count_of_full_size_bases(net: UNet, cells: int, tera: float) -> None:
    """torch's counter over diffusers' classes with a LoRA of rank 16: 0.8145, 2.1732 and 6.8523."""
    work = workload(net)
    found = work.forward(cells) / 1e12
    assert found == pytest.approx(tera, rel=1e-4)
    lora = 16 * work.lora_per_rank
    assert lora == {SD15: 6_782_976, SDXL: 42_557_440}[net]


def test_the_count_against_torch() -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from torch.utils.flop_counter import FlopCounterMode

    net = UNet(channels=32, multiples=(1, 2, 4, 4), depth=(1, 1, 1, 0), context=24)
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64, 128, 128), cross_attention_dim=24, attention_head_dim=4
        )
        sample, caption = torch.randn(1, 4, 32, 32), torch.randn(1, 77, 24)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(sample, torch.tensor([5]), caption)
    work = workload(net)
    assert work.parameters == sum(p.numel() for p in model.parameters())
    assert work.forward(32 * 32) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_vae_and_the_text_encoder_are_counted() -> None:
    tensors = {
        "first_stage_model.encoder.conv_in.weight": Tensor("F16", (8, 3, 3, 3), 0, 0),
        "first_stage_model.encoder.down.0.downsample.conv.weight": Tensor("F16", (8, 8, 3, 3), 0, 0),
        "first_stage_model.decoder.mid.block_1.conv1.weight": Tensor("F16", (8, 8, 3, 3), 0, 0),
        "first_stage_model.decoder.up.1.upsample.conv.weight": Tensor("F16", (8, 8, 3, 3), 0, 0),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": Tensor("F16", (99, 8), 0, 0),
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": Tensor("F16", (32, 8), 0, 0),
    }
    work = measure(tensors, Weights(tensors))
    assert work.encode_per_cell == 2 * (8 * 3 * 9 * 64 + 8 * 8 * 9 * 16)
    assert work.decode_per_cell == 2 * (8 * 8 * 9 * 1 + 8 * 8 * 9 * 64)
    assert (work.text_parameters, work.text_lora_per_rank) == (256, 40)


def test_odd_names_are_counted_without_harm() -> None:
    names = ["input_blocks.x.0.weight", "output_blocks..1.conv.weight", "input_blocks", "middle_block.", ""]
    names += [f"input_blocks.{'9' * 5000}.0.op.weight", "output_blocks.0.7.conv.weight"]
    tensors = {name: Tensor("F16", (3, 3, 3, 3), 0, 0) for name in names}
    assert measure(tensors, Weights(tensors)).parameters == 81 * len(names)


SETTINGS = fields.defaults()


def memory(work: Workload, **changes: Any) -> int:
    return estimate.peak_memory(work, {**SETTINGS, **changes}, 4096, "cuda")


def test_memory_follows_what_costs_memory() -> None:
    work = workload(SD15)
    plain = memory(work)
    assert 5 * GB < plain < 8 * GB
    assert memory(work, mixed_precision="bf16") < 0.6 * plain
    assert memory(work, gradient_checkpointing=True) < plain
    assert memory(work, train_batch_size=2) > plain + GB
    assert memory(work, network_dim=128) > plain
    assert memory(work, conv_dim=16) > plain
    assert memory(replace(work, text_parameters=10**8), network_train_unet_only=False) > plain + 4 * 10**8 - 1


def test_operations_follow_what_costs_time() -> None:
    work = workload(SD15)
    one = estimate.step_operations(work, SETTINGS, [4096.0])
    assert one == pytest.approx(2.15 * work.forward(4096))
    double = {**SETTINGS, "train_batch_size": 2, "gradient_accumulation_steps": 3}
    assert estimate.step_operations(work, double, [4096.0]) == pytest.approx(6 * one)
    assert estimate.step_operations(work, {**SETTINGS, "gradient_checkpointing": True}, [4096.0]) > 1.4 * one
    run = estimate.run_operations(work, {**SETTINGS, "sample_every_n_epochs": 0}, [4096.0], 4096, 10)
    drawn = estimate.run_operations(work, SETTINGS, [4096.0], 4096, 10)
    assert drawn - run == pytest.approx(11 * 2 * 2 * 20 * work.forward(4096))


def test_a_past_run_says_more_than_the_peak() -> None:
    key = estimate.speed_key("sd15", workload(SD15))
    assert key == "sd15-860M"
    assert estimate.speed(GPU, "no", key) == 3e12
    assert estimate.speed(GPU, "bf16", key) == pytest.approx(0.4 * 5e13)
    assert estimate.speed(GPU, "fp16", key) is None
    wiser = estimate.learn(GPU, "bf16", key, operations=6e12, took=0.5)
    assert estimate.speed(wiser, "bf16", key) == 12e12
    assert estimate.speed(wiser, "no", key) == 3e12
    assert estimate.learn(GPU, "bf16", key, operations=6e12, took=0.0) is GPU


# ---- device.json


def test_device_facts_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    assert read_device(path) is None
    path.write_text(GPU.to_json())
    assert read_device(path) == GPU


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": 2}, None),
        ({"kind": "abacus"}, None),
        ({"memory": 0}, None),
        ({"memory": 1e9}, None),
        ({"name": 3}, None),
        ({"matrix": {"no": -1, "bf16": "x", "fp16": True, "fp64": 1}}, {}),
        ({"matrix": {"no": float("nan"), "bf16": float("inf"), "fp16": 10**400}}, {}),
        ({"matrix": None}, {}),
    ],
)
def test_device_facts_that_cannot_be(tmp_path: Path, change: dict[str, Any], expected: Any) -> None:
    path = tmp_path / "device.json"
    path.write_text(json.dumps({**json.loads(GPU.to_json()), **change}))
    found = read_device(path)
    assert (found and found.matrix) == expected


def test_a_broken_device_file_is_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    for data in (b"", b"[", b"\xff", b"[" * 60_000, b"{}" + b" " * 100_000):
        path.write_bytes(data)
        assert read_device(path) is None
    with pytest.raises(ValueError, match="facts"):
        parse([])


# ---- words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "10 seconds"),
        (44, "40 seconds"),
        (90, "2 minutes"),
        (660, "11 minutes"),
        (3570, "1 hour"),
        (3800, "1 hour 5 minutes"),
        (7200, "2 hours"),
        (50_000, "14 hours"),
        (400_000, "5 days"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert sentence.duration(seconds) == words


def test_numbers() -> None:
    assert [sentence.number(value) for value in (1, 999, 1920, 1_000_000)] == ["1", "999", "1 920", "1 000 000"]
    assert [sentence.gigabytes(value * GB) for value in (0.04, 5.25, 99.9, 100.0)] == ["0.0", "5.2", "99.9", "100"]


def test_one_picture_and_one_step_are_singular(tmp_path: Path) -> None:
    base = inspect(headers.write(tmp_path / "m.safetensors", {**SD15.shapes(), **SD15_PARTS}))
    text = sentence.of(base, "style", 1, {**SETTINGS, "max_train_steps": 1}, None)
    assert text == "SD1.5 style, 1 picture, 1 step at 512 px."


# ---- presets


TRAINABLE = [key for key, family in FAMILIES.items() if family.trainable]


@pytest.mark.parametrize("family", [*TRAINABLE, None])
@pytest.mark.parametrize("type_", TYPES)
def test_presets_hold_known_settings_with_reasons(family: str | None, type_: str) -> None:
    found, own = choices(family, type_, None)
    assert own == {}
    assert found.keys() - fields.BY_NAME.keys() == {"views", "alpha_share"}
    for name, choice in found.items():
        assert choice.why.endswith("."), name
        assert len(choice.why) < 130, name


def test_the_rate_of_learning_stays_in_the_known_range() -> None:
    """Under Adam a step of the weights is as large as rate x alpha / rank: 1.9e-5 to 2.5e-4 in published presets."""
    for family in TRAINABLE:
        for type_ in TYPES:
            found, _ = choices(family, type_, None)
            assert 1.9e-5 <= float(found["unet_lr"].value) * float(found["alpha_share"].value) <= 2.5e-4
