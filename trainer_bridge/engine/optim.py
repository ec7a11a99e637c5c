"""The optimiser, its schedule and clipping; everything is counted in optimiser steps, not in batches."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..fields import Value

_BETAS = (0.9, 0.999)
_EPS = 1e-8


def make_optimizer(vectors: Mapping[str, nn.Parameter], settings: Mapping[str, Value]) -> torch.optim.AdamW:
    """Return AdamW over the parts whose learning rate is not 0, one group each.

    The group keeps its part's full learning rate as `base_lr`; :func:`set_rate` brings it to a step's.
    """
    groups = []
    for part, vector in vectors.items():
        rate = float(settings["unet_lr" if part == "unet" else "text_encoder_lr"])
        if rate > 0.0:
            groups.append({"params": [vector], "lr": rate, "base_lr": rate, "part": part})
    decay = float(settings["weight_decay"])
    try:
        # Copies: AdamW writes its defaults into the groups that it is given, `fused` among them.
        copies = [dict(group) for group in groups]
        return torch.optim.AdamW(copies, betas=_BETAS, eps=_EPS, weight_decay=decay, fused=True)
    except (RuntimeError, ValueError):
        # torch before 2.4 has the fused form on CUDA alone.
        return torch.optim.AdamW(groups, betas=_BETAS, eps=_EPS, weight_decay=decay)


def rate_factor(settings: Mapping[str, Value], step: int) -> float:
    """Return the share of the learning rate at a step, counted from 0: warm-up from 0, then constant or cosine to 0.

    As transformers' schedules, which sd-scripts uses: step 0 of a warm-up has rate 0, the step after the last
    would have rate 0 under cosine.
    """
    warmup, total = int(settings["lr_warmup_steps"]), int(settings["max_train_steps"])
    if step < warmup:
        return step / warmup
    if settings["lr_scheduler"] != "cosine":
        return 1.0
    share = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * min(1.0, share))))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Bring every group to this share of its learning rate; return the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])


@torch.no_grad()
def clip(vectors: Mapping[str, nn.Parameter], longest: float) -> Tensor:
    """Shorten the gradient to `longest` (0: leave it) and return the length that it had, a scalar on its device."""
    grads = [vector.grad for vector in vectors.values() if vector.grad is not None]
    norm = torch.stack([grad.norm().to(grads[0].device) for grad in grads]).norm()
    if longest > 0.0:
        factor = (longest / (norm + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(factor.to(grad.device))
    return norm


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return AdamW's memory by `PART.NAME`, as views; empty before the first step."""
    found: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for name, value in optimizer.state.get(group["params"][0], {}).items():
            found[f"{group['part']}.{name}"] = value
    return found


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give AdamW the memory that :func:`optimizer_tensors` returned, bit by bit."""
    for group in optimizer.param_groups:
        parameter, prefix = group["params"][0], f"{group['part']}."
        own = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        if own:
            optimizer.state[parameter] = {
                name: value.clone() if name == "step" else value.to(parameter.device, torch.float32).clone()
                for name, value in own.items()
            }
