"""Files that are no base: LoRA and its relatives, VAE, encoders, ControlNet, embedding, upscaler, rubbish."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import headers
from tests.ldm_keys import SD15, Shapes
from trainer_bridge.checkpoint import Checkpoint, LoraInfo, inspect, require_base
from trainer_bridge.errors import UserError
from trainer_bridge.families import FAMILIES, by_architecture, by_kohya_version


def look(folder: Path, tensors: Shapes, **options: object) -> Checkpoint:
    return inspect(headers.write(folder / "file.safetensors", tensors, **options))  # type: ignore[arg-type]


def lora_of(folder: Path, tensors: Shapes, **options: object) -> LoraInfo:
    found = look(folder, tensors, **options)
    assert found.kind == "lora"
    assert found.lora is not None
    assert not found.trainable
    json.dumps(found.to_json())
    return found.lora


def kohya(module: str, into: int, rank: int = 16, out: int = 320) -> Shapes:
    return {
        f"{module}.alpha": (),
        f"{module}.lora_down.weight": (rank, into),
        f"{module}.lora_up.weight": (out, rank),
    }


def peft(module: str, into: int, rank: int = 16, out: int = 320) -> Shapes:
    return {f"{module}.lora_A.weight": (rank, into), f"{module}.lora_B.weight": (out, rank)}


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"decoder.conv_in.weight": (512, 4, 3, 3)}, ("vae", "a VAE of 4 channels")),
        ({"first_stage_model.decoder.conv_in.weight": (512, 16, 3, 3)}, ("vae", "a VAE of 16 channels")),
        ({"decoder.middle.0.residual.0.gamma": (384, 1, 1, 1)}, ("vae", "a VAE")),
        ({"decoder.up_blocks.0.resnets.0.norm1.weight": (512,)}, ("vae", "a VAE")),
        (
            {f"text_model.encoder.layers.{n}.mlp.fc1.weight": (3, 7) for n in range(12)},
            ("text_encoder", "CLIP L"),
        ),
        (
            {f"text_model.encoder.layers.{n}.mlp.fc1.weight": (3, 7) for n in range(23)},
            ("text_encoder", "CLIP H"),
        ),
        (
            {f"text_model.encoder.layers.{n}.mlp.fc1.weight": (3, 7) for n in range(32)},
            ("text_encoder", "bigG"),
        ),
        ({"encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 4096)}, ("text_encoder", "T5-XXL")),
        ({"encoder.block.0.layer.0.SelfAttention.q.weight": (512, 512)}, ("text_encoder", "T5")),
        ({"model.layers.0.post_feedforward_layernorm.weight": (2304,)}, ("text_encoder", "Gemma")),
        ({"model.layers.0.self_attn.k_proj.bias": (512,)}, ("text_encoder", "Qwen2.5")),
        ({"model.layers.0.self_attn.q_norm.weight": (128,)}, ("text_encoder", "Qwen3")),
        (
            {"control_model.input_blocks.0.0.weight": (320, 4, 3, 3), **SD15.shapes()},
            ("controlnet", "ControlNet"),
        ),
        ({"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}, ("controlnet", "ControlNet")),
        ({"input_hint_block.0.weight": (16, 3, 3, 3)}, ("controlnet", "ControlNet")),
        ({"emb_params": (4, 768)}, ("embedding", "embedding")),
        ({"clip_g": (4, 1280), "clip_l": (4, 768)}, ("embedding", "embedding")),
        ({"conv_first.weight": (64, 3, 3, 3)}, ("upscaler", "upscaler")),
        ({"model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)}, ("upscaler", "upscaler")),
        ({"something.else": (1,)}, ("unknown", "not known")),
        ({}, ("unknown", "not known")),
    ],
)
def test_other_files_are_told_and_are_no_base(tmp_path: Path, tensors: Shapes, expected: tuple[str, str]) -> None:
    found = look(tmp_path, tensors)
    assert found.kind == expected[0]
    assert expected[1] in found.title
    assert (found.family, found.trainable, found.native_size) == (None, False, 0)
    with pytest.raises(UserError, match="not a base model"):
        require_base(found.path)


U = "lora_unet_"


@pytest.mark.parametrize(
    ("tensors", "base"),
    [
        (kohya(U + "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 768), "sd15"),
        (kohya(U + "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v", 1024), "sd2"),
        (kohya(U + "input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048), "sdxl"),
        (kohya(U + "input_blocks_4_1_transformer_blocks_0_attn2_to_k", 1280), "sdxl_refiner"),
        (kohya("lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280), "sdxl"),
        (peft("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 2048), "sdxl"),
        (peft("base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 768), "sd15"),
        (kohya(U + "double_blocks_0_img_attn_qkv", 3072), "flux"),
        (kohya(U + "single_blocks_0_linear1", 3072), "flux"),
        (peft("transformer.single_transformer_blocks.0.attn.to_q", 3072), "flux"),
        (kohya(U + "joint_blocks_0_x_block_attn_qkv", 1536), "sd3"),
        (peft("transformer.transformer_blocks.0.attn.add_q_proj", 1536), "sd3"),
        (kohya(U + "layers_0_attention_qkv", 2304), "lumina2"),
        (kohya(U + "layers_0_attention_to_q", 3840), "zimage"),
        (peft("diffusion_model.layers.0.attention.to_q", 3840), "zimage"),
        (kohya(U + "blocks_0_cross_attn_q_proj", 2048), "anima"),
        (kohya(U + "transformer_blocks_0_img_mlp_net_2", 12288), "qwen_image"),
        (kohya(U + "strange_layer", 5), None),
    ],
)
def test_a_lora_tells_its_base_by_its_layers(tmp_path: Path, tensors: Shapes, base: str | None) -> None:
    lora = lora_of(tmp_path, tensors)
    assert (lora.base, lora.type, lora.rank, lora.modules) == (base, "LoRA", 16, 1)


@pytest.mark.parametrize(
    ("metadata", "base"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"ss_base_model_version": "sd_v2_v"}, "sd2"),
        ({"ss_base_model_version": "flux1"}, "flux"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd15"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        ({"modelspec.architecture": "chroma/lora"}, "chroma"),
        ({"ss_v2": "True"}, "sd2"),
        ({"ss_base_model_version": "who knows"}, "sd15"),
    ],
)
def test_metadata_names_the_base_before_the_layers_do(tmp_path: Path, metadata: dict[str, str], base: str) -> None:
    tensors = kohya(U + "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 768)
    assert lora_of(tmp_path, tensors, metadata=metadata).base == base


@pytest.mark.parametrize(
    ("tensors", "type_", "rank"),
    [
        (
            {"m.hada_w1_a": (320, 8), "m.hada_w1_b": (8, 320), "m.hada_w2_a": (320, 8), "m.alpha": ()},
            "LoHa",
            8,
        ),
        ({"m.lokr_w1": (4, 4), "m.lokr_w2_a": (80, 6), "m.lokr_w2_b": (6, 80)}, "LoKr", 6),
        ({"m.oft_blocks": (4, 8, 8)}, "OFT", None),
        ({"m.on_input": (), "m.weight": (4,)}, "IA3", None),
        ({"m.diff": (4, 4)}, "full difference", None),
        ({"m.a1.weight": (4, 8), "m.b1.weight": (8, 4)}, "GLoRA", 4),
        ({**kohya("m", 8, 4), "m.dora_scale": (1, 8)}, "DoRA", 4),
        (
            {
                "unet.x.processor.to_q_lora.down.weight": (4, 320),
                "unet.x.processor.to_q_lora.up.weight": (320, 4),
            },
            "LoRA",
            4,
        ),
    ],
)
def test_relatives_of_lora(tmp_path: Path, tensors: Shapes, type_: str, rank: int | None) -> None:
    lora = lora_of(tmp_path, tensors)
    assert (lora.type, lora.rank, lora.modules) == (type_, rank, 1)


def test_alpha_and_rank(tmp_path: Path) -> None:
    tensors = {**kohya("a", 8, 16), **kohya("b", 8, 16), **kohya("c", 8, 4)}
    lora = lora_of(tmp_path, tensors, values={"a.alpha": [8.0]})
    assert (lora.rank, lora.alpha, lora.modules) == (16, 8.0, 3)
    lora = lora_of(tmp_path, tensors, metadata={"ss_network_alpha": "12.0"})
    assert lora.alpha == 12.0
    assert lora_of(tmp_path, peft("a", 8, 4)).alpha is None
    assert lora_of(tmp_path, tensors, metadata={"ss_network_alpha": "nan"}).alpha == 0.0


@pytest.mark.parametrize(
    ("metadata", "trigger"),
    [
        ({"atelier.trigger": "mia", "ss_tag_frequency": '{"a": {"x": 3}}'}, "mia"),
        ({"modelspec.trigger_phrase": "mia"}, "mia"),
        ({"ss_tag_frequency": '{"a": {"x": 3, "mia ": 24}, "b": {"x": 4, "mia": 1}}'}, "mia"),
        ({"ss_tag_frequency": "{}"}, ""),
        ({"ss_tag_frequency": "nonsense"}, ""),
        ({"ss_tag_frequency": '{"a": 3, "b": {"x": "y", "z": -1, "w": true}}'}, ""),
        ({"ss_tag_frequency": "[" * 20_000}, ""),
        ({"atelier.trigger": "x" * 500}, "x" * 60),
        ({}, ""),
    ],
)
def test_trigger(tmp_path: Path, metadata: dict[str, str], trigger: str) -> None:
    assert lora_of(tmp_path, kohya("a", 8), metadata=metadata).trigger == trigger


NAMES = st.lists(
    st.sampled_from(
        [
            "model",
            "diffusion_model",
            "lora_unet_x",
            "lora_down",
            "weight",
            "alpha",
            "0",
            "1",
            "input_blocks",
            "attn2",
        ]
        + [
            "to_k",
            "middle_block",
            "proj_in",
            "label_emb",
            "layers",
            "decoder",
            "conv_in",
            "op",
            "conv",
            "a1",
            "b1",
        ]
    )
    | st.text(max_size=4),
    min_size=1,
    max_size=5,
).map(".".join)
SHAPES = st.lists(st.integers(0, 3), max_size=4).map(tuple)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(NAMES, SHAPES, max_size=12)
    | st.sampled_from(sorted(SD15.shapes())).map(lambda name: {name: (1, 1, 1, 1), "v_pred": ()}),
    st.dictionaries(st.sampled_from(["ss_tag_frequency", "atelier.config", "ss_network_alpha"]), st.text(max_size=20)),
)
def test_any_names_end_in_an_answer_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, tensors: Shapes, metadata: dict[str, str]
) -> None:
    tensors.pop("__metadata__", None)
    try:
        found = look(tmp_path_factory.getbasetemp(), tensors, metadata=metadata)
    except UserError as error:
        assert error.way_out
    else:
        json.dumps(found.to_json())


def test_names_of_families_lead_back_to_them() -> None:
    for key, family in FAMILIES.items():
        assert key == family.key
        for version in family.kohya_versions:
            assert by_kohya_version(version + "_x") is family
        for architecture in family.architectures:
            assert by_architecture(architecture + "/lora") is family
    assert by_kohya_version("") is None
