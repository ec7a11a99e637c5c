"""`install.py --test`: all checks count, and pytest's closing line is the last."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trainer_bridge import environment
from trainer_bridge.installer import suite


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two tests of its own, run by the same Python as this one."""
    pytest.importorskip("xdist")
    monkeypatch.setattr(environment, "repository", lambda: tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    (tmp_path / "test_two.py").write_text("def test_one(): pass\ndef test_two(): assert True\n")
    return tmp_path


def run(capfd: pytest.CaptureFixture[str], *arguments: str, **checks: tuple[str, ...]) -> tuple[int, list[str]]:
    code = suite.run_suite(Path(sys.executable), arguments, checks=checks)
    return code, capfd.readouterr().out.splitlines()


def test_everything_passes(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capfd, lint=("-c", "print('clean')"))
    assert code == 0
    assert "2 passed" in lines[-1]
    assert "== lint: passed" in lines and "clean" in lines


def test_a_failing_test_is_the_exit_code(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (repository / "test_bad.py").write_text("def test_bad(): assert 1 == 2\n")
    code, lines = run(capfd, lint=("-c", "pass"))
    assert code == 1
    assert "1 failed, 2 passed" in lines[-1]


def test_a_failing_check_is_the_exit_code_and_is_shown(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capfd, lint=("-c", "import sys; print('line 7 is bad' * 20_000); sys.exit(3)"))
    assert code == 3
    assert "== lint: FAILED, exit code 3" in lines
    assert any(line.startswith("line 7 is bad") for line in lines)
    assert "2 passed" in lines[-1]


def test_no_test_at_all_is_a_failure(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _ = run(capfd, "-k", "nothing_of_that_name")
    assert code == 5


def test_words_after_the_flag_go_to_pytest_alone(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = suite.run_suite(Path(sys.executable), ["-k", "one"])
    lines = capfd.readouterr().out.splitlines()
    assert code == 0 and "1 passed" in lines[-1]
    assert not [line for line in lines if line.startswith("==") and "mypy" in line]
