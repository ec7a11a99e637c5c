"""The resolver: what follows what, what wins, and that every setting says why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import headers
from tests.ldm_keys import SD15, SD15_PARTS, SDXL, SDXL_PARTS, UNet
from trainer_bridge import fields
from trainer_bridge.checkpoint import Checkpoint, inspect
from trainer_bridge.draft import Answers, DatasetFacts, DeviceFacts, Resolved, resolve
from trainer_bridge.spec import TYPES, JobSpec

GB = 1 << 30
GPU = DeviceFacts("Test GPU", "cuda", 12 * GB, {"no": 2e13, "bf16": 5e13, "fp16": 5e13}, bf16=True)
OLD_GPU = DeviceFacts("Old GPU", "cuda", 12 * GB, {"no": 7e12, "fp16": 3e13})
CPU = DeviceFacts("Test CPU", "cpu", 24 * GB, {"no": 4e10, "bf16": 4e10}, bf16=True)
TINY = UNet(channels=96, multiples=(1, 2), layers=1, depth=(0, 1), context=64)
POCKET = json.dumps(
    {
        "native_size": 128,
        "preset": {
            "network_dim": 8,
            "network_alpha": 8,
            "train_batch_size": 8,
            "unet_lr": 5e-4,
            "pose": {"network_dim": 4},
        },
    }
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("bases")
    tiny = {"atelier.config": POCKET}
    return {
        "sd15": inspect(headers.write(folder / "a.safetensors", {**SD15.shapes(), **SD15_PARTS})),
        "sdxl": inspect(headers.write(folder / "b.safetensors", {**SDXL.shapes(), **SDXL_PARTS})),
        "vpred": inspect(
            headers.write(folder / "c.safetensors", {**SDXL.shapes(), **SDXL_PARTS, "v_pred": (0,), "ztsnr": (0,)})
        ),
        "tiny": inspect(headers.write(folder / "d.safetensors", {**TINY.shapes(), **SD15_PARTS}, metadata=tiny)),
        "flux": inspect(
            headers.write(
                folder / "e.safetensors",
                {"double_blocks.0.img_attn.norm.key_norm.scale": (128,), "img_in.weight": (3072, 64)},
            )
        ),
    }


def draft(
    base: Checkpoint,
    overrides: dict[str, Any] | None = None,
    *,
    count: int = 24,
    device: DeviceFacts | None = GPU,
    type_: str = "character",
    trigger: str = "mia",
    **facts: Any,
) -> Resolved:
    answers = Answers("Mia", trigger, type_, base, Path("/loras").absolute(), "Mia")
    return resolve(answers, overrides or {}, DatasetFacts(count, **facts), device)


def test_the_sentence_and_the_steps(bases: dict[str, Checkpoint]) -> None:
    found = draft(bases["sd15"], device=None)
    assert found.sentence.startswith("SD1.5 character, 24 pictures, 1 920 steps at 512 px: ")
    assert "known after the first minute" in found.sentence
    found = draft(bases["sdxl"])
    assert found.sentence.startswith("SDXL character, 24 pictures, 1 920 steps at 1024 px: about ")
    assert found.sentence.endswith(" of 12 GB.")
    assert found.spec is not None
    assert found.spec.settings["max_train_steps"] == 1920
    assert found.spec.settings["num_repeats"] == 8


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("base", ["sd15", "sdxl", "vpred", "tiny"])
@pytest.mark.parametrize("device", [None, GPU, OLD_GPU, CPU])
def test_every_setting_has_a_value_and_a_reason(
    bases: dict[str, Checkpoint], type_: str, base: str, device: DeviceFacts | None
) -> None:
    for overrides in ({}, {"network_train_unet_only": False, "conv_dim": 4, "lr_scheduler": "constant"}):
        found = draft(bases[base], overrides, type_=type_, device=device)
        assert not found.errors
        assert found.spec is not None
        assert list(found.reasons) == list(found.settings) == [field.name for field in fields.FIELDS]
        for name, reason in found.reasons.items():
            assert reason.endswith("."), name
            assert len(reason) < 130, name
            assert (reason == "You set this.") == (name in overrides), name
        assert JobSpec.from_json(found.spec.to_json()) == found.spec


def test_alpha_follows_the_rank_unless_it_is_set(bases: dict[str, Checkpoint]) -> None:
    def alpha(base: str, **overrides: Any) -> Any:
        return draft(bases[base], overrides).settings["network_alpha"]

    assert alpha("sd15") == 8.0
    assert alpha("sd15", network_dim=64) == 32.0
    assert alpha("sd15", network_dim=64, network_alpha=3.0) == 3.0
    assert alpha("tiny") == 8.0
    assert alpha("tiny", network_dim=4) == 4.0
    assert draft(bases["tiny"], type_="style").settings["network_alpha"] == 8.0
    assert draft(bases["tiny"], type_="pose").settings["network_alpha"] == 4.0
    assert draft(bases["sd15"], {"conv_dim": 4}).settings["conv_alpha"] == 2.0


def test_the_types_differ(bases: dict[str, Checkpoint]) -> None:
    rank = {type_: draft(bases["sd15"], type_=type_).settings["network_dim"] for type_ in TYPES}
    assert rank == {"character": 16, "style": 32, "pose": 8, "outfit": 16}
    style = draft(bases["sd15"], type_="style").settings
    assert (style["flip_aug"], style["caption_dropout_rate"]) == (True, 0.1)
    assert draft(bases["sd15"], type_="pose").settings["min_timestep"] == 300
    assert draft(bases["sd15"], type_="outfit").settings["flip_aug"] is False


def test_the_base_brings_its_own_preset(bases: dict[str, Checkpoint]) -> None:
    found = draft(bases["tiny"], type_="style")
    assert found.settings["network_dim"] == 8
    assert found.settings["unet_lr"] == 5e-4
    assert "base" in found.reasons["unet_lr"]
    assert draft(bases["tiny"], {"unet_lr": 1e-3}).settings["unet_lr"] == 1e-3


def test_resolution_and_buckets_follow_the_base(bases: dict[str, Checkpoint]) -> None:
    names = ("resolution", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps")

    def sizes(base: str, **overrides: Any) -> tuple[Any, ...]:
        return tuple(draft(bases[base], overrides).settings[name] for name in names)

    assert sizes("sd15") == (512, 256, 1024, 64)
    assert sizes("sdxl") == (1024, 512, 2048, 64)
    assert sizes("tiny") == (128, 64, 256, 16)
    assert sizes("sdxl", resolution=768) == (768, 384, 1536, 64)
    assert sizes("sdxl", resolution=768, min_bucket_reso=256) == (768, 256, 1536, 64)


def test_prediction_follows_the_base(bases: dict[str, Checkpoint]) -> None:
    found = draft(bases["vpred"])
    assert found.settings["v_parameterization"] is True
    assert found.settings["zero_terminal_snr"] is True
    assert "v_pred" in found.reasons["v_parameterization"]
    assert found.spec is not None
    assert found.spec.base.prediction_type == "v_prediction"
    off = draft(bases["vpred"], {"v_parameterization": False})
    assert (off.settings["zero_terminal_snr"], dict(off.errors)) == (False, {})
    assert "zero_terminal_snr" in draft(bases["sd15"], {"zero_terminal_snr": True}).errors


@pytest.mark.parametrize(("device", "expected"), [(None, "no"), (GPU, "bf16"), (OLD_GPU, "fp16"), (CPU, "no")])
def test_precision_follows_the_device(bases: dict[str, Checkpoint], device: DeviceFacts | None, expected: str) -> None:
    assert draft(bases["sd15"], device=device).settings["mixed_precision"] == expected


def test_a_precision_that_the_device_lacks_is_an_error(bases: dict[str, Checkpoint]) -> None:
    assert "fp16" in draft(bases["sd15"], {"mixed_precision": "fp16"}, device=CPU).errors["mixed_precision"]
    assert "bf16" in draft(bases["sd15"], {"mixed_precision": "bf16"}, device=OLD_GPU).errors["mixed_precision"]
    assert not draft(bases["sd15"], {"mixed_precision": "bf16"}, device=CPU).errors


def test_checkpointing_and_smaller_batches_when_memory_is_short(bases: dict[str, Checkpoint]) -> None:
    def memory(gigabytes: float, **overrides: Any) -> dict[str, Any]:
        device = replace(GPU, memory=int(gigabytes * GB))
        found = draft(bases["sdxl"], overrides, device=device)
        assert found.estimate is not None
        assert ("not fit" in found.sentence) != found.estimate.fits
        return dict(found.settings)

    assert memory(80)["gradient_checkpointing"] is False
    assert memory(12)["gradient_checkpointing"] is True
    assert memory(80, gradient_checkpointing=True)["gradient_checkpointing"] is True
    small = draft(bases["tiny"], device=replace(GPU, memory=int(0.95 * GB)))
    assert small.settings["gradient_checkpointing"] is True
    batch, parts = small.settings["train_batch_size"], small.settings["gradient_accumulation_steps"]
    assert int(batch) < 8
    assert int(batch) * int(parts) == 8
    kept = draft(bases["tiny"], {"train_batch_size": 8}, device=replace(GPU, memory=int(0.95 * GB)))
    assert kept.settings["train_batch_size"] == 8


def test_steps_follow_pictures_repeats_and_batch(bases: dict[str, Checkpoint]) -> None:
    def steps(count: int, base: str = "sd15", **overrides: Any) -> tuple[Any, Any]:
        found = draft(bases[base], overrides, count=count).settings
        return found["num_repeats"], found["max_train_steps"]

    assert steps(20) == (10, 2000)
    assert steps(3) == (66, 1980)
    assert steps(1000) == (1, 10_000)
    assert steps(24, train_batch_size=4) == (8, 480)
    assert steps(24, gradient_accumulation_steps=4) == (8, 480)
    assert steps(24, num_repeats=3) == (3, 720)
    assert steps(24, max_train_steps=480) == (2, 480)
    assert steps(24, max_train_steps=100) == (1, 100)
    assert steps(24, max_train_steps=480, num_repeats=5) == (5, 480)


def test_a_bucket_of_few_pictures_makes_batches_of_its_own(bases: dict[str, Checkpoint]) -> None:
    sizes = ((512, 512),) * 3 + ((384, 640),)
    found = draft(bases["sd15"], {"train_batch_size": 2, "num_repeats": 1}, count=4, sizes=sizes)
    assert found.settings["max_train_steps"] == 30  # 2 batches of squares and 1 of the tall picture, ten times


def test_a_base_may_fix_the_steps(tmp_path: Path) -> None:
    told = {"atelier.config": '{"native_size": 128, "preset": {"max_train_steps": 350, "train_batch_size": 8}}'}
    base = inspect(headers.write(tmp_path / "m.safetensors", {**TINY.shapes(), **SD15_PARTS}, metadata=told))
    found = draft(base, count=18).settings
    assert (found["max_train_steps"], found["num_repeats"]) == (350, 15)
    assert draft(base, {"num_repeats": 4}, count=16).settings["max_train_steps"] == 80


def test_what_is_reckoned_stays_within_the_bounds(bases: dict[str, Checkpoint]) -> None:
    long = {"max_train_steps": 1_000_000, "train_batch_size": 64, "gradient_accumulation_steps": 256}
    found = draft(bases["sd15"], long, count=3)
    assert (found.settings["num_repeats"], dict(found.errors)) == (10_000, {})
    assert not draft(bases["sd15"], {"max_timestep": 100}, type_="pose").errors
    assert not draft(bases["sd15"], {"max_bucket_reso": 64}).errors
    assert not draft(bases["sd15"], {"min_bucket_reso": 2048}).errors


def test_saves_stay_few_however_long_the_run(bases: dict[str, Checkpoint]) -> None:
    found = draft(bases["sd15"], {"max_train_steps": 100_000, "num_repeats": 1})
    every = int(found.settings["save_every_n_epochs"])
    assert 100_000 / 24 / every <= 12
    assert found.settings["sample_every_n_epochs"] == every


def test_a_constant_rate_has_no_warm_up(bases: dict[str, Checkpoint]) -> None:
    assert draft(bases["sd15"], {"lr_scheduler": "constant"}).settings["lr_warmup_steps"] == 0
    assert draft(bases["sd15"]).settings["lr_warmup_steps"] == 96
    assert not draft(bases["sd15"], {"max_train_steps": 1}).errors
    clash = draft(bases["sd15"], {"lr_scheduler": "constant", "lr_warmup_steps": 5})
    assert "lr_warmup_steps" in clash.errors
    assert clash.spec is None


def test_without_a_trigger_no_tag_is_kept(bases: dict[str, Checkpoint]) -> None:
    found = draft(bases["sd15"], trigger="", captions=("red, hat",))
    assert found.settings["keep_tokens"] == 0
    assert found.spec is not None
    assert found.spec.sample_prompts[0].prompt == "red, hat"


def test_without_captions_nothing_is_shuffled(bases: dict[str, Checkpoint]) -> None:
    assert draft(bases["sd15"], captions=("", "")).settings["shuffle_caption"] is False
    assert draft(bases["sd15"], captions=("", "a, b")).settings["shuffle_caption"] is True
    assert draft(bases["sd15"]).settings["shuffle_caption"] is True


def test_sample_prompts_are_the_first_captions_that_differ(bases: dict[str, Checkpoint]) -> None:
    found = draft(bases["tiny"], captions=("hat", "mia, hat", "", "smile, mia, hat"))
    assert found.spec is not None
    prompts = found.spec.sample_prompts
    assert [prompt.prompt for prompt in prompts] == ["mia, hat", "mia, smile, hat"]
    assert {(prompt.width, prompt.height, prompt.negative, prompt.seed) for prompt in prompts} == {(128, 128, "", 42)}
    bare = draft(bases["sd15"])
    assert bare.spec is not None
    assert [(prompt.prompt, prompt.seed) for prompt in bare.spec.sample_prompts] == [("mia", 42), ("mia", 43)]
    none = draft(bases["sd15"], {"sample_every_n_epochs": 0})
    assert none.spec is not None
    assert none.spec.sample_prompts == ()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"output_name": "con"}, "output_name"),
        ({"trigger": "a, b"}, "trigger"),
        ({"type": "landscape"}, "type"),
    ],
)
def test_wrong_answers_are_errors_at_their_place(
    bases: dict[str, Checkpoint], change: dict[str, Any], key: str
) -> None:
    answers = replace(Answers("Mia", "mia", "character", bases["sd15"], Path("/out"), "Mia"), **change)
    found = resolve(answers, {}, DatasetFacts(20), None)
    assert list(found.errors) == [key]
    assert found.spec is None
    assert set(found.settings) == set(fields.BY_NAME)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_pictures(bases: dict[str, Checkpoint], count: int) -> None:
    found = draft(bases["sd15"], count=count)
    assert "at least 3" in found.errors["images"]
    assert found.spec is None
    assert not draft(bases["sd15"], count=3).errors


def test_wrong_settings_are_errors_at_their_place(bases: dict[str, Checkpoint]) -> None:
    wrong = {"network_dim": 10**9, "unet_lr": float("nan"), "no_such": 1, "flip_aug": "yes"}
    found = draft(bases["sd15"], wrong)
    assert set(found.errors) == set(wrong)
    assert found.settings["network_dim"] == 16


def test_a_base_that_cannot_be_trained_is_an_error_with_values_all_the_same(
    bases: dict[str, Checkpoint],
) -> None:
    found = draft(bases["flux"])
    assert "cannot be trained" in found.errors["base"]
    assert found.spec is None
    assert found.estimate is None
    assert set(found.reasons) == set(fields.BY_NAME)


def _value(field: fields.Field) -> st.SearchStrategy[Any]:
    if field.kind == "bool":
        return st.booleans()
    if field.kind == "choice":
        return st.sampled_from(field.choices)
    assert field.minimum is not None
    assert field.maximum is not None
    if field.kind == "int":
        return st.integers(int(field.minimum), int(field.maximum))
    return st.floats(field.minimum, field.maximum)


OVERRIDES = st.fixed_dictionaries({}, optional={field.name: _value(field) for field in fields.FIELDS})
SIZES = st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(
    OVERRIDES,
    SIZES,
    st.sampled_from([None, GPU, OLD_GPU, CPU]),
    st.sampled_from(TYPES),
    st.sampled_from(["sd15", "tiny"]),
)
def test_any_valid_overrides_give_a_job_or_errors(
    bases: dict[str, Checkpoint],
    overrides: dict[str, Any],
    sizes: list[tuple[int, int]],
    device: DeviceFacts | None,
    type_: str,
    base: str,
) -> None:
    found = draft(bases[base], overrides, count=len(sizes), sizes=tuple(sizes), device=device, type_=type_)
    assert (found.spec is None) == bool(found.errors)
    assert "job" not in found.errors
    assert set(found.settings) == set(found.reasons) == set(fields.BY_NAME)
    for name, value in overrides.items():
        assert found.settings[name] == value
        assert found.reasons[name] == "You set this."
    assert found.sentence.endswith(".")
