"""Sample pictures of a run: the same prompts and seeds after every n-th epoch, and once without the LoRA."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL.Image import Image
from torch import nn

from .. import platform
from ..spec import JobSpec, SamplePrompt
from . import device
from .draw import draw
from .families.base import ModelFamily
from .lora import LoraSet
from .memory import Plan
from .picture_file import Made, png_bytes
from .prepare import TextBank
from .progress import Progress

#: A decoder of at most this many bytes stays in memory between the rounds.
_SMALL = 64 * 1024**2


class Previews:
    """The sample pictures of a run.

    Args:
        folder: the job's; pictures go to `samples/e003-p1.png`, those of the base to `samples/e000-p1.png`.
    """

    def __init__(self, folder: Path, spec: JobSpec, family: ModelFamily, plan: Plan) -> None:
        self._folder, self._family, self._plan = folder / "samples", family, plan
        self._settings = spec.settings
        self._every = int(self._settings["sample_every_n_epochs"])
        count = int(self._settings["sample_count"])
        self._prompts = spec.sample_prompts[:count] if self._every else ()
        self._vae: dict[str, nn.Module] | None = None

    @property
    def wanted(self) -> bool:
        """Whether any are drawn."""
        return bool(self._prompts)

    def prompts(self) -> list[str]:
        """Return the texts whose features are needed."""
        return [text for prompt in self._prompts for text in (prompt.prompt, prompt.negative)]

    def due(self, epoch: int) -> bool:
        """Say whether a round is drawn after this epoch, counted from 1."""
        return self.wanted and epoch % self._every == 0

    def rounds_left(self, epoch: int, epochs: int) -> int:
        """Return how many rounds come after this epoch; the last one is always drawn."""
        return math.ceil(max(0, epochs - epoch) / self._every) if self.wanted else 0

    def last(self) -> Path | None:
        """Return the newest picture of the first prompt."""
        return max(self._folder.glob("e*-p1.png"), default=None)

    def draw(
        self,
        unet: nn.Module,
        lora: LoraSet,
        texts: TextBank | None,
        encoders: Mapping[str, nn.Module],
        *,
        epoch: int,
        step: int,
        progress: Progress,
    ) -> None:
        """Draw a round; before the first, the base's own pictures.

        Args:
            texts: features of all prompts, or None where `encoders` are trained and must be asked.
        """
        started = time.monotonic()
        progress.phase("sampling", 0, len(self._prompts))
        if self._vae is None:
            self._vae = self._family.load(["vae"], device=self._plan.device, dtype=torch.float32)
        modules = {"unet": unet, **encoders, **self._vae}
        if not all(self._path(0, place).exists() for place in range(len(self._prompts))):
            with lora.weight_scale(0.0):
                self._draw_all(modules, texts, progress, epoch=0, step=0)
        self._draw_all(modules, texts, progress, epoch=epoch, step=step)
        if _size(self._vae["vae"]) > _SMALL:
            self._vae = None
            device.forget_unused(self._plan.device)
        progress.sampled(time.monotonic() - started)
        progress.phase("training", step, progress.total)

    def _draw_all(
        self,
        modules: Mapping[str, nn.Module],
        texts: TextBank | None,
        progress: Progress,
        *,
        epoch: int,
        step: int,
    ) -> None:
        settings = self._settings
        pictures = draw(
            self._family,
            modules,
            self._prompts,
            steps=int(settings["sample_steps"]),
            cfg=float(settings["sample_cfg"]),
            clip_skip=int(settings["clip_skip"]),
            device=self._plan.device,
            dtype=device.DTYPES[self._plan.precision],
            text_features=None if texts is None else texts.features,
            velocity=bool(settings["v_parameterization"]),
            zero_terminal_snr=bool(settings["zero_terminal_snr"]),
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        for place, picture in enumerate(pictures):
            path = self._path(epoch, place)
            platform.write_atomic(path, self._png(picture, self._prompts[place]))
            progress.events.write("sample", path=str(path), epoch=epoch, prompt_index=place, step=step)

    def _png(self, picture: Image, prompt: SamplePrompt) -> bytes:
        settings = self._settings
        made = Made(
            prompt.prompt,
            prompt.negative,
            int(settings["sample_steps"]),
            float(settings["sample_cfg"]),
            prompt.seed,
            prompt.width,
            prompt.height,
            model=self._family.checkpoint.path.stem,
            clip_skip=int(settings["clip_skip"]),
        )
        return png_bytes(picture, made)

    def _path(self, epoch: int, prompt_index: int) -> Path:
        return self._folder / f"e{epoch:03d}-p{prompt_index + 1}.png"


def _size(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())
