from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from trainer_bridge.engine.cache import Cache, key_of, prune, stack  # noqa: E402


def entry(place: int) -> dict[str, Any]:
    return {"hidden": torch.full((3, 2), float(place)), "pooled": torch.full((4,), -float(place))}


def test_entries_are_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make(place: int) -> dict[str, Any]:
        made.append(place)
        return entry(place)

    keys = [key_of("text", place) for place in range(3)]
    first = Cache(tmp_path).get(keys, make)
    second = Cache(tmp_path).get(keys, make)
    assert made == [0, 1, 2]
    assert torch.equal(stack(first, "hidden", torch.float32, "cpu"), stack(second, "hidden", torch.float32, "cpu"))
    assert stack(second, "pooled", torch.bfloat16, "cpu").dtype == torch.bfloat16
    assert Cache(tmp_path).missing([*keys, key_of("other")]) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_damaged_entries_are_made_anew(tmp_path: Path, damage: str) -> None:
    cache, key = Cache(tmp_path), key_of("a")
    cache.write(key, entry(1))
    path = next(path for path in tmp_path.rglob("*") if path.is_file())
    data = bytearray(path.read_bytes())
    data[-1] ^= damage == "flipped"
    path.write_bytes(bytes({"cut": data[:-1], "flipped": data, "empty": b"", "foreign": b"x" * 200}[damage]))
    assert cache.read(key) is None
    assert torch.equal(cache.get([key], lambda place: entry(5))[0]["hidden"], entry(5)["hidden"])
    assert torch.equal(cache.get([key], lambda place: entry(6))[0]["hidden"], entry(5)["hidden"])


def test_no_parts_are_left(tmp_path: Path) -> None:
    Cache(tmp_path).write(key_of("a"), entry(1))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [key_of("a")]


def test_keys_tell_everything_apart() -> None:
    parts = [("a", 1), ("a", "1"), ("a", True), ("a", None), ("a", [1]), ("b", 1), ("a", 1, 1)]
    assert len({key_of(*part) for part in parts}) == len(parts)
    assert key_of("a", 1) == key_of("a", 1)


def test_the_oldest_entries_go_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    keys = [key_of(place) for place in range(4)]
    for place, key in enumerate(keys):
        cache.write(key, entry(place))
        os.utime(tmp_path / key[:2] / key, ns=(place, place))
    assert cache.read(keys[0]) is not None  # used just now
    size = (tmp_path / keys[0][:2] / keys[0]).stat().st_size
    prune(tmp_path, 2 * size)
    assert [cache.read(key) is not None for key in keys] == [True, False, False, True]


def test_pruning_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    prune(tmp_path / "none")
