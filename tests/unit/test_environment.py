"""The trainer's environment as the rest of the program sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainer_bridge import environment, platform
from trainer_bridge.errors import UserError
from trainer_bridge.platform import Process


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environment, "repository", lambda: tmp_path)
    monkeypatch.delenv(environment.OVERRIDE, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "elsewhere"))  # the tests run in an environment of ours too
    (tmp_path / ".venv").mkdir()
    return tmp_path / ".venv"


def make(home: Path, name: str, **facts: object) -> Path:
    """An environment with its marker, as the installer leaves it."""
    folder = home / name
    python = environment.python_in(folder)
    python.parent.mkdir(parents=True)
    python.write_text("")
    marker = {"version": 1, "kind": "full", "fingerprint": f"fp-{name}", "packages": {"torch": "2"}, **facts}
    (folder / environment.MARKER).write_text(json.dumps(marker))
    return folder


def use(home: Path, name: object) -> None:
    (home / "current.json").write_text(json.dumps({"version": 1, "environment": name}))


def test_the_environment_in_use(home: Path) -> None:
    make(home, "full-a")
    use(home, "full-a")
    found = environment.current()
    assert found is not None and found.packages == {"torch": "2"}
    assert environment.trainer_python() == environment.python_in(home / "full-a")
    assert environment.trainer_python().is_absolute()
    assert environment.fingerprint() == "fp-full-a"


@pytest.mark.parametrize("name", [None, 7, "", "none", "../outside", "/etc", "a/b"])
def test_a_name_that_names_none_is_none(home: Path, name: object) -> None:
    make(home.parent, "outside")
    use(home, name)
    assert environment.current() is None
    assert environment.fingerprint() == "none"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"environment": "full-a"}x', "\x00"])
def test_a_damaged_note_means_not_set_up(home: Path, text: str) -> None:
    make(home, "full-a")
    (home / "current.json").write_text(text)
    with pytest.raises(UserError, match=r"not set up yet.*install\.py"):
        environment.trainer_python()


def test_half_made_is_not_made(home: Path) -> None:
    (make(home, "full-a") / environment.MARKER).unlink()
    use(home, "full-a")
    assert environment.current() is None


def test_a_lost_python_is_told(home: Path) -> None:
    environment.python_in(make(home, "full-a")).unlink()
    use(home, "full-a")
    with pytest.raises(UserError, match="its Python is missing"):
        environment.trainer_python()


def test_the_users_own_python(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(environment.OVERRIDE, sys.executable)
    assert environment.trainer_python() == Path(sys.executable).absolute()
    first = environment.fingerprint()
    assert first == environment.fingerprint() and first.startswith("own-")
    monkeypatch.setenv(environment.OVERRIDE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=environment.OVERRIDE):
        environment.trainer_python()


def test_the_users_packages_are_part_of_the_fingerprint(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "own" / "bin" / "python"
    library = tmp_path / "own" / "lib" / "python3.11" / "site-packages"
    python.parent.mkdir(parents=True)
    (library / "torch-2.0.dist-info").mkdir(parents=True)
    monkeypatch.setenv(environment.OVERRIDE, str(python))
    before = environment.fingerprint()
    (library / "torch-2.0.dist-info").rename(library / "torch-2.1.dist-info")
    assert environment.fingerprint() != before


def test_a_process_within_an_environment_goes_by_that_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(home, "full-b")
    use(home, "full-b")
    monkeypatch.setattr(sys, "prefix", str(make(home, "full-a")))
    assert environment.fingerprint() == "fp-full-a"
    monkeypatch.setattr(sys, "prefix", str(make(home, "test-c", trainer_fingerprint="fp-below", below="full-b")))
    assert environment.fingerprint() == "fp-below", "the test tools are no part of what trains"


def test_variables_of_the_trainer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONHOME", "PYTHONSTARTUP", "PYTORCH_CUDA_ALLOC_CONF", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "of the host")
    monkeypatch.setenv("PYTHONPATH", "/webui")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    found = environment.trainer_environ(EXTRA="x", PYTHONUTF8="0")
    assert not {"PYTHONHOME", "PYTHONSTARTUP", "PYTORCH_CUDA_ALLOC_CONF", "VIRTUAL_ENV"} & set(found)
    assert found["PYTHONPATH"] == str(environment.repository())
    assert found["CUDA_VISIBLE_DEVICES"] == "1", "which card is the user's choice"
    assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == str(platform.cpu_count())
    assert (found["HF_HUB_OFFLINE"], found["EXTRA"], found["PYTHONUTF8"]) == ("1", "x", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment.trainer_environ()["MKL_NUM_THREADS"] == "3"


def test_a_lease_lasts_as_long_as_its_block(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(make(home, "full-a")))
    assert environment.in_use() == frozenset()
    with environment.lease():
        assert environment.in_use() == {"full-a"}
    assert environment.in_use() == frozenset()
    assert not list((home / "in-use").iterdir())


def test_what_an_environment_stands_on_is_in_use_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(home, "full-a")
    monkeypatch.setattr(sys, "prefix", str(make(home, "test-b", below="full-a")))
    with environment.lease():
        assert environment.in_use() == {"full-a", "test-b"}


def test_outside_our_environments_nothing_is_leased(home: Path) -> None:
    with environment.lease():
        assert environment.in_use() == frozenset()


def test_the_lease_of_a_process_ends_with_it(home: Path) -> None:
    make(home, "full-a")
    use(home, "full-a")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started = platform.identify(child.pid)
    assert started is not None
    environment.hold(started)
    assert environment.in_use() == {"full-a"}
    child.kill()
    child.wait()
    assert environment.in_use() == frozenset()
    assert not list((home / "in-use").iterdir()), "files of the dead are cleared away"


def test_a_recycled_id_and_damaged_leases_hold_nothing(home: Path) -> None:
    make(home, "full-a")
    use(home, "full-a")
    own = platform.myself()
    environment.hold(Process(own.pid, own.start - 60))
    (home / "in-use" / "1-2").write_text("{")
    (home / "in-use" / "3-4").write_text('{"process": ["x", null], "environment": 7}')
    assert environment.in_use() == frozenset()


def test_a_lease_where_nothing_can_be_written_is_no_fault(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    make(home, "full-a")
    use(home, "full-a")
    monkeypatch.setattr(platform, "write_atomic", refuse)
    environment.hold(platform.myself())
    assert environment.in_use() == frozenset()
