from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from trainer_bridge.checkpoint import require_base  # noqa: E402
from trainer_bridge.dataset.buckets import bucket_for  # noqa: E402
from trainer_bridge.engine import memory, metadata  # noqa: E402
from trainer_bridge.engine.families import for_checkpoint  # noqa: E402
from trainer_bridge.engine.setup import read_manifest  # noqa: E402
from trainer_bridge.spec import read_spec  # noqa: E402

from .jobs import base_file, make_job  # noqa: E402

PLAN = memory.Plan("cpu", 2, "no", 4, False, 3, True, "abc")


@pytest.mark.parametrize(
    ("family", "version", "architecture"),
    [
        ("sd15", "sd_v1", "stable-diffusion-v1/lora"),
        ("sd2", "sd_v2", "stable-diffusion-v2-512/lora"),
        ("sdxl", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_what_hosts_and_sites_read(tmp_path: Path, family: str, version: str, architecture: str) -> None:
    base = base_file(tmp_path, family)
    folder = make_job(tmp_path, base, num_repeats=3, conv_dim=2)
    spec, manifest = read_spec(folder), read_manifest(folder)
    buckets = [bucket_for(*picture.shown, spec.settings) for picture in manifest.pictures]
    made = for_checkpoint(require_base(base))
    facts = metadata.Facts.of(folder.name, made.metadata(spec))
    run = metadata.run_metadata(spec, manifest, PLAN, buckets, 12, facts)
    found = metadata.file_metadata(run, "test-000002", metadata.Place(24, 2, 5, 1_700_000_000.0))
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in found.items())
    assert found["ss_base_model_version"] == version and found["modelspec.architecture"] == architecture
    assert found["ss_output_name"] == "test-000002"
    assert (found["ss_steps"], found["ss_epoch"], found["ss_num_epochs"]) == ("24", "2", "5")
    assert found["ss_num_train_images"] == "15" and found["ss_num_batches_per_epoch"] == "12"
    assert found["ss_network_module"] == "networks.lora" and json.loads(found["ss_network_args"])["conv_dim"] == "2"
    assert (found["ss_network_dim"], found["ss_network_alpha"], found["ss_unet_lr"]) == ("4", "4.0", "0.001")
    assert found["ss_text_encoder_lr"] == "None" and found["ss_min_snr_gamma"] == "5.0"
    assert json.loads(found["ss_tag_frequency"]) == {"test": metadata.tag_frequency(manifest)}
    assert metadata.tag_frequency(manifest)["ohwx"] == 5
    (dataset,) = json.loads(found["ss_datasets"])
    assert sum(bucket["count"] for bucket in dataset["bucket_info"]["buckets"].values()) == 5
    assert found["modelspec.date"] == "2023-11-14T22:13:20Z" and found["modelspec.title"] == "Test"
    assert found["atelier.trigger"] == "ohwx" and found["atelier.job"] == folder.name


def test_hashes_of_the_base(tmp_path: Path) -> None:
    base = base_file(tmp_path)
    data = base.read_bytes()
    assert metadata.old_hash(base) == hashlib.sha256(data[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    assert metadata.old_hash(tmp_path / "none") is None
    checkpoint = require_base(base)
    digest = hashlib.sha256(data).hexdigest()
    assert metadata.file_hash(checkpoint, tmp_path / "cache") == digest
    base.unlink()
    assert metadata.file_hash(checkpoint, tmp_path / "cache") == digest  # it was remembered
