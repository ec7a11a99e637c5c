"""The trainer's environment as the rest of the program sees it: which Python runs it, and with what surroundings.

`.venv/` in the checkout holds it:

- `<kind>-<fingerprint>/`  an environment; its `atelier.json`, written last, says what was checked to be in it
- `current.json`           which one is in use; changed only after a check
- `in-use/<pid>-<start>`   one file for each process that runs in one; such an environment is never changed
- `setup.json`             how far the setup is, `setup.lock` and `setup.log` beside it

`ATELIER_TRAINER_PYTHON` names another Python to train with, whose packages are then the user's own affair.
The environments are made by :mod:`trainer_bridge.installer`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import limits, platform
from .errors import UserError

OVERRIDE = "ATELIER_TRAINER_PYTHON"
MARKER = "atelier.json"
VERSION = 1

#: Set by a WebUI for itself or by the user's shell for another Python; the trainer must not inherit them.
_DROPPED = (
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "PYTHONSAFEPATH",
    "PYTHONDONTWRITEBYTECODE",
    "VIRTUAL_ENV",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_HIP_ALLOC_CONF",
    "PYTORCH_MPS_HIGH_WATERMARK_RATIO",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_SETUP_WAY_OUT = "Run `python install.py --check` to see what is there, and `python install.py --setup` to set it up."


@dataclass(frozen=True)
class Environment:
    """An environment that was finished and checked.

    Attributes:
        folder: `.venv/<name>`.
        kind: "overlay" (on an existing torch), "full", or "test".
        packages: name -> version of what is installed in it.
        facts: everything else in its marker.
    """

    folder: Path
    kind: str
    fingerprint: str
    packages: Mapping[str, str]
    facts: Mapping[str, Any]

    @property
    def python(self) -> Path:
        return python_in(self.folder)


def repository() -> Path:
    """The checkout: the folder that holds `install.py` and this package."""
    return Path(__file__).resolve().parent.parent


def home() -> Path:
    """The folder of the environments; it need not exist."""
    return repository() / ".venv"


def python_in(folder: Path) -> Path:
    """Where an environment's Python is."""
    windows = platform.SYSTEM == "win32"
    return folder / ("Scripts" if windows else "bin") / ("python.exe" if windows else "python")


def current() -> Environment | None:
    """The environment in use, or None where none was finished. Damage is looked for by the installer."""
    name = _read_json(home() / "current.json").get("environment")
    if not isinstance(name, str) or Path(name).name != name:
        return None
    return read(home() / name)


def read(folder: Path) -> Environment | None:
    """The environment in a folder by its marker, or None: half-made, or none at all."""
    facts = _read_json(folder / MARKER)
    packages = facts.get("packages")
    if facts.get("version") != VERSION or not isinstance(packages, dict):
        return None
    return Environment(folder, str(facts.get("kind")), str(facts.get("fingerprint")), packages, facts)


def trainer_python() -> Path:
    """The absolute path of the Python that trains.

    Raises:
        UserError: there is none yet, or it has gone.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        path = Path(override).expanduser()
        if not path.is_file():
            raise UserError(f"{OVERRIDE} names {path}, where no Python is.", "Correct it, or unset it.")
        return path.absolute()
    environment = current()
    if environment is None:
        raise UserError("The trainer is not set up yet.", _SETUP_WAY_OUT)
    if not environment.python.exists():
        raise UserError("The trainer's environment is damaged: its Python is missing.", _SETUP_WAY_OUT)
    return environment.python


def fingerprint() -> str:
    """What distinguishes the packages that train: of the environment that runs this, else of the one in use.

    "none" where there is no environment.
    """
    own = read(Path(sys.prefix))
    if own is not None:
        return str(own.facts.get("trainer_fingerprint", own.fingerprint))
    override = os.environ.get(OVERRIDE)
    if override:
        return "own-" + _installed_digest(Path(override).expanduser().absolute())
    environment = current()
    return environment.fingerprint if environment is not None else "none"


def trainer_environ(**extra: str) -> dict[str, str]:
    """The environment variables that the trainer's processes get; `extra` wins over all.

    Which graphics cards may be seen is left as the user has it. No network is used, and kernels are deterministic.
    """
    variables = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    threads = str(platform.cpu_count())
    variables.setdefault("OMP_NUM_THREADS", threads)
    variables.setdefault("MKL_NUM_THREADS", variables["OMP_NUM_THREADS"])
    # On a machine that does other work too, threads that wait by spinning take the processor from those that
    # compute: measured on two busy cores, a step took ten times as long.
    variables.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    variables.update(
        PYTHONPATH=str(repository()),
        PYTHONNOUSERSITE="1",
        PYTHONUTF8="1",
        PYTHONUNBUFFERED="1",
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        TOKENIZERS_PARALLELISM="false",
        CUBLAS_WORKSPACE_CONFIG=":4096:8",
    )
    variables.update(extra)
    return variables


@contextlib.contextmanager
def lease() -> Iterator[None]:
    """Keep the environment that this process runs in from being changed, for as long as the block runs."""
    own = Path(sys.prefix)
    path = _write_lease(platform.myself(), own.name) if own.parent == home() else None
    try:
        yield
    finally:
        if path is not None:
            path.unlink(missing_ok=True)


def hold(process: platform.Process) -> None:
    """Keep the environment in use from being changed while a process, just started in it, lives."""
    environment = current()
    if environment is not None and not os.environ.get(OVERRIDE):
        _write_lease(process, environment.folder.name)


def in_use() -> frozenset[str]:
    """The names of the environments that living processes run in. Files of dead processes are cleared away."""
    names = set()
    folder = home() / "in-use"
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        note = _read_json(path)
        process = process_of(note.get("process"))
        if process is not None and platform.alive(process):
            names.add(str(note.get("environment")))
            # An environment on top of another one needs that one too.
            names.update(str(name) for name in note.get("below", ()))
        else:
            path.unlink(missing_ok=True)
    return frozenset(names)


def _write_lease(process: platform.Process, name: str) -> Path | None:
    folder = home() / "in-use"
    path = folder / f"{process.pid}-{process.start:.2f}"
    found = read(home() / name)
    below = [found.facts["below"]] if found is not None and "below" in found.facts else []
    note = {"process": list(process), "environment": name, "below": below}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        platform.write_atomic(path, json.dumps(note).encode())
    except OSError as error:
        if error.errno in _READ_ONLY:
            return None  # who cannot write here cannot remove an environment either
        raise
    return path


def process_of(value: Any) -> platform.Process | None:
    """A process from a note of ours; None where the note is damaged."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    pid, start = value
    if not isinstance(pid, int) or not isinstance(start, (int, float)):
        return None
    return platform.Process(pid, float(start))


def _installed_digest(python: Path) -> str:
    """A digest of the packages beside a Python that we did not set up, by the names of their metadata folders."""
    prefix = python.parent.parent
    libraries = [*prefix.glob("lib/python3*/site-packages"), prefix / "Lib" / "site-packages"]
    names = sorted(path.name for library in libraries for path in library.glob("*.dist-info"))
    return hashlib.sha256("\n".join([str(python), *names]).encode()).hexdigest()[:12]


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object of our own; empty where there is none or it was damaged, which both mean: not set up."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(limits.MAX_JSON_BYTES))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
