"""The command line as a user has it, each call a process of its own, with the fake trainer behind it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import headers
from tests.ldm_keys import SD15, SD15_PARTS

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 60.0


@dataclass
class Front:
    """One user's surroundings: a data root, a folder for LoRAs, pictures and a base.

    Attributes:
        folder: holds all of them.
    """

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def base(self) -> Path:
        return self.folder / "base.safetensors"

    def behave(self, **behaviour: Any) -> None:
        """Say how the fake trainer behaves from its next start on."""
        self.root.mkdir(exist_ok=True)
        (self.root / "fake.json").write_text(json.dumps(behaviour))

    def train_arguments(self, name: str = "Mira", *more: str) -> list[str]:
        paths = ["--base", str(self.base), "--images", str(self.images), "--out", str(self.out)]
        return ["train", *paths, "--name", name, *more]

    def run(self, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self._argv(arguments, prefix),
            cwd=REPOSITORY,
            env=self._environ(),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SECONDS * 2,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """Run a command with --json and return what it answers, which must be one JSON value and nothing else."""
        return json.loads(self.run(*arguments, "--json").stdout)

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command in a session of its own; it is killed at the end of the block if it still runs."""
        process = subprocess.Popen(
            self._argv(arguments, ()),
            cwd=REPOSITORY,
            env=self._environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            preexec_fn=_hear_signals,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def events(self, id_: str) -> list[dict[str, Any]]:
        """Return what the trainer of a run has told so far."""
        path = self.root / "jobs" / id_ / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def trainer_pid(self, id_: str) -> int:
        """Return the process of a run's latest trainer, as soon as it has told."""
        return int(self.wait(lambda: [e["pid"] for e in self.events(id_) if e["type"] == "started"])[-1])

    def job_id(self) -> str:
        """Return the id of the latest run, as soon as it has a folder."""
        jobs = self.root / "jobs"
        return str(self.wait(lambda: sorted(os.listdir(jobs)) if jobs.is_dir() else [])[-1])

    def wait_for_step(self, id_: str, step: int) -> None:
        self.wait(lambda: [e for e in self.events(id_) if e["type"] == "step" and e["step"] >= step])

    @staticmethod
    def wait(condition: Callable[[], Any]) -> Any:
        """Wait until `condition` holds and return what it says."""
        deadline = time.monotonic() + SECONDS
        while not (found := condition()):
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)
        return found

    def _argv(self, arguments: tuple[str, ...], prefix: tuple[str, ...]) -> list[str]:
        return [*prefix, sys.executable, "-m", "trainer_bridge", *arguments, "--data", str(self.root)]

    def _environ(self) -> Mapping[str, str]:
        own = {
            "ATELIER_TRAINER_PYTHON": str(self.folder / "python"),
            "XDG_DATA_HOME": str(self.folder / "home"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        kept = {name: value for name, value in os.environ.items() if name != "ATELIER_DATA"}
        return {**kept, **own, **self.environ}


def make(folder: Path) -> Front:
    """Make the surroundings: five pictures with captions, a full-size SD1.5 header, the fake Python."""
    front = Front(folder)
    front.images.mkdir()
    from PIL import Image

    for index in range(5):
        Image.new("RGB", (96, 64 + index), (40 * index, 90, 120)).save(front.images / f"{index}.png")
        (front.images / f"{index}.txt").write_text(f"1girl, pose {index}")
    headers.write(front.base, {**SD15.shapes(), **SD15_PARTS})
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{REPOSITORY}/tests/fakes/trainer.py" "$@"\n')
    script.chmod(0o755)
    return front


def _hear_signals() -> None:
    """Whoever runs the tests in the background of a shell has these ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def kill(pid: int) -> None:
    """End a process at once, as a crash or a lack of memory would."""
    os.kill(pid, signal.SIGKILL)
