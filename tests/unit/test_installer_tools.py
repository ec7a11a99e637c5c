"""What installers say, told in sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer_bridge import environment, platform
from trainer_bridge.errors import RunFailed
from trainer_bridge.installer import progress, tools


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("error: Failed to fetch: `https://x/simple/a/`\n  Caused by: dns error", "index cannot be reached"),
        ("WARNING: Retrying (Retry(total=0)) NewConnectionError('...: Connection refused')\nERROR: No matching "
         "distribution found for a==1", "index cannot be reached"),
        ("ERROR: SSLError: certificate verify failed", "index cannot be reached"),
        ("ERROR: No matching distribution found for torch==9", "do not have all that is needed"),
        ("ERROR: Cannot install a==1 because these package versions have conflicting dependencies.", "do not have all"),
        ("ERROR: Could not find a version that satisfies a==1 (from versions: none)", "cannot be reached, or it has"),
        ("  × No solution found when resolving dependencies:", "do not have all that is needed"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("/usr/bin/python3: No module named pip", "has no pip"),
        ("No module named ensurepip", "has no pip"),
        ("error: something else\n\n", "could not be installed: error: something else."),
        ("", "it said nothing"),
    ],
)  # fmt: skip
def test_last_words_become_a_sentence(output: str, words: str) -> None:
    what, way_out = tools.explain(output)
    assert words in what and way_out


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environment, "repository", lambda: tmp_path)
    (tmp_path / ".venv").mkdir()
    return tmp_path / ".venv"


def state(home: Path) -> dict[str, object]:
    found = json.loads((home / "setup.json").read_text())
    assert isinstance(found, dict)
    return found


def test_progress_counts_packages_and_bytes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_EVERY_SECONDS", -1.0)
    shown: list[str] = []
    told = progress.Progress(show=shown.append)
    told.phase("install", "Installing 3 packages ...", total=3, count=lambda: 2)
    for line in ("Downloading torch (182.9MiB)", "Downloading numpy (16.1 MB)", " Downloaded torch", "Prepared 3"):
        told.note(line)
    found = state(home)
    assert (found["phase"], found["packages_done"], found["packages_total"]) == ("install", 2, 3)
    assert (found["bytes_done"], found["bytes_total"]) == (182_900_000, 199_000_000)
    assert shown == ["Installing 3 packages ...", "  Downloading torch (182.9 MB)", "  Downloading numpy (16.1 MB)"]
    assert found["process"] == list(platform.myself())
    assert "Prepared 3" in (home / progress.LOG).read_text()


def test_progress_of_a_dead_process_is_interrupted(home: Path) -> None:
    assert progress.read() == {}
    told = progress.Progress(show=lambda line: None)
    told.phase("make", "Making ...")
    assert progress.read()["phase"] == "make"
    own = state(home)
    own["process"] = [platform.myself().pid, 1.5]
    (home / "setup.json").write_text(json.dumps(own))
    assert progress.read()["phase"] == "interrupted"


@pytest.mark.parametrize("text", ["", "[]", "{", "7"])
def test_a_damaged_state_is_none(home: Path, text: str) -> None:
    (home / "setup.json").write_text(text)
    assert progress.read() == {}


def test_a_failure_stays_readable(home: Path) -> None:
    told = progress.Progress(show=lambda line: None)
    told.failed(RunFailed("It broke.", "Mend it."))
    found = progress.read()
    assert (found["phase"], found["failure"]) == ("failed", {"what": "It broke.", "way_out": "Mend it."})


def test_a_log_of_before_is_kept(home: Path) -> None:
    (home / progress.LOG).write_text("first")
    progress.open_log()
    assert (home / "setup.old.log").read_text() == "first"
    assert (home / progress.LOG).read_text() == ""
