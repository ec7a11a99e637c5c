"""The command line with the real trainer, on tiny twins of real checkpoints: trained, killed, resumed, drawn."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.fakes.front import Front, kill, make
from trainer_bridge.checkpoint import inspect

pytest.importorskip("torch")
pytest.importorskip("diffusers")
Image = pytest.importorskip("PIL.Image")

SHORT = [
    *("--set", "max_train_steps=8", "--set", "num_repeats=1", "--set", "resolution=64", "--set", "sample_steps=2"),
    *("--set", "min_bucket_reso=32", "--set", "sample_every_n_epochs=2", "--set", "network_dim=4"),
]


@pytest.fixture
def real(tmp_path: Path) -> Front:
    from tests import twins

    front = make(tmp_path)
    front.base.unlink()
    twins.write("sd15", front.base)
    front.environ.update(ATELIER_TRAINER_PYTHON=sys.executable, OMP_NUM_THREADS="1")
    return front


def tensors(path: str) -> bytes:
    """Return what is in a LoRA without its metadata, which holds times."""
    data = Path(path).read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def difference(first: bytes, second: bytes) -> float:
    """Return how far two pictures differ at a place, on average, in steps of 255."""
    return sum(abs(a - b) for a, b in zip(first, second)) / len(first)


def test_killed_and_resumed_it_ends_with_the_bytes_of_a_run_that_never_stopped(real: Front) -> None:
    whole = real.run(*real.train_arguments("Whole", "--trigger", "mira", "--json", *SHORT))
    assert whole.returncode == 0, whole.stderr
    first = json.loads(whole.stdout)
    assert first["samples"] and first["epoch_files"] and first["steps"] == 8
    with real.started(*real.train_arguments("Killed", "--trigger", "mira", "--json", *SHORT)) as process:
        id_ = real.wait(lambda: [run["id"] for run in real.json("list") if run["name"] == "Killed"])[0]
        real.wait_for_step(id_, 3)
        kill(real.trainer_pid(id_))
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 4 and json.loads(output)["state"] == "interrupted"
    second = real.json("resume", id_)
    assert second["state"] == "done", second
    assert tensors(first["path"]) == tensors(second["path"])
    found = inspect(first["path"])
    assert found.lora is not None and (found.lora.base, found.lora.rank, found.lora.trigger) == ("sd15", 4, "mira")

    _draws(real, first["path"])


def _draws(real: Front, lora: str) -> None:
    """A picture with the LoRA differs from one without, and weight 0 is none."""
    drawn: dict[str, bytes] = {}
    start = ["generate", "--base", str(real.base), "--prompt", "mira, 1girl", "--steps", "2"]
    size = ["--width", "64", "--height", "64"]
    for name, more in (("base", []), ("with", ["--lora", lora + ":8"]), ("zero", ["--lora", lora + ":0"])):
        out = real.folder / f"{name}.png"
        ended = real.run(*start, *size, *more, "--out", str(out))
        assert ended.returncode == 0, ended.stderr
        with Image.open(out) as picture:
            assert picture.size == (64, 64)
            drawn[name] = picture.tobytes()
    # Weights that were copied lie elsewhere in memory, and sums of another alignment round differently.
    assert difference(drawn["base"], drawn["zero"]) < 0.01 < 0.1 < difference(drawn["base"], drawn["with"])
    before = (real.folder / "base.png").read_bytes()
    refused = real.run(*start, *size, "--out", str(real.folder / "base.png"))
    assert refused.returncode == 2 and (real.folder / "base.png").read_bytes() == before
    leftovers = [path.name for path in real.folder.iterdir() if path.name.startswith(".atelier")]
    assert leftovers == []
