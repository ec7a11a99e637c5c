"""Trains the autoencoder.

    python -m trainer_bridge.pocket.make.vae --work DIR [--samples N] [--decoder-only]

The start is constructed, not random. The layout's group norm has 32 groups; where a group holds one or two
channels it erases the picture's absolute brightness, and from random weights the autoencoder learns grey
shapes only. With 96 channels a group holds three: biases of (0, K, -K) ride along all the way, so that a
group's mean and deviation hardly depend on the picture, and every norm starts as the identity (its affine part
undoes both). On the main path the picture's 8x8 means pass from end to end; all residual branches start at
zero. That is a plain 8x8 mosaic, smoothed, at step 0, and everything finer is learnt.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from . import models, workers
from .draw import portrait
from .fast import MasterAdamW, speed_up
from .variety import other

K = 3.5
NOISE = 0.05  # standard deviation of the noise on latents in training: the decoder forgives the U-Net's errors
_CARRIERS = 9  # channels 0, 3, .. 24 carry red, green, blue in turn
_OFFSET = torch.tensor([0.0, K, -K]).repeat(32)
_SPREAD = K * math.sqrt(2 / 3)


def _steady(norm: nn.GroupNorm, lift: Tensor | float = 0.0) -> None:
    """Makes a norm over channels with the offsets the identity (plus ``lift``)."""
    norm.weight.fill_(_SPREAD)
    norm.bias.copy_(lift - _OFFSET)


def _still(block: Any) -> None:
    """A residual block whose branch is zero at first and norm-free in effect."""
    _steady(block.norm1)
    block.conv1.weight.mul_(2)
    block.conv1.bias.copy_(_OFFSET)
    _steady(block.norm2)
    block.conv2.weight.zero_()
    block.conv2.bias.zero_()


def _mid(mid: Any) -> None:
    for block in mid.resnets:
        _still(block)
    attention = mid.attentions[0]
    _steady(attention.group_norm)
    attention.to_out[0].weight.zero_()
    attention.to_out[0].bias.zero_()


def _carry(conv: Any, kernel: Tensor) -> None:
    """Lets the carriers pass by ``kernel`` and keeps all others random, at the offsets' level."""
    for g in range(_CARRIERS):
        conv.weight[3 * g].zero_()
        conv.weight[3 * g, 3 * g] = kernel
        conv.weight[3 * g + 1] = -conv.weight[3 * g]
    conv.bias.copy_(_OFFSET - conv.weight.sum((2, 3)) @ _OFFSET)


def _lift() -> Tensor:
    """Carriers pass the last SiLU where it is nearly straight; the other channels at its bend."""
    lift = torch.zeros(96)
    lift[0 : 3 * _CARRIERS : 3] = 5.0
    return lift


def _level() -> tuple[float, float]:
    """Value and slope of SiLU at 5."""
    s = 1 / (1 + math.exp(-5))
    return 5 * s, s * (1 + 5 * (1 - s))


@torch.no_grad()
def construct(net: AutoencoderKL) -> None:
    """Sets the start described above."""
    encoder, decoder = net.encoder, net.decoder
    value, slope = _level()
    for conv in (encoder.conv_in, decoder.conv_in):
        conv.weight.mul_(2)
        for g in range(_CARRIERS):
            conv.weight[3 * g : 3 * g + 2].zero_()
            conv.weight[3 * g, g % 3, 1, 1] = 1
            conv.weight[3 * g + 1, g % 3, 1, 1] = -1
        conv.bias.copy_(_OFFSET)
    mean = torch.zeros(3, 3)
    mean[:2, :2] = 0.25
    for block in encoder.down_blocks:
        for sampler in block.downsamplers or []:
            sampler.conv.weight.mul_(math.sqrt(3))
            _carry(sampler.conv, mean)
    _mid(encoder.mid_block)
    _mid(decoder.mid_block)
    for block in decoder.up_blocks:
        for res in block.resnets:
            _still(res)
        for sampler in block.upsamplers or []:
            _upsample(sampler.conv)
    for side, rows in ((encoder, 4), (decoder, 3)):
        _steady(side.conv_norm_out, _lift())
        side.conv_out.weight[:3].zero_()
        side.conv_out.bias.zero_()
        for g in range(_CARRIERS):
            side.conv_out.weight[g % 3, 3 * g, 1, 1] = 1 / (3 * slope)
        side.conv_out.bias[:3] = -value / slope
        side.conv_out.weight[rows:].zero_()
    for conv in (net.quant_conv, net.post_quant_conv):
        conv.weight.copy_(torch.eye(conv.weight.shape[0])[:, :, None, None])
        conv.bias.zero_()
    encoder.conv_out.bias[4:] = 2 * math.log(NOISE)


def _upsample(conv: Any) -> None:
    """After a nearest upsampling: smoothing for the carriers, identity (with a little noise) for the rest."""
    smooth = torch.tensor([0.25, 0.5, 0.25])
    conv.weight.mul_(0.2)
    for c in range(96):
        if c % 3 < 2 and c // 3 < _CARRIERS:
            conv.weight[c].zero_()
        conv.weight[c, c, 1, 1] += 1
    for g in range(_CARRIERS):
        conv.weight[3 * g, 3 * g] = smooth[:, None] * smooth[None]
    conv.bias.copy_(_OFFSET - conv.weight.sum((2, 3)) @ _OFFSET)


class CentredAdamW(MasterAdamW):
    """AdamW that holds, for convolutions whose input rides on the offsets, the bias at that working point.

    Their weights would otherwise move the picture's level by K times the sum of 600 steps at once, and the
    constructed start is lost within fifty steps. With b' = b + sum(W) o the gradient of W at fixed b' is
    dW - db o, and the network gets b = b' - sum(W) o.
    """

    def __init__(self, net: AutoencoderKL, betas: tuple[float, float]) -> None:
        self.centred: list[tuple[nn.Parameter, nn.Parameter, Tensor]] = []
        for side in (net.encoder, net.decoder):
            blocks = side.down_blocks if side is net.encoder else side.up_blocks
            name = "downsamplers" if side is net.encoder else "upsamplers"
            convs = [(s.conv, _OFFSET) for block in blocks for s in getattr(block, name) or []]
            convs.append((side.conv_out, _lift() * _level()[0] / 5))
            self.centred += [(c.weight, c.bias, o) for c, o in convs if c.weight.requires_grad]
        super().__init__([(p, 1.0) for p in net.parameters() if p.requires_grad], betas, 0.0)
        places = {id(p): at for p, at in zip(self.params, self._starts(), strict=True)}
        self.spans = [(places[id(w)], w.shape, places[id(b)], o) for w, b, o in self.centred]
        for flat in (self.value, self.mean):
            self._shift(flat, 1.0)

    def _starts(self) -> list[int]:
        sizes = [p.numel() for p in self.params]
        return [sum(sizes[:i]) for i in range(len(sizes))]

    def _shift(self, flat: Tensor, sign: float) -> None:
        for at, shape, bias_at, offset in self.spans:
            weight = flat[at : at + shape.numel()].view(shape)
            flat[bias_at : bias_at + shape[0]].add_(weight.sum((2, 3)) @ offset, alpha=sign)

    def gradient(self) -> Tensor:
        flat = super().gradient()
        for at, shape, bias_at, offset in self.spans:
            bias = flat[bias_at : bias_at + shape[0]]
            flat[at : at + shape.numel()].view(shape).sub_((bias[:, None] * offset)[:, :, None, None])
        return flat

    def write(self, flat: Tensor) -> None:
        plain = flat.clone()
        self._shift(plain, -1.0)
        super().write(plain)


def _face_weight() -> Tensor:
    """Where portraits have eyes and mouth, errors count double; [1, 1, 128, 128]."""
    weight = torch.ones(1, 1, 128, 128)
    weight[:, :, 48:104, 26:102] = 2.0
    return weight


def loss_of(out: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Differences of values, of slopes and of 4x4 means; all [N, 3, H, W], weight [N, 1, H, W]."""
    error = out - target
    total = (error.abs() * weight).mean() + 1.0 * (error.square() * weight).mean()
    for dim in (2, 3):
        total = total + 0.6 * (error.diff(dim=dim).abs() * weight.narrow(dim, 1, 127)).mean()
    return total + 0.5 * nn.functional.avg_pool2d(error, 4).abs().mean()


def batch(index: int, count: int, share: float) -> tuple[Tensor, Tensor]:
    """Pictures [N, 3, 128, 128] in -1..1 and their error weights; ``share`` of them are portraits."""
    pictures, weights = [], []
    face, plain = _face_weight(), torch.full((1, 1, 128, 128), 1.3)
    for i in range(index, index + count):
        rng = np.random.default_rng([11, i])
        is_face = rng.random() < share
        picture = portrait(21, i)[0] if is_face else other(22, i)
        flip = rng.random() < 0.5
        pictures.append(np.ascontiguousarray(picture[:, ::-1]) if flip else picture)
        weights.append(face if is_face else plain)
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last), torch.cat(weights)


def rate(progress: float, steps: int, peak: float) -> float:
    """Warm-up over 80 steps, flat to 55 %, cosine to 3 %."""
    fall = max(0.0, (progress - 0.55) / 0.45)
    return peak * min(1.0, (steps + 1) / 80) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, fall))))


@torch.no_grad()
def psnr(net: AutoencoderKL, count: int = 24) -> tuple[float, Tensor]:
    """Mean PSNR of portraits never trained on, in dB, and the reconstructions [N, 3, 128, 128]."""
    dtype = next(net.parameters()).dtype
    pixels = torch.from_numpy(np.stack([portrait(900, i)[0] for i in range(count)]))
    pixels = (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
    out = torch.cat([net.decode(net.encode(p.to(dtype)).latent_dist.mean).sample.float() for p in pixels.split(4)])
    error = (out.clamp(-1, 1) - pixels).square().mean((1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean()), out.clamp(-1, 1)


def train(rank: int, world: int, args: argparse.Namespace) -> None:
    torch.manual_seed(5)
    net = models.vae()
    construct(net)
    frozen = args.decoder_only
    if frozen:
        net.load_state_dict(workers.load(args.work / "vae_white.pt")["model"])  # type: ignore[index]
        net.encoder.requires_grad_(False)
        net.quant_conv.requires_grad_(False)
    name = "decoder" if frozen else "vae"
    speed_up(net)
    if rank == 0:
        print(f"start {psnr(net, 8)[0]:.2f} dB", flush=True)
    optimizer = CentredAdamW(net, (0.9, 0.98))
    seen = 0
    if saved := workers.load(args.work / f"{name}_train.pt"):
        optimizer.load(saved["optimizer"])
        seen = int(saved["seen"])
    report, clock, recent = workers.Clock(30), workers.Clock(150), []
    scale = float(models.SCALING_FACTOR) if frozen else 1.0
    while seen < args.samples:
        pixels, weight = batch(args.first + seen + rank * args.batch, args.batch, args.share)
        with torch.set_grad_enabled(not frozen):
            z = net.quant_conv(net.encoder(pixels.bfloat16()))[:, :4]
        noise = NOISE * torch.randn(z.shape, generator=torch.Generator().manual_seed(seen * 8 + rank)) / scale
        out = net.decoder(net.post_quant_conv(z + noise.to(z.dtype) * (1.5 if frozen else 1.0)))
        loss = loss_of(out.float(), pixels, weight) + (0 if frozen else 5e-4 * z.float().square().mean())
        loss.backward()
        gradient = workers.mean_over(world, optimizer.gradient())
        optimizer.step(gradient, rate(seen / args.samples, optimizer.steps, args.lr), 0.5, 0.995)
        seen += args.batch * world
        recent.append(float(loss.detach()))
        if rank == 0 and report.due():
            print(f"{report.elapsed():6.0f} s  {seen:6d} pictures  loss {np.mean(recent):.4f}", flush=True)
            recent = []
        if rank == 0 and clock.due():
            _save(args.work, name, net, optimizer, seen)
    if rank == 0:
        _save(args.work, name, net, optimizer, seen)


def _save(work: Path, name: str, net: AutoencoderKL, optimizer: MasterAdamW, seen: int) -> None:
    workers.save(work / f"{name}_train.pt", {"optimizer": optimizer.state(), "seen": seen})
    optimizer.write(optimizer.mean)
    decibel, out = psnr(net, 12)
    workers.save(work / f"{name}.pt", {"model": {k: v.float() for k, v in net.state_dict().items()}})
    optimizer.write(optimizer.value)
    print(f"saved at {seen}: {decibel:.2f} dB", flush=True)
    from PIL import Image

    grid = ((out.permute(0, 2, 3, 1) + 1) * 127.5).byte().numpy().reshape(2, 6, 128, 128, 3)
    Image.fromarray(grid.transpose(0, 2, 1, 3, 4).reshape(256, 768, 3)).save(work / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=8000, help="pictures in all; sets the schedule")
    parser.add_argument("--batch", type=int, default=2, help="pictures per process and step")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--share", type=float, default=0.7, help="portraits among the pictures")
    parser.add_argument("--first", type=int, default=0, help="number of the first picture")
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("--decoder-only", action="store_true", help="go on from vae_white.pt, its encoder fixed")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    workers.run(train, args.workers, args.port, args)


if __name__ == "__main__":
    main()
