"""What is written beside the pocket base for a WebUI."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from trainer_bridge.errors import UserError
from trainer_bridge.pocket import host_files

CONFIG: dict[str, Any] = {
    "family": "sd15",
    "vae": {"scaling_factor": 0.18215},
    "text_encoder": {
        "hidden_size": 64,
        "layers": 3,
        "heads": 4,
        "intermediate": 256,
        "act": "quick_gelu",
        "vocab_size": 49408,
        "max_positions": 77,
        "pad_token": "<|endoftext|>",
    },
    "ldm": {
        "unet_config": {
            "image_size": 16,
            "model_channels": 96,
            "channel_mult": [1, 2],
            "use_checkpoint": False,
        },
        "ddconfig": {"ch": 96, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 0},
    },
}


def checkpoint(path: Path, config: Any = CONFIG) -> Path:
    """A safetensors file of a header alone."""
    header = json.dumps({"__metadata__": {"atelier.config": json.dumps(config)}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def test_the_yaml_names_the_clip_folder_absolutely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = checkpoint(Path("pocket.safetensors"))
    yaml = host_files.write_host_files(file, Path('a "folder" of CLIP'))
    assert yaml == Path("pocket.yaml")
    folder = tmp_path / 'a "folder" of CLIP'
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "special_tokens_map.json",
    }
    text = yaml.read_text(encoding="utf-8")
    assert f"version: {json.dumps(str(folder))}" in text
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 64


def test_the_yaml_reads_back_as_yaml(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    file = host_files.write_host_files(checkpoint(tmp_path / "p.safetensors"), tmp_path / "clip")
    params = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]["params"]
    assert params["unet_config"]["params"] == CONFIG["ldm"]["unet_config"]
    assert params["first_stage_config"]["params"]["ddconfig"] == CONFIG["ldm"]["ddconfig"]
    assert params["cond_stage_config"]["params"]["version"] == str(tmp_path / "clip")
    assert params["scale_factor"] == 0.18215


def test_a_second_call_replaces_our_own_files(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "p.safetensors")
    host_files.write_host_files(file, tmp_path / "old")
    yaml = host_files.write_host_files(file, tmp_path / "new")
    assert str(tmp_path / "new") in yaml.read_text() and str(tmp_path / "old") not in yaml.read_text()


def test_a_foreign_yaml_is_left_alone(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "p.safetensors")
    (tmp_path / "p.yaml").write_text("mine: 1\n")
    with pytest.raises(UserError, match="not ours"):
        host_files.write_host_files(file, tmp_path / "clip")
    assert (tmp_path / "p.yaml").read_text() == "mine: 1\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", struct.pack("<Q", 1 << 60), struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 9) + b"{"],
)
def test_other_files_are_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "p.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError):
        host_files.write_host_files(file, tmp_path / "clip")
    assert {p.name for p in tmp_path.iterdir()} == {"p.safetensors"}


@pytest.mark.parametrize("config", [[], {"family": "sdxl"}, "x", None])
def test_a_header_of_another_kind_is_refused(tmp_path: Path, config: Any) -> None:
    with pytest.raises(UserError):
        host_files.read_config(checkpoint(tmp_path / "p.safetensors", config))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        host_files.read_config(tmp_path / "absent.safetensors")
