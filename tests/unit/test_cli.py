"""The command line without processes: arguments, what it imports, tables and progress."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_bridge import cli, cli_generate, cli_train, console, fields, limits
from trainer_bridge.errors import UserError
from trainer_bridge.spec import check_trigger
from trainer_bridge.store import Store
from trainer_bridge.store_rows import Job, NewJob


@pytest.fixture
def run(tmp_path: Path) -> Job:
    new = NewJob("Mira", "mira", "style", "/b.safetensors", "sd15", str(tmp_path), (1, 0.5))
    store = Store(tmp_path / "atelier.db")
    return store.enqueue(store.add_job(new).id, "{}", 3, [], "")


def test_the_front_imports_the_standard_library_alone() -> None:
    program = (
        "import sys, trainer_bridge.cli\n"
        "roots = {name.partition('.')[0] for name in sys.modules} - {'trainer_bridge', '__main__'}\n"
        "print(sorted(roots - sys.stdlib_module_names))"
    )
    repository = str(Path(cli.__file__).parent.parent)
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {repository!r})\n{program}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


# ---- arguments


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0),
        (r"C:\loras\a.safetensors:0.5", r"C:\loras\a.safetensors", 0.5),
        ("C:/loras/a.safetensors", "C:/loras/a.safetensors", 1.0),
        ("C:a.safetensors", "C:a.safetensors", 1.0),
        ("a:b:1e-1", "a:b", 0.1),
    ],
)
def test_the_weight_of_a_lora(text: str, path: str, weight: float) -> None:
    assert cli_generate.split_weight(text) == (Path(path), weight)


@pytest.mark.parametrize("text", ["a:nan", "a:inf", "a:-inf", "a:11", "a:1e99"])
def test_a_weight_that_cannot_be(text: str) -> None:
    with pytest.raises(UserError):
        cli_generate.split_weight(text)


def test_a_file_whose_name_looks_like_a_weight_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a:0.5"
    file.write_bytes(b"")
    assert cli_generate.split_weight(str(file)) == (file, 1.0)


@given(st.text(max_size=120))
def test_a_trigger_made_from_a_name_can_be_one(name: str) -> None:
    assert check_trigger(cli_train.trigger_for(name)) == cli_train.trigger_for(name)


def test_settings_from_the_command_line() -> None:
    found = cli_train.parse_settings(["network_dim=8", " unet_lr = 1e-4", "flip_aug=true", "network_dim=4"])
    assert found == {"network_dim": 4, "unet_lr": 1e-4, "flip_aug": True}


@pytest.mark.parametrize("pair", ["network_dim", "=1", "", "x=1", "network_dim=", "network_dim=8=9"])
def test_settings_that_cannot_be(pair: str) -> None:
    with pytest.raises(UserError):
        cli_train.parse_settings([pair])


def test_the_settings_command_lists_every_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["settings", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["settings"]
    assert [entry["name"] for entry in found] == [field.name for field in fields.FIELDS]
    assert cli.main(["settings"]) == 0
    shown = capsys.readouterr().out
    assert all(field.name in shown and field.help in shown for field in fields.FIELDS)


def test_mistakes_in_arguments_are_told_in_a_sentence_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["conquer"], ["train"], ["inspect"], ["list", "--what"], ["train", "--bas", "x"]):
        assert cli.main([*arguments, "--json"]) == 2
        told = capsys.readouterr()
        assert json.loads(told.out)["error"] in told.err
        assert cli.main(arguments) == 2
        assert capsys.readouterr().out == ""


def test_inspect_of_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no")
    assert cli.main(["inspect", str(tmp_path / "x.safetensors"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["way_out"]


def test_a_fault_of_ours_keeps_its_traceback_and_answers_in_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_parser", lambda: 1 // 0)
    assert cli.main(["list", "--json"]) == 1
    told = capsys.readouterr()
    assert "ZeroDivisionError" in json.loads(told.out)["error"] and "Traceback" in told.err


# ---- lines


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_are_few(run: Job) -> None:
    out = io.StringIO()
    show = console.RunProgress(console.Console(out))
    for step in range(1, 200):
        show(replace(run, state="running", phase="training", step=step, total=200, epochs=10, epoch=1 + step // 20))
    assert len(out.getvalue().splitlines()) == 1 and "\r" not in out.getvalue()


def test_a_terminal_has_one_line_that_changes(run: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = _Terminal()
    screen = console.Console(out)
    show = console.RunProgress(screen)
    for step in (1, 100, 200):
        show(
            replace(
                run, state="running", phase="training", step=step, total=200, loss=0.12345, eta=90.0, epoch=1, epochs=9
            )
        )
    screen.say("Done")
    shown = out.getvalue()
    assert shown.count("\n") == 1 and "100%" in shown
    assert all(len(part) < 60 for part in shown.replace("\n", "\r").split("\r"))


def test_a_line_says_step_loss_and_time(run: Job) -> None:
    training = replace(
        run, state="running", phase="training", step=50, total=200, loss=0.12345, seconds_per_step=0.5, eta=75.0
    )
    assert console.line(training) == "Training, step 50 of 200, loss 0.1235, 0.50 s a step, about 80 seconds to go"
    assert console.line(replace(training, phase="caching", phase_done=2, phase_total=9)).endswith("2 of 9")
    assert console.line(run) == "Waiting for its turn"
    assert console.line(replace(training, state="stopping")).startswith("Stopping")


def test_the_bar_has_loss_and_time_within_80_columns(run: Job) -> None:
    late = replace(
        run, state="running", phase="training", step=1599, total=1600, loss=0.12345, seconds_per_step=10.25, eta=7800.0
    )
    assert console.bar(late) == "[#########.]  99% 1599/1600  loss 0.1235  10.25 s/step  ETA 2 hours 10 minutes"
    assert len(console.bar(late)) < 80


def test_what_is_said_at_the_end(run: Job) -> None:
    done = replace(run, state="done", step=9, result_path="/out/Mira-v2.safetensors", seconds=60.0)
    assert any("<lora:Mira-v2:1> mira" in text for text in console.ending(done))
    failed = replace(run, state="failed", what="The disk is full.", way_out="Free some.")
    told = " ".join(console.ending(replace(failed, step=3, total=9)))
    assert (
        "The run failed at step 3 of 9." in told
        and "The disk is full. Free some." in told
        and f"resume {run.id}" in told
    )


def test_a_table_lines_up() -> None:
    out = io.StringIO()
    console.Console(out).table(("a", "bb", "c"), [("xxx", "y", "long text"), ("x", "yyyy", "")])
    assert out.getvalue().splitlines() == ["a    bb    c", "---  ----  -", "xxx  y     long text", "x    yyyy"]


def test_limits_hold_for_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests import headers
    from tests.ldm_keys import SD15, SD15_PARTS

    base = headers.write(tmp_path / "b.safetensors", {**SD15.shapes(), **SD15_PARTS})
    start = ["generate", "--base", str(base), "--out", str(tmp_path / "x.png")]
    for more, word in (
        (["--prompt", "x" * (limits.MAX_PROMPT_CHARS + 1)], "prompt"),
        (["--prompt", "x", "--seed", "-1"], "seed"),
        (["--prompt", "x", "--seed", "9" * 30], "seed"),
        (["--prompt", "x", "--steps", "0"], "sample_steps"),
        (["--prompt", "x", "--cfg", "nan"], "sample_cfg"),
        (["--prompt", "x", "--width", "100"], "multiple of 8"),
        (["--prompt", "x", "--height", "9999"], "height"),
        (["--prompt", "x", "--lora", str(base)], "not a LoRA"),
    ):
        assert cli.main([*start, *more]) == 2
        assert word in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
