"""Caption files in every encoding that editors write, and which file belongs to which picture."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_bridge import limits
from trainer_bridge.dataset.caption_files import decode, from_parameters, read_caption

JAPANESE = "猫耳, 制服, 1girl, 笑顔, カフェ"
ACCENTED = "crème brûlée, Mädchen mit Hut, größe, één, São Paulo, coração"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"1girl, smile", "1girl, smile"),
        ("é 猫".encode(), "é 猫"),
        ("é 猫".encode("utf-8-sig"), "é 猫"),
        (b"\xff\xfe" + JAPANESE.encode("utf-16-le"), JAPANESE),
        (b"\xfe\xff" + JAPANESE.encode("utf-16-be"), JAPANESE),
        (JAPANESE.encode("utf-16-le"), JAPANESE),
        (JAPANESE.encode("utf-16-be"), JAPANESE),
        (JAPANESE.encode("utf-32"), JAPANESE),
        ("1girl, smile".encode("utf-16-le"), "1girl, smile"),
        (JAPANESE.encode("cp932"), JAPANESE),
        ("少女".encode("cp932"), "少女"),
        ("ソ連①, 表示".encode("cp932"), "ソ連①, 表示"),
        (ACCENTED.encode("cp1252"), ACCENTED),
        (b"caf\xe9", "café"),
        ("女孩, 长发, 微笑".encode("gb18030"), "女孩, 长发, 微笑"),
        (b"", ""),
    ],
)
def test_encodings(data: bytes, text: str) -> None:
    assert decode(data)[0] == text


@given(st.binary(max_size=300))
def test_any_bytes_are_some_text(data: bytes) -> None:
    assert isinstance(decode(data)[0], str)


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\ufeff"), max_size=80))
def test_utf_8_is_never_taken_for_something_else(text: str) -> None:
    assert decode(text.encode()) == (text, "utf-8")


def beside(folder: Path, picture: str = "a.png") -> tuple[str, str, tuple[str, ...]]:
    names: dict[str, str] = {}
    for name in sorted(os.listdir(folder)):
        names.setdefault(name.casefold(), name)
        names[name] = name
    caption = read_caption(folder / picture, names)
    return caption.text, caption.source, caption.notes


@pytest.mark.parametrize("name", ["a.txt", "a.caption", "a.png.txt", "A.TXT"])
def test_a_caption_beside_its_picture(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("red hair,\nsmile\n", encoding="utf-8")
    assert beside(tmp_path) == ("red hair, smile", name, ())


def test_the_text_file_of_the_stem_comes_first(tmp_path: Path) -> None:
    for name in ("a.caption", "a.png.txt", "a.txt", "b.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    assert beside(tmp_path)[0] == "a.txt"


def test_no_caption(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("other", encoding="utf-8")
    assert beside(tmp_path) == ("", "", ())


def test_a_guessed_encoding_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(JAPANESE.encode("cp932"))
    text, _, notes = beside(tmp_path)
    assert text == JAPANESE and "Shift-JIS" in notes[0]


def test_a_huge_caption_is_cut(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("猫, ".encode() * 100_000)
    text, _, notes = beside(tmp_path)
    assert 0 < len(text) <= limits.MAX_CAPTION_CHARS and set(text) == set("猫, ") and "cut" in notes[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_read_for_ever(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    text, _, notes = beside(tmp_path)
    assert text == "" and "cannot be read" in notes[0]


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("1girl, smile\nNegative prompt: bad\nSteps: 20, Sampler: Euler a", "1girl, smile"),
        ("1girl, (smile:1.2), ((red hair)), [hat], <lora:x:0.8>\nSteps: 20", "1girl, smile, red hair, hat"),
        ("girl \\(game\\), BREAK blue sky\nSteps: 9", "girl (game), blue sky"),
        ("Steps: 20", ""),
        ("", ""),
    ],
)
def test_prompts_of_generated_pictures(text: str, caption: str) -> None:
    found = from_parameters(text)
    assert found.text == caption
    assert found.source == ("generation parameters" if caption else "")


@given(st.text("a(<[\\:1.2])>,\n ", max_size=400))
def test_any_parameters_are_read(text: str) -> None:
    assert len(from_parameters(text).text) <= limits.MAX_CAPTION_CHARS
