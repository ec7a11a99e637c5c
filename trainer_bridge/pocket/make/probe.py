"""A small network that reads a portrait's attributes from its pixels, and what it says of the base.

    python -m trainer_bridge.pocket.make.probe train                    (writes data/probe.safetensors)
    python -m trainer_bridge.pocket.make.probe own                      (accuracy on the generator's pictures)
    python -m trainer_bridge.pocket.make.probe base FILE [--count N] [--sheet PNG]

It learns from the generator's labels alone and never sees a picture of the base; blur, noise, shifts and
colour changes in its training let it read soft pictures fairly.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from .draw import portrait, sheet
from .labels import CLASSES, Look, caption, sample_look, tags
from .probe_net import WEIGHTS, Probe, read, split_classes, to_pixels

SEED = 71


def accuracy(looks: list[Look], seen: list[Look], prompted_only: bool) -> dict[str, float]:
    """Share read back per attribute; with ``prompted_only`` only where the caption has a tag for it."""
    out: dict[str, float] = {}
    for name in CLASSES:
        hits = [
            getattr(a, name) == getattr(b, name)
            for a, b in zip(looks, seen, strict=True)
            if not prompted_only or ("clothes" if name == "clothes_color" else name) in tags(a)
        ]
        out[name] = float(np.mean(hits))
    out["mean"] = float(np.mean(list(out.values())))
    return out


def _spoil(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur, shift, colour change and noise, drawn anew for each eighth of the batch."""
    parts = []
    for part in pixels.split(max(1, len(pixels) // 8)):
        dy, dx = (int(v) for v in rng.integers(-4, 5, 2))
        part = torch.roll(part, (dy, dx), (2, 3))
        if rng.random() < 0.75:
            small = int(128 / rng.uniform(1.2, 3.6))
            low = nn.functional.interpolate(part, (small, small), mode="bilinear", antialias=True)
            part = nn.functional.interpolate(low, (128, 128), mode="bicubic")
        gain = torch.from_numpy(rng.uniform(0.88, 1.12, (1, 3, 1, 1)).astype(np.float32))
        part = part * gain * float(rng.uniform(0.9, 1.1)) + float(rng.uniform(-0.1, 0.1))
        if rng.random() < 0.5:
            coarse = torch.from_numpy(rng.standard_normal((len(part), 3, 16, 16), dtype=np.float32))
            part = part + nn.functional.interpolate(coarse, (128, 128), mode="bicubic") * float(rng.uniform(0, 0.12))
        part = part + float(rng.uniform(0, 0.1)) * torch.randn(part.shape)
        parts.append(part)
    return torch.cat(parts)


def train(pictures: int, steps: int, path: Path) -> None:
    torch.manual_seed(9)
    torch.set_num_threads(1)
    drawn = [portrait(SEED, i) for i in range(pictures)]
    images = np.stack([p for p, _ in drawn])
    labels = torch.tensor([look.indices() for _, look in drawn])
    net = Probe().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.02)
    mean = {k: v.clone() for k, v in net.state_dict().items()}
    for step in range(steps):
        fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = 2e-3 * fall * min(1, (step + 1) / 40)
        rng = np.random.default_rng([81, step])
        chosen = rng.integers(0, pictures, 32)
        pixels = _spoil(to_pixels(images[chosen]), rng).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(pixels)[1]
        losses = [
            nn.functional.cross_entropy(part.float(), labels[chosen, i], label_smoothing=0.02)
            for i, part in enumerate(split_classes(logits))
        ]
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for key, value in net.state_dict().items():
            mean[key].lerp_(value, 1 - min(0.99, (step + 1) / (step + 10)))
        if step % 100 == 99:
            print(f"{step + 1}: loss {loss.item():.3f}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    half = {k: v.half().contiguous() for k, v in mean.items()}
    save_file(half, str(temporary), metadata={"classes": json.dumps({k: list(v) for k, v in CLASSES.items()})})
    temporary.chmod(0o644)
    temporary.replace(path)


def own(count: int = 512, seed: int = 902) -> dict[str, float]:
    """Accuracy on portraits of the generator that no training used."""
    drawn = [portrait(seed, i) for i in range(count)]
    return accuracy([look for _, look in drawn], read(np.stack([p for p, _ in drawn])), prompted_only=False)


def captions(count: int, seed: int = 903) -> list[Look]:
    """Random looks to prompt the base with."""
    return [sample_look(np.random.default_rng([seed, i])) for i in range(count)]


def base(path: Path, count: int, picture: Path | None, cfg: float = 4.0) -> dict[str, float]:
    """Accuracy of the prompted attributes on samples of a checkpoint (20 steps, DDIM)."""
    from .sample import Base, draw

    looks = captions(count)
    pictures = draw(Base.load(path), [caption(look) for look in looks], seed=5, steps=20, cfg=cfg)
    if picture:
        Image.fromarray(np.asarray(sheet(list(pictures[:80]), 10))).save(picture)
    return accuracy(looks, read(pictures), prompted_only=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "own", "base"))
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "train":
        train(args.pictures, args.steps, args.file or WEIGHTS)
        args.what = "own"
    result = own() if args.what == "own" else base(args.file, args.count, args.sheet, args.cfg)
    print(json.dumps({k: round(v, 4) for k, v in result.items()}, indent=1))


if __name__ == "__main__":
    main()
