"""For developers: make `locks/*.txt` anew from `locks/*.in`. `python -m trainer_bridge.installer.make_locks UV`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence

from .requirements import LOCKS, Pin, canonical

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def make(uv: str, name: str, *, leave_out_torch: bool, constraints: Sequence[str] = ()) -> None:
    """Resolve one lock for all Pythons and systems at once.

    Args:
        uv: the program.
        leave_out_torch: the environment stands on a torch that is there already.
        constraints: locks that it must agree with.
    """
    argv = [uv, "pip", "compile", "--universal", "--python-version", "3.10", "--no-header", "--no-annotate"]
    argv += ["--no-python-downloads", "--prerelease", "disallow", "--quiet", str(LOCKS / f"{name}.in")]
    argv += [word for each in constraints for word in ("--constraint", str(LOCKS / each))]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if leave_out_torch:
        lines = [line for line in lines if not _of_torch(line)]
    head = (LOCKS / f"{name}.in").read_text(encoding="utf-8").splitlines()[0]
    text = "\n".join([head, f"# Made from {name}.in by trainer_bridge/installer/make_locks.py", *lines])
    (LOCKS / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def _of_torch(line: str) -> bool:
    match = _NAME.match(line)
    name = canonical(match.group()) if match else ""
    return name == "torch" or Pin(name, "").gpu_only


def main(uv: str) -> int:
    """Make all of them."""
    make(uv, "full", leave_out_torch=False)
    for name in ("overlay-torch2.1", "overlay-torch2.3", "overlay-torch2.13"):
        make(uv, name, leave_out_torch=True)
    make(uv, "test", leave_out_torch=True, constraints=["full.txt"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
