"""A LoRA for the shipped pocket base changes pictures in diffusers' own pipeline as it does in training and sampling.

The base has one res block a level, so its LoRAs carry LDM's block names; diffusers' loader takes these once it is
told the U-Net's sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("transformers")
utils = pytest.importorskip("diffusers.loaders.single_file_utils")

from trainer_bridge.checkpoint import require_base  # noqa: E402
from trainer_bridge.engine import save  # noqa: E402
from trainer_bridge.engine.families import SizeInfo, for_checkpoint  # noqa: E402
from trainer_bridge.engine.lora import LoraSet, Rank  # noqa: E402
from trainer_bridge.engine.merge import merged  # noqa: E402
from trainer_bridge.engine.text import token_ids  # noqa: E402
from trainer_bridge.pocket import host_files  # noqa: E402
from trainer_bridge.pocket.make import models  # noqa: E402

BASE = Path(host_files.__file__).parent / "data" / "pocket.safetensors"
TEXT = "cond_stage_model.transformer.text_model."
CAPTIONS = ["mirabell, flat color, sad, night sky", ""]
NOISY = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
TIMES = torch.tensor([30, 800])


def pipeline() -> Any:
    """Return Stable Diffusion of diffusers' and transformers' classes, filled by diffusers' own conversion."""
    from safetensors.torch import load_file

    state = load_file(str(BASE))
    unet, vae, text = models.unet(), models.vae(), models.text_encoder()
    unet.load_state_dict(utils.convert_ldm_unet_checkpoint(dict(state), dict(unet.config)))
    # transformers dropped the leading `text_model.` in version 5.
    names = {name.removeprefix("text_model."): name for name in text.state_dict()}
    stored = {key.removeprefix(TEXT): value for key, value in state.items() if key.startswith(TEXT)}
    text.load_state_dict({names[key]: value for key, value in stored.items()}, strict=False)
    parts = {"unet": unet.eval(), "vae": vae, "text_encoder": text.eval(), "scheduler": models.scheduler()}
    unused = {"tokenizer": None, "safety_checker": None, "feature_extractor": None}
    return diffusers.StableDiffusionPipeline(**parts, **unused, requires_safety_checker=False)


def test_unet_and_text_encoder_change_the_same_way(tmp_path: Path) -> None:
    family = for_checkpoint(require_base(BASE))
    modules = family.load(["unet", "te1"], device="cpu", dtype=torch.float32)
    sizes = [SizeInfo((128, 128), (0, 0), (128, 128))] * 2

    @torch.no_grad()
    def ours() -> tuple[Any, Any]:
        text = family.encode_text(modules, CAPTIONS, clip_skip=1)
        return text.hidden, family.predict(modules["unet"], NOISY, TIMES, text, sizes)

    base = ours()
    targets = [target for part in modules for target in family.lora_targets(part, modules[part], conv=False)]
    lora = LoraSet(targets, modules, Rank(4, 2.0), seed=1)
    with torch.no_grad():
        for place, vector in enumerate(lora.vectors.values()):
            vector.copy_(0.1 * torch.randn(vector.shape, generator=torch.Generator().manual_seed(place)))
    trained = ours()
    path = tmp_path / "lora.safetensors"
    save.write_lora(path, lora.state_dict(), {}, "float")
    lora.remove()
    with merged(family, modules, [(path, 1.0)]):
        sampled = ours()

    pipe = pipeline()
    pipe.load_lora_weights(str(tmp_path), weight_name=path.name, unet_config=pipe.unet.config)
    with torch.no_grad():
        hidden = pipe.text_encoder(token_ids(CAPTIONS, 1, models.TEXT["pad_token_id"]))[0]
        theirs = hidden, pipe.unet(NOISY, TIMES, hidden).sample
    for before, train, sample, their in zip(base, trained, sampled, theirs, strict=True):
        change = float((their - before).norm())
        assert change > 0.05 * float(before.norm())
        assert float((train - their).norm()) < 1e-4 * change
        assert float((sample - their).norm()) < 1e-4 * change
