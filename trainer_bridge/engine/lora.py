"""LoRA layers: a frozen layer's output plus `scale * up(down(x))`, with `scale = weight * alpha / rank`.

All parameters of a part (U-Net, a text encoder) lie behind each other in one fp32 vector, and so do their
gradients: clipping, the optimiser and the resume state are then a few passes over one tensor instead of
hundreds of small ones. Names and shapes of the file are kohya's (`NAME.alpha`, `NAME.lora_down.weight`,
`NAME.lora_up.weight`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..counter import number

if TYPE_CHECKING:
    from .families.base import LoraTarget


@dataclass(frozen=True)
class Rank:
    """Size and strength of the layers: linears and 1x1 convolutions, and 3x3 convolutions (0: none)."""

    dim: int
    alpha: float
    conv_dim: int = 0
    conv_alpha: float = 1.0
    dropout: float = 0.0

    def of(self, kind: str) -> tuple[int, float]:
        """Return rank and alpha of a layer of this kind."""
        return (self.conv_dim, self.conv_alpha) if kind == "conv3x3" else (self.dim, self.alpha)


class LoraLinear(torch.autograd.Function):
    """`x W^T + b + scale (x D^T) U^T` as one node: a third cheaper than the same from separate operations.

    The scale is applied at rank size, the sum and the gradient of `x` are accumulated inside the matrix
    product, and nothing is computed for a frozen weight or for an input that needs no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low = (flat @ down.to(x.dtype).t()).mul_(scale)
        out = F.linear(flat, weight, bias).addmm_(low, up.to(x.dtype).t())
        ctx.save_for_backward(flat, weight, down, up, low)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        flat, weight, down, up, low = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        grad_low = (grad @ up.to(grad.dtype)).mul_(ctx.scale)
        grad_up, grad_down = grad.t() @ low, grad_low.t() @ flat
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(grad_low, down.to(grad.dtype)).view(ctx.shape)
        return grad_x, None, None, grad_down.to(down.dtype), grad_up.to(up.dtype), None


class LoraLayer:
    """One layer with its LoRA; takes the place of the layer's `forward` until :meth:`remove`.

    Args:
        module: frozen `nn.Linear` or `nn.Conv2d`.
        down, up: parameters in the file's shapes: [r, in] and [out, r], with the kernel of a convolution
        behind. scale: alpha / rank.
    """

    def __init__(
        self, target: LoraTarget, module: nn.Module, down: Tensor, up: Tensor, scale: float, dropout: float
    ) -> None:
        self.target, self.down, self.up = target, down, up
        self.module: Any = module  # a Linear or Conv2d: both are read as such
        self.scale, self.weight, self.dropout = scale, 1.0, dropout
        self._base_forward = module.forward
        forwards = {"linear": self._linear, "conv1x1": self._pointwise, "conv3x3": self._convolution}
        module.forward = forwards[target.kind]

    def remove(self) -> None:
        """Give the layer its own `forward` back."""
        self.module.forward = self._base_forward

    def _linear(self, x: Tensor) -> Tensor:
        if self.weight == 0.0:
            return self._base_forward(x)
        return self._product(x, self.module.weight, self.down, self.up)

    def _pointwise(self, x: Tensor) -> Tensor:
        """A 1x1 convolution is a linear over the channels; with channels last no number moves for it."""
        if self.weight == 0.0:
            return self._base_forward(x)
        weight, down, up = (part.flatten(1) for part in (self.module.weight, self.down, self.up))
        return self._product(x.permute(0, 2, 3, 1), weight, down, up).permute(0, 3, 1, 2)

    def _product(self, x: Tensor, weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
        scale = self.scale * self.weight
        if not self._drops():
            return LoraLinear.apply(x, weight, self.module.bias, down, up, scale)
        low = F.dropout(F.linear(x, down.to(x.dtype)) * scale, self.dropout)
        return F.linear(x, weight, self.module.bias) + F.linear(low, up.to(x.dtype))

    def _convolution(self, x: Tensor) -> Tensor:
        base = self._base_forward(x)
        if self.weight == 0.0:
            return base
        conv = self.module
        # On CPUs a bf16 convolution to so few channels now and then gave gradients that were no numbers (oneDNN of
        # torch 2.13, two channels): the small convolution is computed in fp32 there.
        dtype = self.down.dtype if x.device.type == "cpu" else x.dtype
        low = F.conv2d(x.to(dtype), self.down.to(dtype), None, conv.stride, conv.padding, conv.dilation)
        low = low * (self.scale * self.weight)
        if self._drops():
            low = F.dropout(low, self.dropout)
        up = F.linear(low.permute(0, 2, 3, 1), self.up.flatten(1).to(dtype)).permute(0, 3, 1, 2)
        return base + up.to(base.dtype)

    def _drops(self) -> bool:
        return self.dropout > 0.0 and torch.is_grad_enabled()


class LoraSet:
    """The LoRA of a run: made on frozen modules, trained in place, saved under kohya's names.

    Args:
        targets: where a layer sits, as :meth:`ModelFamily.lora_targets` lists them.
        modules: part -> the module that `target.path` leads into.
        rank: size and strength.
        seed: decides the start together with the target's name alone, so that neither order nor device
        matters.

    Attributes:
        vectors: part -> all its parameters as one fp32 vector, with `.grad` in the same order.
    """

    def __init__(self, targets: Sequence[LoraTarget], modules: Mapping[str, nn.Module], rank: Rank, seed: int) -> None:
        self.layers: list[LoraLayer] = []
        self.vectors: dict[str, nn.Parameter] = {}
        for part in dict.fromkeys(target.part for target in targets):
            chosen = [target for target in targets if target.part == part and rank.of(target.kind)[0] > 0]
            if chosen:
                self._add_part(part, chosen, modules[part], rank)
        if len({layer.target.name for layer in self.layers}) != len(self.layers):
            raise ValueError("two layers have the same name")
        self._start(seed)

    def _add_part(self, part: str, targets: Sequence[LoraTarget], module: nn.Module, rank: Rank) -> None:
        bases = [module.get_submodule(target.path) for target in targets]
        shapes = [_shapes(base, rank.of(t.kind)[0]) for base, t in zip(bases, targets, strict=True)]
        device = next(module.parameters()).device
        size = sum(math.prod(down) + math.prod(up) for down, up in shapes)
        vector = nn.Parameter(torch.zeros(size, device=device))
        vector.grad = torch.zeros_like(vector)
        place = 0
        for target, base, (down_shape, up_shape) in zip(targets, bases, shapes, strict=True):
            down, place = _window(vector, place, down_shape)
            up, place = _window(vector, place, up_shape)
            dim, alpha = rank.of(target.kind)
            self.layers.append(LoraLayer(target, base, down, up, alpha / dim, rank.dropout))
        self.vectors[part] = vector

    @torch.no_grad()
    def _start(self, seed: int) -> None:
        """Start down as nn.Linear does (Kaiming-uniform, a = sqrt(5)) and up at zero: it begins as nothing."""
        for layer in self.layers:
            generator = torch.Generator().manual_seed(number(seed, "lora", layer.target.name))
            bound = 1.0 / math.sqrt(layer.down[0].numel())
            values = torch.rand(layer.down.shape, generator=generator)
            layer.down.copy_(values.mul_(2.0 * bound).sub_(bound))

    def parameters_by_part(self) -> dict[str, list[nn.Parameter]]:
        """Return what the optimiser changes: one vector a part."""
        return {part: [vector] for part, vector in self.vectors.items()}

    def zero_grad(self) -> None:
        """Forget the gradients; their memory stays."""
        for vector in self.vectors.values():
            assert vector.grad is not None
            vector.grad.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of the file, fp32, as views: copy them before training goes on."""
        state: dict[str, Tensor] = {}
        for layer in self.layers:
            name = layer.target.name
            state[f"{name}.alpha"] = torch.tensor(layer.scale * layer.down.shape[0])
            state[f"{name}.lora_down.weight"] = layer.down.detach()
            state[f"{name}.lora_up.weight"] = layer.up.detach()
        return state

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a file.

        Raises:
            ValueError: a layer is missing or of another shape.
        """
        for layer in self.layers:
            for own, part in ((layer.down, "lora_down"), (layer.up, "lora_up")):
                key = f"{layer.target.name}.{part}.weight"
                if key not in state or state[key].shape != own.shape:
                    raise ValueError(f"{key} is missing or has another shape")
                own.copy_(state[key])

    @contextmanager
    def weight_scale(self, weight: float) -> Iterator[None]:
        """Apply the LoRA at this weight inside; 0 is the base alone."""
        before = [layer.weight for layer in self.layers]
        for layer in self.layers:
            layer.weight = weight
        try:
            yield
        finally:
            for layer, old in zip(self.layers, before, strict=True):
                layer.weight = old

    def remove(self) -> None:
        """Give every layer its own `forward` back."""
        for layer in self.layers:
            layer.remove()


def _shapes(base: nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of down and up in the file."""
    if isinstance(base, nn.Linear):
        return (rank, base.in_features), (base.out_features, rank)
    if isinstance(base, nn.Conv2d):
        return (rank, base.in_channels, *base.kernel_size), (base.out_channels, rank, 1, 1)
    raise ValueError(f"a LoRA cannot sit on {type(base).__name__}")


def _window(vector: nn.Parameter, start: int, shape: tuple[int, ...]) -> tuple[nn.Parameter, int]:
    """Return a parameter that is a part of `vector`, gradient included, and where the next one starts."""
    end = start + math.prod(shape)
    window = nn.Parameter(vector.detach()[start:end].view(shape))
    assert vector.grad is not None
    window.grad = vector.grad[start:end].view(shape)
    return window, end
