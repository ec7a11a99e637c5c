"""The texts in a LoRA's header, by kohya-ss sd-scripts' names (`ss_*`) and Stability's (`modelspec.*`).

Hosts, model sites and trainers read them to tell base, rank, captions and settings. All values are texts; a
thing that is not there is `None`, as sd-scripts writes it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__, platform
from ..checkpoint import Checkpoint
from ..counter import number
from ..dataset.buckets import Bucket
from ..dataset.captions import split, with_trigger
from ..dataset.manifest import Manifest
from ..spec import JobSpec
from .memory import Plan

_OLD_HASH_START, _OLD_HASH_LENGTH = 0x100000, 0x10000
_MOST_TAGS = 2000
_PIECE = 8 * 1024 * 1024


@dataclass(frozen=True)
class Facts:
    """What does not change in a run.

    Attributes:
        job: id of the job.
        session: number of this training, as sd-scripts draws one.
        started: unix seconds.
        family: what the family says of itself.
    """

    job: str
    session: str
    started: float
    family: Mapping[str, str]

    @classmethod
    def of(cls, job: str, family: Mapping[str, str]) -> Facts:
        """Make them at the start of a process."""
        return cls(job, str(number("session", job)), round(time.time(), 3), family)


@dataclass(frozen=True)
class Place:
    """Where in the run a file is written, and when."""

    step: int
    epoch: int
    epochs: int
    finished: float


def run_metadata(
    spec: JobSpec,
    manifest: Manifest,
    plan: Plan,
    buckets: Sequence[Bucket],
    batches_per_epoch: int,
    facts: Facts,
) -> dict[str, str]:
    """Return the texts that are the same for every file of a run."""
    settings = spec.settings
    texts: dict[str, Any] = {
        **facts.family,
        **{f"ss_{name}": settings[name] for name in _AS_THEY_ARE},
        "ss_session_id": facts.session,
        "ss_training_started_at": facts.started,
        "ss_learning_rate": settings["unet_lr"],
        "ss_text_encoder_lr": None if settings["network_train_unet_only"] else settings["text_encoder_lr"],
        "ss_num_train_images": len(manifest.pictures) * int(settings["num_repeats"]),
        "ss_num_reg_images": 0,
        "ss_num_batches_per_epoch": batches_per_epoch,
        "ss_gradient_checkpointing": plan.checkpointing,
        "ss_mixed_precision": plan.precision,
        "ss_network_module": "networks.lora",
        "ss_network_args": json.dumps(_network_args(spec)),
        "ss_network_dropout": settings["network_dropout"] or None,
        "ss_min_snr_gamma": settings["min_snr_gamma"] or None,
        "ss_noise_offset": settings["noise_offset"] or None,
        "ss_optimizer": f"torch.optim.adamw.AdamW(weight_decay={settings['weight_decay']})",
        "ss_max_token_length": None,
        "ss_cache_latents": True,
        "ss_loss_type": "l2",
        "ss_prior_loss_weight": 1.0,
        "ss_training_comment": None,
        "ss_sd_model_name": Path(spec.base.path).name,
        "ss_sd_model_hash": old_hash(Path(spec.base.path)),
        "ss_new_sd_model_hash": None,
        "ss_datasets": json.dumps([_dataset(spec, manifest, buckets)]),
        "ss_tag_frequency": json.dumps({spec.output_name: tag_frequency(manifest)}),
        "ss_dataset_dirs": json.dumps({spec.output_name: _folder(spec, manifest)}),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": spec.name,
        "modelspec.resolution": f"{settings['resolution']}x{settings['resolution']}",
        "modelspec.timestep_range": f"{settings['min_timestep']},{settings['max_timestep']}",
        "modelspec.encoder_layer": settings["clip_skip"],
        "modelspec.trigger_phrase": spec.trigger or None,
        "atelier.version": __version__,
        "atelier.job": facts.job,
        "atelier.trigger": spec.trigger,
        "atelier.type": spec.type,
        "atelier.environment": plan.environment,
    }
    return {key: str(value) for key, value in texts.items() if value is not None or key.startswith("ss_")}


def file_metadata(run: Mapping[str, str], output_name: str, place: Place) -> dict[str, str]:
    """Return the texts of one file: those of the run and where in it the file was written."""
    date = datetime.datetime.fromtimestamp(place.finished, datetime.timezone.utc)
    return {
        **run,
        "ss_output_name": output_name,
        "ss_training_finished_at": str(place.finished),
        "ss_epoch": str(place.epoch),
        "ss_num_epochs": str(place.epochs),
        "ss_steps": str(place.step),
        "modelspec.date": date.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


_AS_THEY_ARE: tuple[str, ...] = (
    "unet_lr",
    "max_train_steps",
    "gradient_accumulation_steps",
    "lr_warmup_steps",
    "lr_scheduler",
    "network_dim",
    "network_alpha",
    "clip_skip",
    "seed",
    "zero_terminal_snr",
    "max_grad_norm",
    "caption_dropout_rate",
    "caption_tag_dropout_rate",
)


def old_hash(path: Path) -> str | None:
    """Return A1111's old hash of a checkpoint: 8 hex digits of 64 KiB at 1 MiB; None when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(_OLD_HASH_START)
            return hashlib.sha256(file.read(_OLD_HASH_LENGTH)).hexdigest()[:8]
    except OSError:
        return None


def file_hash(base: Checkpoint, cache: Path) -> str:
    """Return the sha256 of a checkpoint file; reading gigabytes is spared while the file is the same one."""
    key = hashlib.sha256(f"{base.path} {base.size} {base.mtime_ns}".encode()).hexdigest()
    known = cache / "sha256" / key
    try:
        text = known.read_text(encoding="ascii")
        if len(text) == 64 and set(text) <= set("0123456789abcdef"):
            return text
    except (OSError, ValueError):
        pass
    whole = hashlib.sha256()
    with base.path.open("rb") as file:
        while piece := file.read(_PIECE):
            whole.update(piece)
    known.parent.mkdir(parents=True, exist_ok=True)
    platform.write_atomic(known, whole.hexdigest().encode())
    return whole.hexdigest()


def tag_frequency(manifest: Manifest) -> dict[str, int]:
    """Return how many captions hold each tag, the most frequent first."""
    counts = Counter(
        tag for picture in manifest.pictures for tag in with_trigger(split(picture.caption), manifest.trigger)
    )
    return dict(counts.most_common(_MOST_TAGS))


def _network_args(spec: JobSpec) -> dict[str, str]:
    if not spec.settings["conv_dim"]:
        return {}
    return {"conv_dim": str(spec.settings["conv_dim"]), "conv_alpha": str(spec.settings["conv_alpha"])}


def _dataset(spec: JobSpec, manifest: Manifest, buckets: Sequence[Bucket]) -> dict[str, Any]:
    settings = spec.settings
    counts = Counter(bucket.size for bucket in buckets)
    shown = {str(place): {"resolution": list(size), "count": counts[size]} for place, size in enumerate(sorted(counts))}
    own = ("enable_bucket", "bucket_no_upscale", "min_bucket_reso", "max_bucket_reso")
    return {
        "is_dreambooth": True,
        "batch_size_per_device": settings["train_batch_size"],
        "num_train_images": len(manifest.pictures) * int(settings["num_repeats"]),
        "num_reg_images": 0,
        "resolution": [settings["resolution"], settings["resolution"]],
        **{name: settings[name] for name in own},
        "tag_frequency": {spec.output_name: tag_frequency(manifest)},
        "bucket_info": {"buckets": shown},
        "subsets": [
            {
                "img_count": len(manifest.pictures),
                "num_repeats": settings["num_repeats"],
                "color_aug": False,
                "flip_aug": settings["flip_aug"],
                "random_crop": False,
                "shuffle_caption": settings["shuffle_caption"],
                "keep_tokens": settings["keep_tokens"],
                "image_dir": spec.output_name,
                "class_tokens": spec.trigger or None,
                "is_reg": False,
            }
        ],
    }


def _folder(spec: JobSpec, manifest: Manifest) -> dict[str, Any]:
    return {"n_repeats": spec.settings["num_repeats"], "img_count": len(manifest.pictures)}
