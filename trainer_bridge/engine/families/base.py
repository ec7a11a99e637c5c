"""What a model family supplies to the loop and the sampler, which know nothing else of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ...spec import JobSpec


@dataclass(frozen=True)
class TextFeatures:
    """What the denoiser gets of the captions.

    Attributes:
        hidden: [B, T, D].
        pooled: [B, P]; None in families without.
    """

    hidden: Tensor
    pooled: Tensor | None


@dataclass(frozen=True)
class SizeInfo:
    """What the denoiser is told of one picture's making, in px.

    Attributes:
        original: width, height before anything was done.
        crop: left, top of what was cut away after scaling.
        target: width, height that is trained on.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]


@dataclass(frozen=True)
class LoraTarget:
    """Where a LoRA may sit.

    Attributes:
        name: stem of its keys in a LoRA file, as kohya-ss writes it.
        path: of the module inside its part.
        part: `unet`, `te1` or `te2`.
        kind: `linear`, `conv1x1` or `conv3x3`.
    """

    name: str
    path: str
    part: str
    kind: str


class ModelFamily(ABC):
    """One family, bound to one checkpoint. Making one reads the header alone.

    Attributes:
        key: of :data:`trainer_bridge.families.FAMILIES`.
        checkpoint: the file.
        latent_scale: factor that brings latents to unit deviation.
        latent_channels: their number.
        text_parts: the text encoders.
        prediction_type: `epsilon` or `v_prediction`, as the checkpoint says.
        zero_terminal_snr: whether its noisiest step is pure noise, as the checkpoint says.
    """

    key: ClassVar[str]
    checkpoint: Checkpoint
    latent_scale: float
    latent_channels: int
    text_parts: tuple[str, ...]
    prediction_type: str
    zero_terminal_snr: bool

    @abstractmethod
    def load(self, parts: Collection[str], *, device: torch.device | str, dtype: torch.dtype) -> dict[str, nn.Module]:
        """Return networks out of `unet`, `vae`, `te1`, `te2`, frozen, in evaluation mode.

        Raises:
            UserError: the file does not hold what it should.
        """

    @abstractmethod
    def encode_text(
        self,
        encoders: Mapping[str, nn.Module],
        captions: Sequence[str],
        *,
        clip_skip: int,
        max_tokens: int = 75,
    ) -> TextFeatures:
        """Return features of `captions`; gradients flow into encoders that want them.

        Args:
            encoders: those of `text_parts`.
            clip_skip: layer that is read, counted from the last.
            max_tokens: a multiple of 75; what is longer is cut off.
        """

    @abstractmethod
    def blank(self, text: TextFeatures) -> TextFeatures:
        """Return what the hosts feed the denoiser for an empty negative prompt whose features are `text`."""

    @abstractmethod
    def text_fingerprint(self) -> str:
        """Return what names the text encoders' weights in the keys of caches."""

    @abstractmethod
    def vae_fingerprint(self) -> str:
        """Return what names the VAE's weights in the keys of caches."""

    @abstractmethod
    def encode_pixels(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Return scaled latents [B, C, H/8, W/8] in fp32: the mean of the posterior, so that it is no chance.

        Args:
            pixels: [B, 3, H, W] in -1..1.
        """

    @abstractmethod
    def decode_latents(self, vae: nn.Module, latents: Tensor) -> Tensor:
        """Return pixels [B, 3, H, W] in -1..1, fp32, of scaled latents."""

    @abstractmethod
    def predict(
        self, unet: nn.Module, noisy: Tensor, timesteps: Tensor, text: TextFeatures, sizes: Sequence[SizeInfo]
    ) -> Tensor:
        """Return the denoiser's output, [B, C, h, w], in its own number format.

        Args:
            noisy: [B, C, h, w].
            timesteps: [B], whole numbers 0..999.
        """

    @abstractmethod
    def alphas_cumprod(self, *, zero_terminal_snr: bool) -> Tensor:
        """Return the share of signal power at each timestep, [1000] float64."""

    @abstractmethod
    def lora_targets(self, part: str, module: nn.Module, *, conv: bool) -> list[LoraTarget]:
        """Return where LoRAs sit in a part: attention and feed-forward, with `conv` also the convolution blocks."""

    @abstractmethod
    def lora_stems(self, part: str, module: nn.Module) -> dict[str, str]:
        """Return every key stem that a LoRA file may use for a part -> path of the module."""

    @abstractmethod
    def metadata(self, spec: JobSpec) -> dict[str, str]:
        """Return what a LoRA's header says of its base family."""
