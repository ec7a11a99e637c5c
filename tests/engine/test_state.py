from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from trainer_bridge.engine.state import Due, State, load_state, same_bytes, save_state  # noqa: E402


def state(step: int) -> State:
    torch.manual_seed(step)
    return State(
        step,
        {"lora.unet": torch.randn(50), "unet.step": torch.tensor(float(step)), "unet.exp_avg": torch.randn(50)},
        {"judge": {"average": 0.1 + step / 3, "best": None, "recent": [1e-30, 2.5]}, "good": "ü.safetensors"},
    )


def test_what_is_saved_comes_back_to_the_bit(tmp_path: Path) -> None:
    save_state(tmp_path / "state", state(7))
    found, damaged = load_state(tmp_path / "state")
    assert found is not None and damaged == []
    assert found.step == 7 and found.loop == state(7).loop
    assert same_bytes(found.tensors, state(7).tensors)


def test_none_before_the_first(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state") == (None, [])


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save_state(tmp_path, state(step))
    assert sorted(path.name[:8] for path in tmp_path.iterdir()) == ["00000003", "00000010"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_state_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    save_state(tmp_path, state(3))
    save_state(tmp_path, state(4))
    newest = max(tmp_path.iterdir())
    data = bytearray(newest.read_bytes())
    if damage == "flipped":
        data[-5] ^= 1
    newest.write_bytes(bytes({"cut": data[:-3], "flipped": data, "empty": bytearray()}[damage]))
    found, damaged = load_state(tmp_path)
    assert found is not None and found.step == 3
    assert len(damaged) == 1 and "step 4" in damaged[0]


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "other.safetensors").write_bytes(b"mine")
    for step in (1, 2, 3):
        save_state(tmp_path, state(step))
    assert (tmp_path / "notes.txt").exists() and (tmp_path / "other.safetensors").exists()


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".atelier-0123456789ab.tmp").write_bytes(b"half a state")
    save_state(tmp_path, state(1))
    assert [path.name[:8] for path in tmp_path.iterdir()] == ["00000001"]


def test_due_by_time_and_never_too_costly(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("trainer_bridge.engine.state.time.monotonic", lambda: now)
    due = Due()
    assert not due()
    now = 120.0
    assert due()
    due.saved(0.1)
    now = 139.0
    assert not due()
    now = 140.0
    assert due()
    due.saved(2.0)  # 2 % of 100 seconds
    now = 239.0
    assert not due()
    now = 240.0
    assert due()


def test_same_bytes_sees_a_single_bit_and_types() -> None:
    one = {"a": torch.tensor([0.0, 1.0])}
    assert same_bytes(one, {"a": torch.tensor([0.0, 1.0])})
    assert not same_bytes(one, {"a": torch.tensor([-0.0, 1.0])})
    assert not same_bytes(one, {"a": torch.tensor([0.0, 1.0], dtype=torch.float64)})
    assert not same_bytes(one, {"b": torch.tensor([0.0, 1.0])})
    assert not same_bytes(one, {})
    assert same_bytes({"alpha": torch.tensor(4.0)}, {"alpha": torch.tensor(4.0)})
