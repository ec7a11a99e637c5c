from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from trainer_bridge.engine.lora import LoraSet, Rank  # noqa: E402


class Small(nn.Module):
    """A linear, a 1x1 and a strided 3x3 convolution: one of each kind of place for a LoRA."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(6, 5)
        self.bare = nn.Linear(6, 5, bias=False)
        self.point = nn.Conv2d(4, 7, 1)
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.requires_grad_(False)


TARGETS: list[Any] = [
    SimpleNamespace(name="lora_unet_linear", path="linear", part="unet", kind="linear"),
    SimpleNamespace(name="lora_unet_bare", path="bare", part="unet", kind="linear"),
    SimpleNamespace(name="lora_unet_point", path="point", part="unet", kind="conv1x1"),
    SimpleNamespace(name="lora_unet_conv", path="conv", part="unet", kind="conv3x3"),
]
RANK = Rank(dim=3, alpha=6.0, conv_dim=2, conv_alpha=1.0)


def made(rank: Rank = RANK, seed: int = 1, targets: list[Any] | None = None) -> tuple[Any, Any]:
    model = Small()
    return model, LoraSet(TARGETS if targets is None else targets, {"unet": model}, rank, seed)


def moved(lora: Any) -> None:
    """Give the LoRA an effect."""
    with torch.no_grad():
        for vector in lora.vectors.values():
            vector.copy_(torch.randn(vector.shape, generator=torch.Generator().manual_seed(5)))


def inputs(name: str) -> Any:
    shape = (2, 3, 6) if name in ("linear", "bare") else (2, 4, 8, 6)
    return torch.randn(shape, generator=torch.Generator().manual_seed(9))


def merged(model: Any, lora: Any, name: str) -> Any:
    """The same layer with the LoRA added to its weight by kohya's rule, from the file's tensors alone."""
    state = lora.state_dict()
    stem = f"lora_unet_{name}"
    down, up = state[f"{stem}.lora_down.weight"], state[f"{stem}.lora_up.weight"]
    scale = state[f"{stem}.alpha"] / down.shape[0]
    fresh: Any = Small()
    layer: Any = fresh.get_submodule(name)
    delta = (up.flatten(1) @ down.flatten(1)).view(layer.weight.shape)
    layer.weight.data += scale * delta
    return layer


@pytest.mark.parametrize("name", ["linear", "bare", "point", "conv"])
def test_a_layer_computes_what_the_merged_weight_computes(name: str) -> None:
    model, lora = made()
    x = inputs(name)
    plain = Small().get_submodule(name)(x)
    torch.testing.assert_close(model.get_submodule(name)(x), plain)
    moved(lora)
    torch.testing.assert_close(model.get_submodule(name)(x), merged(model, lora, name)(x))
    assert not torch.allclose(model.get_submodule(name)(x), plain)


@pytest.mark.parametrize("name", ["linear", "bare", "point", "conv"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_are_those_of_plain_operations(name: str, channels_last: bool) -> None:
    model, lora = made()
    moved(lora)
    x = inputs(name)
    if channels_last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_(True)
    weight = torch.randn_like(model.get_submodule(name)(x))
    (model.get_submodule(name)(x) * weight).sum().backward()
    layer = next(layer for layer in lora.layers if layer.target.path == name)
    got = (x.grad, layer.down.grad.clone(), layer.up.grad.clone())

    base: Any = Small().get_submodule(name).double()
    down = layer.down.detach().double().requires_grad_()
    up = layer.up.detach().double().requires_grad_()
    y = x.detach().double().requires_grad_()
    full = base.weight + layer.scale * (up.flatten(1) @ down.flatten(1)).view(base.weight.shape)
    if isinstance(base, nn.Linear):
        out = nn.functional.linear(y, full, base.bias)
    else:
        out = nn.functional.conv2d(y, full, base.bias, base.stride, base.padding)
    (out * weight.double()).sum().backward()
    for mine, reference in zip(got, (y.grad, down.grad, up.grad)):
        torch.testing.assert_close(mine.double(), reference, rtol=1e-5, atol=1e-5)


def test_an_input_without_gradient_gets_none() -> None:
    model, lora = made()
    moved(lora)
    model.linear(inputs("linear")).sum().backward()
    assert float(lora.vectors["unet"].grad.abs().sum()) > 0.0
    assert model.linear.weight.grad is None


def test_bf16_layers_keep_fp32_parameters() -> None:
    model, lora = made()
    model.to(torch.bfloat16)
    moved(lora)
    out = model.linear(inputs("linear").bfloat16())
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert lora.vectors["unet"].dtype == torch.float32
    assert lora.vectors["unet"].grad.dtype == torch.float32
    assert float(lora.vectors["unet"].grad.abs().sum()) > 0.0


def test_the_vectors_and_the_layers_are_the_same_memory() -> None:
    _, lora = made()
    with torch.no_grad():
        lora.vectors["unet"].fill_(2.0)
    assert all(bool((layer.down == 2.0).all()) and bool((layer.up == 2.0).all()) for layer in lora.layers)
    assert sum(layer.down.numel() + layer.up.numel() for layer in lora.layers) == lora.vectors["unet"].numel()


def test_weight_scale_turns_it_off_and_back() -> None:
    model, lora = made()
    moved(lora)
    x = inputs("conv")
    full = model.conv(x)
    with lora.weight_scale(0.0):
        torch.testing.assert_close(model.conv(x), Small().conv(x), rtol=0, atol=0)
    with lora.weight_scale(0.5):
        torch.testing.assert_close(model.conv(x), (full + Small().conv(x)) / 2)
    assert torch.equal(model.conv(x), full)


def test_remove_gives_the_layers_back() -> None:
    model, lora = made()
    moved(lora)
    lora.remove()
    x = inputs("linear")
    assert torch.equal(model.linear(x), Small().linear(x))


def test_the_start_depends_on_name_and_seed_alone() -> None:
    _, one = made()
    _, other = made(targets=list(reversed(TARGETS)))
    _, third = made(seed=2)
    first, second = one.state_dict(), other.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(
        first["lora_unet_linear.lora_down.weight"], third.state_dict()["lora_unet_linear.lora_down.weight"]
    )


def test_the_start_is_kaiming_uniform_and_zero() -> None:
    wide = nn.ModuleDict({"linear": nn.Linear(400, 300)}).requires_grad_(False)
    lora = LoraSet(TARGETS[:1], {"unet": wide}, Rank(64, 64.0), 7)
    down, up = lora.layers[0].down, lora.layers[0].up
    bound = 1 / 400**0.5  # sqrt(6 / ((1 + 5) * fan_in))
    assert float(down.detach().abs().max()) <= bound
    assert float(down.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert float(up.detach().abs().max()) == 0.0


def test_file_names_shapes_and_alphas() -> None:
    _, lora = made()
    shapes = {key: tuple(tensor.shape) for key, tensor in lora.state_dict().items()}
    assert shapes["lora_unet_linear.lora_down.weight"] == (3, 6)
    assert shapes["lora_unet_linear.lora_up.weight"] == (5, 3)
    assert shapes["lora_unet_point.lora_down.weight"] == (3, 4, 1, 1)
    assert shapes["lora_unet_point.lora_up.weight"] == (7, 3, 1, 1)
    assert shapes["lora_unet_conv.lora_down.weight"] == (2, 4, 3, 3)
    assert shapes["lora_unet_conv.lora_up.weight"] == (6, 2, 1, 1)
    assert float(lora.state_dict()["lora_unet_linear.alpha"]) == 6.0
    assert float(lora.state_dict()["lora_unet_conv.alpha"]) == 1.0
    assert shapes["lora_unet_linear.alpha"] == ()


def test_conv_dim_zero_leaves_convolutions_out() -> None:
    _, lora = made(Rank(3, 3.0))
    assert [layer.target.name for layer in lora.layers] == ["lora_unet_linear", "lora_unet_bare", "lora_unet_point"]


def test_load_takes_a_file_and_refuses_another() -> None:
    _, one = made()
    moved(one)
    _, other = made(seed=8)
    other.load({key: value.clone() for key, value in one.state_dict().items()})
    assert torch.equal(one.vectors["unet"], other.vectors["unet"])
    with pytest.raises(ValueError, match="lora_unet_linear"):
        made(Rank(2, 2.0))[1].load(one.state_dict())
    with pytest.raises(ValueError, match="missing"):
        other.load({})


def test_dropout_drops_while_training_alone_and_keeps_the_mean() -> None:
    model, lora = made(Rank(3, 6.0, dropout=0.5))
    moved(lora)
    x = inputs("linear")
    with torch.no_grad():
        still = model.linear(x)
        torch.testing.assert_close(still, merged(model, lora, "linear")(x))
    torch.manual_seed(0)
    draws = torch.stack([model.linear(x).detach() for _ in range(3000)])
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(draws.mean(0), still, rtol=0.1, atol=0.25)


def test_two_layers_of_one_name_are_a_bug() -> None:
    with pytest.raises(ValueError, match="same name"):
        made(targets=[TARGETS[0], TARGETS[0]])
