"""Each system's branch, run with a fake in the system's place."""

from __future__ import annotations

import ctypes
import errno
import io
import ntpath
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trainer_bridge import platform
from trainer_bridge.platform import Process
from trainer_bridge.systems import linux, macos, windows

# ---- Windows


class Busy(PermissionError):
    """What Windows answers while somebody has the file open."""

    winerror = 32


class Kernel:
    """A fake of kernel32 with one living process, of id 7, and one dead one whose handle is open, of id 8."""

    STARTED = 133_000_000_000_000_000

    def __init__(self) -> None:
        self.open_handles: list[int] = []
        self.code_page = 0

    def OpenProcess(self, access: int, inherit: bool, pid: int) -> int:  # noqa: N802
        assert access == 0x00101000
        if pid not in (7, 8):
            return 0
        self.open_handles.append(pid)
        return pid

    def CloseHandle(self, handle: int) -> int:  # noqa: N802
        self.open_handles.remove(handle)
        return 1

    def GetProcessTimes(self, handle: int, *places: Any) -> int:  # noqa: N802
        assert len(places) == 4
        ctypes.cast(places[0], ctypes.POINTER(ctypes.c_uint64))[0] = self.STARTED + handle
        return 1

    def WaitForSingleObject(self, handle: int, milliseconds: int) -> int:  # noqa: N802
        return 0x102 if handle == 7 else 0

    def GlobalMemoryStatusEx(self, place: Any) -> int:  # noqa: N802
        fields = ctypes.cast(place, ctypes.POINTER(ctypes.c_uint64))
        assert fields[0] & 0xFFFFFFFF == 64, "the structure's size must be told"
        fields[1], fields[2] = 16 * 2**30, 5 * 2**30
        return 1

    def GetCurrentProcess(self) -> int:  # noqa: N802
        return -1

    def K32GetProcessMemoryInfo(self, handle: int, place: Any, size: int) -> int:  # noqa: N802
        assert size == 72
        ctypes.cast(place, ctypes.POINTER(ctypes.c_size_t))[1] = 123_456_789
        return 1

    def SetConsoleOutputCP(self, page: int) -> int:  # noqa: N802
        self.code_page = page
        return 1


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    fake = Kernel()
    monkeypatch.setattr(platform, "SYSTEM", "win32")
    monkeypatch.setattr(windows, "kernel32", lambda: fake)
    return fake


def test_windows_replace_is_tried_again_while_the_file_is_open(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, answers = os.replace, [Busy(), Busy()]

    def busy_twice(source: str, target: str) -> None:
        if answers:
            raise answers.pop()
        original(source, target)

    monkeypatch.setattr(os, "replace", busy_twice)
    platform.write_atomic(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x" and not answers


def test_windows_replace_gives_up_in_the_end(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(source: str, target: str) -> None:
        raise Busy

    monkeypatch.setattr(os, "replace", busy)
    monkeypatch.setattr(platform, "_REPLACE_SECONDS", 0.05)
    with pytest.raises(PermissionError):
        platform.replace(tmp_path / "a", tmp_path / "b")


def test_posix_replace_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse(source: str, target: str) -> None:
        calls.append(source)
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(platform, "SYSTEM", "linux")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        platform.replace(tmp_path / "a", tmp_path / "b")
    assert len(calls) == 1


def test_windows_publish_new_renames(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(source: str, target: str) -> None:  # Windows never overwrites
        if os.path.exists(target):
            raise FileExistsError(errno.EEXIST, "exists")
        os.replace(source, target)

    monkeypatch.setattr(os, "rename", rename)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"one")
    assert platform.publish_new(source, target)
    source.write_bytes(b"two")
    assert not platform.publish_new(source, target)
    assert target.read_bytes() == b"one" and source.read_bytes() == b"two"


def test_windows_processes_are_told_by_start_and_end(kernel: Kernel) -> None:
    found = platform.identify(7)
    assert found is not None and found.start == pytest.approx((Kernel.STARTED + 7) / 1e7)
    assert platform.alive(found)
    assert not platform.alive(Process(7, found.start - 1))
    assert platform.identify(8) is None, "ended, though somebody still has a handle"
    assert platform.identify(9) is None
    assert not kernel.open_handles


def test_windows_starts_in_a_group_of_its_own_without_a_window(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []

    class Child:
        pid = 7

        def __init__(self, argv: Sequence[str], **options: Any) -> None:
            flags.append(options["creationflags"])
            if len(flags) == 1:
                raise PermissionError(errno.EACCES, "this job object may not be left")

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Child)
    process = platform.start_detached(["x"], cwd=tmp_path, env={}, log=tmp_path / "log")
    assert process.pid == 7
    assert flags == [0x200 | 0x08000000 | 0x01000000, 0x200 | 0x08000000]


def test_windows_ends_the_tree_by_its_own_tool(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str], **options: Any) -> None:
        asked.append(argv)

    monkeypatch.setattr(subprocess, "run", run)
    found = platform.identify(7)
    assert found is not None
    platform.end_tree(found, grace=0.05)
    assert asked == [["taskkill", "/PID", "7", "/T"], ["taskkill", "/PID", "7", "/T", "/F"]]


def test_windows_memory(kernel: Kernel) -> None:
    assert platform.total_memory() == 16 * 2**30
    assert platform.available_memory() == 5 * 2**30
    assert platform.peak_memory() == 123_456_789


def test_windows_console_is_switched_to_utf8(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp932"))
    platform.prepare_console()
    print("Zoë 🦊", flush=True)
    assert kernel.code_page == 65001
    assert raw.getvalue().decode("utf-8").strip() == "Zoë 🦊"


def test_elsewhere_what_cannot_be_shown_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(platform, "SYSTEM", "linux")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    platform.prepare_console()
    print("Zoë 🦊", flush=True)
    assert raw.getvalue().decode("latin-1").strip() == "Zoë \\U0001f98a"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("C:\\short\\a.png", "C:\\short\\a.png"),
        ("C:\\" + "d\\" * 150 + "a.png", "\\\\?\\C:\\" + "d\\" * 150 + "a.png"),
        ("\\\\host\\share\\" + "d\\" * 150 + "a", "\\\\?\\UNC\\host\\share\\" + "d\\" * 150 + "a"),
        ("\\\\?\\C:\\" + "d\\" * 150 + "a", "\\\\?\\C:\\" + "d\\" * 150 + "a"),
    ],
)
def test_windows_long_paths(path: str, expected: str, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "abspath", ntpath.abspath)
    assert platform.long_path(Path(path)) == expected


# ---- macOS


class Mac:
    """A fake of macOS' tools, with one living process, of id 7, and one zombie, of id 8."""

    ANSWERS = {
        ("ps", "-o", "state=", "-o", "lstart=", "-p", "7"): "S+   Tue Nov 24 11:20:41 2026\n",
        ("ps", "-o", "state=", "-o", "lstart=", "-p", "8"): "Z    Tue Nov 24 11:20:41 2026\n",
        ("sysctl", "-n", "hw.memsize"): "17179869184\n",
        ("vm_stat",): "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:      100.\n"
        "Pages active:    900.\nPages inactive:  20.\nPages speculative:   3.\nPages wired down: 70.\n",
    }

    def ask(self, argv: Sequence[str]) -> str:
        return self.ANSWERS.get(tuple(argv), "")


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "SYSTEM", "darwin")
    monkeypatch.setattr(macos, "ask", Mac().ask)


def test_macos_processes(mac: None) -> None:
    found = platform.identify(7)
    assert found == Process(7, 1795519241.0)
    assert found is not None and platform.alive(found)
    assert not platform.alive(Process(7, found.start - 1))
    assert platform.identify(8) is None
    assert platform.identify(9) is None


def test_macos_memory(mac: None) -> None:
    assert platform.total_memory() == 16 * 2**30
    assert platform.available_memory() == 123 * 16384


def test_macos_asks_tools_in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; print(os.environ['LC_ALL'], os.environ['TZ'])"
    assert macos.ask([sys.executable, "-c", code]).split() == ["C", "UTC"]
    assert macos.ask([sys.executable, "-c", "print('half'); raise SystemExit(1)"]) == ""


# ---- Linux


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platform, "SYSTEM", "linux")
    monkeypatch.setattr(linux, "ROOT", tmp_path)
    put(tmp_path / "proc/meminfo", "MemTotal:  8000 kB\nMemFree:  10 kB\nMemAvailable:  6000 kB\n")
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def stat(state: str, start: int, name: str = "python") -> str:
    return f"7 ({name}) {state} " + " ".join(str(start if index == 22 else 0) for index in range(4, 53))


@pytest.mark.parametrize("name", ["python", "a ) b (", "R 1 2 3)"])
def test_linux_processes(root: Path, name: str) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    put(root / "proc/7/stat", stat("S", 5 * ticks, name))
    assert platform.identify(7) == Process(7, 5.0)
    put(root / "proc/7/stat", stat("Z", 5 * ticks, name))
    assert platform.identify(7) is None


def test_linux_memory_of_the_machine(root: Path) -> None:
    assert (platform.total_memory(), platform.available_memory()) == (8000 * 1024, 6000 * 1024)


def test_linux_memory_of_a_container(root: Path) -> None:
    group = root / "sys/fs/cgroup"
    put(group / "memory.max", "max\n")
    put(group / "memory.current", "1000000\n")
    put(group / "memory.stat", "anon 1\ninactive_file 400000\n")
    assert platform.total_memory() == 8000 * 1024, "no limit"
    put(group / "memory.max", "3000000\n")
    assert platform.total_memory() == 3_000_000
    assert platform.available_memory() == 3_000_000 - 600_000


def test_linux_memory_of_an_older_container(root: Path) -> None:
    group = root / "sys/fs/cgroup/memory"
    put(group / "memory.limit_in_bytes", "9223372036854771712\n")
    put(group / "memory.usage_in_bytes", "1000000\n")
    put(group / "memory.stat", "total_inactive_file 400000\n")
    assert platform.total_memory() == 8000 * 1024, "the number that means: no limit"
    put(group / "memory.limit_in_bytes", "2000000\n")
    assert platform.available_memory() == 2_000_000 - 600_000


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_linux_processors(root: Path, files: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name, text in files.items():
        put(root / "sys/fs/cgroup" / name, text + "\n")
    assert platform.cpu_count() == expected


# ---- folders


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {"XDG_DATA_HOME": ""}, "/home/u/.local/share/Atelier"),
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/Atelier"),
        ("darwin", {}, "/home/u/Library/Application Support/Atelier"),
        ("win32", {"LOCALAPPDATA": "/C/Local"}, "/C/Local/Atelier"),
        ("win32", {"LOCALAPPDATA": ""}, "/home/u/AppData/Local/Atelier"),
    ],
)
def test_user_data_folder(
    system: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "SYSTEM", system)
    monkeypatch.setenv("HOME", "/home/u")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert platform.user_data_dir().as_posix() == expected


@pytest.mark.parametrize(("system", "program"), [("linux", "xdg-open"), ("darwin", "open")])
def test_a_folder_is_opened_by_the_systems_own_program(
    system: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[str]] = []

    class Child:
        def __init__(self, argv: Sequence[str], **options: Any) -> None:
            asked.append(argv)

        def wait(self, timeout: float) -> int:
            return 0

    monkeypatch.setattr(platform, "SYSTEM", system)
    monkeypatch.setattr(subprocess, "Popen", Child)
    platform.open_folder(tmp_path)
    assert asked == [[program, str(tmp_path)]]


def test_windows_opens_a_folder_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(platform, "SYSTEM", "win32")
    monkeypatch.setattr(os, "startfile", opened.append, raising=False)
    platform.open_folder(tmp_path)
    assert opened == [tmp_path]


@pytest.mark.parametrize(
    ("system", "there", "expected"),
    [
        ("linux", {"/dev/nvidiactl"}, True),
        ("linux", {"/proc/driver/nvidia/version"}, True),
        ("linux", set(), False),
        ("darwin", {"/dev/nvidiactl"}, False),
        ("win32", {"/W/System32/nvcuda.dll"}, True),
        ("win32", set(), False),
    ],
)
def test_nvidia_cards(system: str, there: set[str], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "SYSTEM", system)
    monkeypatch.setenv("SYSTEMROOT", "/W")
    monkeypatch.setattr(os.path, "exists", lambda path: path in there)
    assert platform.has_nvidia() is expected
