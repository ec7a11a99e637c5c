"""Names of weights against diffusers' own single-file conversion: twins by value, published sizes by shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from tests import twins  # noqa: E402
from tests.engine import twin_models  # noqa: E402
from trainer_bridge.engine import load  # noqa: E402
from trainer_bridge.engine.families import TRAINABLE  # noqa: E402
from trainer_bridge.errors import UserError  # noqa: E402

CLASSES = {family.key: family for family in TRAINABLE}
#: U-Net, VAE, text encoders: how many weights the published models have (FACTS section 8 and the files themselves).
COUNTS = {"sd15": (686, 248, 196), "sd2": (686, 248, 372), "sdxl": (1680, 248, 196, 517)}


def diffusers_parts(key: str, state: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Convert a single file with diffusers alone."""
    from diffusers.loaders import single_file_utils as theirs

    made = {
        "unet": theirs.convert_ldm_unet_checkpoint(dict(state), config["unet"]),
        "vae": theirs.convert_ldm_vae_checkpoint(dict(state), config["vae"]),
    }
    for part, text in zip(("te1", "te2"), twins.TWINS[key].texts):
        if text.fused:
            head = type("Head", (), {"config": type("Config", (), {})()})()
            converted = theirs.convert_open_clip_checkpoint(head, dict(state), prefix=text.prefix)
        else:
            prefix = text.prefix.removesuffix("text_model.")
            converted = theirs.convert_ldm_clip_checkpoint(dict(state), remove_prefix=prefix)
        made[part] = {name: value for name, value in converted.items() if not name.endswith("position_ids")}
    return made


@pytest.mark.parametrize("key", twin_models.FAMILIES)
def test_every_weight_of_a_twin_equals_diffusers_conversion(key: str) -> None:
    networks = twin_models.networks(key)
    state = load_file(str(twin_models.file(key)))
    config = {part: networks[part].config for part in ("unet", "vae")}
    for part, expected in diffusers_parts(key, state, config).items():
        found = networks[part].state_dict()
        assert found.keys() == expected.keys(), part
        for name, value in found.items():
            assert torch.equal(value, expected[name].float().reshape(value.shape)), (part, name)


@pytest.mark.parametrize("key", twin_models.FAMILIES)
def test_every_tensor_of_the_file_is_used_exactly_once_or_known_as_unused(key: str) -> None:
    family: Any = twin_models.family(key)
    sources = [
        (piece.source, piece.third) for part in ("unet", "vae", *family.text_parts) for piece in family.empty(part)[1]
    ]
    assert len(set(sources)) == len(sources)
    used = {source for source, _ in sources}
    in_file = set(load_file(str(twin_models.file(key))))
    assert used | set(family.unused) == in_file
    assert not used & set(family.unused)


def published(key: str) -> Any:
    """Return a family bound to the header of the published model."""
    return twin_models.of_header(key, twins.shapes(twins.SIZES[key]))


@pytest.mark.parametrize("key", twin_models.FAMILIES)
def test_published_sizes_give_the_published_model(key: str) -> None:
    """Each network is made at full size on the meta device; names and shapes must match it and diffusers."""
    family = published(key)
    parts = ("unet", "vae", *CLASSES[key].texts)
    shapes = twins.shapes(twins.SIZES[key])
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    expected = diffusers_parts(key, state, {"unet": family.unet_config(), "vae": family._vae_config(0.18215)})
    for part, count in zip(parts, COUNTS[key], strict=True):
        module, pieces = family.empty(part)
        wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        made = {name: entry.shape for name, entry in load.translated(family._tensors, pieces).items()}
        assert made == wanted, part
        assert len(made) == count, part
        assert module.state_dict().keys() == expected[part].keys(), part


@pytest.mark.parametrize(
    ("key", "unet", "conv", "texts"),
    [("sd15", 192, 86, (72,)), ("sd2", 192, 86, (138,)), ("sdxl", 722, 66, (72, 192))],
)
def test_a_lora_sits_where_kohya_puts_it(key: str, unet: int, conv: int, texts: tuple[int, ...]) -> None:
    """Counts of sd-scripts' own networks (FACTS section 3)."""
    family = published(key)
    module, _ = family.empty("unet")
    assert len(family.lora_targets("unet", module, conv=False)) == unet
    assert len(family.lora_targets("unet", module, conv=True)) == unet + conv
    for part, count in zip(CLASSES[key].texts, texts, strict=True):
        encoder, _ = family.empty(part)
        assert len(family.lora_targets(part, encoder, conv=False)) == count


def test_published_sizes_are_those_of_diffusers_configurations() -> None:
    sd, xl = published("sd15").unet_config(), published("sdxl").unet_config()
    assert sd["block_out_channels"] == (320, 640, 1280, 1280) and sd["attention_head_dim"] == 8
    assert sd["cross_attention_dim"] == 768 and sd["use_linear_projection"] is False
    assert xl["attention_head_dim"] == (5, 10, 20) and xl["transformer_layers_per_block"] == (1, 2, 10)
    assert xl["projection_class_embeddings_input_dim"] == 2816 and xl["addition_time_embed_dim"] == 256
    assert published("sd2").unet_config()["attention_head_dim"] == (5, 10, 20, 20)
    text = published("sdxl").text_config("te2")
    assert (text["heads"], text["projection"], text["activation"]) == (20, 1280, "gelu")


def test_an_unusual_width_must_say_its_heads() -> None:
    family = twin_models.of_header("sd15", twins.shapes(twins.TWINS["sd15"]), {"vae": {"norm_num_groups": 8}})
    with pytest.raises(UserError, match="how many heads"):
        family.unet_config()
    with pytest.raises(UserError, match="how many heads"):
        family.text_config("te1")


@pytest.mark.parametrize("heads", [3, [1, 2, 4], [1, 2, 4, 5], 0, "8", True, 1.0])
def test_heads_that_do_not_fit_are_refused(heads: object) -> None:
    said = twins.config("sd15", unet={"attention_head_dim": heads, "norm_num_groups": 8}, text_encoder={"heads": heads})
    family = twin_models.of_header("sd15", twins.shapes(twins.TWINS["sd15"]), said)
    with pytest.raises(UserError, match="heads"):
        family.unet_config()
    with pytest.raises(UserError, match="heads"):
        family.text_config("te1")


def test_the_structure_of_a_layout_without_encoder_blocks_is_read() -> None:
    """The pocket base: a VAE whose encoder has no blocks, a U-Net that attends at its coarser level alone."""
    small = twins.Sizes(
        twins.Unet(8, (1, 2), 1, (0, 1), 1, 16), twins.Vae(8, (1, 1, 1, 1), 0), twins.TWINS["sd15"].texts
    )
    family = twin_models.of_header("sd15", twins.shapes(small), twins.config("sd15"))
    for part in ("unet", "vae", "te1"):
        module, pieces = family.empty(part)
        made = {name: entry.shape for name, entry in load.translated(family._tensors, pieces).items()}
        assert made == {name: tuple(value.shape) for name, value in module.state_dict().items()}, part


_NAMES = {key: sorted(twins.shapes(twins.TWINS[key])) for key in twin_models.FAMILIES}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_strange_header_ends_in_a_sentence(data: st.DataObject) -> None:
    """Weights taken out, renamed or reshaped: the networks still fit together, or the user is told."""
    key = data.draw(st.sampled_from(twin_models.FAMILIES))
    shapes: dict[str, tuple[int, ...]] = dict(twins.shapes(twins.TWINS[key]))
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(_NAMES[key]))
        shape = shapes.pop(name, (1,))
        what = data.draw(st.sampled_from(["leave out", "rename", "reshape", "number"]))
        if what == "rename":
            words = name.split(".")
            words[data.draw(st.integers(0, len(words) - 1))] = data.draw(st.text(max_size=6) | st.just("9" * 6000))
            shapes[".".join(words)] = shape
        elif what == "reshape":
            shapes[name] = tuple(data.draw(st.lists(st.integers(0, 1 << 40), max_size=5)))
        elif what == "number":
            shapes[name.replace(".0.", f".{data.draw(st.integers(0, 99))}.", 1)] = shape
    try:
        family = twin_models.of_header(key, shapes, twins.config(key))
        family.unet_config()
        for part in family.text_parts:
            family.text_config(part)
            load.translated(family._tensors, family._text_pieces(part))
    except UserError as error:
        assert error.what and error.way_out
