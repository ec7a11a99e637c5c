"""macOS: processes and memory, by the system's own tools."""

from __future__ import annotations

import calendar
import os
import subprocess
import time
from collections.abc import Sequence


def look_up(pid: int) -> tuple[float, bool] | None:
    """(start in seconds, whether it runs) of a process; None where there is none. Whole seconds only."""
    fields = ask(["ps", "-o", "state=", "-o", "lstart=", "-p", str(pid)]).split(None, 1)
    if len(fields) != 2:
        return None
    started = calendar.timegm(time.strptime(fields[1].strip(), "%a %b %d %H:%M:%S %Y"))
    return float(started), not fields[0].startswith("Z")


def total_memory() -> int:
    """Bytes of memory in the machine."""
    return int(ask(["sysctl", "-n", "hw.memsize"]) or 0)


def available_memory() -> int:
    """Bytes that are free or given back when needed."""
    lines = ask(["vm_stat"]).splitlines()
    page = next((int(word) for word in (lines or [""])[0].split() if word.isdigit()), 4096)
    free = ("Pages free", "Pages inactive", "Pages speculative")
    return page * sum(int(line.split()[-1].rstrip(".")) for line in lines if line.startswith(free))


def ask(argv: Sequence[str]) -> str:
    """What a tool prints, in English and UTC; empty where it fails, as `ps` does for a process that has gone."""
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    answer = subprocess.run(argv, env=environment, capture_output=True, text=True, errors="replace", timeout=30)
    return answer.stdout if answer.returncode == 0 else ""
