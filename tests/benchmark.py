"""Measures a training beside kohya-ss sd-scripts: the same base, pictures, rank, precision and threads, in turn.

    python tests/benchmark.py --base FILE --images DIR [--steps N] [--rounds N] [--threads N] [--unet-only]
                              [--sd-scripts DIR --sd-scripts-python FILE --tokenizers DIR]

Without sd-scripts (an installation of the user's, never a part of this repository) only our own figures are taken.
Prints a table in Markdown. No test: figures depend on the machine, so nothing fails.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from trainer_bridge.events import read_events  # noqa: E402

RESOLUTION = 256
RANK = 8


@dataclass
class Figures:
    """What one run showed.

    Attributes:
        first: seconds from the command's start to the end of the first step.
        steps: seconds of each later step.
        peak: largest resident memory of the training process, in bytes.
    """

    first: float = 0.0
    steps: list[float] = field(default_factory=list)
    peak: int = 0


def main() -> None:
    options = _options()
    runs: dict[str, list[Figures]] = {"Atelier": []}
    if options.sd_scripts:
        runs["sd-scripts"] = []
    for _ in range(options.rounds):
        for name, figures in runs.items():
            with tempfile.TemporaryDirectory() as folder:
                figures.append((_ours if name == "Atelier" else _theirs)(options, Path(folder)))
            print(f"{name}: {_words(figures[-1])}", file=sys.stderr, flush=True)
    _print_table(runs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--resolution", type=int, default=RESOLUTION)
    parser.add_argument("--precision", default="no", choices=("no", "bf16"))
    parser.add_argument("--unet-only", action="store_true")
    parser.add_argument("--sd-scripts", type=Path)
    parser.add_argument("--sd-scripts-python", type=Path)
    parser.add_argument("--tokenizers", type=Path)
    return parser.parse_args()


def _ours(options: argparse.Namespace, folder: Path) -> Figures:
    settings = {
        "resolution": options.resolution,
        "train_batch_size": options.batch,
        "max_train_steps": options.steps,
        "network_dim": RANK,
        "network_alpha": RANK,
        "unet_lr": 1e-4,
        "text_encoder_lr": 1e-4,
        "network_train_unet_only": options.unet_only,
        "mixed_precision": options.precision,
        "gradient_checkpointing": False,
        "gradient_accumulation_steps": 1,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "min_snr_gamma": 0,
        "shuffle_caption": False,
        "caption_dropout_rate": 0,
        "num_repeats": 1,
        "sample_every_n_epochs": 0,
        "save_every_n_epochs": 1000,
        "seed": 1,
    }
    command = [sys.executable, "-m", "trainer_bridge", "train", "--base", str(options.base)]
    command += ["--images", str(options.images), "--name", "benchmark", "--data", str(folder / "data")]
    command += ["--out", str(folder / "out"), "--json"]
    for key, value in settings.items():
        command += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    begun = time.time()
    process = subprocess.Popen(command, cwd=REPOSITORY, env=_environ(options), stdout=subprocess.DEVNULL)
    figures, ends, pid = Figures(), [], None
    while process.poll() is None:
        for path in folder.glob("data/jobs/*/events.jsonl"):
            events = [event for event, _ in read_events(path)]
            pid = next((event["pid"] for event in events if event["type"] == "started"), None)
            ends = [event["t"] for event in events if event["type"] == "step"]
        figures.peak = max(figures.peak, _peak(pid))
        time.sleep(0.1)
    return _close(figures, begun, ends, process.returncode)


def _theirs(options: argparse.Namespace, folder: Path) -> Figures:
    dataset = folder / "dataset.toml"
    dataset.write_text(
        f"[[datasets]]\nresolution = {options.resolution}\nbatch_size = {options.batch}\n"
        f'[[datasets.subsets]]\nimage_dir = "{options.images}"\ncaption_extension = ".txt"\nnum_repeats = 1\n'
    )
    command = [str(options.sd_scripts_python), "train_network.py", "--dataset_config", str(dataset)]
    command += ["--pretrained_model_name_or_path", str(options.base), "--tokenizer_cache_dir", str(options.tokenizers)]
    command += ["--network_module", "networks.lora", "--network_dim", str(RANK), "--network_alpha", str(RANK)]
    command += ["--learning_rate", "1e-4", "--optimizer_type", "AdamW", "--max_train_steps", str(options.steps)]
    command += ["--mixed_precision", options.precision, "--sdpa", "--cache_latents", "--seed", "1"]
    command += ["--max_data_loader_n_workers", "0", "--save_precision", "fp16", "--lr_scheduler", "constant"]
    command += ["--output_dir", str(folder), "--output_name", "benchmark"]
    command += ["--network_train_unet_only"] if options.unet_only else []
    begun = time.time()
    process = subprocess.Popen(
        command,
        cwd=options.sd_scripts,
        env=_environ(options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    ends: list[float] = []
    reader = threading.Thread(target=_follow_bar, args=(process, ends))
    reader.start()
    figures = Figures()
    while process.poll() is None:
        figures.peak = max(figures.peak, _peak(process.pid))
        time.sleep(0.1)
    reader.join()
    return _close(figures, begun, ends, process.returncode)


def _follow_bar(process: subprocess.Popen[bytes], ends: list[float]) -> None:
    """Note the time at which sd-scripts' bar first shows each step."""
    assert process.stdout is not None
    tail = b""
    while chunk := os.read(process.stdout.fileno(), 65536):
        now, tail = time.time(), (tail + chunk)[-4000:]
        counts = [int(c) for c in re.findall(rb"steps:\s+\d+%\|[^\r\n]*?\| (\d+)/\d+ \[", tail)]
        while counts and max(counts) > len(ends):
            ends.append(now)


def _environ(options: argparse.Namespace) -> dict[str, str]:
    threads = str(options.threads)
    own = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "COLUMNS": "400"}
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "CUDA_VISIBLE_DEVICES": "", **own}


def _peak(pid: int | None) -> int:
    if pid is None:
        return 0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def _close(figures: Figures, begun: float, ends: Sequence[float], code: int) -> Figures:
    if code != 0 or len(ends) < 3:
        raise SystemExit(f"a run ended with exit code {code} after {len(ends)} steps")
    figures.first = ends[0] - begun
    figures.steps = [later - earlier for earlier, later in zip(ends[1:], ends[2:])]
    return figures


def _middle(runs: Sequence[Figures]) -> tuple[float, float, float]:
    steps = statistics.median(second for run in runs for second in run.steps)
    return statistics.median(run.first for run in runs), steps, statistics.median(run.peak for run in runs) / 1e9


def _words(figures: Figures) -> str:
    first, step, peak = _middle([figures])
    return f"first step after {first:.1f} s, then {step:.3f} s a step, peak {peak:.2f} GB"


def _print_table(runs: Mapping[str, Sequence[Figures]]) -> None:
    print("| | start to first step, s | s per step | peak memory, GB |\n|---|---|---|---|")
    middles = {name: _middle(figures) for name, figures in runs.items()}
    for name, (first, step, peak) in middles.items():
        print(f"| {name} | {first:.1f} | {step:.3f} | {peak:.2f} |")
    if len(middles) == 2:
        ours, theirs = middles.values()
        print(f"| ratio | {ours[0] / theirs[0]:.2f} | {theirs[1] / ours[1]:.2f}x | {ours[2] / theirs[2]:.2f} |")


if __name__ == "__main__":
    main()
