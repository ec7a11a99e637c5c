"""The data root: which one is taken, and what happens when it cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainer_bridge import job, paths, platform
from trainer_bridge.errors import UserError


@pytest.fixture(autouse=True)
def user_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "user data"
    monkeypatch.setattr(platform, "user_data_dir", lambda: folder)
    monkeypatch.delenv("ATELIER_DATA", raising=False)
    return folder


def test_an_explicit_root_wins_and_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_data: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATELIER_DATA", str(tmp_path / "from environment"))
    assert paths.data_root(Path("here")) == tmp_path / "here"


def test_then_the_environment_then_the_recorded_root_then_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_data: Path
) -> None:
    assert paths.data_root(None) == user_data
    paths.record(tmp_path / "webui" / "atelier", None)
    assert paths.data_root(None) == tmp_path / "webui" / "atelier"
    monkeypatch.setenv("ATELIER_DATA", str(tmp_path / "env"))
    assert paths.data_root(None) == tmp_path / "env"
    monkeypatch.setenv("ATELIER_DATA", "  ")
    assert paths.data_root(None) == tmp_path / "webui" / "atelier"


def test_the_recorded_lora_folder_is_used_while_it_exists(tmp_path: Path) -> None:
    layout = paths.Layout(tmp_path / "root")
    assert paths.lora_folder(layout) == layout.loras
    loras = tmp_path / "models" / "Lora"
    loras.mkdir(parents=True)
    paths.record(layout.root, loras)
    assert paths.lora_folder(layout) == loras
    loras.rmdir()
    assert paths.lora_folder(layout) == layout.loras


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": 1}', b"[" * 100_000, b"\xff\xfe"])
def test_damaged_records_count_as_none(user_data: Path, content: bytes) -> None:
    user_data.mkdir()
    (user_data / paths.RECORDS).write_bytes(content)
    assert paths.data_root(None) == user_data
    paths.record(user_data / "x", None)
    assert paths.data_root(None) == user_data / "x"


def test_a_recorded_root_must_be_absolute(user_data: Path) -> None:
    paths.record(Path("relative"), None)
    assert paths.data_root(None) == user_data


def test_only_an_id_becomes_a_job_folder(tmp_path: Path) -> None:
    layout = paths.Layout(tmp_path)
    id_ = job.new_id()
    assert layout.job(id_) == tmp_path / "jobs" / id_
    for text in ("..", "../../../../etc/x", "a" * 15, "A" * 16, "/" * 16, ""):
        with pytest.raises(ValueError):
            layout.job(text)


def test_a_root_that_is_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for root in (file, file / "below"):
        with pytest.raises(UserError) as caught:
            paths.Layout(root).make()
        assert str(root) in caught.value.what and "--data" in caught.value.way_out
    assert file.read_text() == "mine"


def test_making_a_root_leaves_nothing_but_the_folder(tmp_path: Path) -> None:
    paths.Layout(tmp_path / "a" / "b").make()
    assert os.listdir(tmp_path / "a" / "b") == []
