"""Windows: processes, memory and the console, by its own library of calls.

Source: Microsoft's reference of kernel32 (OpenProcess, GetProcessTimes, GlobalMemoryStatusEx, K32GetProcessMemoryInfo).
"""

from __future__ import annotations

import ctypes
import subprocess
from typing import Any

_QUERY_AND_SYNCHRONIZE = 0x00101000
_STILL_RUNS = 0x102
_UTF8 = 65001


def look_up(pid: int) -> tuple[float, bool] | None:
    """(start in seconds, whether it runs) of a process; None where there is none."""
    calls = kernel32()
    handle = calls.OpenProcess(_QUERY_AND_SYNCHRONIZE, False, pid)
    if not handle:
        return None
    try:
        times = (ctypes.c_uint64 * 4)()
        places = [ctypes.byref(times, 8 * index) for index in range(4)]
        if not calls.GetProcessTimes(handle, *places):
            return None
        return times[0] / 1e7, calls.WaitForSingleObject(handle, 0) == _STILL_RUNS
    finally:
        calls.CloseHandle(handle)


def end_tree(pid: int, *, force: bool) -> None:
    """Ask a process and its descendants to end, or end them."""
    argv = ["taskkill", "/PID", str(pid), "/T", *(["/F"] if force else [])]
    subprocess.run(argv, capture_output=True, timeout=30, check=False)


def memory() -> tuple[int, int]:
    """(total, available) bytes."""
    status = (ctypes.c_uint64 * 8)(64)  # in the first field stand the structure's size and the load
    if not kernel32().GlobalMemoryStatusEx(ctypes.byref(status)):
        raise OSError("Windows did not say how much memory there is.")
    return status[1], status[2]


def peak_memory() -> int:
    """The most bytes that this process held."""
    calls = kernel32()
    counters = (ctypes.c_size_t * 9)()  # PROCESS_MEMORY_COUNTERS: two fields of 4 bytes, then eight sizes
    size = ctypes.sizeof(counters)
    if not calls.K32GetProcessMemoryInfo(calls.GetCurrentProcess(), ctypes.byref(counters), size):
        raise OSError("Windows did not say how much memory this process held.")
    return counters[1]


def speak_utf8() -> None:
    """Switch the console's code page, so that it shows what we print."""
    kernel32().SetConsoleOutputCP(_UTF8)


def kernel32() -> Any:
    """The library of calls; a test puts a fake in its place."""
    library = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined, unused-ignore]
    handle = ctypes.c_void_p
    library.OpenProcess.restype = handle
    library.GetCurrentProcess.restype = handle
    library.CloseHandle.argtypes = [handle]
    library.WaitForSingleObject.argtypes = [handle, ctypes.c_uint32]
    library.GetProcessTimes.argtypes = [handle] + [ctypes.c_void_p] * 4
    library.K32GetProcessMemoryInfo.argtypes = [handle, ctypes.c_void_p, ctypes.c_uint32]
    return library
