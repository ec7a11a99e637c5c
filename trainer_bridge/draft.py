"""The one resolver: from four answers, what was changed by hand, the pictures and the machine to a job.

Every setting gets a value and a reason. What was not changed by hand follows: alpha follows the rank, the
steps follow the pictures, precision and memory follow the machine, prediction follows the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from . import fields, limits, sentence, settle
from .checkpoint import Checkpoint
from .dataset.captions import SEPARATOR, split, with_trigger
from .device import DeviceFacts
from .errors import UserError
from .estimate import Estimate
from .fields import Value
from .settle import DatasetFacts
from .spec import TYPES, BaseFile, JobSpec, SamplePrompt, check_name, check_trigger

__all__ = ["Answers", "DatasetFacts", "DeviceFacts", "Resolved", "resolve"]


@dataclass(frozen=True)
class Answers:
    """What the user said.

    Attributes:
        name: the LoRA's name.
        trigger: word that calls it; may be empty.
        type: one of :data:`trainer_bridge.spec.TYPES`.
        base: the checkpoint to train on.
        out_dir: absolute folder for the finished file.
        output_name: stem of the finished file.
    """

    name: str
    trigger: str
    type: str
    base: Checkpoint
    out_dir: Path
    output_name: str


@dataclass(frozen=True)
class Resolved:
    """What a run would be.

    Attributes:
        spec: the job; None while there are errors.
        settings: every setting, also while there are errors.
        reasons: for each setting, why it has its value.
        sentence: the run in one sentence.
        errors: what must be changed first: answer or setting -> sentence.
        estimate: memory and time.
    """

    spec: JobSpec | None
    settings: Mapping[str, Value]
    reasons: Mapping[str, str]
    sentence: str
    errors: Mapping[str, str]
    estimate: Estimate | None


def resolve(
    answers: Answers, overrides: Mapping[str, Value], dataset: DatasetFacts, device: DeviceFacts | None
) -> Resolved:
    """Decide everything that was not said.

    Args:
        overrides: settings changed by hand, and no others.
        device: None while the machine has not been measured.
    """
    errors = _check_answers(answers, dataset)
    accepted = _check_overrides(overrides, errors)
    settled = settle.settle(answers.base, answers.type, bool(answers.trigger), accepted, dataset, device)
    for name, fault in {
        **fields.check_together(settled.values),
        **_check_device(settled.values, device),
    }.items():
        errors.setdefault(name, fault)
    spec = None
    if not errors:
        try:
            spec = _spec(answers, settled.values, dataset)
        except UserError as error:
            errors["job"] = str(error)
    return Resolved(
        spec=spec,
        settings=MappingProxyType(settled.values),
        reasons=MappingProxyType(settled.reasons),
        sentence=sentence.of(answers.base, answers.type, dataset.count, settled.values, settled.estimate),
        errors=MappingProxyType(errors),
        estimate=settled.estimate,
    )


def _check_answers(answers: Answers, dataset: DatasetFacts) -> dict[str, str]:
    errors: dict[str, str] = {}
    for key, check, value in (
        ("name", check_name, answers.name),
        ("output_name", check_name, answers.output_name),
        ("trigger", check_trigger, answers.trigger),
    ):
        try:
            check(value)
        except UserError as error:
            errors[key] = str(error)
    if answers.type not in TYPES:
        errors["type"] = f"What to teach cannot be {answers.type!r}. Choose one of {', '.join(TYPES)}."
    if not answers.base.trainable:
        errors["base"] = f"{answers.base.path.name} ({answers.base.title}) cannot be trained: {answers.base.reason}."
    if dataset.count < limits.MIN_PICTURES:
        counted = {0: "There is no usable picture", 1: "There is one usable picture"}
        found = counted.get(dataset.count, f"There are {dataset.count} usable pictures")
        errors["images"] = f"{found}; at least {limits.MIN_PICTURES} are needed. Add some: 15 to 40 work best."
    return errors


def _check_overrides(overrides: Mapping[str, Value], errors: dict[str, str]) -> dict[str, Value]:
    """Return the overrides that can be; note the others in `errors`."""
    accepted: dict[str, Value] = {}
    for name, value in overrides.items():
        try:
            accepted[name] = fields.field(name).check(value)
        except UserError as error:
            errors[name] = str(error)
    return accepted


def _check_device(values: Mapping[str, Value], device: DeviceFacts | None) -> dict[str, str]:
    if device is None:
        return {}
    precision = values["mixed_precision"]
    if precision == "fp16" and device.kind == "cpu":
        choose = "bf16 or no" if device.bf16 else "no"
        return {"mixed_precision": f"A CPU cannot train in fp16: it has no fast units for it. Choose {choose}."}
    if precision == "bf16" and not device.bf16:
        other = "no" if device.kind == "cpu" else "fp16 or no"
        return {"mixed_precision": f"{device.name} cannot compute in bf16. Choose {other}."}
    return {}


def _spec(answers: Answers, values: Mapping[str, Value], dataset: DatasetFacts) -> JobSpec:
    base = answers.base
    return JobSpec(
        name=answers.name,
        output_name=answers.output_name,
        trigger=answers.trigger,
        type=answers.type,
        base=BaseFile(
            path=str(base.path),
            size=base.size,
            mtime_ns=base.mtime_ns,
            family=base.family or "",
            prediction_type="v_prediction" if values["v_parameterization"] else "epsilon",
        ),
        out_dir=str(answers.out_dir),
        settings=values,
        sample_prompts=sample_prompts(answers.trigger, dataset.captions, values, base.native_size),
    )


def sample_prompts(
    trigger: str, captions: tuple[str, ...], values: Mapping[str, Value], native_size: int
) -> tuple[SamplePrompt, ...]:
    """Return what is drawn after each epoch: the first captions that differ, with the trigger in front.

    Where there are fewer captions than pictures to draw, a caption is drawn again with the next seed.
    """
    prompts: dict[str, None] = {}
    for caption in captions:
        prompts.setdefault(SEPARATOR.join(with_trigger(split(caption), trigger))[: limits.MAX_PROMPT_CHARS])
    found = [prompt for prompt in prompts if prompt not in ("", trigger)] or [trigger]
    side = min(2048, max(64, native_size // 8 * 8))
    count = int(values["sample_count"]) if int(values["sample_every_n_epochs"]) else 0
    seed = int(values["seed"])
    return tuple(
        SamplePrompt(found[index % len(found)], "", seed + index // len(found), side, side) for index in range(count)
    )
