"""The only file that knows Windows, Linux and macOS apart: files, processes, memory, folders, console.

`SYSTEM` chooses the branch and :mod:`trainer_bridge.systems` asks the system, so that tests run each branch with
a fake in their place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .systems import linux, macos, windows

SYSTEM = sys.platform
APP = "Atelier"

_WINDOWS_BUSY = frozenset({5, 32, 33})  # access denied, sharing violation, lock violation
_REPLACE_SECONDS = 5.0
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_LONGEST_PLAIN_WINDOWS_PATH = 247


class Process(NamedTuple):
    """A process that a recycled process id is not taken for.

    Attributes:
        start: when it started, in seconds; only comparable between processes of one machine.
    """

    pid: int
    start: float


# ---------------------------------------------------------------------------------------------------- files


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, meets the old content or the new, no part."""
    temporary = path.with_name(f".atelier-{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def replace(source: Path, target: Path) -> None:
    """Rename over an existing file; tried again where Windows refuses because somebody reads the target."""
    _patiently(lambda: os.replace(long_path(source), long_path(target)))


def publish_new(source: Path, target: Path) -> bool:
    """Rename `source` to `target`, unless `target` exists: then nothing changes and the answer is False.

    Where the file system has no hard links the content is copied, and a crash meanwhile leaves a part of it.
    """
    if _windows():
        try:
            _patiently(lambda: os.rename(long_path(source), long_path(target)))
        except FileExistsError:
            return False
        return True
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if not _copy_new(source, target):
            return False
    source.unlink()
    _sync_folder(target.parent)
    return True


def _copy_new(source: Path, target: Path) -> bool:
    try:
        output = target.open("xb")
    except FileExistsError:
        return False
    try:
        with output, source.open("rb") as content:
            shutil.copyfileobj(content, output)
            output.flush()
            os.fsync(output.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return True


def _patiently(rename: Any) -> None:
    deadline = time.monotonic() + _REPLACE_SECONDS
    pause = 0.01
    while True:
        try:
            return rename()
        except PermissionError as error:
            busy = _windows() and getattr(error, "winerror", None) in _WINDOWS_BUSY
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.25)


def _sync_folder(folder: Path) -> None:
    if _windows():
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder; the content itself has been synced.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def long_path(path: Path) -> str:
    r"""The path as system calls take it: on Windows with the `\\?\` prefix where it is too long without."""
    text = str(path)
    if not _windows() or text.startswith("\\\\?\\"):
        return text
    absolute = os.path.abspath(text)
    if len(absolute) <= _LONGEST_PLAIN_WINDOWS_PATH:
        return text
    return "\\\\?\\UNC\\" + absolute[2:] if absolute.startswith("\\\\") else "\\\\?\\" + absolute


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold a lock file while the block runs; yields whether it was had, at once.

    The system lets go of it when this process ends, however it ends. The file stays.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        if _windows():
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise
        return False
    return True


# ------------------------------------------------------------------------------------------------ processes


def identify(pid: int) -> Process | None:
    """The living process of that id, or None. A zombie, which only waits to be collected, counts as dead."""
    found = _look_up(pid)
    return Process(pid, found[0]) if found is not None and found[1] else None


def alive(process: Process) -> bool:
    """Whether this very process still runs, and not another one that was given its id since."""
    found = _look_up(process.pid)
    return found is not None and found[1] and abs(found[0] - process.start) < 1e-3


def myself() -> Process:
    """This process."""
    process = identify(os.getpid())
    assert process is not None, "a process that asks is alive"
    return process


def start_detached(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path) -> Process:
    """Start a process that outlives this one: own session, no input, output and errors appended to `log`.

    Raises:
        OSError: the program or the log cannot be opened.
    """
    with log.open("ab") as output:
        child = _spawn(argv, cwd=str(cwd), env=dict(env), stdout=output)
    found = _look_up(child.pid)
    # Collected by a thread, or it would stay a zombie for as long as this process lives.
    threading.Thread(target=child.wait, daemon=True, name=f"collect-{child.pid}").start()
    return Process(child.pid, found[0] if found is not None else 0.0)


def _spawn(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    options.update(stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, close_fds=True)
    if not _windows():
        return subprocess.Popen(list(argv), start_new_session=True, **options)
    new_group, no_window, leave_job = 0x200, 0x08000000, 0x01000000
    try:
        return subprocess.Popen(list(argv), creationflags=new_group | no_window | leave_job, **options)
    except PermissionError:
        # Some launchers forbid their processes to leave the job object: then start inside it.
        return subprocess.Popen(list(argv), creationflags=new_group | no_window, **options)


def end_tree(process: Process, *, grace: float) -> None:
    """Ask a process and all that it started to end, wait up to `grace` seconds, then end them by force."""
    if not alive(process):
        return
    end = _end_windows if _windows() else _end_posix
    end(process, force=False)
    deadline = time.monotonic() + grace
    while alive(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    end(process, force=True)


def _end_windows(process: Process, *, force: bool) -> None:
    if alive(process):
        windows.end_tree(process.pid, force=force)


def _end_posix(process: Process, *, force: bool) -> None:
    number = signal.SIGKILL if force else signal.SIGTERM
    # Its children stay in the group when the leader has ended, so the group is signalled even then.
    with contextlib.suppress(ProcessLookupError):
        if not alive(process) or os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)


def _look_up(pid: int) -> tuple[float, bool] | None:
    """(start, whether it runs) of a process id; None where there is no such process."""
    if pid <= 0:
        return None
    if _windows():
        return windows.look_up(pid)
    return macos.look_up(pid) if SYSTEM == "darwin" else linux.look_up(pid)


# ------------------------------------------------------------------------------------- memory and processors


def total_memory() -> int:
    """Bytes of memory that this process may use at most: the machine's, or its container's limit."""
    if _windows():
        return windows.memory()[0]
    if SYSTEM == "darwin":
        return macos.total_memory()
    return linux.total_memory()


def available_memory() -> int:
    """Bytes of memory that can still be used without swapping."""
    if _windows():
        return windows.memory()[1]
    if SYSTEM == "darwin":
        return macos.available_memory()
    return linux.available_memory()


def peak_memory() -> int:
    """The most bytes of memory that this process has held at once."""
    if _windows():
        return windows.peak_memory()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if SYSTEM == "darwin" else peak * 1024


def cpu_count() -> int:
    """Processors that this process may use: its affinity, and its container's share."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = linux.processors() if SYSTEM == "linux" else None
    return max(1, min(count, int(quota + 0.5))) if quota is not None else count


# -------------------------------------------------------------------------------------- folders and console


def user_data_dir() -> Path:
    """Where the system wants the user's data of this application, by platformdirs' rule for `Atelier`."""
    if _windows():
        local = os.environ.get("LOCALAPPDATA", "").strip()
        return Path(local or os.path.join(os.path.expanduser("~"), "AppData", "Local")) / APP
    if SYSTEM == "darwin":
        return Path(os.path.expanduser("~/Library/Application Support")) / APP
    return Path(os.environ.get("XDG_DATA_HOME", "").strip() or os.path.expanduser("~/.local/share")) / APP


def open_folder(path: Path) -> None:
    """Show a folder in the system's file manager.

    Raises:
        OSError: there is no such folder or no file manager.
    """
    if _windows():
        os.startfile(path)  # type: ignore[attr-defined, unused-ignore]
        return
    opener = "open" if SYSTEM == "darwin" else "xdg-open"
    subprocess.Popen([opener, str(path)], stdin=subprocess.DEVNULL, start_new_session=True).wait(timeout=30)


def prepare_console() -> None:
    """Let this process print any character: as UTF-8 on Windows, elsewhere escaped if need be."""
    if _windows():
        windows.speak_utf8()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace", **({"encoding": "utf-8"} if _windows() else {}))


def has_nvidia() -> bool:
    """Whether an NVIDIA card with its driver is there, found without loading anything."""
    if SYSTEM == "darwin":
        return False
    if _windows():
        return os.path.exists(os.path.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll"))
    return os.path.exists("/dev/nvidiactl") or os.path.exists("/proc/driver/nvidia/version")


def pip_files() -> dict[str, list[Path]]:
    """Where pip reads its settings: "global", "user" and "site", of each the later file wins (pip's own rule)."""
    user = Path(os.path.expanduser("~"))
    name = "pip.ini" if _windows() else "pip.conf"
    if _windows():
        shared = [Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData"))]
        own = [user / "pip" / name, Path(os.environ.get("APPDATA", user)) / "pip" / name]
    else:
        config = Path(os.environ.get("XDG_CONFIG_HOME", "").strip() or user / ".config")
        folders = os.environ.get("XDG_CONFIG_DIRS", "").strip() or "/etc/xdg"
        shared = [Path(folder) for folder in folders.split(os.pathsep)]
        own = [user / ".pip" / name, config / "pip" / name]
    if SYSTEM == "darwin":
        support = Path("Library", "Application Support")
        shared = ["/" / support]
        if (user / support / "pip").is_dir():
            own[1] = user / support / "pip" / name
    files = [folder / "pip" / name for folder in shared]
    if SYSTEM not in ("win32", "darwin"):
        files.append(Path("/etc") / name)
    return {"global": files, "user": own, "site": [Path(sys.prefix) / name]}


def _windows() -> bool:
    return SYSTEM == "win32"
