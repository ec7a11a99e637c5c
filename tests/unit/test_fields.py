"""The settings: what each takes, what it refuses and how it says so."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_bridge import fields
from trainer_bridge.errors import UserError
from trainer_bridge.fields import BY_NAME, FIELDS, GROUPS, Field

NUMBERS = [field for field in FIELDS if field.kind in ("int", "float")]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_each_declaration_is_sound(field: Field) -> None:
    assert field.group in dict(GROUPS)
    assert field.check(field.default) == field.default
    assert type(field.check(field.default)) is type(field.default)
    assert field.label
    assert field.help.endswith(".")
    assert (field.kind == "choice") == bool(field.choices)
    assert (field.kind in ("int", "float")) == (field.minimum is not None and field.maximum is not None)
    assert field.parse(str(field.default)) == field.default


def test_names_are_distinct_and_defaults_go_together() -> None:
    assert len(BY_NAME) == len(FIELDS)
    assert fields.check_together(fields.defaults()) == {}
    assert fields.check_values(fields.defaults()) == fields.defaults()


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
def test_bounds_are_inclusive_and_named_in_the_refusal(field: Field) -> None:
    assert field.minimum is not None
    assert field.maximum is not None
    assert field.check(field.minimum) == field.minimum
    assert field.check(field.maximum) == field.maximum
    for beyond in (field.minimum - 1, field.maximum + 1, -(10**5000), 10**5000, math.inf, -math.inf, math.nan):
        with pytest.raises(UserError, match=field.name) as caught:
            field.check(beyond)
        assert f"{field.minimum:g}" in caught.value.way_out
        assert f"{field.maximum:g}" in caught.value.way_out


@pytest.mark.parametrize("value", [None, [], {}, "", "x", b"1", object(), [[[[[[[[]]]]]]]], "9" * 100_000])
def test_other_types_are_refused_in_a_short_sentence(value: object) -> None:
    for field in FIELDS:
        with pytest.raises(UserError, match=field.name) as caught:
            field.check(value)
        assert len(str(caught.value)) < 300


def test_a_truth_is_no_number_and_a_number_no_truth() -> None:
    with pytest.raises(UserError):
        BY_NAME["network_dim"].check(True)
    with pytest.raises(UserError):
        BY_NAME["flip_aug"].check(1)


def test_numbers_take_their_field_s_type() -> None:
    assert type(BY_NAME["network_dim"].check(8.0)) is int
    assert type(BY_NAME["network_alpha"].check(8)) is float
    with pytest.raises(UserError):
        BY_NAME["network_dim"].check(8.5)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("network_dim", " 32 ", 32),
        ("unet_lr", "1e-4", 1e-4),
        ("flip_aug", "TRUE", True),
        ("flip_aug", "off", False),
        ("lr_scheduler", "cosine", "cosine"),
    ],
)
def test_parse(name: str, text: str, value: object) -> None:
    assert BY_NAME[name].parse(text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("network_dim", "8.5"),
        ("network_dim", "1e1000000"),
        ("network_dim", "9" * 5000),
        ("network_dim", "0x10"),
        ("unet_lr", "nan"),
        ("unet_lr", "inf"),
        ("unet_lr", "1e999"),
        ("unet_lr", ""),
        ("flip_aug", "maybe"),
        ("lr_scheduler", "Cosine "),
    ],
)
def test_parse_refuses(name: str, text: str) -> None:
    with pytest.raises(UserError, match=name):
        BY_NAME[name].parse(text)


@settings(deadline=None)
@given(st.sampled_from(FIELDS), st.text(max_size=60))
def test_any_text_parses_or_is_refused(field: Field, text: str) -> None:
    try:
        value = field.parse(text)
    except UserError as error:
        assert error.way_out
    else:
        assert field.check(value) == value


@settings(deadline=None)
@given(st.sampled_from(FIELDS), st.none() | st.integers() | st.floats() | st.booleans() | st.text(max_size=9))
def test_checking_twice_changes_nothing(field: Field, value: Any) -> None:
    try:
        once = field.check(value)
    except UserError:
        return
    assert field.check(once) == once
    assert type(field.check(once)) is type(once)


def test_an_unknown_setting_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UserError, match="network_dmi") as caught:
        fields.field("network_dmi")
    assert "network_dim" in caught.value.way_out
    with pytest.raises(UserError) as caught:
        fields.field("zzzzzz" * 1000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"min_timestep": 500, "max_timestep": 500}, "min_timestep"),
        ({"min_bucket_reso": 1024, "max_bucket_reso": 512}, "min_bucket_reso"),
        ({"zero_terminal_snr": True}, "zero_terminal_snr"),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 1}, "lr_warmup_steps"),
        ({"lr_warmup_steps": 100, "max_train_steps": 100}, "lr_warmup_steps"),
        ({"unet_lr": 0.0}, "unet_lr"),
        ({"unet_lr": 0.0, "network_train_unet_only": False, "text_encoder_lr": 0.0}, "unet_lr"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], key: str) -> None:
    wrong = fields.check_together({**fields.defaults(), **changes})
    assert list(wrong) == [key]
    assert wrong[key].endswith(".")


@pytest.mark.parametrize(
    "changes",
    [
        {"min_timestep": 499, "max_timestep": 500},
        {"min_bucket_reso": 512, "max_bucket_reso": 512},
        {"zero_terminal_snr": True, "v_parameterization": True},
        {"lr_warmup_steps": 99, "max_train_steps": 100},
        {"unet_lr": 0.0, "network_train_unet_only": False},
    ],
)
def test_settings_at_the_edge_go_together(changes: dict[str, Any]) -> None:
    assert fields.check_together({**fields.defaults(), **changes}) == {}
