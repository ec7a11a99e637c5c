"""Loading single files: number formats, no second copy, and files that do not hold what they should."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from safetensors.torch import load_file, save_file  # noqa: E402

from tests import twins  # noqa: E402
from tests.engine import twin_models  # noqa: E402
from trainer_bridge.checkpoint import require_base  # noqa: E402
from trainer_bridge.engine.families import for_checkpoint  # noqa: E402
from trainer_bridge.errors import UserError  # noqa: E402

CONV = "model.diffusion_model.input_blocks.0.0.weight"


def changed(tmp_path: Path, key: str = "sd15", *, without: str = "", **more: Any) -> Path:
    """Return a twin's file with some tensors more, another or fewer."""
    state = load_file(str(twin_models.file(key)))
    state = {name: value for name, value in state.items() if name != without} | more
    path = tmp_path / "changed.safetensors"
    import json

    save_file(state, str(path), metadata={"atelier.config": json.dumps(twins.config(key))})
    return path


def bound(path: Path) -> Any:
    return for_checkpoint(require_base(path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_in_the_number_format_asked_for(dtype: Any) -> None:
    unet = twin_models.family("sd15").load(["unet"], device="cpu", dtype=dtype)["unet"]
    assert {value.dtype for value in unet.parameters()} == {dtype}
    kept = load_file(str(twin_models.file("sd15")))[CONV]
    assert torch.equal(unet.get_parameter("conv_in.weight"), kept.to(dtype))


@pytest.mark.parametrize("key", twin_models.FAMILIES)
def test_networks_are_complete_frozen_and_ready(key: str) -> None:
    for part, module in twin_models.networks(key).items():
        assert not any(value.is_meta for value in [*module.parameters(), *module.buffers()]), part
        assert not any(value.requires_grad for value in module.parameters()), part
        assert not module.training, part


def test_weights_in_the_files_own_format_are_not_copied() -> None:
    """On Linux the pages of a mapped file show up in the process's map: nearly all weights must lie in them."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs Linux")
    unet = twin_models.family("sd15").load(["unet"], device="cpu", dtype=torch.float16)["unet"]
    spans = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(twin_models.file("sd15"))):
            start, _, end = line.split()[0].partition("-")
            spans.append((int(start, 16), int(end, 16)))
    addresses = [value.data_ptr() for value in unet.parameters()]
    assert all(any(start <= at < end for start, end in spans) for at in addresses)


def test_sdxl_never_decodes_in_fp16() -> None:
    made = twin_models.family("sdxl").load(["vae", "te2"], device="cpu", dtype=torch.float16)
    assert next(made["vae"].parameters()).dtype == torch.float32
    assert next(made["te2"].parameters()).dtype == torch.float16


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    family = bound(changed(tmp_path, without="model.diffusion_model.out.0.bias"))
    with pytest.raises(UserError, match="lacks 1 weights.*conv_norm_out.bias"):
        family.load(["unet"], device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.input_blocks.1.0.in_layers.7.weight",
        "model.diffusion_model.input_blocks.99.0.weight",
        "first_stage_model.decoder.up.0.attn.0.q.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn3.to_q.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc3.weight",
        "something.else",
    ],
)
def test_a_weight_too_many_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="weight"):
        bound(changed(tmp_path, **{name: torch.zeros(2, 2)})).load(
            ["unet", "vae", "te1"], device="cpu", dtype=torch.float32
        )


def test_a_weight_of_another_shape_is_refused(tmp_path: Path) -> None:
    name = "model.diffusion_model.out.0.bias"
    with pytest.raises(UserError, match=r"has the shape \[9\] where \[8\] is needed"):
        bound(changed(tmp_path, **{name: torch.zeros(9)})).load(["unet"], device="cpu", dtype=torch.float32)


def test_a_weight_under_two_names_is_refused(tmp_path: Path) -> None:
    name = "cond_stage_model.transformer.final_layer_norm.bias"
    with pytest.raises(UserError, match="twice"):
        bound(changed(tmp_path, **{name: torch.zeros(16)}))


def test_older_files_without_the_text_model_level_load(tmp_path: Path) -> None:
    state = {
        name.replace(".transformer.text_model.", ".transformer."): value
        for name, value in load_file(str(twin_models.file("sd15"))).items()
    }
    path = tmp_path / "old.safetensors"
    import json

    save_file(state, str(path), metadata={"atelier.config": json.dumps(twins.config("sd15"))})
    encoder = bound(path).load(["te1"], device="cpu", dtype=torch.float32)["te1"]
    expected = twin_models.networks("sd15")["te1"].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())


def test_a_file_changed_after_it_was_inspected_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    shutil.copy(twin_models.file("sd15"), path)
    checkpoint = require_base(path)
    twins.write("sd15", path, seed=1)
    with pytest.raises(UserError, match="changed"):
        for_checkpoint(checkpoint)


def test_fp8_weights_are_taken_as_they_are_or_refused(tmp_path: Path) -> None:
    """Plain fp8 holds plain numbers; scaled fp8 does not and says so by its marks."""
    state = load_file(str(twin_models.file("sd15")))
    small = {name: value.to(torch.float8_e4m3fn) if value.dim() == 2 else value for name, value in state.items()}
    import json

    path = tmp_path / "fp8.safetensors"
    said = {"atelier.config": json.dumps(twins.config("sd15"))}
    save_file(small, str(path), metadata=said)
    unet = bound(path).load(["unet"], device="cpu", dtype=torch.float32)["unet"]
    name = "model.diffusion_model.time_embed.0.weight"
    assert torch.equal(unet.get_parameter("time_embedding.linear_1.weight"), small[name].float())
    save_file(small | {"scaled_fp8": torch.zeros(0)}, str(path), metadata=said)
    with pytest.raises(UserError, match="fp8"):
        bound(path)


def test_fingerprints_follow_the_weights_and_not_their_place(tmp_path: Path) -> None:
    family = twin_models.family("sd15")
    other = bound(changed(tmp_path, betas=torch.zeros(1000)))
    assert other.text_fingerprint() == family.text_fingerprint()
    assert other.vae_fingerprint() == family.vae_fingerprint()
    name = "first_stage_model.quant_conv.bias"
    value = load_file(str(twin_models.file("sd15")))[name]
    more: dict[str, Any] = {name: value + 1}
    vae = bound(changed(tmp_path, **more))
    assert vae.vae_fingerprint() != family.vae_fingerprint()
    assert vae.text_fingerprint() == family.text_fingerprint()


def test_the_trainers_process_imports_no_library_that_it_does_not_use() -> None:
    import subprocess
    import sys

    program = (
        "import sys; from trainer_bridge.engine.slim import hide_unused; hide_unused();"
        "from trainer_bridge.engine import load; load.empty_vae({'block_out_channels': (32,)});"
        "load.empty_unet({'block_out_channels': (32,), 'down_block_types': ('DownBlock2D',),"
        " 'up_block_types': ('UpBlock2D',)});"
        "print([n for n in ('transformers', 'peft', 'accelerate') if sys.modules.get(n)])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("[]"), done.stderr[-2000:]
