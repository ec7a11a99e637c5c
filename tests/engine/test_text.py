"""Token rows by hand, and text features against a CLIP written out here in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from safetensors.torch import load_file  # noqa: E402

from tests import twins  # noqa: E402
from tests.engine import twin_models  # noqa: E402
from trainer_bridge.engine import text  # noqa: E402

START, END = 49406, 49407
LONG = ", ".join(["red hair"] * 60)  # 179 tokens: three rows


def test_short_captions_are_start_tokens_end_padding() -> None:
    (row,) = text.token_rows("red hair", 1, 0)
    assert row[0] == START and row[3] == END and row[4:] == [0] * 73 and len(row) == 77
    assert text.token_rows("red hair", 1, END)[0] == [START, *row[1:3], *[END] * 74]


def test_the_empty_caption_is_start_end_padding() -> None:
    assert text.token_rows("", 1, 0) == [[START, END, *[0] * 75]]


def test_long_captions_become_rows_with_own_start_and_end() -> None:
    ids = text.tokenizer().encode(LONG)
    assert 150 < len(ids) < 225
    rows = text.token_rows(LONG, 3, 0)
    assert [row[0] for row in rows] == [START] * 3 and all(len(row) == 77 for row in rows)
    assert rows[0][1:] == [*ids[:75], END] and rows[1][1:] == [*ids[75:150], END]
    left = len(ids) - 150
    assert rows[2][1 : left + 2] == [*ids[150:], END] and set(rows[2][left + 2 :]) == {0}


def test_a_caption_of_exactly_one_row_leaves_the_next_one_empty() -> None:
    exact = " ".join(["cat"] * 75)
    assert text.rows_needed(exact) == 1 and text.rows_needed(exact + " cat") == 2
    first, second = text.token_rows(exact, 2, 0)
    assert first[-1] == END and second == [START, END, *[0] * 75]


def test_what_is_longer_than_asked_for_is_cut_off() -> None:
    assert text.token_rows(LONG, 1, 0) == text.token_rows(LONG, 3, 0)[:1]
    assert text.rows_needed(LONG * 10) == 3


def reference(
    state: Mapping[str, Any], prefix: str, ids: Any, *, heads: int, quick: bool, skip: int
) -> tuple[Any, Any, Any]:
    """CLIP's text encoder from its paper's program, on weights with Hugging Face's or OpenCLIP's names.

    Returns the hidden layer `skip` from the last, the last behind the final norm, and the former behind the final
    norm; each [B, 77, D] float64.
    """
    w = {name.removeprefix(prefix): value.double() for name, value in state.items() if name.startswith(prefix)}
    fused = "positional_embedding" in w
    stem = "transformer.resblocks" if fused else "encoder.layers"

    def linear(x: Any, name: str) -> Any:
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred**2).mean(-1, keepdim=True)
        return centred / (spread + 1e-5).sqrt() * w[name + ".weight"] + w[name + ".bias"]

    x = w["token_embedding.weight" if fused else "embeddings.token_embedding.weight"][ids]
    x = x + w["positional_embedding" if fused else "embeddings.position_embedding.weight"]
    layers = len({name.split(".")[2] for name in w if name.startswith(stem)})
    hidden = []
    for index in range(layers):
        at = f"{stem}.{index}"
        h = norm(x, f"{at}.{'ln_1' if fused else 'layer_norm1'}")
        if fused:
            qkv = (h @ w[f"{at}.attn.in_proj_weight"].T + w[f"{at}.attn.in_proj_bias"]).chunk(3, dim=-1)
        else:
            qkv = [linear(h, f"{at}.self_attn.{side}_proj") for side in "qkv"]
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones(77, 77).triu(1).bool(), float("-inf"))
        out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(out, f"{at}.attn.out_proj" if fused else f"{at}.self_attn.out_proj")
        h = linear(norm(x, f"{at}.{'ln_2' if fused else 'layer_norm2'}"), f"{at}.mlp.{'c_fc' if fused else 'fc1'}")
        h = h * torch.sigmoid(1.702 * h) if quick else h * 0.5 * (1 + torch.erf(h / 2**0.5))
        x = x + linear(h, f"{at}.mlp.{'c_proj' if fused else 'fc2'}")
        hidden.append(x)
    end = "ln_final" if fused else "final_layer_norm"
    return hidden[-skip], norm(hidden[-1], end), norm(hidden[-skip], end)


CAPTIONS = ["a girl with red hair", ""]


def encoded(key: str, captions: list[str], clip_skip: int, max_tokens: int = 75) -> Any:
    networks = twin_models.networks(key)
    family = twin_models.family(key)
    encoders = {part: networks[part] for part in family.text_parts}
    with torch.no_grad():
        return family.encode_text(encoders, captions, clip_skip=clip_skip, max_tokens=max_tokens)


@pytest.mark.parametrize("skip", [1, 2, 3])
def test_sd15_reads_the_chosen_layer_behind_the_final_norm(skip: int) -> None:
    state = load_file(str(twin_models.file("sd15")))
    ids = text.token_ids(CAPTIONS, 1, END)
    prefix = twins.TWINS["sd15"].texts[0].prefix
    expected = reference(state, prefix, ids, heads=2, quick=True, skip=skip)[2]
    found = encoded("sd15", CAPTIONS, skip)
    assert found.pooled is None
    torch.testing.assert_close(found.hidden.double(), expected, rtol=1e-4, atol=1e-4)


def test_sd2_reads_the_layer_before_the_last_of_its_file() -> None:
    state = load_file(str(twin_models.file("sd2")))
    prefix = twins.TWINS["sd2"].texts[0].prefix
    expected = reference(state, prefix, text.token_ids(CAPTIONS, 1, 0), heads=2, quick=False, skip=2)[2]
    torch.testing.assert_close(encoded("sd2", CAPTIONS, 1).hidden.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("clip_skip", "layer"), [(1, 2), (2, 2), (4, 4)])
def test_sdxl_joins_both_encoders_and_pools_at_the_end_token(clip_skip: int, layer: int) -> None:
    state = load_file(str(twin_models.file("sdxl")))
    first, second = (one.prefix for one in twins.TWINS["sdxl"].texts)
    one = reference(state, first, text.token_ids(CAPTIONS, 1, END), heads=2, quick=True, skip=layer)
    ids = text.token_ids(CAPTIONS, 1, 0)
    two = reference(state, second, ids, heads=2, quick=False, skip=layer)
    ends = [row.index(END) for row in ids.tolist()]
    pooled = torch.stack([two[1][row, at] for row, at in enumerate(ends)]) @ state[second + "text_projection"].double()
    found = encoded("sdxl", CAPTIONS, clip_skip)
    torch.testing.assert_close(found.hidden.double(), torch.cat([one[0], two[0]], -1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.pooled.double(), pooled, rtol=1e-4, atol=1e-4)


def test_rows_of_long_captions_are_joined_as_one_start_bodies_one_end() -> None:
    state = load_file(str(twin_models.file("sd15")))
    prefix = twins.TWINS["sd15"].texts[0].prefix
    ids = text.token_ids([LONG], 3, END)
    rows = reference(state, prefix, ids, heads=2, quick=True, skip=1)[2]
    expected = torch.cat([rows[0, :1], rows[0, 1:76], rows[1, 1:76], rows[2, 1:76], rows[2, 76:]])
    found = encoded("sd15", [LONG, "cat"], 1, 225).hidden
    assert found.shape == (2, 227, 16)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=1e-4)


def test_sdxl_pools_the_first_row_of_a_long_caption() -> None:
    long = encoded("sdxl", [LONG, "cat"], 1, 225)
    cut = encoded("sdxl", [LONG, "cat"], 1)
    torch.testing.assert_close(long.pooled, cut.pooled, rtol=1e-5, atol=1e-5)


def test_gradients_reach_an_encoder_that_wants_them() -> None:
    family = twin_models.family("sdxl")
    encoders = family.load(family.text_parts, device="cpu", dtype=torch.float32)
    weights = []
    for part, encoder in encoders.items():
        path = family.lora_targets(part, encoder, conv=False)[0].path
        weights.append(encoder.get_parameter(f"{path}.weight"))
    for weight in weights:
        weight.requires_grad_(True)
    found = family.encode_text(encoders, CAPTIONS, clip_skip=1)
    assert found.pooled is not None
    (found.hidden.sum() + found.pooled.sum()).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)


def test_the_encoder_is_transformers_own() -> None:
    """OpenAI's activation without a projection, on weights of our own file, by the names of either version."""
    clip = pytest.importorskip("transformers.models.clip.modeling_clip")
    from transformers import CLIPTextConfig

    ours = twin_models.networks("sd15")["te1"]
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 12, "num_attention_heads": 2}
    ids = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": END}
    theirs = clip.CLIPTextModel(CLIPTextConfig(vocab_size=49408, hidden_act="quick_gelu", **sizes, **ids)).eval()
    level = "" if hasattr(theirs, "text_model") else "text_model."
    missing = theirs.load_state_dict({n.removeprefix(level): v for n, v in ours.state_dict().items()}, strict=False)
    assert not missing.unexpected_keys and all(name.endswith("position_ids") for name in missing.missing_keys)
    rows = text.token_ids(CAPTIONS, 1, END)
    with torch.no_grad():
        torch.testing.assert_close(ours(rows).last, theirs(input_ids=rows).last_hidden_state, rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_no_gradient() -> None:
    family = twin_models.family("sd15")
    found = []
    for checkpointing in (False, True):
        encoder: Any = family.load(["te1"], device="cpu", dtype=torch.float32)["te1"]
        weight = encoder.text_model.encoder.layers[0].mlp.fc1.weight.requires_grad_(True)
        if checkpointing:
            encoder.gradient_checkpointing_enable({"use_reentrant": False})
        family.encode_text({"te1": encoder}, CAPTIONS, clip_skip=2).hidden.square().sum().backward()
        found.append(weight.grad)
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("skip", [0, 13])
def test_a_layer_that_is_not_there_is_a_bug_of_the_caller(skip: int) -> None:
    with pytest.raises(ValueError, match="layer"):
        twin_models.networks("sd15")["te1"](text.token_ids(["a"], 1, END), skip)
