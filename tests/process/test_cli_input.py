"""Input that cannot be used: a sentence, exit code 2, nothing left behind and nothing overwritten."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.front import Front


def refused(front: Front, *arguments: str, words: str, prefix: tuple[str, ...] = ()) -> None:
    """Run a command and make sure that it refuses in a sentence with these words and leaves nothing behind."""
    before = _files(front.out)
    ended = front.run(*arguments, "--json", prefix=prefix)
    assert ended.returncode == 2, (ended.returncode, ended.stdout, ended.stderr)
    answer = json.loads(ended.stdout)
    assert words.lower() in answer["error"].lower(), answer["error"]
    assert "Traceback" not in ended.stderr and answer["error"] in ended.stderr
    assert _files(front.out) == before
    jobs = front.root / "jobs"
    assert not jobs.is_dir() or os.listdir(jobs) == []
    if (front.root / "atelier.db").exists():
        assert front.json("list") == []


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()} if folder.is_dir() else {}


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "...", "", "  ", "a:b", "con", "x" * 101, "<lora>", "a\nb"])
def test_a_name_that_cannot_be(front: Front, name: str) -> None:
    refused(front, *front.train_arguments(name), words="name")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("network_dimm=8", "Did you mean network_dim"),
        ("network_dim=many", "network_dim"),
        ("network_dim=1.5", "network_dim"),
        ("unet_lr=nan", "unet_lr"),
        ("unet_lr=inf", "unet_lr"),
        ("network_dim=" + "9" * 400, "network_dim"),
        ("max_train_steps=-1", "max_train_steps"),
        ("network_dim", "no value"),
        ("=", "no setting called"),
        ("mixed_precision=fp16", "CPU cannot train in fp16"),
        ("min_timestep=999", ""),
    ],
)
def test_a_setting_that_cannot_be(front: Front, setting: str, words: str) -> None:
    arguments = front.train_arguments("Mira", "--set", setting)
    if setting == "min_timestep=999":
        arguments += ["--set", "max_timestep=5"]
        words = "first timestep"
    refused(front, *arguments, words=words)


def test_other_answers_that_cannot_be(front: Front) -> None:
    refused(front, *front.train_arguments("Mira", "--type", "weather"), words="character, style, pose, outfit")
    refused(front, *front.train_arguments("Mira", "--trigger", "a,b"), words="trigger")
    refused(front, *front.train_arguments("Mira", "--no-such-option"), words="no-such-option")
    refused(front, "train", "--name", "Mira", words="--base")
    refused(front, "conquer", words="conquer")


def test_a_base_that_is_none(front: Front) -> None:
    arguments = front.train_arguments()
    with front.base.open("rb") as file:
        whole = file.read(5000)
    for content, words in ((whole, "base.safetensors"), (b"", "base.safetensors"), (b"\x80\x02}q\x00.", "pickle")):
        front.base.unlink()
        front.base.write_bytes(content)
        refused(front, *arguments, words=words)
    front.base.unlink()
    refused(front, *arguments, words="base.safetensors")


def test_too_few_pictures(front: Front) -> None:
    for index in range(3):
        (front.images / f"{index}.png").write_bytes(b"")
    refused(front, *front.train_arguments(), words="at least 3")
    shutil.rmtree(front.images)
    refused(front, *front.train_arguments(), words="images")
    front.images.write_text("no folder")
    refused(front, *front.train_arguments(), words="images")


def test_a_foreign_file_of_the_loras_name(front: Front) -> None:
    front.out.mkdir()
    (front.out / "Mira.safetensors").write_bytes(b"mine")
    refused(front, *front.train_arguments(), words="'Mira 2'")
    refused(front, *front.train_arguments("Mira", "--dry-run"), words="'Mira 2'")
    assert front.run(*front.train_arguments("Mira 2")).returncode == 0
    assert (front.out / "Mira.safetensors").read_bytes() == b"mine"


def test_an_out_folder_that_is_a_file(front: Front) -> None:
    front.out.write_bytes(b"mine")
    refused(front, *front.train_arguments(), words="cannot be written")
    assert front.out.read_bytes() == b"mine"


def test_a_data_root_that_is_a_file(front: Front) -> None:
    front.root.write_bytes(b"mine")
    ended = front.run(*front.train_arguments())
    assert ended.returncode == 2 and "data folder" in ended.stderr and front.root.read_bytes() == b"mine"


def test_an_environment_that_is_missing(front: Front) -> None:
    front.environ["ATELIER_TRAINER_PYTHON"] = str(front.folder / "nowhere")
    refused(front, *front.train_arguments(), words="nowhere")


def test_an_environment_whose_packages_are_missing(front: Front) -> None:
    script = front.folder / "python"
    script.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'PIL'\" >&2\nexit 1\n")
    ended = front.run(*front.train_arguments("Mira", "--json"))
    assert ended.returncode == 4 and "PIL" in json.loads(ended.stdout)["error"]


def test_a_newer_store_is_left_as_it_is(front: Front) -> None:
    import sqlite3

    front.root.mkdir()
    connection = sqlite3.connect(front.root / "atelier.db")
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    for command in (["list"], ["show", "x"], ["stop", "x"], ["resume", "x"], front.train_arguments()):
        ended = front.run(*command)
        assert ended.returncode == 2 and "newer" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize("text", ["nobody", "../../../etc", "0000000000000000", "", "\u2603"])
def test_a_run_that_is_not_there(front: Front, text: str) -> None:
    for command in ("show", "resume", "stop"):
        refused(front, command, text, words="run")


def test_a_trial_leaves_nothing(front: Front) -> None:
    answer = front.json(*front.train_arguments("Mira", "--dry-run", "--set", "network_dim=4"))
    assert answer["settings"]["network_dim"] == 4 and answer["settings"]["network_alpha"] == 2
    assert answer["reasons"].keys() == answer["settings"].keys() and answer["pictures"] == 5
    assert not front.root.exists() and not front.out.exists()


def test_many_pictures_left_out_are_summed_up(front: Front) -> None:
    for index in range(30):
        (front.images / f"bad {index}.png").write_bytes(b"")
    ended = front.run(*front.train_arguments("Mira", "--dry-run"))
    assert ended.returncode == 0 and "30 left out" in ended.stdout and "30 times" in ended.stdout


# ---- without rights, without space


@pytest.fixture
def nobody(front: Front) -> tuple[str, ...]:
    """A prefix that runs a command without the rights of root."""
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("running as root, and there is no setpriv to give its rights up")
    prefix = (setpriv, "--reuid=65534", "--regid=65534", "--clear-groups")
    for folder in (front.folder, *front.folder.parents):
        if folder.owner() == "root" and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    probe = subprocess.run([*prefix, *front._argv((), ())[:1], "-c", "pass"], check=False)
    if probe.returncode != 0:
        pytest.skip("the Python of the tests cannot be run by a user without rights")
    return prefix


def test_folders_that_may_not_be_written(front: Front, nobody: tuple[str, ...]) -> None:
    for path in (front.folder, *front.folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.name == "python" else 0o644)
    front.folder.chmod(0o555)
    refused(front, *front.train_arguments(), words="permission is missing", prefix=nobody)
    front.folder.chmod(0o755)
    front.root.mkdir()
    front.root.chmod(0o777)
    front.out.mkdir()
    front.out.chmod(0o555)
    refused(front, *front.train_arguments(), words="out cannot be written", prefix=nobody)
    refused(front, *front.train_arguments("Mira", "--dry-run"), words="out cannot be written", prefix=nobody)
    front.images.chmod(0o000)
    refused(front, *front.train_arguments(), words="images", prefix=nobody)


@pytest.fixture
def small_disk(front: Front) -> Iterator[Callable[[int], Path]]:
    """Gives the data root a disk of so many megabytes."""

    def mount(megabytes: int) -> Path:
        front.root.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(front.root)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"a small disk can be mounted by root alone: {mounted.stderr.strip()}")
        return front.root

    yield mount
    if os.path.ismount(front.root):
        subprocess.run(["umount", "-l", str(front.root)], check=True)


def fill(file: Path) -> None:
    """Fill the disk that `file` is on to the last byte."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as out:
        for size in (1 << 20, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while True:
                    out.write(b"x" * size)


def test_a_disk_with_too_little_space(front: Front, small_disk: Callable[[int], Path]) -> None:
    small_disk(1)
    refused(front, *front.train_arguments(), words="MB")


def test_a_disk_that_is_full_before_the_run(front: Front, small_disk: Callable[[int], Path]) -> None:
    fill(small_disk(1) / "filler")
    ended = front.run(*front.train_arguments())
    assert ended.returncode == 2 and "full" in ended.stderr and "Traceback" not in ended.stderr


def test_a_disk_that_fills_up_during_the_run(front: Front, small_disk: Callable[[int], Path]) -> None:
    root = small_disk(80)
    front.behave(seconds=0.1)
    with front.started(*front.train_arguments("Mira", "--json")) as process:
        front.wait_for_step(front.job_id(), 2)
        fill(root / "filler")
        output, told = process.communicate(timeout=60)
    assert process.returncode == 4 and "full" in json.loads(output)["error"] and "Traceback" not in told
    (root / "filler").unlink()
    front.behave()
    assert front.run("resume", "Mira").returncode == 0
    learned = (front.out / "Mira.safetensors").read_text().splitlines()
    assert learned == [str(step) for step in range(1, 21)]
