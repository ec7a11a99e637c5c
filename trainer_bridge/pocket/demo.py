"""The main job from end to end: two LoRAs from shipped pictures on the pocket base, and the proof that they learned.

Run by `python install.py --demo` in the trainer's environment. Everything it makes stands in one new folder; the
training, the drawing and the measuring are done by the same commands that a user has.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import paths
from ..errors import EXIT_DONE, EXIT_FAILED, AtelierError, RunFailed
from . import report
from .measure_request import read_pictures
from .proof import Kept, Learned, Pictures, measure_kept, measure_learned
from .sheet import draw_sheet

DATA = Path(__file__).with_name("data")
BASE = DATA / "pocket.safetensors"
SAMPLES = DATA / "samples"

_SEED = 7
_OTHER_SEED = 1007
_STEPS = 20
_CFG = 4.0


@dataclass(frozen=True)
class Subject:
    """What one LoRA of the demo learns.

    Attributes:
        key: short name, for files.
        type: what kind of thing it is, as `train --type` wants it.
        keeps: whether captions without the trigger must still draw what they drew.
        samples: folder of pictures and captions to train on.
        held_back: folder of pictures and captions that the training never sees.
    """

    key: str
    type: str
    trigger: str
    title: str
    keeps: bool
    samples: Path
    held_back: Path


SUBJECTS: tuple[Subject, ...] = (
    Subject(
        "character",
        "character",
        "mirabell",
        "A character that the base never saw",
        True,
        SAMPLES / "character",
        SAMPLES / "character_heldback",
    ),
    Subject(
        "style",
        "style",
        "seaplum",
        "A style that the base never saw",
        False,
        SAMPLES / "style",
        SAMPLES / "style_heldback",
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one subject: its LoRA, the numbers and the pictures behind them."""

    subject: Subject
    lora: Path
    run: Mapping[str, Any]
    learned: Learned
    kept: Kept
    pictures: Mapping[str, Sequence[Path]]

    @property
    def passed(self) -> bool:
        return self.learned.passed and self.kept.passed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code: 0 when both LoRAs learned, 4 when one did not or a run failed."""
    parser = argparse.ArgumentParser(prog="install.py --demo", description=__doc__)
    parser.add_argument("--out", type=Path, help="empty or new folder for everything that the demo makes")
    parser.add_argument("--data", type=Path, help="data folder of Atelier (default: as the command line)")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        folder = _new_folder(options.out, options.data)
        outcomes = [run_subject(subject, folder, options.data) for subject in SUBJECTS]
        _write_results(folder, outcomes, time.monotonic() - started)
    except AtelierError as error:
        print(f"\nThe demo did not get through: {error}", file=sys.stderr)
        return error.exit_code
    passed = all(outcome.passed for outcome in outcomes)
    if not passed:
        print("\nThe proof failed: the numbers above and report.md say where.", file=sys.stderr)
    return EXIT_DONE if passed else EXIT_FAILED


def _new_folder(out: Path | None, data: Path | None) -> Path:
    if out is None:
        out = paths.data_root(data) / "demo" / time.strftime("%Y%m%d-%H%M%S")
    if out.exists() and any(out.iterdir()):
        raise RunFailed(f"The folder {out} is not empty.", "Name a new one: the demo overwrites nothing.")
    out.mkdir(parents=True, exist_ok=True)
    return out.resolve()


def run_subject(subject: Subject, folder: Path, data: Path | None) -> Outcome:
    """Train on a subject's pictures and measure what came of it; all files go into `folder`."""
    print(f"\n== {subject.title}: trigger word {subject.trigger!r}\n", flush=True)
    run = _train(subject, folder, data)
    lora = Path(run["path"])
    print("\nDrawing the same prompts with and without the LoRA ...", flush=True)
    pictures = _draw(subject, lora, folder)
    held_back = sorted(subject.held_back.glob("*.png"))
    reading = read_pictures({"held_back": held_back, **pictures})
    features = reading.features
    learned = measure_learned(features["held_back"], features["before"], features["after"], features["at_08"])
    pixels = {key: _pixels(pictures[key]) for key in ("other", "other_after", "other_seed")}
    kept = measure_kept(pixels, reading.labels, required=subject.keeps)
    outcome = Outcome(subject, lora, run, learned, kept, {"held_back": held_back, **pictures})
    for line in report.sentences(outcome):
        print(line, flush=True)
    return outcome


def _train(subject: Subject, folder: Path, data: Path | None) -> Mapping[str, Any]:
    command = [sys.executable, "-m", "trainer_bridge", "train", "--json"]
    command += ["--base", str(BASE), "--images", str(subject.samples), "--name", f"pocket {subject.key}"]
    command += ["--trigger", subject.trigger, "--type", subject.type, "--out", str(folder)]
    if data is not None:
        command += ["--data", str(data)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False)
    answer = _last_json(process.stdout)
    if process.returncode != EXIT_DONE:
        raise RunFailed(
            f"The training of the {subject.key} ended with exit code {process.returncode}.",
            str(answer.get("error", "")),
        )
    return answer


def _draw(subject: Subject, lora: Path, folder: Path) -> dict[str, list[Path]]:
    """Draw the held-back captions with the trigger, and other captions without it; each set as the proof wants it."""
    own = [f"{subject.trigger}, {caption}" for caption in _captions(subject.held_back)]
    others = json.loads((SAMPLES / "other_captions.json").read_text(encoding="utf-8"))
    sets: dict[str, tuple[Sequence[str], int, float]] = {
        "before": (own, _SEED, 0.0),
        "at_08": (own, _SEED, 0.8),
        "after": (own, _SEED, 1.0),
        "other": (others, _SEED, 0.0),
        "other_seed": (others, _OTHER_SEED, 0.0),
        "other_after": (others, _SEED, 1.0),
    }
    drawn: dict[str, list[Path]] = {}
    wanted: list[dict[str, Any]] = []
    for key, (prompts, seed, weight) in sets.items():
        target = folder / "pictures" / subject.key / key
        target.mkdir(parents=True)
        drawn[key] = [target / f"{index:02d}.png" for index in range(len(prompts))]
        for index, (prompt, path) in enumerate(zip(prompts, drawn[key])):
            loras = [[str(lora), weight]] if weight else []
            wanted.append(_picture(prompt, seed + index, loras, path))
    request = folder / "pictures" / f"{subject.key}.json"
    request.write_text(json.dumps({"base": str(BASE), "pictures": wanted, "threads": None, "precision": None}))
    command = [sys.executable, "-m", "trainer_bridge.engine", "generate", str(request)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False)
    if process.returncode != EXIT_DONE:
        raise RunFailed("The pictures could not be drawn.", "The lines above say why.")
    return drawn


def _picture(prompt: str, seed: int, loras: list[list[Any]], path: Path) -> dict[str, Any]:
    sampling = {"width": 128, "height": 128, "steps": _STEPS, "cfg": _CFG, "sampler": "ddim", "clip_skip": 1}
    return {"prompt": prompt, "negative": "", "seed": seed, "loras": loras, "out": str(path), **sampling}


def _pixels(paths: Sequence[Path]) -> Pictures:
    arrays = []
    for path in paths:
        with Image.open(path) as picture:
            arrays.append(np.asarray(picture.convert("RGB")))
    return np.stack(arrays)


def _captions(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8").strip() for path in sorted(folder.glob("*.txt"))]


def _write_results(folder: Path, outcomes: Sequence[Outcome], seconds: float) -> None:
    sheet = folder / "before-after.png"
    draw_sheet("Atelier: what two LoRAs learned on the pocket base", report.panels(outcomes)).save(sheet)
    shutil.copyfile(DATA / "pocket.safetensors", folder / "pocket.safetensors")
    (folder / "report.json").write_text(report.as_json(outcomes, seconds), encoding="utf-8")
    (folder / "report.md").write_text(report.as_markdown(outcomes, seconds), encoding="utf-8")
    print(f"\nDone in {seconds / 60:.1f} minutes. Everything is in {folder}:")
    for outcome in outcomes:
        print(f"  {outcome.lora.name:32} the LoRA, trigger word {outcome.subject.trigger!r}")
    print(f"  {'before-after.png':32} the same prompts without and with it")
    print(f"  {'report.md, report.json':32} what was measured")


def _last_json(text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
