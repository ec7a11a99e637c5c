"""The header reader: what it accepts, and that whatever else it meets ends in a sentence."""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import headers
from trainer_bridge import limits
from trainer_bridge.errors import UserError
from trainer_bridge.safetensors_header import read_header, read_numbers

ONE = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_header(path)
    assert caught.value.way_out, "no way out"
    return str(caught.value)


def test_reads_names_shapes_places_and_metadata(tmp_path: Path) -> None:
    path = headers.write(tmp_path / "m.safetensors", {"a": (2, 3), "b": (), "c": (0,)}, metadata={"k": "v"})
    header = read_header(path)
    start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert header.size == path.stat().st_size
    assert header.mtime_ns == path.stat().st_mtime_ns
    assert dict(header.metadata) == {"k": "v"}
    assert header.tensors["a"].shape == (2, 3)
    assert header.tensors["a"].dtype == "F16"
    assert (header.tensors["a"].start, header.tensors["a"].end) == (start, start + 12)
    assert header.tensors["b"].end - header.tensors["b"].start == 2
    assert header.tensors["c"].end == header.tensors["c"].start


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    library = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "m.safetensors"
    library.save_file({"x": numpy.arange(6, dtype="f4").reshape(2, 3), "y": numpy.zeros(0, "f2")}, path, {"a": "ü"})
    header = read_header(path)
    assert header.tensors["x"].shape == (2, 3)
    assert dict(header.metadata) == {"a": "ü"}
    assert read_numbers(header, "x") == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_reads_a_few_numbers(tmp_path: Path, dtype: str) -> None:
    path = headers.write(tmp_path / "m", {"z": (3,), "a": (2,)}, dtype=dtype, values={"a": [1.5, -2.0]})
    header = read_header(path)
    assert read_numbers(header, "a") == (1.5, -2.0)
    assert read_numbers(header, "z", at_most=2) is None
    assert read_numbers(header, "missing") is None


def test_numbers_of_a_file_that_shrank_meanwhile(tmp_path: Path) -> None:
    path = headers.write(tmp_path / "m", {"a": (2,)})
    header = read_header(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(UserError, match="changed"):
        read_numbers(header, "a")


@pytest.mark.parametrize(
    ("begin", "says"),
    [
        (b"", "empty"),
        (b"\x08", "cut off"),
        (b"\0" * 100, "not finished"),
        (b"GGUF\x03\0\0\0" + b"\0" * 90, "GGUF"),
        (b"PK\x03\x04" + b"x" * 90, "pickle"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + b"x" * 90, "pickle"),
        (b"\x80\x04\x95" + b"x" * 90, "pickle"),
        (b"<!DOCTYPE html><html>" + b" " * 90, "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n" + b"x" * 90, "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 90, "not a safetensors file"),
        (struct.pack("<Q", 2**63) + b"{" + b"x" * 90, "claims a header"),
        (struct.pack("<Q", 5000) + b"{" + b"x" * 90, "cut off"),
    ],
)
def test_names_what_a_file_is_instead(tmp_path: Path, begin: bytes, says: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(begin)
    assert says in refusal(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".CKPT"])
def test_an_old_checkpoint_is_a_pickle_with_the_way_to_convert_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(os.urandom(8).replace(b"{", b"x") + b"x" * 90)
    sentence = refusal(path)
    assert "pickle" in sentence
    assert "Convert" in sentence


def test_a_safetensors_file_that_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    text = json.dumps(ONE).encode().ljust(0x280)  # length 0x280: the bytes 80 02, a pickle's first ones
    path = headers.write_raw(tmp_path / "m.safetensors", text, 8)
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert list(read_header(path).tensors) == ["a"]


def test_missing_folder_pipe_and_odd_paths(tmp_path: Path) -> None:
    assert "no file" in refusal(tmp_path / "missing.safetensors")
    assert "folder" in refusal(tmp_path)
    refusal(tmp_path / ("x" * 5000))
    refusal(Path("a\0b"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "not a file" in refusal(tmp_path / "pipe")


def test_truncated_and_too_long(tmp_path: Path) -> None:
    path = headers.write(tmp_path / "m.safetensors", {"a": (100,)})
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert "40 of" in refusal(path)
    path.write_bytes(whole + b"12345")
    assert "5 bytes more" in refusal(path)


def _entry(**changes: object) -> dict[str, object]:
    return {"a": {**ONE["a"], **changes}}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (_entry(shape=[3]), "its shape and kind need 12"),
        (_entry(shape=[2, 2**47, 2**47]), "need"),
        (_entry(shape=[-2]), "wrongly"),
        (_entry(shape=[True, 2]), "wrongly"),
        (_entry(shape=[1] * 17), "wrongly"),
        (_entry(shape="2"), "wrongly"),
        (_entry(dtype="F7"), "F7"),
        (_entry(dtype=None), "not known"),
        (_entry(data_offsets=[8, 0]), "its shape"),
        (_entry(data_offsets=[0, 8, 9]), "wrongly"),
        (_entry(data_offsets=[0.0, 8.0]), "wrongly"),
        (_entry(data_offsets=[4, 12]), "gap"),
        ({"a": 1}, "wrongly"),
        ({"a\ud800": ONE["a"]}, "wrongly"),
        ({**ONE, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, "overlaps"),
        ({"__metadata__": {"a": 1}, **ONE}, "metadata"),
        ({"__metadata__": [], **ONE}, "metadata"),
        (b'{"a": {"dtype": "F32"}, "a": {"dtype": "F32"}}', "twice"),
        (b'{"__metadata__": {"k": "1", "k": "2"}}', "twice"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": ' + b"[" * 400_000, "not valid JSON"),
        (b'{"a": ' + b"[" * 600_000, "larger than any"),
        (b'{"a": [' + b"0," * 2_100_000 + b"0]}", "larger than any"),
        (b"{}x", "not valid JSON"),
    ],
)
def test_a_broken_header_is_refused(tmp_path: Path, header: object, says: str) -> None:
    assert says in refusal(headers.write_raw(tmp_path / "m.safetensors", header, 8))


def test_a_header_beyond_the_bound_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", limits.MAX_HEADER_BYTES + 1) + b"{")
        file.truncate(limits.MAX_HEADER_BYTES * 2)
    assert "claims a header" in refusal(path)


def test_too_many_tensors(tmp_path: Path) -> None:
    path = headers.write(tmp_path / "m.safetensors", {str(n): (0,) for n in range(limits.MAX_HEADER_TENSORS + 1)})
    assert "tensors" in refusal(path)


def test_half_characters_in_metadata_are_replaced(tmp_path: Path) -> None:
    header = {"__metadata__": {"k\ud800": "v\udfff"}, **ONE}
    (value,) = read_header(headers.write_raw(tmp_path / "m", header, 8)).metadata.values()
    value.encode()


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_sentence_or_a_header(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(data)
    _read_or_refuse(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NEAR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "F4", "U8", "?"]) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-4, 40), min_size=2, max_size=2) | JSON,
    }
)


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__", "\ud800"]), NEAR | JSON), st.integers(0, 40))
def test_any_json_ends_in_a_sentence_or_a_header(
    tmp_path_factory: pytest.TempPathFactory, header: object, data_bytes: int
) -> None:
    _read_or_refuse(headers.write_raw(tmp_path_factory.getbasetemp() / "fuzz.safetensors", header, data_bytes))


def test_a_flipped_byte_ends_in_a_sentence_or_a_header(tmp_path: Path) -> None:
    path = headers.write(tmp_path / "m.safetensors", {"a": (2, 3), "b": (4,)}, metadata={"k": "v"})
    whole = path.read_bytes()
    chance = random.Random(7)
    for _ in range(250):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] = chance.randrange(256)
        path.write_bytes(damaged)
        _read_or_refuse(path)


def _read_or_refuse(path: Path) -> None:
    try:
        header = read_header(path)
    except UserError as error:
        assert error.way_out
        str(error).encode()
    else:
        ends = sorted(tensor.end for tensor in header.tensors.values())
        assert not ends or ends[-1] == header.size
