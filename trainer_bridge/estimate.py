"""What a run will cost: memory and time, from the base's workload and what the machine can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .device import DeviceFacts
from .fields import Value
from .workload import Workload

_GB = 1 << 30

#: Numbers kept for the backward pass for each number that a layer puts out, as the engine's planner reckons
#: (measured on SD1.5 and SDXL with a LoRA), and the same with checkpointing.
_KEPT = 2.6
_KEPT_CHECKPOINTING = 0.45
#: For each number of the LoRA in fp32: itself, its gradient and Adam's two averages.
_LORA_BYTES = 16
#: Bytes for each px that the VAE's decoder needs at its widest layers, in fp32.
_DECODE_BYTES = 3 * 256 * 4
#: What the process itself takes: Python and torch; on a GPU the driver's context.
_PROCESS_BYTES = {"cpu": 0.7 * _GB, "cuda": 0.8 * _GB, "xpu": 0.8 * _GB, "mps": 0.7 * _GB}
#: How much of its memory a run may plan with.
USABLE = 0.9

#: Share of the speed of large matrix products that a U-Net reaches, where no run on this machine has shown it
#: yet.
_REACHED = {"cpu": 0.5, "cuda": 0.4, "xpu": 0.35, "mps": 0.35}
#: Operations of a training step for one of the forward pass: backward passes no gradient to frozen weights.
_TRAIN = 2.15
_TRAIN_CHECKPOINTED = 3.15
#: Seconds from the start of the process until the first picture is read.
_START_SECONDS = 10.0


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    Attributes:
        memory: bytes at the peak.
        available: bytes that the device has; None when it is not known.
        seconds: from the start to the finished file; None when the device's speed is not known.
    """

    memory: int
    available: int | None
    seconds: float | None

    @property
    def fits(self) -> bool:
        """Whether the peak lies within what may be planned with; unknown counts as yes."""
        return self.available is None or self.memory <= USABLE * self.available


def peak_memory(work: Workload, settings: Mapping[str, Value], cells: float, kind: str) -> int:
    """Return the bytes that a run takes at its peak.

    Args:
        cells: latent places (8 x 8 px) of the largest picture.
        kind: as :attr:`trainer_bridge.device.DeviceFacts.kind`.
    """
    half = settings["mixed_precision"] != "no"
    trains_text = settings["network_train_unet_only"] is False
    frozen = work.parameters + (work.text_parameters if trains_text else 0)
    lora = int(settings["network_dim"]) * (work.lora_per_rank + (work.text_lora_per_rank if trains_text else 0))
    lora += int(settings["conv_dim"]) * work.conv_per_rank
    size = 2 if half else 4
    kept = work.outputs_per_cell * cells * int(settings["train_batch_size"]) * size
    kept *= _KEPT_CHECKPOINTING if settings["gradient_checkpointing"] else _KEPT
    drawing = _DECODE_BYTES * 64 * cells
    return int(frozen * size + lora * _LORA_BYTES + max(kept, drawing) + _PROCESS_BYTES[kind])


def step_operations(work: Workload, settings: Mapping[str, Value], cells: Sequence[float]) -> float:
    """Return the operations of one training step over pictures of these sizes."""
    pictures = int(settings["train_batch_size"]) * int(settings["gradient_accumulation_steps"])
    forward = sum(map(work.forward, cells)) / len(cells)
    if settings["network_train_unet_only"] is False:
        forward += 2 * 77 * work.text_parameters
    return pictures * forward * (_TRAIN_CHECKPOINTED if settings["gradient_checkpointing"] else _TRAIN)


def run_operations(
    work: Workload, settings: Mapping[str, Value], cells: Sequence[float], sample_cells: float, epochs: int
) -> float:
    """Return the operations of a whole run: latents, steps and sample pictures."""
    steps = step_operations(work, settings, cells) * int(settings["max_train_steps"])
    latents = work.encode_per_cell * sum(cells)
    every = int(settings["sample_every_n_epochs"])
    rounds = 1 + epochs // every if every else 0  # the base's own pictures are drawn once
    picture = 2 * int(settings["sample_steps"]) * work.forward(sample_cells) + work.decode_per_cell * sample_cells
    return steps + latents + rounds * int(settings["sample_count"]) * picture


def seconds(operations: float, device: DeviceFacts, settings: Mapping[str, Value], key: str) -> float | None:
    """Return how long so many operations take; None when the device's speed is not known.

    Args:
        key: what :func:`speed_key` gives for the base.
    """
    reached = speed(device, str(settings["mixed_precision"]), key)
    return None if reached is None else _START_SECONDS + operations / reached


def speed(device: DeviceFacts, precision: str, key: str) -> float | None:
    """Return the operations a second to count on: what past runs reached, else a share of the peak."""
    past = device.speeds.get(f"{key}/{precision}")
    if past:
        return past
    peak = device.matrix.get(precision)
    return peak * _REACHED[device.kind] if peak else None


def speed_key(family: str, work: Workload) -> str:
    """Return the name that speeds of such a base are kept under: small networks reach less than large."""
    return f"{family}-{max(1, round(work.parameters / 1e6))}M"


def learn(device: DeviceFacts, precision: str, key: str, operations: float, took: float) -> DeviceFacts:
    """Return `device` with the speed of a run: the operations of a step over the seconds that it took."""
    if not took > 0 or not operations > 0:
        return device
    return replace(device, speeds={**device.speeds, f"{key}/{precision}": operations / took})
