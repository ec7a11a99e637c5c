"""A LoRA of ours in diffusers' own loader (peft) changes the networks' outputs as our layers do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")

from trainer_bridge.checkpoint import require_base  # noqa: E402
from trainer_bridge.engine import save  # noqa: E402
from trainer_bridge.engine.families import SizeInfo, for_checkpoint  # noqa: E402
from trainer_bridge.engine.lora import LoraSet, Rank  # noqa: E402

from .jobs import base_file  # noqa: E402

PIPELINES = {"sd15": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
@pytest.mark.parametrize("conv_dim", [0, 3])
def test_the_unet_changes_the_same_way(tmp_path: Path, family: str, conv_dim: int) -> None:
    made = for_checkpoint(require_base(base_file(tmp_path, family, dtype="float32")))
    modules = made.load(["unet", *made.text_parts], device="cpu", dtype=torch.float32)
    unet = modules["unet"]
    text = made.encode_text(modules, ["a cat", "red hair, smile"], clip_skip=1)
    sizes = [SizeInfo((64, 64), (0, 0), (64, 64))] * 2
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def output(network: Any) -> Any:
        with torch.no_grad():
            return made.predict(network, noisy, torch.tensor([7, 800]), text, sizes)

    base = output(unet)
    lora = LoraSet(made.lora_targets("unet", unet, conv=conv_dim > 0), modules, Rank(4, 2.0, conv_dim, 1.5), seed=1)
    with torch.no_grad():
        chance = torch.Generator().manual_seed(2)
        lora.vectors["unet"].copy_(0.2 * torch.randn(lora.vectors["unet"].shape, generator=chance))
    ours = output(unet)
    save.write_lora(tmp_path / "lora.safetensors", lora.state_dict(), {}, "float")
    lora.remove()
    assert torch.equal(output(unet), base)

    pipeline = getattr(diffusers, PIPELINES[family])
    state, alphas = pipeline.lora_state_dict(str(tmp_path), weight_name="lora.safetensors", unet_config=unet.config)
    pipeline.load_lora_into_unet(state, alphas, unet)
    theirs = output(unet)
    assert float((ours - base).abs().max()) > 0.05
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
