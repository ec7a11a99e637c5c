"""Small steps of the training run that are named, so that :mod:`.loop` reads as what it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import limits
from ..checkpoint import Checkpoint, require_base
from ..counter import number
from ..dataset.manifest import Manifest
from ..errors import RunFailed, UserError
from ..spec import JobSpec
from . import optim
from .failures import Broken
from .judge import Judge
from .lora import LoraSet
from .memory import Plan
from .state import State

_VECTOR = "lora."


def read_manifest(folder: Path) -> Manifest:
    """Read `dataset.json` of a job's folder.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / "dataset.json"
    try:
        if path.stat().st_size > limits.MAX_JSON_BYTES:
            raise UserError(f"{path} is too large to be a list of pictures.", "Start the training anew.")
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The list of pictures cannot be read ({error}).", "Start the training anew.") from None


def unchanged_base(spec: JobSpec) -> Checkpoint:
    """Return the base of a job.

    Raises:
        UserError: it is gone, cannot be trained, or is another file than when the job was made.
    """
    base = require_base(spec.base.path)
    if (base.size, base.mtime_ns) != (spec.base.size, spec.base.mtime_ns):
        raise UserError(
            f"The base model {base.path.name} has changed since this training was made.",
            "Start a new training, or put the old file back.",
        )
    return base


def apply_plan(plan: Plan, modules: Mapping[str, nn.Module]) -> None:
    """Let the networks compute as the plan says."""
    unet: Any = modules["unet"]
    if plan.channels_last:
        unet.to(memory_format=torch.channels_last)
    if plan.checkpointing:
        # diffusers before 0.33 computes twice in training mode alone; these networks have no dropout of their
        # own.
        unet.train()
        unet.enable_gradient_checkpointing()
        for part, encoder in modules.items():
            if part.startswith("te"):
                encoder.train()
                switch: Any = encoder
                switch.gradient_checkpointing_enable({"use_reentrant": False})


def vectors_of(lora: LoraSet) -> dict[str, Tensor]:
    """Return the LoRA as the resume state holds it."""
    return {f"{_VECTOR}{part}": vector.detach() for part, vector in lora.vectors.items()}


@torch.no_grad()
def restore(saved: State, lora: LoraSet, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
    """Take LoRA, AdamW's memory and the scaler back from a resume state.

    Raises:
        RunFailed: the state is of another LoRA.
    """
    for part, vector in lora.vectors.items():
        found = saved.tensors.get(f"{_VECTOR}{part}")
        if found is None or found.shape != vector.shape:
            raise RunFailed("The saved state is of a LoRA of another size.", "Start the training anew.")
        vector.copy_(found)
    optim.load_optimizer(optimizer, {k: v for k, v in saved.tensors.items() if not k.startswith(_VECTOR)})
    if scaler.is_enabled():
        scaler.load_state_dict(saved.loop["scaler"])


def dropout_seed(seed: int, micro_step: int) -> int:
    """Return what torch's own generator starts a micro-batch from: only dropout draws from it."""
    return number(seed, "dropout", micro_step)


def broken(verdict: str, step: int, judge: Judge, good: str) -> Broken:
    """Return the error that ends a run whose loss says that it has broken."""
    kept = f" The last good save is {Path(good).name}." if good else ""
    if verdict == "nan":
        what = f"The loss or its gradient is no number any more at step {step}.{kept}"
    else:
        before = "" if judge.best is None else f" after {judge.best:.3g} at its best"
        what = f"The training diverges: at step {step} the loss averages {judge.average:.3g}{before}.{kept}"
    return Broken(verdict, what, "Lower the learning rate (unet_lr), or train in bf16 or fp32 instead of fp16.")
