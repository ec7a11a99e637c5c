"""The job specification: everything that a run was asked for, frozen, in one JSON file.

`jobs/<id>/spec.json` holds one. Its version is raised with each change of its form, and
:mod:`trainer_bridge.migrations` lifts older files step by step, so that a run of last year can be resumed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from . import fields, limits, migrations
from .errors import UserError

VERSION = 1

_MAX_SAMPLES = 64

TYPES: tuple[str, ...] = ("character", "style", "pose", "outfit")


@dataclass(frozen=True)
class BaseFile:
    """The checkpoint that a run trains on, as it was when the run was made.

    Attributes:
        path: absolute path of the `.safetensors` file.
        size: bytes; with `mtime_ns` it tells whether the file is still the same one.
        mtime_ns: time of the last change in nanoseconds.
        family: key of :data:`trainer_bridge.families.FAMILIES`.
        prediction_type: `epsilon` or `v_prediction`.
    """

    path: str
    size: int
    mtime_ns: int
    family: str
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        numbers, texts = (self.size, self.mtime_ns), (self.path, self.family)
        if not all(type(number) is int and number >= 0 for number in numbers) or not all(
            isinstance(text, str) and text for text in texts
        ):
            raise UserError("The job does not say which base it is for.", "Make the job anew.")
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise UserError("The job's base predicts what no base does.", "Make the job anew.")


@dataclass(frozen=True)
class SamplePrompt:
    """One picture that is drawn after each epoch, always with the same seed.

    Attributes:
        width, height: px, multiples of 8.
    """

    prompt: str
    negative: str
    seed: int
    width: int
    height: int


@dataclass(frozen=True)
class JobSpec:
    """What a run was asked for.

    Attributes:
        name: the LoRA's name as people see it.
        output_name: stem of the file that it becomes.
        trigger: word that stands first in every caption; may be empty.
        type: one of :data:`TYPES`.
        base: the checkpoint.
        out_dir: absolute folder that the finished LoRA goes to.
        settings: every setting of :data:`trainer_bridge.fields.FIELDS`, by name.
        sample_prompts: what is drawn after each epoch.

    Raises:
        UserError: a value is missing, of the wrong type, out of bounds, or does not go with another.
    """

    name: str
    output_name: str
    trigger: str
    type: str
    base: BaseFile
    out_dir: str
    settings: Mapping[str, fields.Value]
    sample_prompts: tuple[SamplePrompt, ...] = ()
    version: int = VERSION

    def __post_init__(self) -> None:
        check_name(self.name)
        check_name(self.output_name)
        check_trigger(self.trigger)
        if self.type not in TYPES:
            raise UserError(f"What to teach cannot be {self.type!r}.", f"Choose one of {', '.join(TYPES)}.")
        values = fields.check_values(self.settings)
        missing = fields.BY_NAME.keys() - values.keys()
        if missing:
            raise UserError(f"The job lacks the settings {', '.join(sorted(missing))}.", "Make the job anew.")
        wrong = fields.check_together(values)
        if wrong:
            name, sentence = next(iter(wrong.items()))
            raise UserError(f"{name}: {sentence}")
        if not isinstance(self.out_dir, str) or not self.out_dir:
            raise UserError("The job does not say where the LoRA goes.", "Make the job anew.")
        if len(self.sample_prompts) > _MAX_SAMPLES:
            raise UserError("The job has too many sample prompts.", f"Use at most {_MAX_SAMPLES}.")
        for prompt in self.sample_prompts:
            _check_prompt(prompt)
        object.__setattr__(self, "settings", MappingProxyType({f.name: values[f.name] for f in fields.FIELDS}))

    def to_json(self) -> str:
        """Return the text of `spec.json`, in ASCII: paths of any bytes survive it, and any console shows it."""
        data = {key: value for key, value in self.__dict__.items() if key not in ("settings", "base", "sample_prompts")}
        data["base"] = asdict(self.base)
        data["settings"] = dict(self.settings)
        data["sample_prompts"] = [asdict(prompt) for prompt in self.sample_prompts]
        return json.dumps(data, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> JobSpec:
        """Read the text of a `spec.json` of this or an older version.

        Raises:
            UserError: not a job file, or one of a newer version.
        """
        if len(text) > limits.MAX_JSON_BYTES:
            raise UserError("The job file is too large to be one of ours.", "Make the job anew.")
        try:
            data: Any = json.loads(text)
        except (ValueError, RecursionError):
            raise UserError("The job file is not valid JSON.", "Make the job anew.") from None
        if not isinstance(data, dict):
            raise UserError("The job file does not hold a job.", "Make the job anew.")
        data = migrations.lift(data, VERSION)
        try:
            return cls(
                name=_text(data, "name"),
                output_name=_text(data, "output_name"),
                trigger=_text(data, "trigger"),
                type=_text(data, "type"),
                base=BaseFile(**data["base"]),
                out_dir=_text(data, "out_dir"),
                settings=dict(data["settings"]),
                sample_prompts=tuple(SamplePrompt(**prompt) for prompt in data.get("sample_prompts", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"The job file is incomplete ({error}).", "Make the job anew.") from None


#: Names that Windows keeps for devices: a file of that name cannot be made there.
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{n}" for port in ("com", "lpt") for n in "123456789\u00b9\u00b2\u00b3"}
)
_FORBIDDEN = frozenset('/\\:*?"<>|')


def check_name(name: object) -> str:
    """Return `name` if a LoRA may be called so.

    The host's prompt syntax is `<lora:name:weight>`, and AUTOMATIC1111 cuts at the first dot of some keys,
    hence no colon, no angle brackets and no comma beside what file systems refuse.

    Raises:
        UserError: why not.
    """
    if not isinstance(name, str) or not name.strip():
        raise UserError("The LoRA has no name.", "Give it one, for instance the subject's.")
    if name != name.strip():
        raise UserError("The name begins or ends with a blank.", f"Call it {name.strip()!r}.")
    if len(name) > limits.MAX_NAME_CHARS or len(name.encode("utf-8", "replace")) > 200:
        raise UserError("The name is too long.", f"Use at most {limits.MAX_NAME_CHARS} characters.")
    bad = sorted({char for char in name if char in _FORBIDDEN or char == "," or not char.isprintable()})
    if bad:
        raise UserError(f"The name contains {' '.join(map(repr, bad[:8]))}.", "Use letters, digits, blanks, - and _.")
    if name.startswith(".") or name.endswith(".") or ".." in name or PurePath(name).name != name:
        raise UserError(
            "The name begins or ends with a dot or has two in a row.", "Use letters, digits, blanks, - and _."
        )
    if not any(char.isalnum() for char in name):
        raise UserError("The name has no letter or digit.", "Use letters, digits, blanks, - and _.")
    if name.split(".")[0].strip().lower() in _RESERVED:
        raise UserError(f"{name!r} is a name that Windows keeps for itself.", "Choose another name.")
    return name


def check_trigger(trigger: object) -> str:
    """Return `trigger` if it may stand first in a caption; an empty one is allowed.

    Raises:
        UserError: why not.
    """
    if not isinstance(trigger, str):
        raise UserError("The trigger word is not a text.", "Use a short word that means nothing else.")
    if len(trigger) > limits.MAX_TRIGGER_CHARS:
        raise UserError("The trigger word is too long.", f"Use at most {limits.MAX_TRIGGER_CHARS} characters.")
    if "," in trigger or any(not char.isprintable() for char in trigger) or trigger != trigger.strip():
        raise UserError("The trigger word contains a comma, a line break or a blank at its end.", "Use one plain word.")
    if set(trigger) & set("<>()[]{}:|\\"):
        raise UserError("The trigger word contains a character that prompts give a meaning.", "Use one plain word.")
    return trigger


def read_spec(job_folder: Path) -> JobSpec:
    """Read `spec.json` of a job folder.

    Raises:
        UserError: it is missing or not a job.
    """
    try:
        with (job_folder / "spec.json").open("rb") as file:
            text = file.read(limits.MAX_JSON_BYTES + 1).decode("utf-8", "replace")
    except OSError:
        raise UserError(
            f"There is no job in {job_folder}.", "`python -m trainer_bridge list` shows all jobs."
        ) from None
    return JobSpec.from_json(text)


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a text")
    return value


def _check_prompt(prompt: SamplePrompt) -> None:
    for text in (prompt.prompt, prompt.negative):
        if not isinstance(text, str) or len(text) > limits.MAX_PROMPT_CHARS:
            raise UserError("A sample prompt is too long.", f"Use at most {limits.MAX_PROMPT_CHARS} characters.")
    for side in (prompt.width, prompt.height):
        if type(side) is not int or side % 8 or not 64 <= side <= 2048:
            raise UserError("A sample picture has a side that cannot be.", "Use multiples of 8 from 64 to 2048.")
    if type(prompt.seed) is not int or not 0 <= prompt.seed < 2**63:
        raise UserError("A sample seed is not a whole number from 0 on.", "Use for instance 42.")
