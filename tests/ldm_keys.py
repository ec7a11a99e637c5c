"""Names and shapes of LDM U-Nets of any size, written from LDM's `openaimodel.py` layout, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class UNet:
    """Sizes of a U-Net; `depth` and `out_depth` give the transformer blocks of each level, 0 for none."""

    channels: int = 320
    multiples: Sequence[int] = (1, 2, 4, 4)
    layers: int = 2
    depth: Sequence[int] = (1, 1, 1, 0)
    middle: int = 1
    context: int = 768
    linear: bool = False
    label: int = 0
    inputs: int = 4
    outputs: int = 4

    def shapes(self, prefix: str = "model.diffusion_model.") -> Shapes:
        """Return the shape of every weight."""
        return {prefix + name: shape for name, shape in self._all()}

    def _all(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        time = 4 * self.channels
        yield from _linear("time_embed.0", time, self.channels)
        yield from _linear("time_embed.2", time, time)
        if self.label:
            yield from _linear("label_emb.0.0", time, self.label)
            yield from _linear("label_emb.0.2", time, time)
        yield from _conv("input_blocks.0.0", self.channels, self.inputs)
        widths, at, width = [self.channels], 1, self.channels
        for level, multiple in enumerate(self.multiples):
            for _ in range(self.layers):
                yield from self._layer(f"input_blocks.{at}", width, multiple * self.channels, self.depth[level])
                width = multiple * self.channels
                widths.append(width)
                at += 1
            if level < len(self.multiples) - 1:
                yield from _conv(f"input_blocks.{at}.0.op", width, width)
                widths.append(width)
                at += 1
        yield from self._res("middle_block.0", width, width)
        if self.middle:
            yield from self._transformer("middle_block.1", width, self.middle)
            yield from self._res("middle_block.2", width, width)
        yield from self._outputs(widths, width)

    def _outputs(self, widths: list[int], width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        at = 0
        for level in reversed(range(len(self.multiples))):
            for layer in range(self.layers + 1):
                out = self.multiples[level] * self.channels
                yield from self._layer(f"output_blocks.{at}", width + widths.pop(), out, self.depth[level])
                width = out
                if level and layer == self.layers:
                    yield from _conv(f"output_blocks.{at}.{2 if self.depth[level] else 1}.conv", width, width)
                at += 1
        yield from _norm("out.0", width)
        yield from _conv("out.2", self.outputs, width)

    def _layer(self, name: str, into: int, out: int, depth: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from self._res(f"{name}.0", into, out)
        if depth:
            yield from self._transformer(f"{name}.1", out, depth)

    def _res(self, name: str, into: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from _norm(f"{name}.in_layers.0", into)
        yield from _conv(f"{name}.in_layers.2", out, into)
        yield from _linear(f"{name}.emb_layers.1", out, 4 * self.channels)
        yield from _norm(f"{name}.out_layers.0", out)
        yield from _conv(f"{name}.out_layers.3", out, out)
        if into != out:
            yield from _conv(f"{name}.skip_connection", out, into, 1)

    def _transformer(self, name: str, width: int, depth: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        project = _linear if self.linear else lambda n, o, i: _conv(n, o, i, 1)
        yield from _norm(f"{name}.norm", width)
        yield from project(f"{name}.proj_in", width, width)
        for block in range(depth):
            inner = f"{name}.transformer_blocks.{block}"
            for attention, context in (("attn1", width), ("attn2", self.context)):
                yield f"{inner}.{attention}.to_q.weight", (width, width)
                yield f"{inner}.{attention}.to_k.weight", (width, context)
                yield f"{inner}.{attention}.to_v.weight", (width, context)
                yield from _linear(f"{inner}.{attention}.to_out.0", width, width)
            yield from _linear(f"{inner}.ff.net.0.proj", 8 * width, width)
            yield from _linear(f"{inner}.ff.net.2", width, 4 * width)
            for norm in ("norm1", "norm2", "norm3"):
                yield from _norm(f"{inner}.{norm}", width)
        yield from project(f"{name}.proj_out", width, width)


def _linear(name: str, out: int, into: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _conv(name: str, out: int, into: int, size: int = 3) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into, size, size)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


SD15 = UNet()
SD2 = UNet(context=1024, linear=True)
SDXL = UNet(multiples=(1, 2, 4), depth=(0, 2, 10), middle=10, context=2048, linear=True, label=2816)
REFINER = UNet(channels=384, depth=(0, 4, 4, 0), middle=4, context=1280, linear=True, label=2560)

#: The parts beside the U-Net, by one weight each.
SD15_PARTS: Shapes = {
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
}
SD2_PARTS: Shapes = {
    "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight": (4096, 1024),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
}
SDXL_PARTS: Shapes = {
    "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768),
    "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight": (5120, 1280),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
}
