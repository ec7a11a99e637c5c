"""The training helpers of the pocket base against independent references."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("skia")

from trainer_bridge.pocket.make import export, fast, models, text, vae  # noqa: E402


def test_fast_group_norm_equals_torchs_own() -> None:
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(8, 24)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (torch.randn(2, 24, 5, 7) + 0.5).to(memory_format=torch.channels_last)
    weight = torch.randn(2, 24, 5, 7)
    results = []
    for function in (norm, lambda v: fast._norm(norm, v)):
        norm.zero_grad()
        leaf = x.clone().requires_grad_()
        out = function(leaf)
        (out * weight).sum().backward()
        results.append([out.detach(), leaf.grad, norm.weight.grad.clone(), norm.bias.grad.clone()])
    for a, b in zip(*results):
        assert torch.allclose(a, b, atol=2e-4)


def test_master_adamw_equals_torchs_adamw() -> None:
    torch.manual_seed(1)
    net = torch.nn.Linear(5, 3)
    twin = torch.nn.Linear(5, 3)
    twin.load_state_dict(net.state_dict())
    mine = fast.MasterAdamW([(p, 1.0) for p in net.parameters()], (0.9, 0.99), 0.01)
    theirs = torch.optim.AdamW(twin.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(5):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        net(x).square().mean().backward()
        mine.step(mine.gradient(), 1e-2, 1e9, 0.9)
        theirs.zero_grad()
        twin(x).square().mean().backward()
        theirs.step()
    for a, b in zip(net.parameters(), twin.parameters()):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_constructed_autoencoder_keeps_brightness() -> None:
    """The start passes a flat picture at its own level; random weights would not."""
    torch.manual_seed(0)
    net = models.vae()
    vae.construct(net)
    levels = torch.tensor([-0.6, 0.0, 0.6])
    pictures = levels[:, None, None, None].expand(3, 3, 64, 64).contiguous()
    with torch.no_grad():
        out = net.decode(net.encode(pictures).latent_dist.mean).sample
    middle = out[:, :, 24:40, 24:40].mean((1, 2, 3))
    assert torch.allclose(middle, levels, atol=0.25)
    assert middle[0] < -0.35 < 0.35 < middle[2]


def test_centred_optimizer_writes_the_network_it_was_given() -> None:
    torch.manual_seed(0)
    net = models.vae()
    vae.construct(net)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = vae.CentredAdamW(net, (0.9, 0.98))
    optimizer.write(optimizer.value)
    for key, value in net.state_dict().items():
        assert torch.allclose(value, before[key], atol=1e-4), key


def test_the_trained_tokens_are_the_captions_own() -> None:
    torch.manual_seed(0)
    net = models.text_encoder()
    reference = net.state_dict()
    ids = text.padded(["red hair, smile, zorblax"])
    with torch.no_grad():
        expected = net(input_ids=ids).last_hidden_state
        got = text.trainable(net)(input_ids=ids).last_hidden_state
    assert torch.allclose(expected, got, atol=1e-6)
    plain = text.plain_state(net)
    assert set(plain) == set(reference)
    assert len(text.used_ids()) < 200


def test_every_tensor_has_one_place_in_the_single_file() -> None:
    for net, rename in (
        (models.unet(), export.unet_to_ldm),
        (models.vae(), export.vae_to_ldm),
        (models.text_encoder(), export.text_to_ldm),
    ):
        assert len(rename(net)) == len(net.state_dict())
