from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from trainer_bridge.engine import convolutions  # noqa: E402


@pytest.fixture(autouse=True)
def _small_counts_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "_LEAST_WEIGHT", 1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 1), (2, 3)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_product_is_the_convolution(stride: int, size: tuple[int, int], channels_last: bool) -> None:
    torch.manual_seed(0)
    conv: Any = nn.Conv2d(6, 5, 3, stride=stride, padding=1).double().requires_grad_(False)
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(conv(x))
    (wanted,) = torch.autograd.grad((conv(x) * weight).sum(), x)
    expected = conv(x).detach()
    if channels_last:
        conv.to(memory_format=torch.channels_last)
    assert convolutions.speed_up(conv) == 1
    found = conv(x.contiguous(memory_format=torch.channels_last) if channels_last else x)
    assert type(found.grad_fn).__name__ == "_ProductBackward"
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad((found * weight).sum(), x)[0], wanted)


def test_large_pictures_are_convolved_as_usual() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1).requires_grad_(False)
    convolutions.speed_up(conv)
    x = torch.randn(1, 2, 17, 17, requires_grad=True)
    assert "Product" not in type(conv(x).grad_fn).__name__
    assert "Product" in type(conv(x[:, :, :16, :16]).grad_fn).__name__


def test_other_convolutions_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    others = nn.ModuleList(
        [
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 3),
            nn.Conv2d(4, 4, 3, padding=1, groups=2),
            nn.Conv2d(4, 4, 3, padding=2, dilation=2),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
            nn.Conv2d(4, 4, 5, padding=1),
        ]
    ).requires_grad_(False)
    assert convolutions.speed_up(others) == 0
    assert convolutions.speed_up(nn.Conv2d(4, 4, 3, padding=1)) == 0  # it is trained
    monkeypatch.setattr(convolutions, "_LEAST_WEIGHT", 145)
    assert convolutions.speed_up(nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)) == 0
