"""Names of weights against diffusers' own single-file conversion: twins by value, published sizes by shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from safetensors.torch import load_file  # noqa: E402

from tests import twins  # noqa: E402
from tests.engine import twin_models  # noqa: E402
from trainer_bridge.checkpoint import Checkpoint  # noqa: E402
from trainer_bridge.engine import load, sizes  # noqa: E402
from trainer_bridge.engine.families import TRAINABLE  # noqa: E402
from trainer_bridge.engine.keys import unet_names, unet_pieces, vae_levels, vae_pieces  # noqa: E402
from trainer_bridge.engine.parts import account  # noqa: E402
from trainer_bridge.errors import UserError  # noqa: E402
from trainer_bridge.safetensors_header import Tensor as Entry  # noqa: E402

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


def published(key: str) -> dict[str, Entry]:
    """Return the header of the published model."""
    return {name: Entry("F16", shape, 0, 0) for name, shape in twins.shapes(twins.SIZES[key]).items()}


class Published:
    """A family bound to the header of the published model, of which no file is needed."""

    def __init__(self, key: str) -> None:
        family: Any = CLASSES[key].__new__(CLASSES[key])
        tensors = published(key)
        family.checkpoint = Checkpoint(Path("x"), 0, 0, "base", key, key, "epsilon", "", False, "fp16", 512, True, "")
        family._tensors = tensors
        family._accounts = account(tensors, family.parts(tensors))
        family._names = unet_names(family._accounts.tensors["unet"].keys())
        family._vae_levels = vae_levels(family._accounts.tensors["vae"])
        family.latent_scale = 0.18215
        self.family = family


@pytest.mark.parametrize("key", twin_models.FAMILIES)
def test_published_sizes_give_the_published_model(key: str) -> None:
    """Each network is made at full size on the meta device; names and shapes must match it and diffusers."""
    family = Published(key).family
    parts = ("unet", "vae", *CLASSES[key].texts)
    state = {name: torch.empty(entry.shape, device="meta") for name, entry in published(key).items()}
    expected = diffusers_parts(key, state, {"unet": family.unet_config(), "vae": family._vae_config(0.18215)})
    for part, count in zip(parts, COUNTS[key], strict=True):
        module, pieces = family.empty(part)
        wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        made = {name: entry.shape for name, entry in load.translated(published(key), pieces).items()}
        assert made == wanted, part
        assert len(made) == count, part
        assert module.state_dict().keys() == expected[part].keys(), part


@pytest.mark.parametrize(
    ("key", "unet", "conv", "texts"),
    [("sd15", 192, 86, (72,)), ("sd2", 192, 86, (138,)), ("sdxl", 722, 66, (72, 192))],
)
def test_a_lora_sits_where_kohya_puts_it(key: str, unet: int, conv: int, texts: tuple[int, ...]) -> None:
    """Counts of sd-scripts' own networks (FACTS section 3)."""
    family = Published(key).family
    module, _ = family.empty("unet")
    assert len(family.lora_targets("unet", module, conv=False)) == unet
    assert len(family.lora_targets("unet", module, conv=True)) == unet + conv
    for part, count in zip(CLASSES[key].texts, texts, strict=True):
        encoder, _ = family.empty(part)
        assert len(family.lora_targets(part, encoder, conv=False)) == count


def test_published_sizes_are_those_of_diffusers_configurations() -> None:
    sd, xl = Published("sd15").family.unet_config(), Published("sdxl").family.unet_config()
    assert sd["block_out_channels"] == (320, 640, 1280, 1280) and sd["attention_head_dim"] == 8
    assert sd["cross_attention_dim"] == 768 and sd["use_linear_projection"] is False
    assert xl["attention_head_dim"] == (5, 10, 20) and xl["transformer_layers_per_block"] == (1, 2, 10)
    assert xl["projection_class_embeddings_input_dim"] == 2816 and xl["addition_time_embed_dim"] == 256
    assert Published("sd2").family.unet_config()["attention_head_dim"] == (5, 10, 20, 20)
    text = Published("sdxl").family.text_config("te2")
    assert (text["heads"], text["projection"], text["activation"]) == (20, 1280, "gelu")


def test_an_unusual_width_must_say_its_heads() -> None:
    tensors = {name: Entry("F16", shape, 0, 0) for name, shape in twins.shapes(twins.TWINS["sd15"]).items()}
    unet = account(tensors, CLASSES["sd15"].parts(tensors)).tensors["unet"]
    with pytest.raises(UserError, match="how many heads"):
        sizes.unet_config(unet_names(unet.keys()), unet, {"norm_num_groups": 8}, heads=8, pooled=None)


@pytest.mark.parametrize("said", [3, [1, 2, 4], [1, 2, 4, 5], 0, "8", True, 1.0])
def test_heads_that_do_not_fit_are_refused(said: object) -> None:
    tensors = {name: Entry("F16", shape, 0, 0) for name, shape in twins.shapes(twins.TWINS["sd15"]).items()}
    unet = account(tensors, CLASSES["sd15"].parts(tensors)).tensors["unet"]
    with pytest.raises(UserError, match="heads"):
        sizes.unet_config(
            unet_names(unet.keys()), unet, {"attention_head_dim": said, "norm_num_groups": 8}, heads=8, pooled=None
        )


def test_the_structure_of_a_layout_without_encoder_blocks_is_read() -> None:
    """The pocket base: a VAE whose encoder has no blocks, a U-Net that attends at its coarser level alone."""
    unet = twins.Unet(8, (1, 2), 1, (0, 1), 1, 16)
    vae = twins.Vae(8, (1, 1, 1, 1), 0)
    shapes = twins.shapes(twins.Sizes(unet, vae, twins.TWINS["sd15"].texts))
    tensors = {name: Entry("F16", shape, 0, 0) for name, shape in shapes.items()}
    found = account(tensors, CLASSES["sd15"].parts(tensors))
    names = unet_names(found.tensors["unet"].keys())
    said = {"attention_head_dim": 2, "norm_num_groups": 8}
    network = load.empty_unet(sizes.unet_config(names, found.tensors["unet"], said, heads=8, pooled=None))
    pieces = unet_pieces(found.sources["unet"], names)
    assert set(load.translated(tensors, pieces)) == set(network.state_dict())
    levels = vae_levels(found.tensors["vae"])
    decoder = load.empty_vae(sizes.vae_config(found.tensors["vae"], levels, {"norm_num_groups": 8}, 0.18215))
    pieces = vae_pieces(found.sources["vae"], levels)
    assert {n: e.shape for n, e in load.translated(tensors, pieces).items()} == {
        name: tuple(value.shape) for name, value in decoder.state_dict().items()
    }
