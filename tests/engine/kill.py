"""Kills trainings at random moments, resumes them, and compares the finished tensors with those of a whole run.

    python -m tests.engine.kill --base FILE --images DIR --points 20 [--steps 40] [--set KEY=VALUE ...]

Each point is a run of its own in an empty data root, killed once by SIGKILL somewhere between its start and its end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer_bridge import fields

from . import jobs

REPOSITORY = Path(__file__).resolve().parents[2]


def start(folder: Path, threads: int = 1) -> subprocess.Popen[bytes]:
    """Start the trainer on a job as the supervisor does, its output appended to the log."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(REPOSITORY)}
    with (folder / "trainer.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "trainer_bridge.engine", "train", str(folder)],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def run_whole(folder: Path, threads: int = 1) -> tuple[bytes, float]:
    """Train without a break; return the tensors' bytes and how long it took."""
    begun = time.monotonic()
    code = start(folder, threads).wait()
    if code != 0:
        raise RuntimeError(f"the run ended with {code}:\n{(folder / 'trainer.log').read_text()[-3000:]}")
    return jobs.tensor_bytes(finished(folder)), time.monotonic() - begun


def run_killed(folder: Path, seconds: float, threads: int = 1) -> tuple[bytes, int]:
    """Train, kill after so many seconds, resume to the end; return the tensors' bytes and the step resumed from."""
    process = start(folder, threads)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    tensors, _ = run_whole(folder, threads)
    return tensors, int(jobs.of_type(folder, "started")[-1]["step"])


def finished(folder: Path) -> Path:
    """Return the LoRA that a job made."""
    return Path(jobs.of_type(folder, "done")[-1]["path"])


def compare(make: Callable[[Path], Path], points: int, seed: int, threads: int) -> bool:
    """Compare so many killed runs with a whole one; `make` writes the job into an empty data root."""
    with tempfile.TemporaryDirectory() as temporary:
        wanted, took = run_whole(make(Path(temporary) / "whole"), threads)
        print(f"whole run: {took:.1f} s, {len(wanted)} bytes of tensors", flush=True)
        chance, equal = random.Random(seed), 0
        for point in range(points):
            seconds = chance.uniform(0.05, 1.0) * took
            found, step = run_killed(make(Path(temporary) / str(point)), seconds, threads)
            equal += found == wanted
            verdict = "equal" if found == wanted else "DIFFERENT"
            print(f"killed after {seconds:6.1f} s, resumed from step {step:4d}: {verdict}", flush=True)
    print(json.dumps({"points": points, "equal": equal}))
    return equal == points


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="pictures with a .txt beside each")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    settings: dict[str, Any] = {"max_train_steps": options.steps}
    for pair in options.set:
        name, _, text = pair.partition("=")
        settings[name] = fields.field(name).parse(text)

    def make(root: Path) -> Path:
        return jobs.make_job(root, options.base, images=options.images, **settings)

    return 0 if compare(make, options.points, options.seed, options.threads) else 1


if __name__ == "__main__":
    sys.exit(main())
