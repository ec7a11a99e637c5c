"""`dataset.json`: what is written comes back, and what is damaged is refused in a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_bridge import limits
from trainer_bridge.dataset.manifest import Manifest, Picture
from trainer_bridge.errors import UserError

HASH = "0123456789abcdef" * 4


def picture(**changes: Any) -> Picture:
    values: dict[str, Any] = {"hash": HASH, "path": f"/root/pictures/{HASH}", "width": 800, "height": 600}
    return Picture(**(values | changes))


@given(st.text(max_size=50), st.text(min_size=1, max_size=30).filter(lambda text: "\0" not in text))
def test_what_is_written_comes_back(caption: str, path: str) -> None:
    manifest = Manifest(
        "ohwx", (picture(caption=caption, path=path), picture(crop=(10, 20, 300, 200), flatten="#00ff7F"))
    )
    assert Manifest.from_json(manifest.to_json().encode().decode()) == manifest


def test_paths_of_undecodable_bytes_survive() -> None:
    manifest = Manifest("", (picture(path="/home/\udcff/pictures/x"),))
    assert Manifest.from_json(manifest.to_json().encode("utf-8").decode()) == manifest


def test_the_crop_is_what_is_shown() -> None:
    assert picture().shown == (800, 600)
    assert picture(crop=(10, 20, 300, 200)).shown == (300, 200)


@pytest.mark.parametrize(
    "changes",
    [
        {"hash": "../../etc/passwd"},
        {"hash": HASH + "\n"},
        {"hash": None},
        {"path": ""},
        {"path": "a\0b"},
        {"path": 7},
        {"width": 0},
        {"width": True},
        {"width": 640.0},
        {"width": limits.MAX_PICTURE_SIDE, "height": limits.MAX_PICTURE_SIDE},
        {"crop": [700, 0, 200, 100]},
        {"crop": [0, 0, 0, 100]},
        {"crop": [-1, 0, 10, 10]},
        {"crop": [0, 0, 10]},
        {"crop": ["0", 0, 10, 10]},
        {"crop": {"x": 1}},
        {"flatten": "white"},
        {"flatten": "#fffff"},
        {"caption": "x" * (limits.MAX_CAPTION_CHARS + 1)},
        {"caption": None},
    ],
)
def test_values_that_no_picture_has_are_refused(changes: dict[str, Any]) -> None:
    data = json.loads(Manifest("", (picture(),)).to_json())
    data["pictures"][0] |= changes
    with pytest.raises(UserError, match="damaged"):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", "[" * 100_000, '{"version": 1}', '{"version": 1, "trigger": "", "pictures": []}',
     '{"version": 1, "trigger": "", "pictures": [1]}', '{"version": 1, "trigger": "", "pictures": [{}]}',
     '{"version": 1, "trigger": "", "pictures": {}}', '{"version": true, "pictures": []}'],
)  # fmt: skip
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        Manifest.from_json(text)


def test_a_newer_list_is_refused_and_says_so() -> None:
    with pytest.raises(UserError, match="version 2") as caught:
        Manifest.from_json(json.dumps(json.loads(Manifest("", (picture(),)).to_json()) | {"version": 2}))
    assert "Update" in caught.value.way_out


def test_unknown_keys_are_passed_over() -> None:
    data = json.loads(Manifest("", (picture(),)).to_json())
    data["pictures"][0]["doctor"] = {"blur": 0.1}
    assert Manifest.from_json(json.dumps(data)).pictures == (picture(),)


def test_a_dataset_holds_only_so_many() -> None:
    with pytest.raises(UserError, match="1001 pictures"):
        Manifest("", (picture(),) * 1001)
