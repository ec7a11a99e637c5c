"""Bases are told by their weights: each family, each variant that is refused, prediction, precision."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests import headers
from tests.ldm_keys import REFINER, SD2, SD2_PARTS, SD15, SD15_PARTS, SDXL, SDXL_PARTS, Shapes, UNet
from trainer_bridge.checkpoint import Checkpoint, inspect, require_base
from trainer_bridge.errors import UserError
from trainer_bridge.families import FAMILIES

TINY = replace(SD15, channels=8, multiples=(1, 2), depth=(0, 1), layers=1, context=16)
FULL: dict[str, Shapes] = {
    "sd15": {**SD15.shapes(), **SD15_PARTS},
    "sd2": {**SD2.shapes(), **SD2_PARTS},
    "sdxl": {**SDXL.shapes(), **SDXL_PARTS},
}


def look(folder: Path, tensors: Shapes, name: str = "model.safetensors", **options: object) -> Checkpoint:
    return inspect(headers.write(folder / name, tensors, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("net", "count", "billions"),
    [(SD15, 686, 0.860), (SD2, 686, 0.866), (SDXL, 1680, 2.567), (REFINER, 1220, 2.260)],
)
def test_the_key_lists_have_the_known_sizes(net: UNet, count: int, billions: float) -> None:
    shapes = net.shapes("")
    assert len(shapes) == count
    assert sum(math.prod(shape) for shape in shapes.values()) / 1e9 == pytest.approx(billions, abs=0.001)


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_full_size_bases_are_trainable(tmp_path: Path, family: str) -> None:
    found = look(tmp_path, FULL[family])
    assert (found.kind, found.family, found.trainable, found.reason) == ("base", family, True, "")
    assert found.title == FAMILIES[family].title
    assert found.native_size == FAMILIES[family].native_size
    assert (found.prediction_type, found.zero_terminal_snr) == ("epsilon", False)
    assert found.precision == "fp16"
    assert require_base(found.path) == found
    json.dumps(found.to_json())


def test_small_layouts_of_the_same_families_are_told_too(tmp_path: Path) -> None:
    assert look(tmp_path, {**TINY.shapes(), **SD15_PARTS}).family == "sd15"
    assert look(tmp_path, {**replace(TINY, linear=True).shapes(), **SD2_PARTS}).family == "sd2"
    small = UNet(8, (1, 2, 4), 2, (0, 2, 10), 10, 16, True, 64)
    assert look(tmp_path, {**small.shapes(), **SDXL_PARTS}).trainable
    assert look(tmp_path, UNet(8, (1, 2, 4, 4), 2, (0, 4, 4, 0), 4, 16, True, 56).shapes()).family == "sdxl_refiner"


def dit(prefix: str, **shapes: tuple[int, ...]) -> Shapes:
    """Enough weights for the prefix to count, beside the decisive ones (`__` stands for a dot)."""
    filler = {f"{prefix}filler.{n}.weight": (1,) for n in range(6)}
    return {**filler, **{prefix + name.replace("__", "."): shape for name, shape in shapes.items()}}


MDM = "model.diffusion_model."
FLUX = {"double_blocks__0__img_attn__norm__key_norm__scale": (128,), "img_in__weight": (3072, 64)}
SD3 = {"joint_blocks__0__context_block__attn__qkv__weight": (4608, 1536)}
LUMINA = {"cap_embedder__1__weight": (2304, 2304), "layers__0__adaLN_modulation__1__weight": (9216, 1024)}
ZIMAGE = {"cap_embedder__1__weight": (3840, 2560), "layers__0__adaLN_modulation__0__weight": (15360, 256)}
ANIMA = {"blocks__0__mlp__layer1__weight": (8192, 2048), "x_embedder__proj__1__weight": (2048, 68)}
QWEN = {"txt_norm__weight": (3584,), "transformer_blocks__0__attn__add_q_proj__weight": (3072, 3072)}


@pytest.mark.parametrize(
    ("tensors", "family", "title"),
    [
        (dit(MDM, double_stream_modulation_img__lin__weight=(8, 8), **FLUX), "flux2", "Flux.2"),
        (dit("", distilled_guidance_layer__in_proj__weight=(5120, 64), **FLUX), "chroma", "Chroma"),
        (
            dit(
                "",
                distilled_guidance_layer__in_proj__weight=(8, 8),
                nerf_blocks__0__param_generator__weight=(8, 8),
            ),
            "chroma",
            "Chroma Radiance",
        ),
        (dit("", guidance_in__in_layer__weight=(3072, 256), **FLUX), "flux", "Flux.1 dev"),
        (dit("", **FLUX), "flux", "Flux.1 schnell"),
        (dit(MDM, **{**FLUX, "img_in__weight": (3072, 384)}), "flux", "Flux.1 Fill"),
        (dit(MDM, **{**FLUX, "img_in__weight": (3072, 128)}), "flux", "Flux.1 Depth or Canny"),
        (
            dit(MDM, **SD3, joint_blocks__23__x_block__attn__qkv__weight=(8, 8)),
            "sd3",
            "Stable Diffusion 3 Medium",
        ),
        (
            dit(MDM, **SD3, joint_blocks__0__x_block__attn2__qkv__weight=(8, 8)),
            "sd3",
            "Stable Diffusion 3.5 Medium",
        ),
        (
            dit(
                MDM,
                **SD3,
                joint_blocks__37__x_block__attn__qkv__weight=(8, 8),
                joint_blocks__0__x_block__attn__ln_q__weight=(64,),
            ),
            "sd3",
            "Stable Diffusion 3.5 Large",
        ),
        (dit(MDM, **ZIMAGE), "zimage", "Z-Image"),
        (dit("", **LUMINA), "lumina2", "Lumina 2"),
        (dit("net.", **ANIMA, llm_adapter__blocks__0__cross_attn__q_proj__weight=(8, 8)), "anima", "Anima"),
        (dit("net.", **ANIMA), "cosmos", "Cosmos-Predict2"),
        (dit("model.", **QWEN), "qwen_image", "Qwen-Image"),
        (REFINER.shapes(), "sdxl_refiner", "SDXL refiner"),
        ({**SDXL.shapes(), **SDXL_PARTS, "edm_mean": (4,)}, "sdxl", "Playground"),
        ({**SDXL.shapes(), **SDXL_PARTS, "edm_vpred.sigma_max": (1,)}, "sdxl", "SDXL EDM v-prediction"),
        (replace(SDXL, depth=(0, 2, 4), middle=0).shapes(), "sdxl", "SSD-1B"),
        (replace(SDXL, depth=(0, 1, 2), middle=0).shapes(), "sdxl", "Segmind Vega"),
        (replace(SDXL, layers=1, depth=(0, 2, 6), middle=0).shapes(), "sdxl", "cut-down SDXL"),
        (replace(SDXL, outputs=32).shapes(), "sdxl", "Mugen"),
        (replace(SDXL, inputs=9).shapes(), "sdxl", "SDXL inpainting"),
        (replace(SD2, inputs=9).shapes(), "sd2", "Stable Diffusion 2 inpainting"),
        (replace(SD2, label=2048).shapes(), "sd2", "Stable Diffusion 2 unCLIP"),
        (replace(SD15, inputs=9).shapes(), "sd15", "Stable Diffusion 1.5 inpainting"),
        (replace(SD15, inputs=8).shapes(), "sd15", "Stable Diffusion 1.5 InstructPix2Pix"),
    ],
)
def test_other_families_are_known_by_name_and_refused(tmp_path: Path, tensors: Shapes, family: str, title: str) -> None:
    found = look(tmp_path, tensors)
    assert (found.kind, found.family, found.title, found.trainable) == ("base", family, title, False)
    with pytest.raises(UserError, match="cannot be trained") as caught:
        require_base(found.path)
    assert "Stable Diffusion 1.5" in caught.value.way_out


DIFFUSERS: Shapes = {
    "conv_in.weight": (320, 4, 3, 3),
    "down_blocks.0.resnets.0.norm1.weight": (320,),
    "mid_block.attentions.0.proj_in.weight": (1280, 1280, 1, 1),
}
LINEAR: Shapes = {**DIFFUSERS, "mid_block.attentions.0.proj_in.weight": (1280, 1280)}
ADDED: Shapes = {**LINEAR, "add_embedding.linear_1.weight": (1280, 2816)}


@pytest.mark.parametrize(
    ("tensors", "title"),
    [
        (DIFFUSERS, "Stable Diffusion 1.5"),
        (LINEAR, "Stable Diffusion 2"),
        (ADDED, "SDXL"),
        ({**ADDED, "down_blocks.3.resnets.0.norm1.weight": (1536,)}, "SDXL refiner"),
        ({**DIFFUSERS, "time_embedding.cond_proj.weight": (320, 256)}, "Stable Diffusion 1.5 LCM"),
    ],
)
def test_a_diffusers_unet_is_a_base_without_its_other_parts(tmp_path: Path, tensors: Shapes, title: str) -> None:
    found = look(tmp_path, tensors)
    assert (found.kind, found.title, found.trainable) == ("base", title, False)


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_a_part_that_is_missing_is_named(tmp_path: Path, family: str) -> None:
    for part in FAMILIES[family].parts:
        rest = {name: shape for name, shape in FULL[family].items() if not name.startswith(part.prefixes)}
        found = look(tmp_path, rest)
        assert not found.trainable
        assert part.title in found.reason


# ---- prediction


def base(*marks: str, family: str = "sdxl") -> Shapes:
    return {**FULL[family], **dict.fromkeys(marks, (0,))}


@pytest.mark.parametrize(
    ("marks", "name", "yaml", "metadata", "expected"),
    [
        ((), "plain", None, {}, ("epsilon", False)),
        (("v_pred",), "plain", None, {}, ("v_prediction", False)),
        (("v_pred", "ztsnr"), "plain", None, {}, ("v_prediction", True)),
        (("ztsnr",), "plain", None, {}, ("epsilon", False)),
        ((), "noobai-vPred10", None, {}, ("v_prediction", True)),
        ((), "fluffy_v-pred", None, {}, ("v_prediction", True)),
        ((), "everypred", None, {}, ("epsilon", False)),
        ((), "plain", "model:\n  params:\n    parameterization: v\n", {}, ("v_prediction", True)),
        (
            (),
            "plain",
            'model:\r\n  params:\r\n    parameterization: "v"  # x\r\n',
            {},
            ("v_prediction", True),
        ),
        ((), "plain", "# parameterization: v\n", {}, ("epsilon", False)),
        ((), "a-vpred", "    parameterization: eps\n", {}, ("epsilon", False)),
        (
            (),
            "plain",
            "   target: sgm.modules.diffusionmodules.denoiser_scaling.VScaling\n",
            {},
            ("v_prediction", True),
        ),
        ((), "plain", None, {"modelspec.prediction_type": "v"}, ("v_prediction", True)),
        ((), "a-vpred", None, {"modelspec.prediction_type": "epsilon"}, ("epsilon", False)),
        ((), "plain", None, {"modelspec.title": "My V-Pred mix"}, ("v_prediction", True)),
        (
            ("v_pred",),
            "plain",
            "parameterization: eps\n",
            {"modelspec.prediction_type": "epsilon"},
            ("v_prediction", False),
        ),
        (
            (),
            "plain",
            None,
            {"atelier.config": '{"prediction_type": "v_prediction"}'},
            ("v_prediction", False),
        ),
        (
            (),
            "plain",
            None,
            {"atelier.config": '{"prediction_type": "v_prediction", "zero_terminal_snr": true}'},
            ("v_prediction", True),
        ),
    ],
)
def test_prediction_is_read_from_the_surest_place(
    tmp_path: Path,
    marks: tuple[str, ...],
    name: str,
    yaml: str | None,
    metadata: dict[str, str],
    expected: tuple[str, bool],
) -> None:
    if yaml is not None:
        (tmp_path / f"{name}.yaml").write_bytes(yaml.encode())
    found = look(tmp_path, base(*marks), f"{name}.safetensors", metadata=metadata)
    assert (found.prediction_type, found.zero_terminal_snr) == expected
    assert found.prediction_source


@pytest.mark.parametrize(("deviation", "expected", "size"), [(0.05, "epsilon", 512), (0.2, "v_prediction", 768)])
def test_sd2_is_told_by_one_weight(tmp_path: Path, deviation: float, expected: str, size: int) -> None:
    bias = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    values = [deviation, -deviation] * 160
    found = look(tmp_path, FULL["sd2"], values={bias: values})
    assert (found.prediction_type, found.zero_terminal_snr, found.native_size) == (expected, False, size)


def test_families_without_that_choice_have_none(tmp_path: Path) -> None:
    found = look(tmp_path, dit("", **FLUX), "flux-vpred.safetensors")
    assert (found.prediction_type, found.zero_terminal_snr) == (None, False)


def test_a_hostile_sidecar_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_bytes(b" " * 300_000 + b"parameterization: v\n" + b"target: " * 100_000)
    assert look(tmp_path, base(family="sd15")).prediction_type == "epsilon"


# ---- precision


@pytest.mark.parametrize(
    ("dtype", "expected"), [("F16", "fp16"), ("BF16", "bf16"), ("F32", "fp32"), ("F8_E4M3", "fp8")]
)
def test_precision_is_that_of_the_denoiser(tmp_path: Path, dtype: str, expected: str) -> None:
    found = look(tmp_path, {**TINY.shapes(), **SD15_PARTS}, dtype=dtype)
    assert found.precision == expected


def test_a_mixture_is_called_so(tmp_path: Path) -> None:
    described, at = {}, 0
    for number, (name, shape) in enumerate({**TINY.shapes(), **SD15_PARTS}.items()):
        dtype = ("F16", "F32")[number % 2]
        end = at + math.prod(shape) * headers.BYTES[dtype]
        described[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    assert inspect(headers.write_raw(tmp_path / "m.safetensors", described, at)).precision == "mixed"


@pytest.mark.parametrize(
    ("mark", "precision"),
    [
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight.quant_state.bitsandbytes__nf4", "nf4"),
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight.quant_state.bitsandbytes__fp4", "fp4"),
        ("model.diffusion_model.scaled_fp8", "scaled fp8"),
        ("scaled_fp8", "scaled fp8"),
        ("model.diffusion_model.out.2.scale_weight", "scaled fp8"),
        ("model.diffusion_model.out.2.comfy_quant", "scaled fp8"),
    ],
)
def test_quantised_bases_are_refused(tmp_path: Path, mark: str, precision: str) -> None:
    found = look(tmp_path, {**TINY.shapes(), **SD15_PARTS, mark: (1,)})
    assert (found.family, found.precision, found.trainable) == ("sd15", precision, False)
    assert precision in found.reason


def test_an_unknown_denoiser_is_a_base_of_an_unknown_family(tmp_path: Path) -> None:
    found = look(tmp_path, {"model.diffusion_model.strange.weight": (3,)})
    assert (found.kind, found.family, found.trainable) == ("base", None, False)
    found = look(tmp_path, {"single_transformer_blocks.0.mlp_fc1.qweight": (3,)})
    assert (found.kind, found.precision) == ("base", "Nunchaku")


# ---- what a base says about itself


def config(**values: object) -> dict[str, str]:
    return {"atelier.config": json.dumps(values)}


def test_a_base_may_configure_itself(tmp_path: Path) -> None:
    told = config(native_size=128, preset={"network_dim": 8, "style": {"network_dim": 4}}, heads=[1, 2])
    found = look(tmp_path, {**TINY.shapes(), **SD15_PARTS}, metadata=told)
    assert found.native_size == 128
    assert found.config is not None
    assert found.config["preset"] == {"network_dim": 8, "style": {"network_dim": 4}}
    assert found.config["heads"] == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        '{"native_size": 100}',
        '{"native_size": true}',
        '{"native_size": 1e99}',
        '{"prediction_type": "x"}',
        '{"zero_terminal_snr": 1}',
        '{"preset": {"network_dim": 100000}}',
        '{"preset": {"no_such_setting": 1}}',
        '{"preset": {"style": {"network_dim": "8"}}}',
        '{"preset": {"style": 3}}',
        '{"preset": []}',
        '{"heads": NaN}',
        '{"a": ' + "[" * 50 + "]" * 50 + "}",
        "[" * 30_000,
        '{"a": "' + "x" * 70_000 + '"}',
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="atelier.config"):
        look(tmp_path, {**TINY.shapes(), **SD15_PARTS}, metadata={"atelier.config": text})
