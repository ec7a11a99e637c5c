"""Files, locks and processes on the system at hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer_bridge import platform
from trainer_bridge.platform import Process

posix = pytest.mark.skipif(os.name != "posix", reason="asks the kernel of a POSIX system")


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


# ---- files


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    platform.write_atomic(target, b"new")
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_write_atomic_keeps_the_old_content_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        platform.write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_write_atomic_takes_the_longest_name_that_a_file_may_have(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)
    platform.write_atomic(target, b"x")
    assert target.read_bytes() == b"x"


def test_publish_new_moves_only_where_nothing_is(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"one")
    assert platform.publish_new(source, target)
    assert not source.exists()
    source.write_bytes(b"two")
    assert not platform.publish_new(source, target)
    assert target.read_bytes() == b"one" and source.read_bytes() == b"two"


def test_publish_new_without_hard_links_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"one")
    assert platform.publish_new(source, target)
    source.write_bytes(b"two")
    assert not platform.publish_new(source, target)
    assert target.read_bytes() == b"one" and source.read_bytes() == b"two"


def test_publish_new_tells_other_faults(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        platform.publish_new(tmp_path / "none", tmp_path / "target")


def test_a_lock_is_had_by_one_process_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from trainer_bridge import platform\n"
        "with platform.lock(Path(sys.argv[1])) as had:\n    print(had, flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "True"
        with platform.lock(path) as had:
            assert not had
    finally:
        holder.kill()
        holder.communicate()
    with platform.lock(path) as had:
        assert had


# ---- processes


def test_this_process_is_alive_and_one_started_at_another_time_is_not() -> None:
    own = platform.myself()
    assert own.pid == os.getpid()
    assert platform.alive(own)
    assert not platform.alive(Process(own.pid, own.start - 1.0))


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_ids_of_no_process(pid: int) -> None:
    assert platform.identify(pid) is None


@posix
def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started = platform.identify(child.pid)
    assert started is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not platform.alive(started) and platform.identify(child.pid) is None
    child.wait()


@posix
def test_a_detached_process_has_its_own_session_and_appends_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    code = "import os, sys; print(os.getsid(0) == os.getpid(), sys.stdin.read() == '', os.getcwd(), os.environ['X'])"
    environ = {**os.environ, "X": "yes"}
    process = platform.start_detached([sys.executable, "-c", code], cwd=tmp_path, env=environ, log=log)
    assert wait_until(lambda: not platform.alive(process))
    assert log.read_text().splitlines() == ["before", f"True True {tmp_path.resolve()} yes"]


@posix
def test_end_tree_ends_those_that_will_not_listen_and_their_children(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    log = tmp_path / "log"
    process = platform.start_detached([sys.executable, "-c", code], cwd=tmp_path, env=os.environ, log=log)
    assert wait_until(lambda: log.exists() and log.read_text().strip().isdigit())
    grandchild = int(log.read_text())
    platform.end_tree(process, grace=0.2)
    assert wait_until(lambda: not platform.alive(process))
    assert wait_until(lambda: platform.identify(grandchild) is None)


@posix
def test_end_tree_lets_a_process_end_by_itself(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(0)))\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    log = tmp_path / "log"
    process = platform.start_detached([sys.executable, "-c", code], cwd=tmp_path, env=os.environ, log=log)
    assert wait_until(lambda: log.exists() and "ready" in log.read_text())
    platform.end_tree(process, grace=30)
    assert wait_until(lambda: not platform.alive(process))
    assert log.read_text().split() == ["ready", "bye"]


def test_end_tree_leaves_a_process_alone_that_only_has_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    own = platform.myself()
    monkeypatch.setattr(os, "kill", lambda pid, number: pytest.fail("killed a stranger"))
    platform.end_tree(Process(own.pid, own.start - 5), grace=0)


@posix
def test_end_tree_of_a_process_within_our_own_group() -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(15, signal.SIG_DFL); print(1, flush=True); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stdout.readline() == b"1\n"
    started = platform.identify(child.pid)
    assert started is not None and os.getpgid(child.pid) == os.getpgid(0)
    platform.end_tree(started, grace=120)
    assert child.wait() == -signal.SIGTERM


# ---- machine


def test_memory_and_processors_are_plausible() -> None:
    assert 2**28 < platform.available_memory() <= platform.total_memory()
    assert 2**22 < platform.peak_memory() <= platform.total_memory()
    assert 1 <= platform.cpu_count() <= (os.cpu_count() or 1)
