"""`install.py` as it is run, by real installers and processes, with tiny wheels in the place of gigabytes."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.wheels import make_wheel, unpack
from trainer_bridge.environment import python_in

pytestmark = pytest.mark.skipif(os.name != "posix", reason="uses POSIX environments as its stage")

REPOSITORY = Path(__file__).resolve().parents[2]
BASE_PYTHON = str(getattr(sys, "_base_executable", None) or sys.executable)
CHECK = "import json, torch, alpha\nprint(json.dumps({'torch': torch.__version__, 'cuda': False}))\n"


@dataclass(frozen=True)
class Checkout:
    """A copy of what sets up, with locks of fake packages, wheels to install them from and an empty home."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / ".venv"

    @property
    def wheels(self) -> Path:
        return self.folder.parent / "wheels"

    def environ(self, **changes: str) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "ATELIER"))}
        plain.pop("PYTHONPATH", None)
        plain.update(HOME=str(self.folder.parent / "home"), PIP_CONFIG_FILE=os.devnull)
        plain.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(self.wheels), PATH=os.defpath)
        return {**plain, **changes}

    def start(self, *arguments: str, python: str = BASE_PYTHON, **changes: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [python, str(self.folder / "install.py"), *arguments],
            env=self.environ(**changes),
            cwd=self.folder.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, python: str = BASE_PYTHON, **changes: str) -> Answer:
        process = self.start(*arguments, python=python, **changes)
        out, err = process.communicate(timeout=300)
        return Answer(process.returncode, out, err)

    def current(self) -> Path:
        return self.home / json.loads((self.home / "current.json").read_text())["environment"]

    def packages(self) -> Mapping[str, str]:
        return json.loads((self.current() / "atelier.json").read_text())["packages"]

    def state(self) -> Mapping[str, Any]:
        return json.loads((self.home / "setup.json").read_text())

    def library(self) -> Path:
        return next(self.current().glob("lib/python3*/site-packages"))


@dataclass(frozen=True)
class Answer:
    """What a run of install.py ended with."""

    code: int
    out: str
    err: str


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path / "a checkout")
    source = REPOSITORY / "trainer_bridge"
    target = made.folder / "trainer_bridge"
    target.mkdir(parents=True)
    shutil.copy(REPOSITORY / "install.py", made.folder)
    for path in source.glob("*.py"):
        shutil.copy(path, target)
    for name in ("systems", "installer"):
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "engine").mkdir()
    (target / "engine" / "__init__.py").write_text("")
    (target / "engine" / "selfcheck.py").write_text(CHECK)
    locks = target / "locks"
    locks.mkdir()
    (locks / "full.txt").write_text("alpha==1.0\ntorch==2.13.0\nnvidia-fake==13.0\n")
    for name in ("overlay-torch2.1", "overlay-torch2.3", "overlay-torch2.13"):
        (locks / f"{name}.txt").write_text("alpha==1.0\n")
    (locks / "test.txt").write_text("alpha==1.0\nbeta==2.0\n")
    shutil.copy(source / "locks" / "tools.txt", locks)
    make_wheel(made.wheels, "alpha", "1.0")
    make_wheel(made.wheels, "alpha", "1.1")
    make_wheel(made.wheels, "torch", "2.13.0+cpu")
    make_wheel(made.wheels, "torch", "2.13.0", requires=["nvidia-fake==13.0"])
    make_wheel(made.wheels, "nvidia_fake", "13.0")
    (tmp_path / "home").mkdir()
    return made


def wait_until(holds: Callable[[], bool], seconds: float = 120.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def test_setup_is_made_once_checked_noticed_when_damaged_and_made_anew(checkout: Checkout) -> None:
    first = checkout.run("--setup")
    assert first.code == 0, first.err
    assert checkout.packages() == {"alpha": "1.0", "torch": "2.13.0+cpu"}, "the processor's build and no card's library"
    assert checkout.state()["phase"] == "done"
    made = checkout.current()

    again = checkout.run("--setup")
    assert again.code == 0 and again.err == ""
    assert checkout.current() == made

    sound = checkout.run("--check")
    assert sound.code == 0 and "Everything is sound." in sound.out

    (checkout.library() / "alpha" / "__init__.py").write_text("")
    damaged = checkout.run("--check", "--json")
    assert damaged.code == 1
    assert json.loads(damaged.out)["complaint"] == "files in it were changed"
    assert checkout.run("--setup").code == 0
    assert checkout.run("--check").code == 0
    assert "1.0" in (checkout.library() / "alpha" / "__init__.py").read_text()


def test_an_environment_left_half_made_is_made_anew(checkout: Checkout) -> None:
    setup = checkout.start("--setup")
    assert wait_until(lambda: any(checkout.home.glob("full-*/pyvenv.cfg")))
    setup.kill()
    setup.communicate()
    assert not (checkout.home / "current.json").exists()
    told = checkout.run("--check")
    assert told.code == 1 and "Last setup: interrupted." in told.out
    assert checkout.run("--setup").code == 0
    assert checkout.run("--check").code == 0


def test_without_a_build_for_the_processor_the_libraries_come_too(checkout: Checkout) -> None:
    (checkout.wheels / "torch-2.13.0+cpu-py3-none-any.whl").unlink()
    answer = checkout.run("--setup")
    assert answer.code == 0, answer.err
    assert checkout.packages() == {"alpha": "1.0", "nvidia-fake": "13.0", "torch": "2.13.0"}


def with_card(checkout: Checkout, *, seen: bool) -> None:
    """Let the checkout find an NVIDIA card, which its torch sees or not."""
    with (checkout.folder / "trainer_bridge" / "platform.py").open("a") as file:
        file.write("\n\ndef has_nvidia() -> bool:\n    return True\n")
    text = CHECK.replace("False", str(seen))
    (checkout.folder / "trainer_bridge" / "engine" / "selfcheck.py").write_text(text)
    recipe = checkout.folder / "trainer_bridge" / "installer" / "recipe.py"
    recipe.write_text(recipe.read_text().replace("FULL_GPU_BYTES = 9 *", "FULL_GPU_BYTES = 1 *"))


def test_with_a_card_its_libraries_come_and_not_the_build_without(checkout: Checkout) -> None:
    with_card(checkout, seen=True)
    answer = checkout.run("--setup")
    assert answer.code == 0, answer.err
    assert checkout.packages() == {"alpha": "1.0", "nvidia-fake": "13.0", "torch": "2.13.0"}


def test_a_torch_that_does_not_see_the_card_is_not_used_unless_asked_for(checkout: Checkout) -> None:
    with_card(checkout, seen=False)
    answer = checkout.run("--setup")
    assert answer.code == 4 and "does not see it" in answer.err and "--cpu" in answer.err
    assert not (checkout.home / "current.json").exists()
    assert checkout.run("--setup", "--cpu").code == 0
    assert checkout.packages() == {"alpha": "1.0", "torch": "2.13.0+cpu"}


def test_an_index_for_torch_brings_what_its_build_needs(checkout: Checkout, tmp_path: Path) -> None:
    index = tmp_path / "index"
    for name, version, requires in (("torch", "2.13.0+rocm7", ["rocm-lib"]), ("rocm_lib", "7.0", [])):
        page = index / name.replace("_", "-")
        wheel = make_wheel(page, name, version, requires=requires)
        (page / "index.html").write_text(f'<a href="{wheel.name.replace("+", "%2B")}">{wheel.name}</a>')
    url = index.as_uri()
    answer = checkout.run("--setup", PIP_NO_INDEX="", PIP_INDEX_URL=url, ATELIER_TORCH_INDEX=url)
    assert answer.code == 0, answer.err
    assert checkout.packages() == {"alpha": "1.0", "rocm-lib": "7.0", "torch": "2.13.0+rocm7"}


def test_two_setups_at_once_make_one_environment(checkout: Checkout) -> None:
    both = [checkout.start("--setup") for _ in range(2)]
    answers = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert len(list(checkout.home.glob("full-*"))) == 1
    assert sum(line.startswith("Making full-") for _, err in answers for line in err.splitlines()) == 1
    assert sum("Another setup is under way" in err for _, err in answers) == 1


def test_without_a_network_there_is_a_sentence_and_nothing_stays(checkout: Checkout) -> None:
    for path in checkout.wheels.iterdir():
        path.unlink()
    closed = "http://127.0.0.1:9/simple"
    answer = checkout.run("--setup", PIP_NO_INDEX="", PIP_INDEX_URL=closed, PIP_RETRIES="1")
    assert answer.code == 4
    assert "The package index cannot be reached." in answer.err and "Traceback" not in answer.err
    assert checkout.state()["failure"]["what"] == "The package index cannot be reached."
    assert not list(checkout.home.glob("full-*"))
    assert checkout.run("--demo", PIP_NO_INDEX="", PIP_INDEX_URL=closed, PIP_RETRIES="1").code == 4


def test_a_constraint_that_forbids_a_pin_is_told(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("alpha<1\n")
    answer = checkout.run("--setup", PIP_CONSTRAINT=str(tmp_path / "constraints.txt"))
    assert answer.code == 4
    assert "do not have all that is needed" in answer.err and "Traceback" not in answer.err


def test_a_folder_that_cannot_be_written_is_told(checkout: Checkout) -> None:
    checkout.home.write_text("a file in the way")
    answer = checkout.run("--setup")
    assert answer.code == 2
    assert "cannot be written" in answer.err and "Traceback" not in answer.err
    assert checkout.run().code == 0, "a host comes up all the same"


@contextlib.contextmanager
def host(checkout: Checkout, torch: str) -> Iterator[str]:
    """A WebUI's environment with a torch and a package of ours in a version that breaks ours."""
    folder = checkout.folder.parent / "host"
    subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", str(folder)], check=True)
    library = next(folder.glob("lib/python3*/site-packages"))
    wheels = checkout.folder.parent / "host wheels"
    unpack(make_wheel(wheels, "torch", torch), library)
    unpack(make_wheel(wheels, "alpha", "0.1"), library)
    unpack(make_wheel(wheels, "xformers", "0.1", {"xformers.py": "raise RuntimeError('of another torch')"}), library)
    before = sorted(str(path) for path in folder.rglob("*"))
    yield str(python_in(folder))
    assert sorted(str(path) for path in folder.rglob("*") if "__pycache__" not in str(path)) == before


def test_a_host_start_sets_up_on_the_hosts_torch_in_the_background(checkout: Checkout) -> None:
    with host(checkout, "2.1.2+cu121") as python:
        started = checkout.run(python=python)
        assert started.code == 0 and "in the background" in started.out
        assert wait_until(lambda: (checkout.home / "setup.json").exists() and checkout.state()["phase"] == "done")
        code = (
            "import importlib.metadata as m, importlib.util as u, torch, alpha\n"
            "print(torch.__version__, m.version('torch'), alpha.__version__, u.find_spec('xformers'))"
        )
        seen = subprocess.run([python_in(checkout.current()), "-c", code], capture_output=True, text=True)
        assert seen.stdout.split() == ["2.1.2+cu121", "2.1.2+cu121", "1.0", "None"], seen.stderr
        quiet = checkout.run(python=python)
        assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_a_host_start_makes_nothing_large_unasked(checkout: Checkout) -> None:
    with host(checkout, "2.0.1") as python:
        answer = checkout.run(python=python)
    assert answer.code == 0 and "not set up yet" in answer.out
    assert checkout.state()["phase"] == "ask"
    assert not list(checkout.home.glob("*-*/"))


def test_a_torch_that_does_not_work_below_gives_way_to_one_of_our_own(checkout: Checkout) -> None:
    with host(checkout, "2.13.0") as python:
        torch = next(Path(python).parent.parent.glob("lib/python3*/site-packages/torch/__init__.py"))
        torch.write_text("raise ImportError('libcudart.so is missing')")
        answer = checkout.run("--setup", python=python)
    assert answer.code == 0, answer.err
    assert "libcudart.so is missing" in answer.err
    assert checkout.current().name.startswith("full-")


def test_a_host_whose_torch_changed_gets_a_new_environment(checkout: Checkout) -> None:
    with host(checkout, "2.3.1") as python:
        assert checkout.run("--setup", python=python).code == 0
        first = checkout.current()
        library = next(Path(python).parent.parent.glob("lib/python3*/site-packages"))
        shutil.rmtree(library / "torch-2.3.1.dist-info")
        unpack(make_wheel(checkout.wheels, "torch", "2.4.0"), library)
        told = checkout.run("--check", python=python)
        assert told.code == 1 and "is now 2.4.0" in told.out
        assert checkout.run("--setup", python=python).code == 0
        assert checkout.current() != first and not first.exists()
        shutil.rmtree(library / "torch-2.4.0.dist-info")
        unpack(make_wheel(checkout.wheels, "torch", "2.3.1"), library)


def test_whoever_asked_for_a_torch_of_its_own_keeps_to_it(checkout: Checkout) -> None:
    with host(checkout, "2.13.0") as python:
        assert checkout.run("--setup", "--full", python=python).code == 0
        first = checkout.current()
        lock = checkout.folder / "trainer_bridge" / "locks" / "full.txt"
        lock.write_text(lock.read_text().replace("alpha==1.0", "alpha==1.1"))
        assert checkout.run(python=python).code == 0
        assert checkout.state()["phase"] == "ask" and checkout.current() == first
        assert checkout.run("--setup", python=python).code == 0
    assert checkout.current().name.startswith("full-") and checkout.packages()["alpha"] == "1.1"


def test_an_environment_that_a_run_uses_is_not_touched(checkout: Checkout) -> None:
    assert checkout.run("--setup").code == 0
    used = checkout.current()
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from trainer_bridge import environment\n"
        "with environment.lease():\n    print('held', flush=True); sys.stdin.read()\n"
    )
    argv = [str(python_in(used)), "-c", code, str(checkout.folder)]
    run = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline().strip() == "held"
    lost = checkout.library() / "alpha" / "__init__.py"
    lost.unlink()
    before = sorted(used.rglob("*"))
    assert checkout.run("--setup").code == 0
    assert checkout.current() != used
    assert sorted(used.rglob("*")) == before
    run.communicate("")
    (checkout.library() / "alpha" / "__init__.py").unlink()
    assert checkout.run("--setup").code == 0
    assert checkout.run("--check").code == 0
    assert len(list(checkout.home.glob("full-*"))) == 1, "what nobody runs in any more is cleared away"


def test_uv_does_the_same_as_pip(checkout: Checkout) -> None:
    programs = [str(path) for path in (REPOSITORY / ".venv").glob("uv-*/bin/uv")]
    programs += [found for found in [shutil.which("uv")] if found is not None]
    if not programs:
        pytest.skip("no uv here")
    folder = checkout.folder.parent / "bin"
    folder.mkdir()
    (folder / "uv").symlink_to(programs[0])
    answer = checkout.run("--setup", PATH=f"{folder}{os.pathsep}{os.defpath}")
    assert answer.code == 0, answer.err
    assert "-- with uv" in (checkout.home / "setup.log").read_text()
    assert checkout.packages() == {"alpha": "1.0", "torch": "2.13.0+cpu"}


def test_the_decision_at_a_hosts_start_is_cheap(checkout: Checkout) -> None:
    assert checkout.run("--setup").code == 0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert checkout.run().code == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.6, "0.3 s on a machine that has nothing else to do"


def test_the_page_is_not_there_yet(checkout: Checkout) -> None:
    answer = checkout.run("--ui")
    assert answer.code == 2 and "comes with the tab" in answer.err


@pytest.mark.parametrize("arguments", [["--setup", "--nonsense"], ["--nonsense"], ["--demo", "--test"]])
def test_unknown_words_are_refused(checkout: Checkout, arguments: list[str]) -> None:
    assert checkout.run(*arguments).code == 2
    assert not checkout.home.exists()


def test_an_older_python_is_refused_in_a_sentence() -> None:
    code = f"import runpy, sys; sys.version_info = (3, 9, 18); runpy.run_path({str(REPOSITORY / 'install.py')!r})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stderr.startswith("Atelier needs Python 3.10 or newer, and this is Python 3.9")
