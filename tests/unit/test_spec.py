"""The job file: what it takes, that it comes back as it was, and that anything else ends in a sentence."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_bridge import fields, limits, migrations, spec
from trainer_bridge.errors import UserError
from trainer_bridge.spec import BaseFile, JobSpec, SamplePrompt, check_name, check_trigger

BASE = BaseFile("/models/base.safetensors", 123, 456, "sd15")
JOB = JobSpec(
    name="Mia",
    output_name="Mia-v2",
    trigger="mia",
    type="character",
    base=BASE,
    out_dir="/loras",
    settings=fields.defaults(),
    sample_prompts=(SamplePrompt("mia, hat", "", 42, 512, 512),),
)


def test_a_job_comes_back_as_it_was() -> None:
    assert JobSpec.from_json(JOB.to_json()) == JOB
    odd = replace(JOB, name="ミア 🎩", base=replace(BASE, path="/models/\udcff.safetensors"))
    text = odd.to_json()
    text.encode("ascii")
    assert JobSpec.from_json(text) == odd


def test_a_job_does_not_change() -> None:
    given_settings = fields.defaults()
    job = replace(JOB, settings=given_settings)
    given_settings["network_dim"] = 99
    assert job.settings["network_dim"] == 16
    with pytest.raises(FrozenInstanceError):
        job.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        job.settings["network_dim"] = 3  # type: ignore[index]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a/b"},
        {"output_name": ".."},
        {"trigger": "a,b"},
        {"type": "landscape"},
        {"out_dir": ""},
        {"settings": {}},
        {"settings": {**fields.defaults(), "unknown": 1}},
        {"settings": {**fields.defaults(), "network_dim": 0}},
        {"settings": {**fields.defaults(), "zero_terminal_snr": True}},
        {"sample_prompts": (SamplePrompt("a", "", 1, 513, 512),)},
        {"sample_prompts": (SamplePrompt("a", "", -1, 512, 512),)},
        {"sample_prompts": (SamplePrompt("a", "", True, 512, 512),)},
        {"sample_prompts": (SamplePrompt("x" * (limits.MAX_PROMPT_CHARS + 1), "", 1, 512, 512),)},
        {"sample_prompts": (SamplePrompt("a", "", 1, 512, 512),) * 65},
    ],
)
def test_a_wrong_job_cannot_be_made(change: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        replace(JOB, **change)


@pytest.mark.parametrize(
    "change", [{"path": ""}, {"size": -1}, {"size": "1"}, {"mtime_ns": True}, {"prediction_type": "x"}]
)
def test_a_wrong_base_cannot_be_named(change: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        replace(BASE, **change)


def broken(**changes: Any) -> str:
    return json.dumps({**json.loads(JOB.to_json()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        broken(version=None),
        broken(version=True),
        broken(version=0),
        broken(version=spec.VERSION + 1),
        broken(name=3),
        broken(base=None),
        broken(base={**json.loads(JOB.to_json())["base"], "surplus": 1}),
        broken(settings=None),
        broken(settings=[["network_dim", 8]]),
        broken(sample_prompts=5),
        broken(sample_prompts=[1]),
        broken(sample_prompts=["ab"]),
        broken(settings={**fields.defaults(), "unet_lr": float("nan")}),
    ],
)
def test_a_broken_job_file_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        JobSpec.from_json(text)


def test_each_missing_entry_is_refused() -> None:
    data = json.loads(JOB.to_json())
    for key in data.keys() - {"sample_prompts"}:
        with pytest.raises(UserError):
            JobSpec.from_json(json.dumps({name: value for name, value in data.items() if name != key}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(json.loads(JOB.to_json()))), JSON, min_size=1))
def test_any_entries_end_in_a_job_or_a_sentence(changes: dict[str, Any]) -> None:
    try:
        job = JobSpec.from_json(broken(**changes))
    except UserError:
        return
    assert JobSpec.from_json(job.to_json()) == job


def test_reading_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no job"):
        spec.read_spec(tmp_path)
    (tmp_path / "spec.json").write_text(JOB.to_json())
    assert spec.read_spec(tmp_path) == JOB
    (tmp_path / "spec.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid"):
        spec.read_spec(tmp_path)
    with (tmp_path / "spec.json").open("wb") as file:
        file.truncate(limits.MAX_JSON_BYTES * 4)
    with pytest.raises(UserError, match="too large"):
        spec.read_spec(tmp_path)


def test_an_older_version_is_lifted_step_by_step() -> None:
    steps = {1: lambda data: {**data, "b": data["a"]}, 2: lambda data: {**data, "c": data["b"] + 1}}
    assert migrations.lift({"version": 1, "a": 1}, 3, steps) == {"version": 3, "a": 1, "b": 1, "c": 2}
    original = {"version": 2, "b": 1}
    assert migrations.lift(original, 3, steps)["c"] == 2
    assert original == {"version": 2, "b": 1}
    with pytest.raises(UserError, match="newer"):
        migrations.lift({"version": 4}, 3, steps)


@pytest.mark.parametrize(
    "name", ["Mia", "mia-v2", "my lora", "ミア", "a.b", "x" * 100, "Größe_1", "o'neil", "console", "com10", "(x)"]
)
def test_names_that_can_be(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "a ", " a", "a/b", "a\\b", "..", ".", ".a", "a.", "a..b", "a:b", "a<b", "a,b", 'a"b', "a\nb", "a\0b"]
    + ["---", "🎩", "CON", "con.txt", "Lpt1", "com¹", "CONIN$", "x" * 101, "あ" * 70, "a\u202eb", "\ud800a", None, 3],
)
def test_names_that_cannot(name: Any) -> None:
    with pytest.raises(UserError) as caught:
        check_name(name)
    assert caught.value.way_out


@settings(deadline=None)
@given(st.text(max_size=30))
def test_a_name_that_passes_is_one_part_of_a_path(name: str) -> None:
    try:
        check_name(name)
    except UserError:
        return
    assert Path("folder", name).parent == Path("folder")
    assert Path("folder", f"{name}.safetensors").stem == name
    name.encode()


@pytest.mark.parametrize("trigger", ["", "mia", "my_char", "sks person", "ミア", "x" * 60])
def test_triggers_that_can_be(trigger: str) -> None:
    assert check_trigger(trigger) == trigger


@pytest.mark.parametrize("trigger", ["a,b", "a ", "a\nb", "(a)", "a:1", "<lora:x>", "x" * 61, None, "\ud800"])
def test_triggers_that_cannot(trigger: Any) -> None:
    with pytest.raises(UserError) as caught:
        check_trigger(trigger)
    assert caught.value.way_out
