"""Makes the pocket base from nothing: trains, probes, and writes the checkpoint and its figures.

    python -m trainer_bridge.pocket.make.all --work DIR

Each phase is a command of its own (README.md beside this file) and goes on from its last save, so this may be
stopped and started again. Two cores need about 90 minutes; figures.json says what each phase took.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .probe import WEIGHTS, base, own

DATA = WEIGHTS.parent
MACHINE = "2 cores Zen4 CPU"
PHASES: dict[str, list[str]] = {
    "vae": ["vae", "--samples", "7000", "--lr", "4e-4"],
    "text": ["text", "--steps", "900"],
    "unet": ["unet", "--samples", "95000", "--pictures", "8192"],
    "decoder": ["vae", "--decoder-only", "--samples", "2200", "--lr", "2.5e-4", "--first", "7000", "--share", "0.8"],
    "probe": ["probe", "train"],
}


def run(name: str, work: Path) -> float:
    """Runs one phase; returns its wall seconds. Raises CalledProcessError where it fails."""
    words = list(PHASES[name])
    command = [sys.executable, "-m", f"trainer_bridge.pocket.make.{words[0]}", *words[1:]]
    if name != "probe":
        command += ["--work", str(work)]
    if name == "unet":
        command += ["--out", str(work / "pocket.safetensors")]
    start = time.time()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.time() - start


def figures(checkpoint: Path, seconds: dict[str, float], count: int = 320) -> dict[str, Any]:
    """What the probe reads from the generator's pictures and from ``count`` samples of the base."""
    return {
        "machine": MACHINE,
        "seconds": {name: round(value) for name, value in seconds.items()},
        "megabytes": round(checkpoint.stat().st_size / 1e6, 1),
        "probe_on_generator": {k: round(v, 4) for k, v in own().items()},
        "probe_on_base": {k: round(v, 4) for k, v in base(checkpoint, count, None).items()},
        "base_captions": count,
        "sampler": "DDIM, 20 steps, CFG 4",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    seconds = {name: run(name, args.work) for name in PHASES}
    subprocess.run(
        [sys.executable, "-m", "trainer_bridge.pocket.make.export", "--work", str(args.work), "--out"]
        + [str(args.work / "pocket.safetensors")],
        check=True,
    )
    shutil.copyfile(args.work / "pocket.safetensors", DATA / "pocket.safetensors")
    result = figures(DATA / "pocket.safetensors", seconds)
    (DATA / "figures.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
