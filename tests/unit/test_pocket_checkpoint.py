"""The shipped pocket base: its header, its layout, and that diffusers' own classes take every tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
pytest.importorskip("skia")
safetensors = pytest.importorskip("safetensors")
utils = pytest.importorskip("diffusers.loaders.single_file_utils")

from trainer_bridge.pocket import host_files  # noqa: E402
from trainer_bridge.pocket.make import models  # noqa: E402
from trainer_bridge.pocket.make.draw import portrait  # noqa: E402
from trainer_bridge.pocket.make.export import config, unet_to_ldm, vae_to_ldm  # noqa: E402

FILE = Path(host_files.__file__).parent / "data" / "pocket.safetensors"
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(str(FILE)))


def part(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def test_the_header_says_how_it_is_built() -> None:
    assert FILE.stat().st_size <= 32_000_000
    said = host_files.read_config(FILE)
    assert said == json.loads(json.dumps(config()))
    assert said["native_size"] == 128 and said["vae"]["scaling_factor"] == 0.18215


def test_all_of_it_is_half_precision_and_finite(state: dict[str, Any]) -> None:
    assert {v.dtype for v in state.values()} == {torch.float16}
    assert all(torch.isfinite(v).all() for v in state.values())
    assert {k.split(".")[0] for k in state} == {"model", "first_stage_model", "cond_stage_model"}


def test_diffusers_takes_every_unet_tensor_once(state: dict[str, Any]) -> None:
    net = models.unet()
    converted = utils.convert_ldm_unet_checkpoint(dict(state), dict(net.config))
    result = net.load_state_dict(converted)
    assert not result.missing_keys and not result.unexpected_keys
    assert len(converted) == len(part(state, UNET))
    back = unet_to_ldm(net)
    assert set(back) == set(part(state, UNET))
    assert all(torch.equal(v.half(), state[UNET + k]) for k, v in back.items())


def test_diffusers_takes_every_vae_tensor_once(state: dict[str, Any]) -> None:
    net = models.vae()
    converted = utils.convert_ldm_vae_checkpoint(dict(state), dict(net.config))
    result = net.load_state_dict(converted)
    assert not result.missing_keys and not result.unexpected_keys
    back = vae_to_ldm(net)
    assert set(back) == set(part(state, VAE))
    assert all(torch.equal(v.half(), state[VAE + k]) for k, v in back.items())


def test_transformers_takes_every_text_tensor_once(state: dict[str, Any]) -> None:
    net = models.text_encoder()
    names = {k.removeprefix("text_model."): v for k, v in net.state_dict().items() if "position_ids" not in k}
    stored = part(state, TEXT)
    assert set(stored) == set(names)
    assert all(stored[k].shape == names[k].shape for k in names)
    bias = stored["final_layer_norm.bias"].float()
    assert bias.abs().max() > 1e-3  # a mean of zero would make a WebUI's emphasis divide by it


def test_latents_have_the_usual_scale_and_pictures_come_back(state: dict[str, Any]) -> None:
    net = models.vae()
    net.load_state_dict(utils.convert_ldm_vae_checkpoint(dict(state), dict(net.config)))
    pictures = np.stack([portrait(4712, i)[0] for i in range(6)])
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = net.encode(pixels).latent_dist.mean * models.SCALING_FACTOR
        out = net.decode(latents / models.SCALING_FACTOR).sample.clamp(-1, 1)
    assert 0.8 < float(latents.std()) < 1.2
    decibel = 10 * torch.log10(4 / (out - pixels).square().mean((1, 2, 3)))
    assert float(decibel.mean()) > 20.5
