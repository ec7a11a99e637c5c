"""Every setting of a run, declared once.

The command line, the job file, the advanced panel and the engine all derive from :data:`FIELDS`. A setting is
named as kohya-ss sd-scripts names it where such an argument exists, so that its documentation applies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .errors import UserError

Value = int | float | bool | str
Kind = Literal["int", "float", "bool", "choice"]

GROUPS: tuple[tuple[str, str], ...] = (
    ("dataset", "Dataset"),
    ("captions", "Captions"),
    ("network", "Network"),
    ("optimizer", "Optimiser"),
    ("schedule", "Schedule"),
    ("loss", "Noise and loss"),
    ("memory", "Precision and memory"),
    ("samples", "Samples"),
    ("saving", "Saving"),
)


@dataclass(frozen=True)
class Field:
    """One setting.

    Attributes:
        name: key in job files, `--set` and presets.
        kind: type of the value; a `choice` is one of `choices`.
        default: value when neither preset nor user says otherwise.
        group: key of :data:`GROUPS`.
        label: what the page calls it.
        help: one sentence: what a larger or smaller value does.
        minimum, maximum: inclusive bounds of a number.
        choices: the allowed values of a choice, as text.
        sd_scripts: whether sd-scripts has an argument of this name and meaning.
    """

    name: str
    kind: Kind
    default: Value
    group: str
    label: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    sd_scripts: bool = True

    def check(self, value: object) -> Value:
        """Return `value` as this field's type.

        Raises:
            UserError: wrong type, not finite, or outside the bounds; the sentence names the field and the bounds.
        """
        if self.kind == "bool":
            return self._bool(value)
        if self.kind == "choice":
            if isinstance(value, str) and value in self.choices:
                return value
            raise self._refuse(value, f"one of {', '.join(self.choices)}")
        return self._number(value)

    def parse(self, text: str) -> Value:
        """Read the value from the text of a command line.

        Raises:
            UserError: as :meth:`check`.
        """
        text = text.strip()
        if self.kind == "bool":
            words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
            return self._bool(words.get(text.lower(), text))
        if self.kind == "choice":
            return self.check(text)
        if len(text) > 40:
            raise self._refuse(text[:40] + "...", self.allowed())
        try:
            number = int(text) if self.kind == "int" else float(text)
        except ValueError:
            raise self._refuse(text, self.allowed()) from None
        return self._number(number)

    def allowed(self) -> str:
        """Say in words which values are allowed."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        noun = "a whole number" if self.kind == "int" else "a number"
        return f"{noun} from {self.minimum:g} to {self.maximum:g}"

    def _bool(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise self._refuse(value, self.allowed())

    def _number(self, value: object) -> Value:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._refuse(value, self.allowed())
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refuse(value, self.allowed())
        assert self.minimum is not None and self.maximum is not None, self.name
        if not self.minimum <= value <= self.maximum:
            raise self._refuse(value, self.allowed())
        if self.kind == "int":
            if isinstance(value, float) and not value.is_integer():
                raise self._refuse(value, self.allowed())
            return int(value)
        return float(value)

    def _refuse(self, value: object, allowed: str) -> UserError:
        shown = repr(value)
        if len(shown) > 60:
            shown = shown[:60] + "..."
        return UserError(f"The setting {self.name} cannot be {shown}.", f"It takes {allowed}.")


FIELDS: tuple[Field, ...] = (
    # ---- dataset
    Field("resolution", "int", 512, "dataset", "Resolution", "Side in px of the square whose area every picture is fitted to; larger shows finer detail and costs time and memory.", 64, 2048),
    Field("train_batch_size", "int", 1, "dataset", "Batch size", "Pictures per step; larger is steadier and needs more memory.", 1, 64),
    Field("num_repeats", "int", 1, "dataset", "Repeats", "How often each picture is seen in one epoch.", 1, 10_000),
    Field("enable_bucket", "bool", True, "dataset", "Keep aspect ratios", "Group pictures by aspect ratio instead of cropping all to a square."),
    Field("bucket_no_upscale", "bool", True, "dataset", "Never enlarge", "Train small pictures at their own size instead of enlarging them."),
    Field("bucket_reso_steps", "int", 64, "dataset", "Bucket step", "Bucket sides are multiples of this many px.", 8, 256),
    Field("min_bucket_reso", "int", 256, "dataset", "Smallest bucket side", "No bucket has a side shorter than this, in px.", 32, 2048),
    Field("max_bucket_reso", "int", 1024, "dataset", "Largest bucket side", "No bucket has a side longer than this, in px.", 64, 4096),
    Field("flip_aug", "bool", False, "dataset", "Mirror at random", "Show half of the pictures mirrored; wrong for subjects that are not symmetric."),
    # ---- captions
    Field("shuffle_caption", "bool", True, "captions", "Shuffle tags", "Put the tags of a caption in a new order at each step, so that none depends on its place."),
    Field("keep_tokens", "int", 1, "captions", "Keep first tags", "How many tags at the front keep their place; the trigger word is the first.", 0, 75),
    Field("caption_dropout_rate", "float", 0.05, "captions", "Caption dropout", "Share of steps without any caption; teaches what holds whatever the prompt says.", 0.0, 1.0),
    Field("caption_tag_dropout_rate", "float", 0.0, "captions", "Tag dropout", "Share of tags left out at each step.", 0.0, 1.0),
    Field("clip_skip", "int", 1, "captions", "Clip skip", "Which layer of the text encoder is read, counted from the last.", 1, 12),
    # ---- network
    Field("network_dim", "int", 16, "network", "Rank", "Size of the LoRA; larger holds more and makes a larger file.", 1, 512),
    Field("network_alpha", "float", 8.0, "network", "Alpha", "Strength of the LoRA is alpha / rank; follows the rank unless it is set.", 0.01, 1024.0),
    Field("conv_dim", "int", 0, "network", "Convolution rank", "Rank of the LoRA on 3x3 convolutions; 0 leaves them out.", 0, 512),
    Field("conv_alpha", "float", 1.0, "network", "Convolution alpha", "Alpha of the LoRA on 3x3 convolutions.", 0.01, 1024.0),
    Field("network_dropout", "float", 0.0, "network", "Network dropout", "Share of LoRA activations left out at each step.", 0.0, 0.9),
    Field("network_train_unet_only", "bool", True, "network", "U-Net only", "Leave the text encoders as they are."),
    # ---- optimizer
    Field("optimizer_type", "choice", "AdamW", "optimizer", "Optimiser", "How gradients become changes of the LoRA.", choices=("AdamW",)),
    Field("unet_lr", "float", 1e-4, "optimizer", "U-Net learning rate", "Size of the steps; too large burns, too small learns nothing.", 0.0, 1.0),
    Field("text_encoder_lr", "float", 5e-5, "optimizer", "Text encoder learning rate", "The same for the text encoders, if they are trained.", 0.0, 1.0),
    Field("weight_decay", "float", 0.01, "optimizer", "Weight decay", "Pull of all LoRA weights towards zero.", 0.0, 1.0, sd_scripts=False),
    Field("max_grad_norm", "float", 1.0, "optimizer", "Gradient clipping", "Longest gradient that is taken as it is; 0 takes all.", 0.0, 1000.0),
    # ---- schedule
    Field("max_train_steps", "int", 1600, "schedule", "Steps", "Length of the training in steps.", 1, 1_000_000),
    Field("save_every_n_epochs", "int", 1, "saving", "Save every n epochs", "Keep a LoRA of every n-th epoch to choose from.", 1, 10_000),
    Field("lr_scheduler", "choice", "cosine", "schedule", "Learning rate schedule", "How the learning rate runs over the training.", choices=("constant", "constant_with_warmup", "cosine")),
    Field("lr_warmup_steps", "int", 0, "schedule", "Warm-up steps", "Steps over which the learning rate rises from zero.", 0, 100_000),
    Field("gradient_accumulation_steps", "int", 1, "schedule", "Gradient accumulation", "Batches that make one step; a larger batch without more memory.", 1, 256),
    Field("seed", "int", 42, "schedule", "Seed", "Same seed, same job, same machine: same LoRA.", 0, 2**32 - 1),
    # ---- loss
    Field("min_snr_gamma", "float", 5.0, "loss", "Min-SNR gamma", "Evens out how much each noise level counts; 0 turns it off.", 0.0, 100.0),
    Field("noise_offset", "float", 0.0, "loss", "Noise offset", "Adds brightness noise, so that very dark and very bright pictures are learnt.", 0.0, 1.0),
    Field("min_timestep", "int", 0, "loss", "First timestep", "Least noisy timestep that is trained.", 0, 999),
    Field("max_timestep", "int", 1000, "loss", "Last timestep", "Timesteps from this one on are not trained.", 1, 1000),
    Field("v_parameterization", "bool", False, "loss", "v-prediction", "The base predicts velocity instead of noise; read from the base."),
    Field("zero_terminal_snr", "bool", False, "loss", "Zero terminal SNR", "The noisiest step is pure noise; for v-prediction bases made so."),
    # ---- memory
    Field("mixed_precision", "choice", "no", "memory", "Precision", "Number format of the computation: no is fp32.", choices=("no", "bf16", "fp16")),
    Field("gradient_checkpointing", "bool", False, "memory", "Gradient checkpointing", "Compute activations twice instead of keeping them; slower, far less memory."),
    # ---- samples
    Field("sample_every_n_epochs", "int", 1, "samples", "Sample every n epochs", "Draw sample pictures after every n-th epoch; 0 draws none.", 0, 10_000),
    Field("sample_count", "int", 2, "samples", "Sample pictures", "How many prompts are drawn each time.", 0, 8, sd_scripts=False),
    Field("sample_steps", "int", 20, "samples", "Sample steps", "Sampler steps of a sample picture.", 1, 150, sd_scripts=False),
    Field("sample_cfg", "float", 7.0, "samples", "Sample CFG", "How strictly sample pictures follow the prompt.", 1.0, 30.0, sd_scripts=False),
    # ---- saving
    Field("save_precision", "choice", "fp16", "saving", "File precision", "Number format of the LoRA file.", choices=("float", "fp16", "bf16")),
)

BY_NAME: Mapping[str, Field] = {field.name: field for field in FIELDS}


def defaults() -> dict[str, Value]:
    """Return every setting at its default."""
    return {field.name: field.default for field in FIELDS}


def field(name: str) -> Field:
    """Return the declaration of a setting.

    Raises:
        UserError: there is none of that name; the nearest names are proposed.
    """
    found = BY_NAME.get(name)
    if found is not None:
        return found
    import difflib

    near = difflib.get_close_matches(name[:60], BY_NAME, n=2, cutoff=0.6)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`python -m trainer_bridge settings` lists them all."
    raise UserError(f"There is no setting called {name[:60]!r}.", hint)


def check_values(values: Mapping[str, Any]) -> dict[str, Value]:
    """Return `values` checked one by one; the keys may be any subset of the settings.

    Raises:
        UserError: an unknown key or a value outside its bounds.
    """
    return {name: field(name).check(value) for name, value in values.items()}


def check_together(values: Mapping[str, Value]) -> dict[str, str]:
    """Return the settings that do not go together, as {setting: sentence}; empty when all is well."""
    wrong: dict[str, str] = {}
    if float(values["min_timestep"]) >= float(values["max_timestep"]):
        wrong["min_timestep"] = "The first timestep must lie below the last one."
    if int(values["min_bucket_reso"]) > int(values["max_bucket_reso"]):
        wrong["min_bucket_reso"] = "The smallest bucket side cannot be larger than the largest."
    if values["zero_terminal_snr"] and not values["v_parameterization"]:
        wrong["zero_terminal_snr"] = "Zero terminal SNR needs v-prediction: with noise prediction the last step has no signal to learn from."
    if values["lr_scheduler"] == "constant" and int(values["lr_warmup_steps"]) > 0:
        wrong["lr_warmup_steps"] = "A constant learning rate has no warm-up: choose constant_with_warmup, or 0 steps."
    if int(values["lr_warmup_steps"]) >= int(values["max_train_steps"]) > 1:
        wrong["lr_warmup_steps"] = "The warm-up must be shorter than the training."
    if values["network_train_unet_only"] is True and float(values["unet_lr"]) == 0.0:
        wrong["unet_lr"] = "With a learning rate of 0 nothing would be trained."
    return wrong
