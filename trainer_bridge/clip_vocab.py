"""CLIP's text tokenizer from its one vocabulary file, with the standard library alone.

Source of ``assets/clip/bpe_simple_vocab_16e6.txt.gz``: OpenAI's CLIP (github.com/openai/CLIP, MIT licence,
Copyright (c) 2021 OpenAI), as shipped in the wheel of open_clip_torch 3.3.0 (MIT licence). It holds the merges in
order of rank; ids follow from it: 256 bytes, the same 256 ending a word, 48 894 merges, start and end of text:
49 408 in all. Loading takes about 0.1 s, so it is done on first use and kept.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

ASSET = Path(__file__).parent / "assets" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
MERGES = 48_894
ENTRIES = 49_408
MAX_LENGTH = 77
START = "<|startoftext|>"
END = "<|endoftext|>"

_SPECIAL = re.compile("(" + re.escape(START) + "|" + re.escape(END) + ")")
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
# Unicode's White_Space; str.isspace() also counts the separators U+001C to U+001F, which CLIP keeps.
_SPACES = frozenset(
    chr(c)
    for c in (
        *range(9, 14),
        32,
        0x85,
        0xA0,
        0x1680,
        *range(0x2000, 0x200B),
        0x2028,
        0x2029,
        0x202F,
        0x205F,
        0x3000,
    )
)


@lru_cache(maxsize=1)
def byte_letters() -> dict[int, str]:
    """The printable letter that stands for each byte; its order gives the first 256 ids."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    letters = {b: chr(b) for b in printable}
    for b in range(256):
        if b not in letters:
            letters[b] = chr(256 + len(letters) - len(printable))
    return letters


@lru_cache(maxsize=1)
def read_merges() -> tuple[tuple[str, str], ...]:
    """The 48 894 merges in order of rank."""
    lines = gzip.decompress(ASSET.read_bytes()).decode("utf-8").split("\n")
    pairs = [line.split() for line in lines[1 : MERGES + 1]]
    return tuple((pair[0], pair[1]) for pair in pairs)


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Token -> id, 49 408 entries, in the order of the ids."""
    letters = list(byte_letters().values())
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *(a + b for a, b in read_merges()),
        START,
        END,
    ]
    return {token: number for number, token in enumerate(tokens)}


class ClipBpe:
    """CLIP's byte-pair encoding; the same ids as ``transformers.CLIPTokenizer``.

    Text is composed (NFC), lower-cased and its white space collapsed, as CLIP's tokenizer does it.
    """

    start_id = ENTRIES - 2
    end_id = ENTRIES - 1

    def __init__(self) -> None:
        self._ids = vocabulary()
        self._ranks = {pair: rank for rank, pair in enumerate(read_merges())}
        self._words: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` without start, end and padding, of any length."""
        ids: list[int] = []
        for part in _SPECIAL.split(text):
            if part in (START, END):
                ids.append(self._ids[part])
                continue
            for word in split_words(clean(part)):
                ids.extend(self._word(word))
        return ids

    def encode_padded(self, text: str, pad_id: int = ENTRIES - 1, length: int = MAX_LENGTH) -> list[int]:
        """Start, the first ``length - 2`` ids, end, and padding: exactly ``length`` ids."""
        ids = [self.start_id, *self.encode(text)[: length - 2], self.end_id]
        return ids + [pad_id] * (length - len(ids))

    def _word(self, word: str) -> tuple[int, ...]:
        known = self._words.get(word)
        if known is None:
            if len(self._words) > 50_000:
                self._words.clear()
            known = self._words[word] = tuple(self._ids[p] for p in self._merge(word))
        return known

    def _merge(self, word: str) -> list[str]:
        """The word's pieces after all merges, lowest rank first."""
        letters = byte_letters()
        parts = [letters[b] for b in word.encode("utf-8")]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = [(a, b) for a, b in zip(parts, parts[1:])]  # noqa: B905, RUF007 (neighbours, not equals)
            best = min(pairs, key=lambda pair: self._ranks.get(pair, MERGES))
            if best not in self._ranks:
                break
            merged: list[str] = []
            at = 0
            while at < len(parts):
                if at + 1 < len(parts) and (parts[at], parts[at + 1]) == best:
                    merged.append(parts[at] + parts[at + 1])
                    at += 2
                else:
                    merged.append(parts[at])
                    at += 1
            parts = merged
        return parts


def clean(text: str) -> str:
    """NFC, white space collapsed to single spaces, lower case letter by letter (no final sigma)."""
    composed = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))
    spaced = "".join(" " if c in _SPACES else c for c in composed)
    return "".join(c.lower() for c in re.sub(" +", " ", spaced))


def _kind(char: str) -> str:
    if char in _SPACES:
        return "space"
    first = unicodedata.category(char)[0]
    return {"L": "letter", "N": "number"}.get(first, "other")


def split_words(text: str) -> list[str]:
    """Words as CLIP's pattern finds them: contractions, runs of letters, single digits, runs of the rest."""
    words: list[str] = []
    at = 0
    while at < len(text):
        tail = next((c for c in _CONTRACTIONS if text.startswith(c, at)), None)
        kind = _kind(text[at])
        end = at + 1
        if tail is not None:
            end = at + len(tail)
        elif kind in ("letter", "other"):
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        if kind != "space":
            words.append(text[at:end])
        at = end
    return words


def write_tokenizer(folder: Path, *, pad_token: str) -> None:
    """Writes vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json into ``folder``.

    ``pad_token`` is the end-of-text token for SD1.x and SDXL's first encoder, "!" for SD2.x and SDXL's second.
    Each file is replaced whole or not at all. Raises ValueError if the pad token is no entry.
    """
    if pad_token not in vocabulary():
        raise ValueError(f"pad_token {pad_token!r} is not in CLIP's vocabulary")
    folder.mkdir(parents=True, exist_ok=True)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad_token}
    settings = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "do_lower_case": True,
        "errors": "replace",
        "add_prefix_space": False,
    }
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in read_merges())
    _replace(folder / "vocab.json", json.dumps(vocabulary(), ensure_ascii=False, separators=(",", ":")))
    _replace(folder / "merges.txt", merges)
    _replace(folder / "tokenizer_config.json", json.dumps(settings, indent=1))
    _replace(folder / "special_tokens_map.json", json.dumps(special, indent=1))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
