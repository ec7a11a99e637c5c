"""What makes small networks train at full speed on a CPU core.

Measured on one Zen4 core (bfloat16, batch 32): 35 U-Net samples a second with the stock modules, 56 with
group norm's statistics in closed form and attention as plain products instead of the flash kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn


class _GroupNorm(torch.autograd.Function):
    """Group norm over [N, C, H, W] in channels_last, with float32 statistics. Same values as torch's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        n, c, h, w = x.shape
        flat = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        count = h * w * c // groups
        total = flat.sum(1, dtype=torch.float32).view(n, groups, -1)
        square = torch.linalg.vector_norm(flat, 2, 1, dtype=torch.float32).square().view(n, groups, -1)
        mean = total.sum(2) / count
        rstd = (square.sum(2) / count - mean * mean + eps).rsqrt()
        gain = rstd[:, :, None] * weight.float().view(1, groups, -1)
        shift = bias.float().view(1, groups, -1) - mean[:, :, None] * gain
        out = torch.addcmul(shift.reshape(n, 1, c).to(x.dtype), flat, gain.reshape(n, 1, c).to(x.dtype))
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        return out.view(n, h, w, c).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        g = ctx.groups
        n, c, h, w = x.shape
        count = h * w * c // g
        flat = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        d = grad.permute(0, 2, 3, 1).reshape(n, h * w, c)
        sum_d = d.sum(1, dtype=torch.float32).view(n, g, -1)
        sum_dx = (d * flat).sum(1, dtype=torch.float32).view(n, g, -1)
        r, m, wg = rstd[:, :, None], mean[:, :, None], weight.float().view(1, g, -1)
        centred = (sum_dx - m * sum_d) * r
        a = (sum_d * wg).sum(2, keepdim=True) / count
        b = (centred * wg).sum(2, keepdim=True) / count
        k_d = (r * wg).expand(n, g, c // g).reshape(n, 1, c).to(x.dtype)
        k_x = (-r * r * b).expand(n, g, c // g).reshape(n, 1, c).to(x.dtype)
        k_1 = (r * (r * m * b - a)).expand(n, g, c // g).reshape(n, 1, c).to(x.dtype)
        out = torch.addcmul(torch.addcmul(k_1, flat, k_x), d, k_d)
        weight_grad = centred.reshape(n, c).sum(0).to(weight.dtype)
        bias_grad = sum_d.reshape(n, c).sum(0).to(weight.dtype)
        return out.view(n, h, w, c).permute(0, 3, 1, 2), weight_grad, bias_grad, None, None


def _norm(self: nn.GroupNorm, x: Tensor) -> Tensor:
    if x.ndim != 4 or not torch.is_grad_enabled():
        return nn.functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
    return _GroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps)


def speed_up(net: Any) -> Any:
    """The same network with fast group norms and plain attention, in channels_last and bfloat16."""
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = _norm.__get__(module)  # type: ignore[method-assign]
    if hasattr(net, "set_attn_processor"):
        net.set_attn_processor(AttnProcessor())
    return net.to(memory_format=torch.channels_last).to(torch.bfloat16)


class MasterAdamW:
    """AdamW on float32 copies of a bfloat16 network's weights, with a moving average of them.

    The copies, both moments and the average are flat vectors: one fused step instead of one per tensor.
    """

    def __init__(self, params: list[tuple[nn.Parameter, float]], betas: tuple[float, float], decay: float) -> None:
        self.params = [p for p, _ in params]
        self.betas, self.decay = betas, decay
        self.value = torch.cat([p.detach().float().flatten() for p in self.params])
        self.rate = torch.cat([torch.full((p.numel(),), scale) for p, scale in params])
        self.first, self.second = torch.zeros_like(self.value), torch.zeros_like(self.value)
        self.mean = self.value.clone()
        self.steps = 0

    def gradient(self) -> Tensor:
        """All gradients as one float32 vector; clears them."""
        parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.params]
        flat = torch.cat(
            [g.contiguous().float().flatten() if g.is_contiguous() else g.float().reshape(-1) for g in parts]
        )
        for p in self.params:
            p.grad = None
        return flat

    def step(self, gradient: Tensor, lr: float, clip: float, average: float) -> float:
        """One update; returns the gradient's norm. ``average`` is the moving average's decay."""
        self.steps += 1
        norm = float(gradient.norm())
        if norm > clip:
            gradient.mul_(clip / norm)
        b1, b2 = self.betas
        self.first.mul_(b1).add_(gradient, alpha=1 - b1)
        self.second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        c1, c2 = 1 - b1**self.steps, 1 - b2**self.steps
        update = (self.second / c2).sqrt_().add_(1e-8).reciprocal_().mul_(self.first).mul_(self.rate)
        self.value.mul_(1 - lr * self.decay * self.rate).add_(update, alpha=-lr / c1)
        keep = min(average, (1 + self.steps) / (10 + self.steps))
        self.mean.lerp_(self.value, 1 - keep)
        self.write(self.value)
        return norm

    def write(self, flat: Tensor) -> None:
        """Copies a flat vector (the weights or their average) into the network."""
        at = 0
        with torch.no_grad():
            for p in self.params:
                p.copy_(flat[at : at + p.numel()].view(p.shape))
                at += p.numel()

    def state(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "first": self.first,
            "second": self.second,
            "mean": self.mean,
            "steps": self.steps,
        }

    def load(self, state: dict[str, Any]) -> None:
        for key in ("value", "first", "second", "mean"):
            getattr(self, key).copy_(state[key])
        self.steps = state["steps"]
        self.write(self.value)
