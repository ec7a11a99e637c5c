"""One step of the loop against a float64 reference of loss and gradient that shares no code with it.

The reference takes the U-Net in float64, puts the LoRA into its weights (W + alpha / rank * up @ down) and lets
autograd differentiate that; noise schedule, targets and weights are written here again from their formulas.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from trainer_bridge.checkpoint import require_base  # noqa: E402
from trainer_bridge.counter import below, number  # noqa: E402
from trainer_bridge.dataset.buckets import bucket_for  # noqa: E402
from trainer_bridge.dataset.captions import variant  # noqa: E402
from trainer_bridge.dataset.order import Order  # noqa: E402
from trainer_bridge.engine import optim  # noqa: E402
from trainer_bridge.engine.data import pixels  # noqa: E402
from trainer_bridge.engine.families import SizeInfo, for_checkpoint  # noqa: E402
from trainer_bridge.engine.lora import LoraSet  # noqa: E402
from trainer_bridge.engine.progress import Progress  # noqa: E402
from trainer_bridge.engine.run import run  # noqa: E402
from trainer_bridge.engine.setup import read_manifest  # noqa: E402
from trainer_bridge.spec import read_spec  # noqa: E402

from .jobs import base_file, make_job  # noqa: E402

SEED = 11


def random_lora(lora: LoraSet, seed: int = 0) -> None:
    """Give up and down values of one size, so that both have a gradient."""
    with torch.no_grad():
        for layer in lora.layers:
            chance = torch.Generator().manual_seed(number(SEED, layer.target.name))
            for part in (layer.down, layer.up):
                part.copy_(torch.randn(part.shape, generator=chance) * 0.3 / part.shape[-1] ** 0.5)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("sd15", {"min_snr_gamma": 5.0, "noise_offset": 0.1}),
        ("sd15", {"min_snr_gamma": 0.0, "conv_dim": 3, "conv_alpha": 2.0, "gradient_checkpointing": True}),
        ("sdxl", {"min_snr_gamma": 5.0, "flip_aug": True}),
        ("sdxl", {"v_parameterization": True, "zero_terminal_snr": True, "min_snr_gamma": 5.0}),
    ],
)
def test_loss_and_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, settings: dict[str, Any]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    velocity = bool(settings.get("v_parameterization"))
    folder = make_job(
        tmp_path,
        base_file(tmp_path, family, dtype="float32", v_pred=velocity),
        max_train_steps=1,
        gradient_accumulation_steps=2,
        seed=SEED,
        network_alpha=6.0,
        **settings,
    )
    monkeypatch.setattr(LoraSet, "_start", random_lora)
    seen: dict[str, Any] = {}

    def clip(vectors: Any, longest: float) -> Any:
        seen["grad"] = vectors["unet"].grad.detach().clone()
        return original_clip(vectors, longest)

    def stepped(self: Progress, place: Any, loss: Any, *rest: Any) -> None:
        seen["loss"] = loss[0]

    original_clip = optim.clip
    monkeypatch.setattr(optim, "clip", clip)
    monkeypatch.setattr(Progress, "stepped", stepped)
    assert run(folder) == 0

    expected_loss, expected_grad = reference(folder)
    assert seen["loss"] == pytest.approx(expected_loss, rel=1e-4)
    error = float((seen["grad"].double() - expected_grad).norm() / expected_grad.norm())
    assert error < 1e-4


def reference(folder: Path) -> tuple[float, Any]:
    """Return the loss of the first step and its gradient, in the order of the LoRA's layers: down, up, down, ..."""
    spec = read_spec(folder)
    manifest = read_manifest(folder)
    settings = spec.settings
    family = for_checkpoint(require_base(spec.base.path))
    modules = family.load(["unet", "vae", *family.text_parts], device="cpu", dtype=torch.float32)
    unet = modules["unet"].double()
    targets = family.lora_targets("unet", unet, conv=bool(settings["conv_dim"]))
    weights, leaves = lora_weights(unet, targets, settings)
    buckets = [bucket_for(*picture.shown, settings) for picture in manifest.pictures]
    order = Order(buckets, [picture.hash for picture in manifest.pictures], settings)
    total = torch.zeros((), dtype=torch.float64)
    for micro in range(2):
        draws = order.batch(micro)
        for place, draw in enumerate(draws):
            picture, bucket = manifest.pictures[draw.index], buckets[draw.index]
            with torch.no_grad():
                x = family.encode_pixels(modules["vae"], pixels(picture, bucket, draw.flip)[None]).double()
                caption = variant(
                    picture.caption, "ohwx", settings, seed=SEED, picture=picture.hash, variant=draw.variant
                )
                text = family.encode_text(modules, [caption], clip_skip=1)
            noise = torch.randn(
                x.shape[1:], generator=torch.Generator().manual_seed(number(SEED, "noise", micro, place))
            )
            if settings["noise_offset"]:
                chance = torch.Generator().manual_seed(number(SEED, "offset", micro, place))
                noise = noise + settings["noise_offset"] * torch.randn((x.shape[1], 1, 1), generator=chance)
            t = below(1000, SEED, "timestep", micro, place)
            left = bucket.scaled_width - bucket.width - bucket.crop_left if draw.flip else bucket.crop_left
            size = SizeInfo(picture.shown, (left, bucket.crop_top), (bucket.width, bucket.height))
            loss = sample_loss(family, unet, weights, x, noise[None].double(), t, text, size, settings)
            total = total + loss / len(draws) / 2
    total.backward()
    return float(total.detach()), torch.cat([leaf.grad.flatten() for leaf in leaves])


def lora_weights(unet: Any, targets: Any, settings: Any) -> tuple[dict[str, Any], list[Any]]:
    """Return the changed weights by name, and the leaves that they are made of."""
    changed, leaves = {}, []
    for target in targets:
        base = unet.get_submodule(target.path).weight.detach()
        conv = target.kind == "conv3x3"
        rank = settings["conv_dim" if conv else "network_dim"]
        alpha = settings["conv_alpha" if conv else "network_alpha"]
        chance = torch.Generator().manual_seed(number(SEED, target.name))
        pair = []
        for shape in ((rank, *base.shape[1:]), (base.shape[0], rank, *([1] * (base.dim() - 2)))):
            values = torch.randn(shape, generator=chance) * 0.3 / shape[-1] ** 0.5
            pair.append(values.double().requires_grad_())
        down, up = pair
        leaves += pair
        changed[f"{target.path}.weight"] = base + alpha / rank * (up.flatten(1) @ down.flatten(1)).view(base.shape)
    return changed, leaves


def sample_loss(
    family: Any, unet: Any, weights: Any, x: Any, n: Any, t: int, text: Any, size: SizeInfo, settings: Any
) -> Any:
    a = signal(t, zero=settings["zero_terminal_snr"])
    snr = signal(t, zero=False) / (1 - signal(t, zero=False))
    noisy = math.sqrt(a) * x + math.sqrt(1 - a) * n
    target = math.sqrt(a) * n - math.sqrt(1 - a) * x if settings["v_parameterization"] else n
    added = None
    if text.pooled is not None:
        ids = [*size.original[::-1], *size.crop[::-1], *size.target[::-1]]
        added = {"text_embeds": text.pooled.double(), "time_ids": torch.tensor([ids], dtype=torch.float64)}
    kwargs = {"added_cond_kwargs": added, "return_dict": False}
    arguments = (noisy, torch.tensor([t]), text.hidden.double())
    predicted = torch.func.functional_call(unet, weights, arguments, kwargs)[0]
    loss = ((predicted - target) ** 2).mean()
    gamma = settings["min_snr_gamma"]
    if gamma:
        loss = loss * min(snr, gamma) / (snr + 1 if settings["v_parameterization"] else snr)
    return loss


def signal(t: int, *, zero: bool) -> float:
    product, values = 1.0, []
    for place in range(1000):
        root = 0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * place / 999
        product *= 1.0 - root * root
        values.append(math.sqrt(product))
    if zero:
        values = [(root - values[-1]) * values[0] / (values[0] - values[-1]) for root in values]
    return values[t] ** 2
