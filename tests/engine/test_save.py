from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402

from trainer_bridge.engine import save  # noqa: E402
from trainer_bridge.errors import RunFailed  # noqa: E402

TEXTS = {"ss_network_dim": "4", "modelspec.title": "Mädchen", "atelier.job": "0000000000000001"}


def state() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "lora_unet_a.alpha": torch.tensor(4.0),
        "lora_unet_a.lora_down.weight": torch.randn(4, 6),
        "lora_unet_a.lora_up.weight": torch.randn(5, 4),
    }


def read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    with safe_open(str(path), "pt") as file:
        return {key: file.get_tensor(key) for key in list(file.keys())}, dict(file.metadata())


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16"), ("float", "float32")])
def test_a_file_holds_the_tensors_in_its_precision_and_the_texts(tmp_path: Path, precision: str, dtype: str) -> None:
    save.write_lora(tmp_path / "epochs" / "a.safetensors", state(), TEXTS, precision)
    tensors, texts = read(tmp_path / "epochs" / "a.safetensors")
    for name, tensor in state().items():
        assert torch.equal(tensors[name], tensor.to(getattr(torch, dtype)))
    assert TEXTS.items() <= texts.items()
    assert all(isinstance(value, str) for value in texts.values())


def test_the_model_hash_is_of_the_bytes_behind_the_header(tmp_path: Path) -> None:
    save.write_lora(tmp_path / "a.safetensors", state(), TEXTS, "fp16")
    data = (tmp_path / "a.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    texts = read(tmp_path / "a.safetensors")[1]
    assert texts["sshs_model_hash"] == hashlib.sha256(data[8 + length :]).hexdigest()
    assert texts["sshs_legacy_hash"] == "e3b0c442"  # of nothing: the file is shorter than 1 MiB


def test_numbers_that_the_precision_cannot_express_are_refused() -> None:
    tensors = {**state(), "lora_unet_a.alpha": torch.tensor(1e9)}
    save.lora_bytes(tensors, {}, "float")
    with pytest.raises(RunFailed, match="fp16"):
        save.lora_bytes(tensors, {}, "fp16")
    with pytest.raises(RunFailed):
        save.lora_bytes({**state(), "lora_unet_a.alpha": torch.tensor(float("nan"))}, {}, "float")


def test_publish_says_where_and_what(tmp_path: Path) -> None:
    path, digest = save.publish(tmp_path / "new" / "folder", "mirabell", state(), TEXTS, "fp16")
    assert path == tmp_path / "new" / "folder" / "mirabell.safetensors"
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [entry.name for entry in path.parent.iterdir()] == ["mirabell.safetensors"]


def test_a_foreign_file_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "mirabell.safetensors").write_bytes(b"foreign")
    (tmp_path / "mirabell-v2.safetensors").write_bytes(b"")
    path, _ = save.publish(tmp_path, "mirabell", state(), TEXTS, "fp16")
    assert path.name == "mirabell-v3.safetensors"
    assert (tmp_path / "mirabell.safetensors").read_bytes() == b"foreign"


def test_a_second_start_of_the_same_job_finds_its_own_file(tmp_path: Path) -> None:
    first, digest = save.publish(tmp_path, "mirabell", state(), TEXTS, "fp16")
    later = {**TEXTS, "ss_training_finished_at": "2"}
    assert save.publish(tmp_path, "mirabell", state(), later, "fp16") == (first, digest)
    other = {**TEXTS, "atelier.job": "0000000000000002"}
    assert save.publish(tmp_path, "mirabell", state(), other, "fp16")[0].name == "mirabell-v2.safetensors"
    changed = {**state(), "lora_unet_a.alpha": torch.tensor(2.0)}
    assert save.publish(tmp_path, "mirabell", changed, TEXTS, "fp16")[0].name == "mirabell-v3.safetensors"


def test_description_and_preview_stand_beside_it(tmp_path: Path) -> None:
    lora = tmp_path / "mirabell.safetensors"
    preview = tmp_path / "e003-p1.png"
    preview.write_bytes(b"png")
    save.describe(lora, "sdxl", "mirabell", preview)
    told = json.loads((tmp_path / "mirabell.json").read_text())
    assert (told["sd version"], told["activation text"], told["preferred weight"]) == ("SDXL", "mirabell", 0.8)
    assert (tmp_path / "mirabell.png").read_bytes() == b"png"


def test_foreign_files_beside_it_are_kept(tmp_path: Path) -> None:
    (tmp_path / "mirabell.json").write_text("mine")
    (tmp_path / "mirabell.png").write_bytes(b"mine")
    preview = tmp_path / "p.png"
    preview.write_bytes(b"new")
    save.describe(tmp_path / "mirabell.safetensors", "sd15", "mirabell", preview)
    assert (tmp_path / "mirabell.json").read_text() == "mine"
    assert (tmp_path / "mirabell.png").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mirabell.json", "mirabell.png", "p.png"]
