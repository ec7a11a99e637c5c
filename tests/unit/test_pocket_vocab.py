"""CLIP's tokenizer without the tokenizers library: the same ids as the reference, and whole files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from trainer_bridge import clip_vocab

BPE = clip_vocab.ClipBpe()
LETTERS = "abcXYZ'sdtllrevm 012½²é\u0301Åß日本ーかЖσΣς,.;:!?()[]<>|_-#@\t\n\u3000\u00a0\u200b\x1c😀👍\u200d"


def test_the_counts_are_those_of_clip() -> None:
    assert len(clip_vocab.read_merges()) == clip_vocab.MERGES == 48_894
    words = clip_vocab.vocabulary()
    assert len(words) == clip_vocab.ENTRIES == 49_408
    assert sorted(words.values()) == list(range(49_408))
    assert words[clip_vocab.START] == BPE.start_id == 49_406
    assert words[clip_vocab.END] == BPE.end_id == 49_407


def test_known_ids() -> None:
    assert BPE.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert BPE.encode_padded("")[:3] == [49_406, 49_407, 49_407]
    assert BPE.encode_padded("", pad_id=0)[-1] == 0


@given(st.text(alphabet="ab ,", max_size=400), st.integers(3, 90))
def test_padding_gives_one_length(text: str, length: int) -> None:
    ids = BPE.encode_padded(text, length=length)
    assert len(ids) == length
    assert ids[0] == BPE.start_id and BPE.end_id in ids


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    clip_vocab.write_tokenizer(folder, pad_token=clip_vocab.END)
    return transformers.CLIPTokenizer.from_pretrained(str(folder))


@given(st.text(alphabet=LETTERS, max_size=40))
@example("<|endoftext|> foo <|startoftext|>x")
@example("don't we'll I'M it'S")
@example("masterpiece, (red hair:1.2), 1girl, İstanbul ΣΑΣ")
@hypothesis_settings(max_examples=300, deadline=None)
def test_the_ids_are_those_of_transformers(reference: Any, text: str) -> None:
    assert BPE.encode(text) == reference(text, add_special_tokens=False)["input_ids"]


def test_the_tokenizer_folder_is_whole(tmp_path: Path) -> None:
    clip_vocab.write_tokenizer(tmp_path / "new", pad_token="!")
    files = {path.name for path in (tmp_path / "new").iterdir()}
    assert files == {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}
    assert json.loads((tmp_path / "new" / "special_tokens_map.json").read_text())["pad_token"] == "!"
    lines = (tmp_path / "new" / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#version") and len(lines) == 48_895


def test_an_unknown_pad_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no-such-token"):
        clip_vocab.write_tokenizer(tmp_path, pad_token="no-such-token")
    assert not list(tmp_path.iterdir())
