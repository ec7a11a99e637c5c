"""Holding the base: without the trigger word the LoRA changes much less than a run that does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from trainer_bridge.checkpoint import require_base  # noqa: E402
from trainer_bridge.engine.families import for_checkpoint  # noqa: E402
from trainer_bridge.engine.families.base import SizeInfo  # noqa: E402
from trainer_bridge.engine.merge import merged  # noqa: E402
from trainer_bridge.engine.run import run  # noqa: E402
from trainer_bridge.errors import EXIT_DONE  # noqa: E402

from .jobs import base_file, make_job, of_type, tensor_bytes  # noqa: E402

SETTINGS: dict[str, Any] = {
    "max_train_steps": 40,
    "unet_lr": 5e-3,
    "caption_dropout_rate": 0.0,
    "text_encoder_lr": 2e-3,
}


def shift(base: Path, lora: Path, caption: str) -> float:
    """How far the LoRA moves what the U-Net says for a caption, as a share of the answer's length."""
    family = for_checkpoint(require_base(base))
    modules = family.load(["unet", *family.text_parts], device="cpu", dtype=torch.float32)
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    sizes = [SizeInfo((64, 64), (0, 0), (64, 64))] * 4

    def answer() -> Tensor:
        text = family.encode_text(modules, [caption] * 4, clip_skip=1)
        return family.predict(modules["unet"], noise, torch.tensor([900, 700, 500, 300]), text, sizes)

    with torch.no_grad():
        before = answer()
        with merged(family, modules, [(lora, 1.0)]):
            after = answer()
    return float((after - before).norm() / before.norm())


@pytest.mark.parametrize("unet_only", [True, False])
def test_captions_without_the_trigger_move_less(tmp_path: Path, unet_only: bool) -> None:
    base, moved, loras = base_file(tmp_path), {}, {}
    for rate in (0.0, 1.0):
        folder = make_job(
            tmp_path / str(rate), base, prior_preservation_rate=rate, network_train_unet_only=unet_only, **SETTINGS
        )
        assert run(folder) == EXIT_DONE
        loras[rate] = Path(of_type(folder, "done")[0]["path"])
        moved[rate] = shift(base, loras[rate], "blue hair, smile")
    assert tensor_bytes(loras[0.0]) != tensor_bytes(loras[1.0])
    assert moved[1.0] < 0.7 * moved[0.0], moved
