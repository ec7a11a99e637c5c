"""What the U-Net families (Stable Diffusion 1, 2 and XL) have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...checkpoint import Checkpoint, read_header
from ...errors import UserError
from ...families import FAMILIES
from .. import keys, load, sizes
from ..fingerprint import fingerprint
from ..parts import Part, account
from ..schedule import alphas_cumprod
from .base import LoraTarget, ModelFamily, SizeInfo, TextFeatures

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

#: Modules of one layer of a text encoder that a LoRA may sit on, as Hugging Face calls them.
_TEXT_MODULES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)
#: OpenAI's CLIP pads with its end token, OpenCLIP with 0.
PAD_END = 49407
PAD_ZERO = 0


class UnetFamily(ModelFamily):
    """A family with a U-Net, an autoencoder and CLIP text encoders in one file.

    Attributes:
        parts: the networks of the file.
    """

    #: Part -> activation of the encoder and id of its padding.
    texts: Mapping[str, tuple[str, int]]
    #: Beginnings of a text encoder's keys in LoRA files; the first is written.
    text_stems: Mapping[str, tuple[str, ...]]
    #: Attention heads at the published size; None: one for every 64 channels.
    heads: int | None
    #: Whether LoRA files name the U-Net's modules as LDM does (SDXL) or as diffusers does.
    ldm_lora_names: bool

    def __init__(self, checkpoint: Checkpoint) -> None:
        header = read_header(checkpoint.path)
        if (header.size, header.mtime_ns) != (checkpoint.size, checkpoint.mtime_ns):
            raise UserError(f"{checkpoint.path.name} was changed meanwhile.", "Start again with the file as it is now.")
        family = FAMILIES[self.key]
        self.checkpoint = checkpoint
        self.prediction_type = checkpoint.prediction_type or "epsilon"
        self.zero_terminal_snr = checkpoint.zero_terminal_snr
        self._tensors = header.tensors
        self._accounts = account(header.tensors, self.parts(header.tensors))
        self._names = keys.unet_names(self._accounts.tensors["unet"].keys())
        self._vae_levels = keys.vae_levels(self._accounts.tensors["vae"])
        vae = self._vae_config(family.latent_scale)
        self.latent_scale = vae["scaling_factor"]
        self.latent_channels = vae["latent_channels"]
        self.text_parts = tuple(self.texts)

    @classmethod
    @abstractmethod
    def parts(cls, names: Collection[str]) -> tuple[Part, ...]:
        """Return the networks of a file that holds `names`."""

    @property
    def unused(self) -> Mapping[str, str]:
        """Tensors of the file that no network needs -> why."""
        return self._accounts.unused

    # ---- loading

    def load(self, parts: Collection[str], *, device: torch.device | str, dtype: torch.dtype) -> dict[str, nn.Module]:
        made: dict[str, nn.Module] = {}
        for part in parts:
            module, pieces = self.empty(part)
            pieces.sort(key=lambda piece: self._tensors[piece.source].start)  # a disk reads forwards
            made[part] = load.fill(module, self.checkpoint.path, pieces, device=device, dtype=self._dtype(part, dtype))
        return made

    def empty(self, part: str) -> tuple[nn.Module, list[keys.Piece]]:
        """Return a network on the meta device, and which tensors of the file fill it.

        Raises:
            UserError: the file does not hold such a network.
        """
        sources = self._accounts.sources[part]
        if part == "unet":
            return load.empty_unet(self.unet_config()), keys.unet_pieces(sources, self._names)
        if part == "vae":
            return load.empty_vae(self._vae_config(self.latent_scale)), keys.vae_pieces(sources, self._vae_levels)
        return load.empty_text_encoder(self.text_config(part)), self._text_pieces(part)

    def unet_config(self) -> dict[str, Any]:
        """Return the sizes of the U-Net as arguments of diffusers' class."""
        return sizes.unet_config(
            self._names,
            self._accounts.tensors["unet"],
            self._said("unet"),
            heads=self.heads,
            pooled=self._pooled_width(),
        )

    def text_config(self, part: str) -> dict[str, Any]:
        """Return the sizes of a text encoder as arguments of its class."""
        said = self._said("text_encoder" if part == "te1" else "text_encoder_2")
        shapes = load.translated(self._tensors, self._text_pieces(part))
        activation = self.texts[part][0]
        return sizes.text_config(shapes, said, activation=activation, projected=self._projected(part))

    def _text_pieces(self, part: str) -> list[keys.Piece]:
        style = next(p.style for p in self.parts(self._tensors) if p.name == part)
        pieces = keys.open_clip_pieces if style == "open_clip" else keys.clip_pieces
        return pieces(self._accounts.sources[part])

    def _vae_config(self, scale: float) -> dict[str, Any]:
        return sizes.vae_config(self._accounts.tensors["vae"], self._vae_levels, self._said("vae"), scale)

    def _said(self, table: str) -> Mapping[str, Any]:
        said = (self.checkpoint.config or {}).get(table, {})
        return said if isinstance(said, dict) else {}

    def _projected(self, part: str) -> bool:
        return False

    def _pooled_width(self) -> int | None:
        return None

    def _dtype(self, part: str, dtype: torch.dtype) -> torch.dtype:
        return dtype

    # ---- text

    def blank(self, text: TextFeatures) -> TextFeatures:
        return text

    def text_fingerprint(self) -> str:
        tensors = {
            source: self._tensors[source]
            for part in self.text_parts
            for source in self._accounts.sources[part].values()
        }
        said = [self.key, *(str(sorted(self.text_config(part).items())) for part in self.text_parts)]
        return fingerprint(self.checkpoint.path, tensors, said)

    # ---- pictures

    def vae_fingerprint(self) -> str:
        tensors = {source: self._tensors[source] for source in self._accounts.sources["vae"].values()}
        return fingerprint(self.checkpoint.path, tensors, [str(sorted(self._vae_config(self.latent_scale).items()))])

    def encode_pixels(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        weight = next(vae.parameters())
        mean = _called(vae).encode(pixels.to(weight.device, weight.dtype)).latent_dist.mean
        return mean.float() * self.latent_scale

    def decode_latents(self, vae: nn.Module, latents: Tensor) -> Tensor:
        weight = next(vae.parameters())
        scaled = (latents.float() / self.latent_scale).to(weight.device, weight.dtype)
        return _called(vae).decode(scaled, return_dict=False)[0].float().clamp(-1, 1)

    # ---- denoising

    def predict(
        self, unet: nn.Module, noisy: Tensor, timesteps: Tensor, text: TextFeatures, sizes: Sequence[SizeInfo]
    ) -> Tensor:
        dtype = unet.get_parameter("conv_in.weight").dtype
        return unet(
            noisy.to(dtype),
            timesteps,
            text.hidden.to(dtype),
            added_cond_kwargs=self._added(noisy, text, sizes, dtype),
            return_dict=False,
        )[0]

    def _added(
        self, noisy: Tensor, text: TextFeatures, sizes: Sequence[SizeInfo], dtype: torch.dtype
    ) -> dict[str, Tensor] | None:
        return None

    def alphas_cumprod(self, *, zero_terminal_snr: bool) -> Tensor:
        return alphas_cumprod(zero_terminal_snr=zero_terminal_snr)

    # ---- LoRA

    def lora_targets(self, part: str, module: nn.Module, *, conv: bool) -> list[LoraTarget]:
        if part != "unet":
            return self._text_targets(part, module)
        # AUTOMATIC1111 turns diffusers' block names into LDM's by counting two res blocks a level: where a small
        # base has another number, its down blocks would be passed over without a word (seen in 1.10.1).
        ldm_names = self.ldm_lora_names or self.unet_config()["layers_per_block"] != 2
        found = []
        for theirs, ours in self._names.modules.items():
            attends = ".attentions." in ours
            if not attends and not (conv and (".resnets." in ours or "samplers." in ours)):
                continue
            kind = _kind(module.get_submodule(ours))
            if kind:
                name = "lora_unet_" + (theirs if ldm_names else ours).replace(".", "_")
                found.append(LoraTarget(name, ours, part, kind))
        return found

    def lora_stems(self, part: str, module: nn.Module) -> dict[str, str]:
        if part != "unet":
            targets = self._text_targets(part, module)
            first = self.text_stems[part][0]
            return {
                stem + target.name[len(first) :]: target.path for stem in self.text_stems[part] for target in targets
            }
        stems: dict[str, str] = {}
        for theirs, ours in self._names.modules.items():
            if _kind(module.get_submodule(ours)):
                stems |= {"lora_unet_" + name.replace(".", "_"): ours for name in (theirs, ours)}
        return stems

    def _text_targets(self, part: str, module: nn.Module) -> list[LoraTarget]:
        layers: Any = module.get_submodule(f"{keys.TEXT_BODY}encoder.layers")
        found = []
        for layer in range(len(layers)):
            for inner in _TEXT_MODULES:
                path = f"{keys.TEXT_BODY}encoder.layers.{layer}.{inner}"
                name = self.text_stems[part][0] + path.replace(".", "_")
                found.append(LoraTarget(name, path, part, "linear"))
        return found


def _kind(module: nn.Module) -> str:
    """Return what sort of place for a LoRA a module is; empty for a norm."""
    from torch import nn

    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv2d):
        return "conv1x1" if module.kernel_size == (1, 1) else "conv3x3"
    return ""


def _called(module: nn.Module) -> Any:
    """diffusers' autoencoder has methods that `nn.Module` does not declare."""
    return module
