"""Gives every setting its value and its reason: the user's hand wins, then the base, then the preset."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from . import estimate, fields
from .checkpoint import Checkpoint
from .dataset.buckets import Bucket, bucket_for
from .device import DeviceFacts
from .estimate import USABLE, Estimate
from .fields import Value
from .preset import choices

_BY_HAND = "You set this."
#: Epochs of a run, if nothing else is said: as many saves to choose from.
_EPOCHS = 10
#: At most so many saves and rounds of samples, however many epochs there are.
_SAVES = 12
_MOST_PARTS = 256


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of the pictures.

    Attributes:
        count: how many can be used.
        sizes: width and height of each, in px; may be empty when not known yet.
        captioned: how many have a caption.
        captions: the captions, in the pictures' order.
    """

    count: int
    sizes: tuple[tuple[int, int], ...] = ()
    captioned: int = 0
    captions: tuple[str, ...] = ()


def settle(
    base: Checkpoint,
    type_: str,
    has_trigger: bool,
    overrides: Mapping[str, Value],
    dataset: DatasetFacts,
    device: DeviceFacts | None,
) -> Settled:
    """Return every setting with its reason, and what the run will cost.

    Args:
        overrides: valid settings, changed by hand.
    """
    settled = Settled(base, type_, overrides, dataset, device)
    settled.follow_base()
    settled.choose_captions(has_trigger)
    settled.choose_network()
    settled.choose_precision()
    settled.choose_memory()
    settled.choose_length()
    settled.choose_rates()
    settled.choose_saves()
    settled.fill()
    settled.count_cost()
    return settled


class Settled:
    """The settings while they are decided, each once, in an order in which every one finds what it follows.

    Attributes:
        values, reasons: by name of the setting.
        estimate: what the run will cost; None when the base is none that can be trained.
    """

    def __init__(
        self,
        base: Checkpoint,
        type_: str,
        overrides: Mapping[str, Value],
        dataset: DatasetFacts,
        device: DeviceFacts | None,
    ) -> None:
        self.values: dict[str, Value] = {}
        self.reasons: dict[str, str] = {}
        self.estimate: Estimate | None = None
        self._base = base
        self._overrides = overrides
        self._dataset = dataset
        self._device = device
        self._preset, self._own = choices(base.family if base.trainable else None, type_, base.config)
        self._count = max(1, dataset.count)
        self._epochs = _EPOCHS

    def put(self, name: str, value: Value, why: str) -> None:
        """Decide a setting: by hand, else by the base's own preset, else `value`, kept within its bounds."""
        value = _bounded(fields.field(name), value)
        if name in self._overrides:
            value, why = self._overrides[name], _BY_HAND
        elif name in self._own:
            value, why = self._own[name]
        self.values[name] = fields.field(name).check(value)
        self.reasons[name] = why

    def put_preset(self, *names: str) -> None:
        """Decide settings as the preset has them."""
        for name in names:
            self.put(name, *self._preset[name])

    # ---- what the base decides

    def follow_base(self) -> None:
        """Resolution, buckets and prediction are the base's."""
        base = self._base
        why = f"Read from the base ({base.prediction_source})." if base.prediction_source else "The usual."
        self.put("v_parameterization", base.prediction_type == "v_prediction", why)
        v_prediction = self.values["v_parameterization"] is True
        zero = v_prediction and base.zero_terminal_snr
        why = "The base was made so." if zero else "The base was not made so."
        self.put("zero_terminal_snr", zero, why if v_prediction else "Only for bases that predict velocity.")
        size = base.native_size or int(fields.field("resolution").default)
        self.put("resolution", size, f"The base was trained on pictures of {size} x {size} px.")
        self._choose_buckets(int(self.values["resolution"]))

    def _choose_buckets(self, resolution: int) -> None:
        step = 64 if resolution >= 256 else max(8, 1 << max(3, (resolution // 8).bit_length() - 1))
        why = "The usual step." if step == 64 else f"A finer step than usual, since {resolution} px is small."
        self.put("bucket_reso_steps", step, why)
        step = int(self.values["bucket_reso_steps"])
        longest = max(resolution * 2, int(self._overrides.get("min_bucket_reso", 0)))
        self.put("max_bucket_reso", longest, "Twice the resolution: longer pictures are cropped.")
        shortest = min(max(32, resolution // 2 // step * step), int(self.values["max_bucket_reso"]))
        self.put("min_bucket_reso", shortest, "Half the resolution: thinner pictures are cropped.")
        self.put_preset("enable_bucket", "bucket_no_upscale", "flip_aug")

    # ---- captions and network

    def choose_captions(self, has_trigger: bool) -> None:
        """Captions keep the trigger in front, if there is one."""
        if has_trigger:
            self.put_preset("keep_tokens")
        else:
            self.put("keep_tokens", 0, "There is no trigger word to keep in front.")
        if self._dataset.captions and not any(self._dataset.captions):
            self.put("shuffle_caption", False, "There are no captions to shuffle.")

    def choose_network(self) -> None:
        """Alpha follows the rank; what is not trained says so."""
        self.put_preset("network_dim", "conv_dim", "network_train_unet_only", "text_encoder_lr")
        share, why = self._own.get("alpha_share") or self._preset["alpha_share"]
        rank, conv = int(self.values["network_dim"]), int(self.values["conv_dim"])
        self.put("network_alpha", rank * float(share), why)
        if conv:
            self.put("conv_alpha", conv * float(share), "The same share of its rank as the other layers' alpha.")
        else:
            self.put("conv_alpha", 1.0, "Not used: the convolutions are left as they are.")
        if self.values["network_train_unet_only"] and "text_encoder_lr" not in self._overrides:
            self.reasons["text_encoder_lr"] = "Not used: the text encoders are left as they are."

    # ---- the machine

    def choose_precision(self) -> None:
        """Half precision where the device is quick at it."""
        device = self._device
        if device is None:
            self.put("mixed_precision", "no", "fp32 works everywhere; the machine has not been measured yet.")
        elif device.bf16_is_fast:
            self.put("mixed_precision", "bf16", f"{device.name} is fast in bf16, which needs half the memory.")
        elif device.kind == "cuda" and device.matrix.get("fp16", 0.0) > 1.2 * device.matrix.get("no", 0.0):
            self.put("mixed_precision", "fp16", f"{device.name} has no fast bf16 but is fast in fp16.")
        else:
            self.put("mixed_precision", "no", f"{device.name} is fastest in fp32.")

    def choose_memory(self) -> None:
        """Checkpointing when memory is short, then smaller batches that are added up to the same step."""
        self.put_preset("train_batch_size", "gradient_accumulation_steps")
        self.put("gradient_checkpointing", False, "There is memory enough to do without.")
        if self._device is None:
            self.put("gradient_checkpointing", False, "Faster; it is turned on when memory runs short.")
        elif not self._fits():
            self.put("gradient_checkpointing", True, "Without it the run would need more memory than there is.")
        if "train_batch_size" in self._overrides or self._fits():
            return
        batch, parts = int(self.values["train_batch_size"]), int(self.values["gradient_accumulation_steps"])
        while batch > 1 and parts * 2 <= _MOST_PARTS and not self._fits():
            batch, parts = (batch + 1) // 2, parts * 2
            self.values["train_batch_size"] = batch
            self.reasons["train_batch_size"] = "As many pictures at once as fit in memory."
            if "gradient_accumulation_steps" not in self._overrides:
                self.values["gradient_accumulation_steps"] = parts
                self.reasons["gradient_accumulation_steps"] = "Several small batches make up the step that was wanted."

    def _fits(self) -> bool:
        if self._device is None or self._base.workload is None:
            return True
        return self._peak() <= USABLE * self._device.memory

    def _peak(self) -> int:
        assert self._base.workload is not None
        kind = self._device.kind if self._device else "cpu"
        return estimate.peak_memory(self._base.workload, self.values, max(self._cells()), kind)

    # ---- length

    def choose_length(self) -> None:
        """Repeats and steps follow the pictures: about ten epochs over as many views as the type needs."""
        batch = int(self.values["train_batch_size"]) * int(self.values["gradient_accumulation_steps"])
        views, why = self._own.get("views") or self._preset["views"]
        fixed = self._overrides.get("max_train_steps")
        if fixed is None and "max_train_steps" in self._own and "num_repeats" not in self._overrides:
            fixed = self._own["max_train_steps"].value
        if fixed is not None:
            views = int(fixed) * batch
            why = f"As often as makes about {_EPOCHS} epochs of the steps that are set."
        self.put("num_repeats", max(1, int(views) // (_EPOCHS * self._count)), why)
        per_epoch = self._batches()
        steps = max(1, math.ceil(per_epoch * _EPOCHS / int(self.values["gradient_accumulation_steps"])))
        shown = f"{self._count} pictures x {self.values['num_repeats']} repeats x {_EPOCHS} epochs"
        self.put("max_train_steps", steps, shown + (f" in batches of {batch}." if batch > 1 else "."))
        if "num_repeats" in self._overrides and "max_train_steps" not in self._overrides:
            # Repeats set by hand win over steps that the base's preset fixes.
            self.values["max_train_steps"] = _bounded(fields.field("max_train_steps"), steps)
            self.reasons["max_train_steps"] = shown + "."
        done = int(self.values["max_train_steps"]) * int(self.values["gradient_accumulation_steps"])
        self._epochs = math.ceil(done / per_epoch)

    def choose_rates(self) -> None:
        """The learning rate rises at first, unless it is to be constant."""
        self.put_preset("lr_scheduler")
        if self.values["lr_scheduler"] == "constant":
            self.put("lr_warmup_steps", 0, "A constant learning rate has no warm-up.")
        else:
            warmup = min(100, int(self.values["max_train_steps"]) // 20)
            why = "A gentle start: the first steps know little of the pictures."
            self.put("lr_warmup_steps", warmup, why if warmup else "So few steps leave no room for a warm-up.")

    def _batches(self) -> int:
        """Return the batches of an epoch: each bucket fills its own."""
        batch, repeats = int(self.values["train_batch_size"]), int(self.values["num_repeats"])
        if not self._dataset.sizes:
            return math.ceil(self._count * repeats / batch)
        members = Counter(bucket.size for bucket in self._buckets())
        return sum(math.ceil(count * repeats / batch) for count in members.values())

    def _buckets(self) -> list[Bucket]:
        return [bucket_for(width, height, self.values) for width, height in self._dataset.sizes]

    def _cells(self) -> list[float]:
        """Return the latent places of each picture."""
        side = int(self.values["resolution"])
        return [bucket.width * bucket.height / 64 for bucket in self._buckets()] or [side * side / 64]

    def choose_saves(self) -> None:
        """One save and one round of samples an epoch, but not endlessly many."""
        every = math.ceil(self._epochs / _SAVES)
        why = "Each epoch, to choose from afterwards." if every == 1 else f"{self._epochs} saves would be too many."
        self.put("save_every_n_epochs", every, why)
        why = "Each epoch, to see it learn." if every == 1 else "As often as the LoRA is saved."
        self.put("sample_every_n_epochs", every, why)

    # ---- the rest

    def fill(self) -> None:
        """All that depends on nothing else is as the preset has it."""
        self.put_preset("max_timestep")
        first, why = self._preset["min_timestep"]
        self.put("min_timestep", min(int(first), int(self.values["max_timestep"]) - 1), why)
        self.put_preset(*(field.name for field in fields.FIELDS if field.name not in self.values))
        self.values = {field.name: self.values[field.name] for field in fields.FIELDS}
        self.reasons = {field.name: self.reasons[field.name] for field in fields.FIELDS}

    def count_cost(self) -> None:
        """Reckon memory and time."""
        work, device = self._base.workload, self._device
        if work is None:
            return
        seconds = None
        if device is not None:
            side = self._base.native_size
            operations = estimate.run_operations(work, self.values, self._cells(), side * side / 64, self._epochs)
            key = estimate.speed_key(self._base.family or "", work)
            seconds = estimate.seconds(operations, device, self.values, key)
        self.estimate = Estimate(self._peak(), device.memory if device else None, seconds)


def _bounded(field: fields.Field, value: Value) -> Value:
    """Return a reckoned number within the field's bounds, where many pictures may ask for more."""
    if field.minimum is None or field.maximum is None:
        return value
    number = min(max(float(value), field.minimum), field.maximum)
    return int(number) if field.kind == "int" else number
