"""Frozen 3x3 convolutions of many channels over few places, on a CPU: as one matrix product.

Before it convolves, oneDNN puts the weights into an order of its own, at every call. Where a large weight meets a
small picture (SD1.5's deepest levels: 1280 channels, 8 x 8 places) that costs more than the arithmetic. The
product of the picture's 3x3 neighbourhoods with the weight as it lies in memory (channels last) takes less than half
the time there, forward and backward, and needs no memory for a second copy of the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Numbers in a weight from which on, and places in a batch up to which, the product is faster; measured on Zen 4
#: in fp32 and bf16: half the time at 64 places, four fifths at 256, about the same for smaller weights.
_LEAST_WEIGHT = 5_000_000
_MOST_PLACES = 256
_KERNEL = 3


class _Product(torch.autograd.Function):
    """Convolution with padding 1 of x [B, C, H, W] with a frozen weight [O, C, 3, 3], both channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        batch, channels, height, width = x.shape
        rows, columns = (height - 1) // stride + 1, (width - 1) // stride + 1
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
        image, line, place, one = padded.stride()
        shape = (batch, rows, columns, _KERNEL, _KERNEL, channels)
        around = padded.as_strided(shape, (image, line * stride, place * stride, line, place, one))
        out = F.linear(around.reshape(batch * rows * columns, -1), _matrix(weight), bias)
        ctx.save_for_backward(weight)
        ctx.geometry = (batch, channels, height, width, rows, columns, stride)
        return out.view(batch, rows, columns, -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        (weight,) = ctx.saved_tensors
        batch, channels, height, width, rows, columns, stride = ctx.geometry
        flat = grad.permute(0, 2, 3, 1).reshape(batch * rows * columns, -1)
        around = (flat @ _matrix(weight)).view(batch, rows, columns, _KERNEL, _KERNEL, channels)
        padded = grad.new_zeros(batch, height + 2, width + 2, channels)
        for down in range(_KERNEL):
            for right in range(_KERNEL):
                reached = padded[:, down : down + stride * rows : stride, right : right + stride * columns : stride]
                reached += around[:, :, :, down, right]
        return padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2), None, None, None


def speed_up(network: nn.Module) -> int:
    """Let the large convolutions of a frozen network on a CPU choose the faster way; return how many there are."""
    found = [module for module in network.modules() if isinstance(module, nn.Conv2d) and _is_large(module)]
    for module in found:
        _choose_by_size(module)
    return len(found)


def _choose_by_size(module: nn.Conv2d) -> None:
    usual, stride = module.forward, module.stride[0]

    def forward(x: Tensor) -> Tensor:
        if x.shape[0] * (x.shape[2] // stride) * (x.shape[3] // stride) > _MOST_PLACES:
            return usual(x)
        product: Tensor = _Product.apply(x, module.weight, module.bias, stride)
        return product

    module.forward = forward  # type: ignore[method-assign, assignment]


def _is_large(module: nn.Conv2d) -> bool:
    return (
        module.kernel_size == (_KERNEL, _KERNEL)
        and module.padding == (1, 1)
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and module.stride in ((1, 1), (2, 2))
        and module.weight.numel() >= _LEAST_WEIGHT
        and not module.weight.requires_grad
    )


def _matrix(weight: Tensor) -> Tensor:
    """Return the weight as [O, 9 C]: a view where it lies in memory channels last."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
