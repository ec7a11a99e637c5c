"""Linux: processes by `/proc`; memory and processors as the machine has them and its container allows.

Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst; both layouts are read.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path("/")

_V2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
_V1 = (
    "memory/memory.limit_in_bytes",
    "memory/memory.usage_in_bytes",
    "memory/memory.stat",
    "total_inactive_file",
)


def look_up(pid: int) -> tuple[float, bool] | None:
    """(start in seconds after the machine's, whether it runs) of a process; None where there is none."""
    text = _read(f"proc/{pid}/stat")
    if not text:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold spaces and brackets
    return int(fields[19]) / os.sysconf("SC_CLK_TCK"), fields[0] not in "ZX"


def total_memory() -> int:
    """Bytes: the machine's memory, or the container's limit where that is less."""
    limit = _group_memory()
    return min(_meminfo("MemTotal"), limit[0]) if limit is not None else _meminfo("MemTotal")


def available_memory() -> int:
    """Bytes that can still be used without swapping."""
    limit = _group_memory()
    free = _meminfo("MemAvailable")
    return min(free, max(0, limit[0] - limit[1])) if limit is not None else free


def processors() -> float | None:
    """How many processors' time the container may use, or None where it may use all."""
    fields = _group("cpu.max").split() or [_group("cpu/cpu.cfs_quota_us"), _group("cpu/cpu.cfs_period_us")]
    if len(fields) != 2 or not all(field.isdigit() for field in fields) or int(fields[1]) == 0:
        return None
    return int(fields[0]) / int(fields[1])


def _group_memory() -> tuple[int, int] | None:
    """(limit, use without the file cache, which is given back when needed) in bytes; None without a limit."""
    for limit_file, used_file, stat_file, cache in (_V2, _V1):
        limit, used = _group(limit_file), _group(used_file)
        if limit.isdigit() and used.isdigit():
            stat = dict(line.split(maxsplit=1) for line in _group(stat_file).splitlines() if " " in line)
            return int(limit), max(0, int(used) - int(stat.get(cache, 0)))
    return None


def _meminfo(field: str) -> int:
    for line in _read("proc/meminfo").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _group(name: str) -> str:
    return _read(f"sys/fs/cgroup/{name}").strip()


def _read(name: str) -> str:
    try:
        return (ROOT / name).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
