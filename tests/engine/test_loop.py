from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from trainer_bridge.engine import loss, memory, setup  # noqa: E402
from trainer_bridge.engine.families.sd import SD15  # noqa: E402
from trainer_bridge.engine.progress import Progress  # noqa: E402
from trainer_bridge.engine.run import run  # noqa: E402
from trainer_bridge.engine.state import load_state  # noqa: E402
from trainer_bridge.errors import EXIT_DONE, EXIT_FAILED, EXIT_INPUT, EXIT_STOPPED  # noqa: E402
from trainer_bridge.events import EventWriter  # noqa: E402

from .jobs import base_file, events, make_job, of_type, tensor_bytes, texts  # noqa: E402


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def ask_at(patch: pytest.MonkeyPatch, folder: Path, step: int, command: str) -> None:
    """Ask for something through `control.json` once a step is done, as the supervisor does."""
    original = Progress.stepped

    def stepped(self: Progress, *arguments: Any) -> None:
        original(self, *arguments)
        if self.step == step:
            (folder / "control.json").write_text(json.dumps({"command": command, "serial": step}))

    patch.setattr(Progress, "stepped", stepped)


def test_a_run_from_pictures_to_a_file(tmp_path: Path, bases: Path) -> None:
    folder = make_job(tmp_path, base_file(bases))
    assert run(folder) == EXIT_DONE
    told = events(folder)
    assert told[0]["type"] == "started" and told[0]["total"] == 8 and told[0]["attempt"] == 1
    assert told[-1]["type"] == "done"
    assert [event["step"] for event in told if event["type"] == "step"][-1] == 8
    lora = Path(told[-1]["path"])
    assert lora == tmp_path / "out" / "test.safetensors"
    found = texts(lora)
    assert all(isinstance(value, str) for value in found.values())
    assert found["ss_network_dim"] == "4" and found["atelier.trigger"] == "ohwx"
    assert found["ss_base_model_version"] == "sd_v1" and found["ss_steps"] == "8"
    assert json.loads(found["ss_tag_frequency"])["test"]["smile"] == 2
    assert (tmp_path / "out" / "test.json").exists()
    # 64 px squares: 2 batches of at most 2; the other shapes: one each. Epochs end after steps 4 and 8.
    assert found["ss_num_batches_per_epoch"] == "4"
    epochs = [Path(event["path"]).name for event in told if event["type"] == "epoch_saved"]
    assert epochs == ["test-000001.safetensors"]  # the last epoch's is the finished LoRA


def test_training_changes_what_is_trained(tmp_path: Path, bases: Path) -> None:
    folder = make_job(tmp_path, base_file(bases), network_train_unet_only=False)
    assert run(folder) == EXIT_DONE
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "out" / "test.safetensors")
    ups = {name: float(tensor.abs().max()) for name, tensor in tensors.items() if "lora_up" in name}
    assert len([name for name in ups if name.startswith("lora_unet_")]) == 192
    assert len([name for name in ups if name.startswith("lora_te_")]) == 72
    still = [name for name, largest in ups.items() if largest == 0.0]
    assert still == []
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


@pytest.mark.parametrize(
    "settings", [{}, {"network_train_unet_only": False}, {"network_dropout": 0.3, "flip_aug": True}]
)
def test_stopped_and_resumed_is_the_same_to_the_byte(
    tmp_path: Path, bases: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    whole = make_job(tmp_path / "whole", base_file(bases), gradient_accumulation_steps=2, **settings)
    assert run(whole) == EXIT_DONE
    split = make_job(tmp_path / "split", base_file(bases), gradient_accumulation_steps=2, **settings)
    for step in (3, 5):
        with monkeypatch.context() as patch:
            ask_at(patch, split, step, "stop")
            assert run(split) == EXIT_STOPPED
        assert of_type(split, "stopped")[-1]["step"] == step
        assert Path(of_type(split, "stopped")[-1]["path"]).name == f"test-step{step:08d}.safetensors"
    assert run(split) == EXIT_DONE
    ours, theirs = (
        tensor_bytes(root / "out" / "test.safetensors") for root in (tmp_path / "whole", tmp_path / "split")
    )
    assert ours == theirs


def test_a_save_may_be_asked_for(tmp_path: Path, bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path, base_file(bases))
    ask_at(monkeypatch, folder, 2, "save")
    assert run(folder) == EXIT_DONE
    names = [Path(event["path"]).name for event in of_type(folder, "epoch_saved")]
    assert names == ["test-step00000003.safetensors", "test-000001.safetensors"]


def test_a_stop_before_the_first_step(tmp_path: Path, bases: Path) -> None:
    folder = make_job(tmp_path, base_file(bases))
    (folder / "control.json").write_text(json.dumps({"command": "stop", "serial": 1}))
    assert run(folder) == EXIT_STOPPED
    assert events(folder)[-1]["type"] == "stopped"
    assert run(folder) == EXIT_DONE


def test_a_finished_run_says_so_again(tmp_path: Path, bases: Path) -> None:
    folder = make_job(tmp_path, base_file(bases))
    assert run(folder) == EXIT_DONE and run(folder) == EXIT_DONE
    first, second = of_type(folder, "done")
    assert (first["path"], first["sha256"]) == (second["path"], second["sha256"])
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["test.safetensors"]


def test_caches_are_used_and_rebuilt_and_change_nothing(
    tmp_path: Path, bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_job(tmp_path, base_file(bases), job="0" * 16)
    assert run(first) == EXIT_DONE
    wanted = tensor_bytes(tmp_path / "out" / "test.safetensors")
    loaded: list[str] = []
    original = SD15.load

    def load(self: SD15, parts: Any, **options: Any) -> Any:
        loaded.extend(parts)
        return original(self, parts, **options)

    monkeypatch.setattr(SD15, "load", load)
    second = make_job(tmp_path, base_file(bases), job="1" * 16)
    assert run(second) == EXIT_DONE
    assert loaded == ["unet"]
    assert of_type(second, "phase") and not [e for e in of_type(second, "phase") if e["name"] == "caching"]
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    third = make_job(tmp_path, base_file(bases), job="2" * 16)
    assert run(third) == EXIT_DONE
    assert loaded == ["unet", "vae", "te1", "unet"]
    for name in ("test-v2", "test-v3"):
        assert tensor_bytes(tmp_path / "out" / f"{name}.safetensors") == wanted
    assert any("appeared meanwhile" in event["text"] for event in of_type(third, "note"))


def test_sample_pictures_beside_those_of_the_base(tmp_path: Path, bases: Path) -> None:
    folder = make_job(tmp_path, base_file(bases), samples=2, sample_steps=2, unet_lr=0.01)
    assert run(folder) == EXIT_DONE
    names = sorted(path.name for path in (folder / "samples").iterdir())
    assert names == [f"e00{epoch}-p{prompt}.png" for epoch in (0, 1, 2) for prompt in (1, 2)]
    pictures = {name: (folder / "samples" / name).read_bytes() for name in names}
    assert len(set(pictures.values())) == 6
    assert [(e["epoch"], e["prompt_index"], e["step"]) for e in of_type(folder, "sample")] == [
        (0, 0, 0), (0, 1, 0), (1, 0, 4), (1, 1, 4), (2, 0, 8), (2, 1, 8)
    ]  # fmt: skip
    assert (tmp_path / "out" / "test.png").read_bytes() == pictures["e002-p1.png"]


def test_samples_change_nothing(tmp_path: Path, bases: Path) -> None:
    runs = {}
    for samples in (0, 1):
        folder = make_job(tmp_path / str(samples), base_file(bases), samples=samples, sample_steps=1)
        assert run(folder) == EXIT_DONE
        runs[samples] = tensor_bytes(tmp_path / str(samples) / "out" / "test.safetensors")
    assert runs[0] == runs[1]


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_families(tmp_path: Path, bases: Path, family: str) -> None:
    folder = make_job(
        tmp_path, base_file(bases, family), max_train_steps=2, network_train_unet_only=False, samples=1, sample_steps=1
    )
    assert run(folder) == EXIT_DONE
    assert texts(tmp_path / "out" / "test.safetensors")["ss_v2"] == str(family == "sd2")


def test_velocity_with_zero_terminal_snr(tmp_path: Path, bases: Path) -> None:
    base = base_file(bases / "v", v_pred=True)
    folder = make_job(tmp_path, base, v_parameterization=True, zero_terminal_snr=True, samples=1, sample_steps=2)
    assert run(folder) == EXIT_DONE
    assert texts(tmp_path / "out" / "test.safetensors")["ss_zero_terminal_snr"] == "True"


def test_bf16_and_checkpointing(tmp_path: Path, bases: Path) -> None:
    folder = make_job(tmp_path, base_file(bases), mixed_precision="bf16", gradient_checkpointing=True, conv_dim=2)
    assert run(folder) == EXIT_DONE
    assert texts(tmp_path / "out" / "test.safetensors")["ss_gradient_checkpointing"] == "True"


def test_checkpointing_and_chunks_change_only_the_rounding(tmp_path: Path, bases: Path) -> None:
    gradients = []
    for name, lighter in (("plain", 0), ("checkpointing", 1), ("chunks", 2)):
        folder = make_job(tmp_path / name, base_file(bases), max_train_steps=1)
        plan = memory.Plan("cpu", 1, "no", 2, False, 1, True, "test")
        for _ in range(lighter):
            plan = plan.lighter() or plan
        memory.write_plan(folder, plan)
        assert run(folder) == EXIT_DONE
        saved, _ = load_state(folder / "state")
        assert saved is not None
        gradients.append(saved.tensors["unet.exp_avg"])  # a tenth of the first gradient
    for other in gradients[1:]:
        assert float((other - gradients[0]).norm() / gradients[0].norm()) < 1e-4


def test_out_of_memory_steps_down_and_goes_on(tmp_path: Path, bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path, base_file(bases))
    original, calls = loss.batch_loss, [0]

    def failing(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] in (3, 4):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
        return original(*arguments)

    monkeypatch.setattr(loss, "batch_loss", failing)
    assert run(folder) == EXIT_DONE
    assert len(of_type(folder, "note")) == 2
    plan = memory.read_plan(folder)
    assert plan is not None and plan.checkpointing and plan.chunk == 1


def test_memory_that_never_suffices_is_said(tmp_path: Path, bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(loss, "batch_loss", failing)
    folder = make_job(tmp_path, base_file(bases))
    assert run(folder) == EXIT_FAILED
    assert events(folder)[-1]["kind"] == "memory"


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path, base_file(bases))
    original, calls = loss.batch_loss, [0]

    def failing(*arguments: Any) -> Any:
        calls[0] += 1
        return original(*arguments) * (float("nan") if calls[0] == 6 else 1.0)

    monkeypatch.setattr(loss, "batch_loss", failing)
    assert run(folder) == EXIT_FAILED
    told = events(folder)[-1]
    assert (told["type"], told["kind"], told["step"]) == ("failed", "nan", 5)
    assert "test-000001.safetensors" in told["what"] and told["way_out"]
    assert not (tmp_path / "out").exists()


def test_a_run_that_burns_is_stopped(tmp_path: Path, bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path, base_file(bases), max_train_steps=60)
    original, calls = loss.batch_loss, [0]

    def burning(*arguments: Any) -> Any:
        calls[0] += 1
        return original(*arguments) * (1.0 if calls[0] < 6 else 20.0)

    monkeypatch.setattr(loss, "batch_loss", burning)
    assert run(folder) == EXIT_FAILED
    told = events(folder)[-1]
    assert told["kind"] == "diverged" and told["step"] < 30
    assert "learning rate" in told["way_out"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["state", "epochs", "out", "events.jsonl"])
def test_a_full_disk_is_said_and_leaves_the_state(
    tmp_path: Path, bases: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = make_job(tmp_path, base_file(bases))
    with monkeypatch.context() as patch:
        _fill(patch, place)
        assert run(folder) == EXIT_FAILED
    if place != "events.jsonl":
        told = events(folder)[-1]
        assert (told["type"], told["kind"]) == ("failed", "disk")
        assert "disk is full" in told["what"] and "resume" in told["way_out"]
    assert [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".part"))] == []
    assert run(folder) == EXIT_DONE


def _fill(patch: pytest.MonkeyPatch, place: str) -> None:
    """Let every write of this kind fail as on a full disk, from the fifth event on for the events."""

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    if place == "state":
        patch.setattr("trainer_bridge.engine.state.save_state", full)
    elif place == "epochs":
        patch.setattr("trainer_bridge.engine.save.write_lora", full)
    elif place == "out":
        patch.setattr("trainer_bridge.engine.save._write_through", full)
    else:
        original, calls = EventWriter.write, [0]

        def write(self: EventWriter, type_: str, /, **values: Any) -> None:
            calls[0] += 1
            if calls[0] > 6:
                full("events.jsonl")
            original(self, type_, **values)

        patch.setattr(EventWriter, "write", write)


def test_what_cannot_be_used_is_input(tmp_path: Path, bases: Path) -> None:
    assert run(tmp_path / "nowhere") == EXIT_FAILED
    half = make_job(tmp_path / "half", base_file(bases), mixed_precision="fp16")
    assert run(half) == EXIT_INPUT
    assert "fp16" in events(half)[-1]["what"]
    base = base_file(bases / "gone")
    gone = make_job(tmp_path / "gone", base)
    base.unlink()
    assert run(gone) == EXIT_INPUT
    changed_base = base_file(bases / "changed")
    changed = make_job(tmp_path / "changed", changed_base)
    os.utime(changed_base)
    assert run(changed) == EXIT_INPUT
    assert "changed" in events(changed)[-1]["what"]
    (changed / "spec.json").write_text("{}")
    assert run(changed) == EXIT_INPUT
    lost = make_job(tmp_path / "lost", base_file(bases))
    (lost / "dataset.json").unlink()
    assert run(lost) == EXIT_INPUT


def test_a_bug_is_a_sentence_and_a_traceback_in_the_log(
    tmp_path: Path, bases: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_job(tmp_path, base_file(bases))
    monkeypatch.setattr(setup, "read_manifest", None)
    monkeypatch.setattr("trainer_bridge.engine.loop.read_manifest", None)
    assert run(folder) == EXIT_FAILED
    told = events(folder)[-1]
    assert told["kind"] == "fault" and "fault in the trainer" in told["what"] and "trainer.log" in told["way_out"]
    assert "Traceback" in capsys.readouterr().err
    assert "Traceback" not in (folder / "events.jsonl").read_text()


def test_a_damaged_state_costs_steps_not_the_result(
    tmp_path: Path, bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_job(tmp_path / "whole", base_file(bases))
    assert run(whole) == EXIT_DONE
    split = make_job(tmp_path / "split", base_file(bases))
    with monkeypatch.context() as patch:
        ask_at(patch, split, 6, "stop")
        assert run(split) == EXIT_STOPPED
    newest = max((split / "state").iterdir())
    newest.write_bytes(newest.read_bytes()[:-9])
    assert run(split) == EXIT_DONE
    assert "damaged" in of_type(split, "note")[0]["text"]
    assert of_type(split, "started")[1]["attempt"] == 2
    ours, theirs = (tensor_bytes(tmp_path / name / "out" / "test.safetensors") for name in ("whole", "split"))
    assert ours == theirs
