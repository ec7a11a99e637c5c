"""What the families feed their networks: sizes, latents, schedules, names of LoRA layers, metadata."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tests import twins  # noqa: E402
from tests.engine import twin_models  # noqa: E402
from trainer_bridge.engine.families import SizeInfo, TextFeatures, for_checkpoint  # noqa: E402
from trainer_bridge.errors import UserError  # noqa: E402

LATENTS = (2, 4, 8, 8)
SIZES = [SizeInfo((640, 480), (16, 32), (64, 96)), SizeInfo((64, 64), (0, 0), (64, 64))]


def features(key: str) -> TextFeatures:
    made = torch.Generator().manual_seed(5)
    width, pooled = {"sd15": (16, None), "sd2": (24, None), "sdxl": (40, 16)}[key]
    hidden = torch.randn((2, 77, width), generator=made)
    return TextFeatures(hidden, None if pooled is None else torch.randn((2, pooled), generator=made))


def noisy() -> Any:
    return torch.randn(LATENTS, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("key", twin_models.FAMILIES)
def test_prediction_is_that_of_diffusers_unet(key: str) -> None:
    unet, text = twin_models.networks(key)["unet"], features(key)
    times = torch.tensor([3, 970])
    numbers = torch.tensor([[480, 640, 32, 16, 96, 64], [64, 64, 0, 0, 64, 64]], dtype=torch.float32)
    added = {"text_embeds": text.pooled, "time_ids": numbers} if key == "sdxl" else None
    with torch.no_grad():
        found = twin_models.family(key).predict(unet, noisy(), times, text, SIZES)
        expected = unet(noisy(), times, text.hidden, added_cond_kwargs=added).sample
    assert found.shape == LATENTS
    torch.testing.assert_close(found, expected)


def test_sdxl_is_told_heights_before_widths_as_sines() -> None:
    """The vector of FACTS section 2, written out: pooled, then 8 sines and cosines of each of six numbers."""
    unet, text = twin_models.networks("sdxl")["unet"], features("sdxl")
    seen: list[Any] = []
    hook = unet.add_embedding.linear_1.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            twin_models.family("sdxl").predict(unet, noisy(), torch.tensor([3, 970]), text, SIZES)
    finally:
        hook.remove()
    frequencies = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(4) / 4)
    for row, size in enumerate(SIZES):
        numbers = (size.original[1], size.original[0], size.crop[1], size.crop[0], size.target[1], size.target[0])
        waves = [torch.cat([(number * frequencies).cos(), (number * frequencies).sin()]) for number in numbers]
        assert text.pooled is not None
        torch.testing.assert_close(seen[0][row], torch.cat([text.pooled[row], *waves]), rtol=1e-4, atol=1e-4)


def test_sizes_matter_to_sdxl_alone() -> None:
    other = [SizeInfo((64, 64), (0, 0), (64, 64))] * 2
    for key, same in (("sd15", True), ("sdxl", False)):
        unet, text = twin_models.networks(key)["unet"], features(key)
        family, times = twin_models.family(key), torch.tensor([3, 970])
        with torch.no_grad():
            one = family.predict(unet, noisy(), times, text, SIZES)
            two = family.predict(unet, noisy(), times, text, other)
        assert torch.equal(one[0], two[0]) is same


@pytest.mark.parametrize(("key", "scale"), [("sd15", 0.18215), ("sdxl", 0.13025)])
def test_latents_are_the_scaled_mean(key: str, scale: float) -> None:
    family, vae = twin_models.family(key), twin_models.networks(key)["vae"]
    pixels = torch.rand((1, 3, 64, 96), generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        latents = family.encode_pixels(vae, pixels)
        assert latents.shape == (1, 4, 8, 12) and latents.dtype == torch.float32
        moments = vae.quant_conv(vae.encoder(pixels))
        torch.testing.assert_close(latents, moments[:, :4] * scale)
        decoded = family.decode_latents(vae, latents)
        torch.testing.assert_close(decoded, vae.decode(latents / scale).sample.clamp(-1, 1))
    assert decoded.shape == pixels.shape and decoded.dtype == torch.float32


def test_the_schedule_is_diffusers_in_more_digits() -> None:
    from diffusers import DDIMScheduler

    plain = twin_models.family("sd15").alphas_cumprod(zero_terminal_snr=False)
    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert plain.dtype == torch.float64 and plain.shape == (1000,)
    torch.testing.assert_close(plain, theirs.alphas_cumprod.double(), rtol=1e-5, atol=1e-7)
    zero = twin_models.family("sdxl").alphas_cumprod(zero_terminal_snr=True)
    theirs = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    torch.testing.assert_close(zero, theirs.alphas_cumprod.double(), rtol=1e-4, atol=1e-6)
    assert zero[-1] == 0 and zero[0] == plain[0] and bool((zero[1:] < zero[:-1]).all())


def test_prediction_type_is_the_checkpoints() -> None:
    plain, velocity = twin_models.family("sdxl"), twin_models.family("sdxl", v_pred=True)
    assert (plain.prediction_type, plain.zero_terminal_snr) == ("epsilon", False)
    assert (velocity.prediction_type, velocity.zero_terminal_snr) == ("v_prediction", True)


def names(key: str, part: str, *, conv: bool = False) -> dict[str, tuple[str, str]]:
    family, module = twin_models.family(key), twin_models.networks(key)[part]
    return {target.name: (target.path, target.kind) for target in family.lora_targets(part, module, conv=conv)}


def test_sd15_layers_have_diffusers_names() -> None:
    found = names("sd15", "unet", conv=True)
    where = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0"
    assert found["lora_unet_" + where.replace(".", "_")] == (where, "linear")
    assert found["lora_unet_mid_block_attentions_0_proj_in"][1] == "conv1x1"
    assert found["lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_2"][1] == "linear"
    assert found["lora_unet_down_blocks_0_resnets_0_conv1"][1] == "conv3x3"
    assert found["lora_unet_down_blocks_1_resnets_0_conv_shortcut"][1] == "conv1x1"
    assert found["lora_unet_down_blocks_0_resnets_0_time_emb_proj"][1] == "linear"
    assert found["lora_unet_up_blocks_0_upsamplers_0_conv"][1] == "conv3x3"
    assert "lora_unet_conv_in" not in found and "lora_unet_time_embedding_linear_1" not in found


def test_a_base_with_one_block_a_level_gets_ldm_names() -> None:
    """AUTOMATIC1111 counts two blocks a level when it reads diffusers' names."""
    small = twins.Sizes(twins.Unet(8, (1, 2), 1, (0, 1), 1, 16), twins.Vae(8), twins.TWINS["sd15"].texts)
    family = twin_models.of_header("sd15", twins.shapes(small), twins.config("sd15"))
    unet, _ = family.empty("unet")
    found = {target.name: target.path for target in family.lora_targets("unet", unet, conv=False)}
    assert found["lora_unet_input_blocks_3_1_proj_in"] == "down_blocks.1.attentions.0.proj_in"
    assert len(found) == 12 * 4


def test_sdxl_layers_have_ldm_names() -> None:
    found = names("sdxl", "unet", conv=True)
    assert found["lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"] == (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "linear",
    )
    assert found["lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj"][0].startswith("mid_block.attentions.0.")
    assert found["lora_unet_output_blocks_0_1_proj_out"][1] == "linear"
    assert found["lora_unet_output_blocks_8_0_skip_connection"] == ("up_blocks.2.resnets.2.conv_shortcut", "conv1x1")
    assert found["lora_unet_input_blocks_3_0_op"] == ("down_blocks.0.downsamplers.0.conv", "conv3x3")
    assert found["lora_unet_output_blocks_2_2_conv"] == ("up_blocks.0.upsamplers.0.conv", "conv3x3")


@pytest.mark.parametrize(
    ("key", "part", "stem"), [("sd15", "te1", "lora_te_"), ("sdxl", "te1", "lora_te1_"), ("sdxl", "te2", "lora_te2_")]
)
def test_text_layers_have_hugging_face_names_in_every_transformers(key: str, part: str, stem: str) -> None:
    found = names(key, part)
    module = twin_models.networks(key)[part]
    for inner in ("self_attn_q_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2"):
        path, kind = found[f"{stem}text_model_encoder_layers_3_{inner}"]
        assert kind == "linear" and isinstance(module.get_submodule(path), torch.nn.Linear)


@pytest.mark.parametrize("key", twin_models.FAMILIES)
def test_every_target_exists_once_and_can_be_read_back(key: str) -> None:
    family, networks = twin_models.family(key), twin_models.networks(key)
    for part in ("unet", *family.text_parts):
        targets = family.lora_targets(part, networks[part], conv=True)
        assert len({target.path for target in targets}) == len({target.name for target in targets}) == len(targets)
        stems = family.lora_stems(part, networks[part])
        assert all(stems[target.name] == target.path for target in targets)


@pytest.mark.parametrize(
    ("key", "velocity", "version", "architecture"),
    [
        ("sd15", False, "sd_v1", "stable-diffusion-v1/lora"),
        ("sd2", True, "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
        ("sd2", False, "sd_v2", "stable-diffusion-v2-512/lora"),
        ("sdxl", True, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_metadata_names_the_family_as_kohya_does(key: str, velocity: bool, version: str, architecture: str) -> None:
    spec: Any = SimpleNamespace(settings={"v_parameterization": velocity})
    said = twin_models.family(key).metadata(spec)
    assert said["ss_base_model_version"] == version and said["modelspec.architecture"] == architecture
    assert said["ss_v2"] == str(key == "sd2") and said["modelspec.prediction_type"] == ("v" if velocity else "epsilon")


def test_only_trainable_bases_have_a_family() -> None:
    import dataclasses

    base = dataclasses.replace(twin_models.family("sd15").checkpoint, family="flux", trainable=True)
    with pytest.raises(UserError, match="cannot be trained"):
        for_checkpoint(base)
