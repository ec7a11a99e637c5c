"""Drawing: DDIM against diffusers' scheduler, guidance, batches, LoRA files, and the request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")

from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from tests.engine import twin_models  # noqa: E402
from trainer_bridge.engine import ddim, sample  # noqa: E402
from trainer_bridge.engine.draw import draw, starting_noise  # noqa: E402
from trainer_bridge.engine.families import TextFeatures  # noqa: E402
from trainer_bridge.engine.merge import merged  # noqa: E402
from trainer_bridge.engine.picture_file import Made, infotext  # noqa: E402
from trainer_bridge.errors import UserError  # noqa: E402
from trainer_bridge.spec import SamplePrompt  # noqa: E402

CROSS = "transformer_blocks_0_attn2_to_k"
CROSS_PATH = "transformer_blocks.0.attn2.to_k"
PROMPT = SamplePrompt("a girl with red hair", "blurry", 7, 64, 64)


def scheduler(velocity: bool) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if velocity else "epsilon",
        rescale_betas_zero_snr=velocity,
        timestep_spacing="trailing" if velocity else "leading",
    )


@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize("steps", [4, 20, 50])
def test_steps_are_those_of_diffusers(velocity: bool, steps: int) -> None:
    theirs = scheduler(velocity)
    theirs.set_timesteps(steps)
    alphas = twin_models.family("sd15").alphas_cumprod(zero_terminal_snr=velocity)
    assert [step.timestep for step in ddim.plan(steps, alphas)] == theirs.timesteps.tolist()


def test_steps_that_do_not_divide_the_schedule_follow_the_webui() -> None:
    """AUTOMATIC1111: clip(arange(0, 1000, 1000 // steps) + 1, 0, 999), which has 31 entries for 30 steps."""
    alphas = twin_models.family("sd15").alphas_cumprod(zero_terminal_snr=False)
    times = [step.timestep for step in ddim.plan(30, alphas)]
    assert times[0] == 991 and times[-1] == 1 and len(times) == 31


@pytest.mark.parametrize("velocity", [False, True])
def test_latents_equal_diffusers_scheduler(velocity: bool) -> None:
    """The whole loop on a twin's U-Net, guidance included, against diffusers' scheduler."""
    family, unet = twin_models.family("sd15"), twin_models.networks("sd15")["unet"]
    text = torch.randn((2, 77, 16), generator=torch.Generator().manual_seed(3))
    noise = starting_noise(family, PROMPT)[None]

    def guided(latents: Any, time: Any) -> Any:
        wanted, unwanted = unet(torch.cat([latents] * 2), torch.as_tensor(time), text).sample.chunk(2)
        return unwanted + 4.0 * (wanted - unwanted)

    theirs = scheduler(velocity)
    theirs.set_timesteps(10)
    expected = noise
    with torch.no_grad():
        for time in theirs.timesteps:
            expected = theirs.step(guided(expected, time), time, expected).prev_sample
        steps = ddim.plan(10, family.alphas_cumprod(zero_terminal_snr=velocity))
        found = ddim.sample(noise, steps, guided, velocity=velocity)
    assert found.abs().max() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def pictures(key: str, prompts: list[SamplePrompt], **options: Any) -> list[Any]:
    family, networks = twin_models.family(key), twin_models.networks(key)
    settings = {"steps": 3, "cfg": 5.0, "clip_skip": 1, "device": "cpu", "dtype": torch.float32} | options
    return [np.asarray(picture).astype(int) for picture in draw(family, networks, prompts, **settings)]


@pytest.mark.parametrize("key", twin_models.FAMILIES)
def test_a_picture_does_not_depend_on_its_batch_mates(key: str) -> None:
    others = [
        SamplePrompt("a cat", "", 1, 64, 64),
        SamplePrompt("a dog, " * 40, "x", 2, 64, 64),
        SamplePrompt("b", "", 3, 64, 96),
    ]
    alone = pictures(key, [PROMPT])[0]
    for prompts in ([PROMPT, *others], [*others, PROMPT]):
        together = pictures(key, prompts)
        assert [picture.shape for picture in together] == [(p.height, p.width, 3) for p in prompts]
        assert abs(together[prompts.index(PROMPT)] - alone).max() <= 1
    assert alone.std() > 1


def test_prompt_negative_seed_and_strength_matter() -> None:
    base = pictures("sdxl", [PROMPT])[0]
    for other in (("a cat", "blurry", 7), ("a girl with red hair", "sharp", 7), ("a girl with red hair", "blurry", 8)):
        assert abs(pictures("sdxl", [SamplePrompt(*other, 64, 64)])[0] - base).max() > 1
    assert abs(pictures("sdxl", [PROMPT], cfg=1.0)[0] - base).max() > 1


def test_at_strength_one_the_negative_prompt_is_left_out() -> None:
    other = SamplePrompt(PROMPT.prompt, "something else", PROMPT.seed, 64, 64)
    assert np.array_equal(pictures("sd15", [PROMPT], cfg=1.0)[0], pictures("sd15", [other], cfg=1.0)[0])


def test_an_empty_negative_prompt_of_sdxl_is_zeros() -> None:
    family = twin_models.family("sdxl")
    zero = family.blank(TextFeatures(torch.ones(1, 77, 40), torch.ones(1, 16)))
    assert zero.pooled is not None and not zero.hidden.any() and not zero.pooled.any()
    seen: list[Any] = []
    unet = twin_models.networks("sdxl")["unet"]
    hook = unet.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[2]))
    try:
        pictures("sdxl", [SamplePrompt("a", "", 1, 64, 64), SamplePrompt("b", "x", 1, 64, 64)], steps=1)
    finally:
        hook.remove()
    assert [bool(row.any()) for row in seen[0]] == [True, True, False, True]


def test_features_made_before_give_the_same_picture() -> None:
    family, networks = twin_models.family("sdxl"), twin_models.networks("sdxl")
    encoders = {part: networks[part] for part in family.text_parts}

    def stored(texts: Any) -> TextFeatures:
        with torch.no_grad():
            return family.encode_text(encoders, texts, clip_skip=1)

    without = {part: networks[part] for part in ("unet", "vae")}
    options: Any = {"steps": 3, "cfg": 5.0, "clip_skip": 1, "device": "cpu", "dtype": torch.float32}
    (found,) = draw(family, without, [PROMPT], text_features=stored, **options)
    assert np.array_equal(np.asarray(found), pictures("sdxl", [PROMPT])[0])


def lora_file(
    path: Path, stems: dict[str, tuple[tuple[int, ...], tuple[int, ...]]], alpha: float | None = 2.0
) -> dict[str, Any]:
    """Write a LoRA of these layers (shapes of down and up) and return its tensors."""
    chance = torch.Generator().manual_seed(11)
    tensors: dict[str, Any] = {}
    for stem, (down, up) in stems.items():
        tensors[f"{stem}.lora_down.weight"] = torch.randn(down, generator=chance)
        tensors[f"{stem}.lora_up.weight"] = torch.randn(up, generator=chance)
        if alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    save_file(tensors, str(path))
    return tensors


@pytest.mark.parametrize(
    ("key", "part", "stem", "path"),
    [
        ("sd15", "unet", f"lora_unet_down_blocks_1_attentions_0_{CROSS}", f"down_blocks.1.attentions.0.{CROSS_PATH}"),
        ("sd15", "unet", f"lora_unet_input_blocks_4_1_{CROSS}", f"down_blocks.1.attentions.0.{CROSS_PATH}"),
        ("sd15", "unet", "lora_unet_mid_block_attentions_0_proj_in", "mid_block.attentions.0.proj_in"),
        ("sd15", "unet", "lora_unet_down_blocks_1_resnets_0_conv1", "down_blocks.1.resnets.0.conv1"),
        ("sd15", "te1", "lora_te_text_model_encoder_layers_4_mlp_fc1", "encoder.layers.4.mlp.fc1"),
        ("sdxl", "unet", f"lora_unet_output_blocks_2_1_{CROSS}", f"up_blocks.0.attentions.2.{CROSS_PATH}"),
        ("sdxl", "te2", "lora_te2_text_model_encoder_layers_31_mlp_fc2", "encoder.layers.31.mlp.fc2"),
    ],
)
def test_a_lora_changes_exactly_its_layer_and_is_taken_out(
    tmp_path: Path, key: str, part: str, stem: str, path: str
) -> None:
    networks = twin_models.networks(key)
    where = path if part == "unet" else f"text_model.{path}"
    weight = networks[part].get_submodule(where).weight
    shape, before, place = tuple(weight.shape), weight.clone(), weight.data_ptr()
    tensors = lora_file(tmp_path / "l.safetensors", {stem: ((4, *shape[1:]), (shape[0], 4, *[1] * (len(shape) - 2)))})
    down, up = tensors[f"{stem}.lora_down.weight"].double(), tensors[f"{stem}.lora_up.weight"].double()
    change = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(shape) * 2 / 4 * 0.7
    others = {name: value.data_ptr() for name, value in networks[part].named_parameters() if value is not weight}
    with merged(twin_models.family(key), networks, [(tmp_path / "l.safetensors", 0.7)]):
        torch.testing.assert_close(weight.double(), before.double() + change, rtol=1e-5, atol=1e-5)
        assert others == {n: v.data_ptr() for n, v in networks[part].named_parameters() if v is not weight}
    assert weight.data_ptr() == place and torch.equal(weight, before)


def test_two_loras_add_up_and_leave_together(tmp_path: Path) -> None:
    networks, stem = twin_models.networks("sd15"), "lora_unet_mid_block_attentions_0_proj_in"
    weight = networks["unet"].mid_block.attentions[0].proj_in.weight
    before = weight.clone()
    lora_file(tmp_path / "l.safetensors", {stem: ((4, 32, 1, 1), (32, 4, 1, 1))}, alpha=None)
    one = [(tmp_path / "l.safetensors", 1.0)]
    with merged(twin_models.family("sd15"), networks, one):
        change = weight - before
    with merged(twin_models.family("sd15"), networks, [*one, (tmp_path / "l.safetensors", -0.5)]):
        torch.testing.assert_close(weight - before, change * 0.5, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError), merged(twin_models.family("sd15"), networks, one):
        raise RuntimeError
    assert torch.equal(weight, before)


def test_a_lora_of_another_base_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    networks = twin_models.networks("sd15")
    good, bad = "lora_unet_mid_block_attentions_0_proj_in", "lora_unet_output_blocks_2_1_transformer_blocks_3_ff_net_2"
    before = networks["unet"].mid_block.attentions[0].proj_in.weight.data_ptr()
    shapes = ((4, 32, 1, 1), (32, 4, 1, 1))
    lora_file(tmp_path / "l.safetensors", {good: shapes, bad: shapes})
    with pytest.raises(UserError, match="1 of its 2 layers"):
        with merged(twin_models.family("sd15"), networks, [(tmp_path / "l.safetensors", 1.0)]):
            raise AssertionError("it was merged")
    lora_file(tmp_path / "l.safetensors", {good: ((4, 16, 1, 1), (32, 4, 1, 1))})
    with pytest.raises(UserError, match="does not fit a layer"):
        with merged(twin_models.family("sd15"), networks, [(tmp_path / "l.safetensors", 1.0)]):
            raise AssertionError("it was merged")
    assert networks["unet"].mid_block.attentions[0].proj_in.weight.data_ptr() == before


@pytest.mark.parametrize(
    ("down", "up", "alpha", "fault"),
    [
        ((4, 32, 1, 1), (32, 4, 1, 1), float("nan"), "no numbers"),
        ((4, 32, 1, 1), (32, 3, 1, 1), 1.0, "different rank"),
        ((0, 32, 1, 1), (32, 0, 1, 1), 1.0, "different rank"),
        ((1, 3_000_000), (3_000_000, 1), 1.0, "does not fit a layer"),
        ((4, 32, 3, 3), (32, 4, 1, 1), 1.0, "does not fit a layer"),
        ((4,), (32, 4), 1.0, "lora_down"),
    ],
)
def test_a_broken_layer_is_named_before_anything_is_computed(
    tmp_path: Path, down: tuple[int, ...], up: tuple[int, ...], alpha: float, fault: str
) -> None:
    lora_file(tmp_path / "l.safetensors", {"lora_unet_mid_block_attentions_0_proj_in": (down, up)}, alpha=alpha)
    with pytest.raises(UserError, match=fault):
        with merged(twin_models.family("sd15"), twin_models.networks("sd15"), [(tmp_path / "l.safetensors", 1.0)]):
            raise AssertionError("it was merged")


@pytest.mark.parametrize("extra", ["hada_w1_a", "dora_scale", "lora_mid.weight"])
def test_other_kinds_of_networks_are_refused(tmp_path: Path, extra: str) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = lora_file(tmp_path / "l.safetensors", {stem: ((4, 32, 1, 1), (32, 4, 1, 1))})
    save_file(tensors | {f"{stem}.{extra}": torch.zeros(4, 4)}, str(tmp_path / "l.safetensors"))
    with pytest.raises(UserError, match="l.safetensors"):
        with merged(twin_models.family("sd15"), twin_models.networks("sd15"), [(tmp_path / "l.safetensors", 1.0)]):
            raise AssertionError("it was merged")


@pytest.mark.parametrize("key", ["sd15", "sdxl"])
def test_a_lora_does_what_diffusers_own_loader_makes_of_it(tmp_path: Path, key: str) -> None:
    pytest.importorskip("peft")
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    family, networks = twin_models.family(key), twin_models.networks(key)
    unet = networks["unet"]
    stems = {}
    for target in family.lora_targets("unet", unet, conv=True):
        shape = tuple(unet.get_submodule(target.path).weight.shape)
        stems[target.name] = ((4, *shape[1:]), (shape[0], 4, *[1] * (len(shape) - 2)))
    tensors = {
        name: value if name.endswith("alpha") else 0.05 * value
        for name, value in lora_file(tmp_path / "l.safetensors", stems).items()
    }
    save_file(tensors, str(tmp_path / "l.safetensors"))
    loader = StableDiffusionXLPipeline if key == "sdxl" else StableDiffusionPipeline
    other = family.load(["unet"], device="cpu", dtype=torch.float32)["unet"]
    state, alphas = loader.lora_state_dict(str(tmp_path), weight_name="l.safetensors", unet_config=other.config)[:2]
    loader.load_lora_into_unet(state, alphas, other)
    from tests.engine.test_families_predict import SIZES, features, noisy

    times, text = torch.tensor([3, 970]), features(key)
    with torch.no_grad():
        expected = family.predict(other, noisy(), times, text, SIZES)
        plain = family.predict(unet, noisy(), times, text, SIZES)
        with merged(family, networks, [(tmp_path / "l.safetensors", 1.0)]):
            found = family.predict(unet, noisy(), times, text, SIZES)
    assert (expected - plain).abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def request(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    picture = {
        "prompt": "a, b",
        "negative": "c",
        "seed": 1,
        "width": 64,
        "height": 64,
        "steps": 2,
        "cfg": 4,
        "out": str(tmp_path / "p.png"),
    }
    return {"base": str(twin_models.file("sd15")), "pictures": [picture | changes]}


def test_generate_writes_pictures_that_say_how_they_were_made(tmp_path: Path, capsys: Any) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    lora_file(tmp_path / "my.safetensors", {stem: ((4, 32, 1, 1), (32, 4, 1, 1))})
    asked = request(tmp_path)
    with_lora = asked["pictures"][0] | {
        "out": str(tmp_path / "q.png"),
        "loras": [[str(tmp_path / "my.safetensors"), 0.8]],
    }
    again = asked["pictures"][0] | {"out": str(tmp_path / "r.png"), "clip_skip": 1, "sampler": "ddim"}
    sample.generate(asked | {"pictures": [asked["pictures"][0], with_lora, again], "threads": 1, "precision": "no"})
    told = [json.loads(line)["out"] for line in capsys.readouterr().out.splitlines()]
    assert sorted(told) == sorted(str(tmp_path / name) for name in ("p.png", "q.png", "r.png"))
    made = {name: Image.open(tmp_path / name) for name in ("p.png", "q.png", "r.png")}
    assert np.array_equal(np.asarray(made["p.png"]), np.asarray(made["r.png"]))
    assert not np.array_equal(np.asarray(made["p.png"]), np.asarray(made["q.png"]))
    text = made["q.png"].info["parameters"]
    assert text.startswith(
        "a, b <lora:my:0.8>\nNegative prompt: c\nSteps: 2, Sampler: DDIM, CFG scale: 4, Seed: 1, Size: 64x64"
    )
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"steps": True}, "steps"),
        ({"cfg": float("nan")}, "cfg"),
        ({"cfg": 1e9}, "cfg"),
        ({"width": 63}, "width"),
        ({"width": 68}, "68 px"),
        ({"height": 1 << 20}, "height"),
        ({"seed": -1}, "seed"),
        ({"sampler": "euler_a"}, "sampler"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x" * 5000}, "prompt"),
        ({"clip_skip": 13}, "clip_skip"),
        ({"loras": [["a"]]}, "LoRA"),
        ({"loras": [["a", float("inf")]]}, "weight"),
        ({"loras": [["/nowhere/a.safetensors", 1.0]]}, "no file"),
        ({"out": "/nowhere/p.png"}, "no folder"),
        ({"out": "p.jpg"}, "png"),
    ],
)
def test_a_wrong_request_is_a_sentence(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        sample.generate(request(tmp_path, **changes))
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize("pictures", [None, [], "x", [3]])
def test_a_request_without_pictures_is_a_sentence(pictures: Any) -> None:
    with pytest.raises(UserError):
        sample.generate({"base": str(twin_models.file("sd15")), "pictures": pictures})


def test_generation_parameters_quote_what_would_be_read_as_two() -> None:
    made = Made("p", "", 20, 7.0, 1, 64, 64, model="a, b: c", clip_skip=2)
    assert (
        infotext(made)
        == 'p\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 64x64, Model: "a, b: c", Clip skip: 2'
    )
