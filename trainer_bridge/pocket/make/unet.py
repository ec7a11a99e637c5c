"""Trains U-Net and text encoder on latents of portraits.

python -m trainer_bridge.pocket.make.unet --work DIR [--samples N]      (needs vae.pt and text.pt)
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from . import models, workers
from .draw import portrait, sheet
from .export import write_checkpoint
from .fast import MasterAdamW, speed_up
from .labels import Look, caption, training_caption
from .sample import Base, draw
from .text import plain_state, trainable, with_strangers

SEED = 51  # the series of portraits it learns from


@torch.no_grad()
def whiten(net: AutoencoderKL, count: int = 96) -> None:
    """Folds the latents' mean and deviation per channel into quant_conv and post_quant_conv, exactly.

    Afterwards latents times 0.18215 have mean 0 and deviation 1 on portraits, as Stable Diffusion has it.
    """
    means = encode(net, range(count), raw=True)
    mean, std = means.mean((0, 2, 3)), means.std((0, 2, 3)) * models.SCALING_FACTOR
    quant, post = net.quant_conv, net.post_quant_conv
    quant.weight[:4] /= std[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) / std
    quant.bias[4:] -= 2 * torch.log(std)
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight *= std[None, :, None, None]


@torch.no_grad()
def encode(net: AutoencoderKL, indices: range, raw: bool = False) -> Tensor:
    """Latent means of portraits, float32 [N, 4, 16, 16]; scaled to deviation 1 unless ``raw``."""
    dtype = next(net.parameters()).dtype
    out = []
    for start in range(indices.start, indices.stop, 8):
        pictures = np.stack([portrait(SEED, i)[0] for i in range(start, min(start + 8, indices.stop))])
        pixels = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1).to(dtype)
        hidden = net.encoder(pixels.contiguous(memory_format=torch.channels_last))
        out.append(net.quant_conv(hidden)[:, :4].float())
    latents = torch.cat(out)
    return latents if raw else latents * models.SCALING_FACTOR


def _cache(rank: int, world: int, work: Path, count: int) -> None:
    """Writes this process's share of the latents and labels."""
    net = models.vae()
    net.load_state_dict(workers.load(work / "vae_white.pt")["model"])  # type: ignore[index]
    speed_up(net)
    share = range(rank * count // world, (rank + 1) * count // world)
    labels = torch.tensor([_label(i) for i in share])
    workers.save(work / f"latents{rank}.pt", {"latents": encode(net, share).half(), "labels": labels})


def _label(index: int) -> list[int]:
    from .labels import sample_look

    return sample_look(np.random.default_rng([SEED, index])).indices()


def prepare(work: Path, count: int, world: int, port: int) -> None:
    """Whitened autoencoder and cached latents, once."""
    if not (work / "vae_white.pt").exists():
        net = models.vae()
        net.load_state_dict(workers.load(work / "vae.pt")["model"])  # type: ignore[index]
        whiten(net)
        workers.save(work / "vae_white.pt", {"model": net.state_dict()})
    if not (work / "latents.pt").exists():
        workers.run(_cache, world, port, work, count)
        parts = [workers.load(work / f"latents{r}.pt") for r in range(world)]
        joined = {key: torch.cat([p[key] for p in parts]) for key in ("latents", "labels")}  # type: ignore[index]
        workers.save(work / "latents.pt", joined)
        print("latent deviation", joined["latents"].float().std((0, 2, 3)).tolist(), flush=True)


def face_cells() -> Tensor:
    """Loss weight of the 16 x 16 cells: eyes, mouth and the narrow strip of clothes count more; mean 1."""
    weight = torch.ones(1, 1, 16, 16)
    weight[:, :, 6:13, 3:13] = 1.6
    weight[:, :, 13:] = 1.7
    return weight / weight.mean()


def level_weight(alpha_bar: Tensor) -> Tensor:
    """Weight of the noise error by level: min-SNR 5, times a preference for very noisy steps."""
    snr = alpha_bar / (1 - alpha_bar)
    return (snr.clamp(max=5) / snr) / (alpha_bar + 0.15) / 2.5


def rate(progress: float, steps: int, peak: float) -> float:
    """Warm-up over 100 steps, flat to 45 %, cosine to 2 %."""
    fall = max(0.0, (progress - 0.45) / 0.55)
    return peak * min(1.0, (steps + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, fall))))


class Feed:
    """Batches of latents and token ids, a function of (step, rank)."""

    def __init__(self, work: Path, rank: int, batch: int) -> None:
        data = workers.load(work / "latents.pt")
        assert data is not None
        self.latents, self.labels = data["latents"], data["labels"].tolist()
        self.rank, self.batch = rank, batch

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents, noise [N, 4, 16, 16], timesteps [N], ids [N, 77]."""
        rng = np.random.default_rng([61, step, self.rank])
        chosen = rng.integers(0, len(self.labels), self.batch)
        x = self.latents[torch.from_numpy(chosen)].float()
        noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
        strata = (rng.permutation(self.batch) + rng.random(self.batch)) / self.batch
        t = torch.from_numpy((strata * 1000).astype(np.int64))
        looks = [Look.from_indices(self.labels[i]) for i in chosen]
        ids = torch.tensor([with_strangers(training_caption(look, rng), rng) for look in looks])
        return x, noise, t, ids


def train(rank: int, world: int, args: argparse.Namespace) -> None:
    torch.manual_seed(7)
    unet, text = models.unet(), models.text_encoder()
    text.load_state_dict(workers.load(args.work / "text.pt")["model"])  # type: ignore[index]
    speed_up(unet)
    trainable(text)
    text.to(torch.bfloat16)
    params = [(p, 1.0) for p in unet.parameters()] + [(p, args.text_rate) for p in text.parameters()]
    optimizer = MasterAdamW(params, (0.9, 0.99), 0.01)
    seen = 0
    if saved := workers.load(args.work / "unet_train.pt"):
        optimizer.load(saved["optimizer"])
        seen = int(saved["seen"])
    feed, alphas, cells = Feed(args.work, rank, args.batch), models.scheduler().alphas_cumprod, face_cells()
    report, keep, show = workers.Clock(30), workers.Clock(150), workers.Clock(args.preview)
    recent: list[float] = []
    while seen < args.samples:
        x, noise, t, ids = feed(seen // (args.batch * world))
        a = alphas[t][:, None, None, None]
        noisy = (a.sqrt() * x + (1 - a).sqrt() * noise).bfloat16().contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(args.text_rate > 0):
            context = text(input_ids=ids).last_hidden_state
        error = (unet(noisy, t, context).sample.float() - noise).square()
        loss = (error * cells * level_weight(a)).mean()
        loss.backward()
        gradient = workers.mean_over(world, optimizer.gradient())
        optimizer.step(gradient, rate(seen / args.samples, optimizer.steps, args.lr), 1.0, 0.997)
        seen += args.batch * world
        recent.append(float(error.detach().mean()))
        if rank == 0 and report.due():
            print(f"{report.elapsed():6.0f} s  {seen:7d} samples  noise error {np.mean(recent):.4f}", flush=True)
            recent = []
        if rank == 0 and keep.due():
            workers.save(args.work / "unet_train.pt", {"optimizer": optimizer.state(), "seen": seen})
        if rank == 0 and show.due():
            preview(args, unet, text, optimizer)
    if rank == 0:
        workers.save(args.work / "unet_train.pt", {"optimizer": optimizer.state(), "seen": seen})
        preview(args, unet, text, optimizer)


def preview(args: argparse.Namespace, unet: Any, text: Any, optimizer: MasterAdamW) -> None:
    """Writes the averaged weights as a checkpoint and 16 samples as a sheet."""
    optimizer.write(optimizer.mean)
    whole = models.text_encoder()
    whole.load_state_dict(plain_state(text))
    vae = models.vae()
    best = args.work / "decoder.pt"
    vae.load_state_dict(workers.load(best if best.exists() else args.work / "vae_white.pt")["model"])  # type: ignore[index]
    write_checkpoint(args.out, unet, vae, whole)
    optimizer.write(optimizer.value)
    base = Base.load(args.out)
    texts = [caption(portrait(901, i)[1]) for i in range(16)]
    pictures = draw(base, texts)
    both = [p for i in range(16) for p in (pictures[i], portrait(901, i)[0])]
    grid: Image.Image = sheet(both, 8)
    grid.save(args.out.with_suffix(".png"))
    print("preview written", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint, rewritten as training goes on")
    parser.add_argument("--samples", type=int, default=160_000, help="in all; sets the schedule")
    parser.add_argument("--pictures", type=int, default=10_000, help="portraits to learn from")
    parser.add_argument("--batch", type=int, default=16, help="per process and step")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--text-rate", type=float, default=0.0, help="the text encoder's share of the rate")
    parser.add_argument("--preview", type=float, default=420, help="seconds between previews")
    parser.add_argument("--port", type=int, default=29521)
    args = parser.parse_args()
    prepare(args.work, args.pictures, args.workers, args.port)
    workers.run(train, args.workers, args.port + 1, args)


if __name__ == "__main__":
    main()
