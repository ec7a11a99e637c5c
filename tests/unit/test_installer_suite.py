"""`install.py --test`: all checks count, and pytest's closing line is the last."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trainer_bridge import environment
from trainer_bridge.installer import suite

PYTEST = """
import pathlib, sys
print("told", *sys.argv[1:])
print("2 passed in 0.1s")
sys.exit(int(pathlib.Path("code").read_text()))
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose pytest ends with the code that stands in a file."""
    monkeypatch.setattr(environment, "repository", lambda: tmp_path)
    (tmp_path / "pytest.py").write_text(PYTEST)
    (tmp_path / "code").write_text("0")
    return tmp_path


def run(capfd: pytest.CaptureFixture[str], *arguments: str, **checks: tuple[str, ...]) -> tuple[int, list[str]]:
    code = suite.run_suite(Path(sys.executable), arguments, checks=checks or None)
    return code, capfd.readouterr().out.splitlines()


def test_everything_passes(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capfd, lint=("-c", "print('clean')"))
    assert code == 0
    assert lines[0].startswith("told -n 2")
    assert lines[1:3] == ["== lint: passed", "clean"]
    assert lines[-1] == "2 passed in 0.1s"


def test_a_failing_test_is_the_exit_code(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (repository / "code").write_text("1")
    code, lines = run(capfd, lint=("-c", "import sys; sys.exit(3)"))
    assert code == 1
    assert "== lint: FAILED, exit code 3" in lines


def test_a_failing_check_is_the_exit_code_and_is_shown(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    long = "import sys; print('line 7 is bad' * 20_000); sys.exit(3)"
    code, lines = run(capfd, lint=("-c", long), types=("-c", "pass"))
    assert code == 3
    assert "== lint: FAILED, exit code 3" in lines and "== types: passed" in lines
    assert any(line.startswith("line 7 is bad") for line in lines)
    assert lines[-1] == "2 passed in 0.1s"


def test_a_pytest_that_never_came_to_speak_is_a_failure(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (repository / "pytest.py").write_text("import sys; sys.exit(5)")
    code, _ = run(capfd, lint=("-c", "pass"))
    assert code == 5


def test_words_after_the_flag_go_to_pytest_alone(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capfd, "-k", "one")
    assert code == 0
    assert lines[0].endswith("-k one")
    assert not [line for line in lines if line.startswith("==")]


def test_every_check_of_the_repository_is_run() -> None:
    assert list(suite.CHECKS) == ["ruff check", "ruff format", "mypy"]
