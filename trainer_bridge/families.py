"""The model families that are known by name: one entry each, in the order in which a file is tested for them.

A family is told from a few decisive weights, as ComfyUI's `model_detection.py`, diffusers'
`single_file_utils.py`, Forge Neo and sd-scripts tell them. Nothing here needs torch.

To add one, write its entry into :data:`FAMILIES_IN_ORDER`; it becomes trainable once `engine/families/` has
its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .signatures import CONV, LINEAR, Signature, Weights, has, matches, shaped


@dataclass(frozen=True)
class Variant:
    """A relative of a family, told by more weights.

    Attributes:
        title: what it is called; `{family}` stands for its family's title.
        signature: what tells it, beside the family's own signature.
        refusal: why it cannot be trained; empty when it can, if its family can.
    """

    title: str
    signature: Signature
    refusal: str = ""


@dataclass(frozen=True)
class Part:
    """A part of a complete checkpoint beside the denoiser.

    Attributes:
        title: in the user's words.
        prefixes: one of them begins its weights' names.
    """

    title: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        key: as it stands in job files.
        title: what people call it.
        signatures: any of these tells it.
        native_size: side in px of the squares that it was trained on.
        latent_channels: channels of its latents, which are an eighth as wide and high as the picture.
        latent_scale: factor that brings latents to about unit deviation.
        objective: `ddpm` (noise or velocity at 1000 timesteps) or `flow`.
        kohya_versions: what `ss_base_model_version` of a LoRA for it may say.
        architectures: beginnings of what `modelspec.architecture` may say.
        trainable: whether the engine has this family.
        nickname: what people call it in passing, if not by its title.
        parts: what a complete checkpoint holds beside the denoiser.
        variants: relatives, in the order of the test.
    """

    key: str
    title: str
    signatures: tuple[Signature, ...]
    native_size: int
    latent_channels: int
    latent_scale: float
    objective: str
    kohya_versions: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    trainable: bool = False
    nickname: str = ""
    parts: tuple[Part, ...] = ()
    variants: tuple[Variant, ...] = ()

    @property
    def short(self) -> str:
        """What people call it in passing."""
        return self.nickname or self.title


_MASKED = "it is made for inpainting: it also wants a mask and a masked picture"
_INSTRUCT = "it is made for editing by instruction: it also wants the picture to edit"
_NEEDS_PICTURE = "it also wants a picture beside the caption"
_GUIDED = "it is a distilled model (LCM), which wants the guidance as an input"
_CUT_DOWN = "it is a cut-down SDXL, whose layers are not those that SDXL LoRAs are for"
_VAE = Part("VAE", ("first_stage_model.",))
_FIRST = "input_blocks.0.0.weight"
_LABEL = "label_emb.0.0.weight"
_MIDDLE = "middle_block.1.proj_in.weight"
#: Attention at full size: SD1 and SD2 have it, SDXL and its refiner begin deeper.
_SHALLOW = "input_blocks.1.1.proj_in.weight"
_DIFFUSERS = ("conv_in.weight", "down_blocks.0.resnets.0.norm1.weight")
_DIFFUSERS_MIDDLE = "mid_block.attentions.0.proj_in.weight"
_DEEPEST = "middle_block.1.transformer_blocks.9.norm1.weight"

_SD_INPUTS: tuple[Variant, ...] = (
    Variant("{family} inpainting", shaped({_FIRST: (None, 9, 3, 3)}), _MASKED),
    Variant("{family} InstructPix2Pix", shaped({_FIRST: (None, 8, 3, 3)}), _INSTRUCT),
    Variant("{family} LCM", has("time_embedding.cond_proj.weight"), _GUIDED),
)


def _depth(blocks: int) -> Signature:
    """The last level of an SDXL U-Net has this many transformer blocks a layer."""
    block = "input_blocks.7.1.transformer_blocks.{}.norm1.weight"
    return has(block.format(blocks - 1), lacks=(block.format(blocks),))


FAMILIES_IN_ORDER: tuple[Family, ...] = (
    Family(
        key="flux2",
        title="Flux.2",
        signatures=(has("double_stream_modulation_img.lin.weight"),),
        native_size=1024,
        latent_channels=32,
        latent_scale=1.0,
        objective="flow",
        kohya_versions=("flux2",),
        architectures=("flux-2", "flux.2", "flux2"),
    ),
    Family(
        key="chroma",
        title="Chroma",
        signatures=(
            has("distilled_guidance_layer.in_proj.weight"),
            has("distilled_guidance_layer.layers.0.in_layer.weight"),
        ),
        native_size=512,
        latent_channels=16,
        latent_scale=0.3611,
        objective="flow",
        kohya_versions=("chroma",),
        architectures=("chroma",),
        variants=(
            Variant(
                "Chroma Radiance",
                has("nerf_blocks.0.param_generator.weight"),
                "it works on pixels, not latents",
            ),
        ),
    ),
    Family(
        key="flux",
        title="Flux.1",
        signatures=(
            has("double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight"),
            has("single_transformer_blocks.0.proj_mlp.weight", "transformer_blocks.0.attn.add_q_proj.weight"),
        ),
        native_size=1024,
        latent_channels=16,
        latent_scale=0.3611,
        objective="flow",
        kohya_versions=("flux1", "flux"),
        architectures=("flux-1",),
        variants=(
            Variant("Flux.1 Fill", shaped({"img_in.weight": (None, 384)}), _MASKED),
            Variant("Flux.1 Depth or Canny", shaped({"img_in.weight": (None, 128)}), _NEEDS_PICTURE),
            Variant("Flux.1 dev", has("guidance_in.in_layer.weight")),
            Variant("Flux.1 schnell", has("img_in.weight", lacks=("guidance_in.in_layer.weight",))),
        ),
    ),
    Family(
        key="sd3",
        title="Stable Diffusion 3",
        signatures=(
            has("joint_blocks.0.context_block.attn.qkv.weight"),
            has("transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.proj.weight"),
        ),
        native_size=1024,
        latent_channels=16,
        latent_scale=1.5305,
        objective="flow",
        kohya_versions=("sd3",),
        architectures=("stable-diffusion-3",),
        variants=(
            Variant("Stable Diffusion 3.5 Medium", has("joint_blocks.0.x_block.attn2.qkv.weight")),
            Variant(
                "Stable Diffusion 3.5 Large",
                has("joint_blocks.37.x_block.attn.qkv.weight", "joint_blocks.0.x_block.attn.ln_q.weight"),
            ),
            Variant(
                "Stable Diffusion 3 Medium",
                has(
                    "joint_blocks.23.x_block.attn.qkv.weight",
                    lacks=("joint_blocks.24.x_block.attn.qkv.weight",),
                ),
            ),
        ),
    ),
    Family(
        key="zimage",
        title="Z-Image",
        signatures=(has("cap_embedder.1.weight", "layers.0.adaLN_modulation.0.weight"),),
        native_size=1024,
        latent_channels=16,
        latent_scale=0.3611,
        objective="flow",
        kohya_versions=("zimage", "z_image", "z-image"),
        architectures=("z-image", "zimage"),
    ),
    Family(
        key="lumina2",
        title="Lumina 2",
        signatures=(
            has("cap_embedder.1.weight", "layers.0.adaLN_modulation.1.weight"),
            has("time_caption_embed.caption_embedder.1.weight", "noise_refiner.0.norm1.linear.weight"),
        ),
        native_size=1024,
        latent_channels=16,
        latent_scale=0.3611,
        objective="flow",
        kohya_versions=("lumina2",),
        architectures=("lumina-2",),
    ),
    Family(
        key="anima",
        title="Anima",
        signatures=(has("blocks.0.mlp.layer1.weight", "llm_adapter.blocks.0.cross_attn.q_proj.weight"),),
        native_size=1024,
        latent_channels=16,
        latent_scale=1.0,
        objective="flow",
        kohya_versions=("anima",),
        architectures=("anima",),
    ),
    Family(
        key="cosmos",
        title="Cosmos-Predict2",
        signatures=(has("blocks.0.mlp.layer1.weight", "x_embedder.proj.1.weight"),),
        native_size=1024,
        latent_channels=16,
        latent_scale=1.0,
        objective="flow",
        architectures=("cosmos",),
    ),
    Family(
        key="qwen_image",
        title="Qwen-Image",
        signatures=(has("txt_norm.weight", "transformer_blocks.0.attn.add_q_proj.weight"),),
        native_size=1024,
        latent_channels=16,
        latent_scale=1.0,
        objective="flow",
        kohya_versions=("qwen",),
        architectures=("qwen-image", "qwen_image"),
    ),
    Family(
        key="sdxl_refiner",
        title="SDXL refiner",
        signatures=(
            has(_FIRST, _LABEL, "input_blocks.9.0.op.weight", lacks=(_SHALLOW,)),
            has(*_DIFFUSERS, "add_embedding.linear_1.weight", "down_blocks.3.resnets.0.norm1.weight"),
        ),
        native_size=1024,
        latent_channels=4,
        latent_scale=0.13025,
        objective="ddpm",
        kohya_versions=("sdxl_refiner",),
        architectures=("stable-diffusion-xl-v1-refiner",),
    ),
    Family(
        key="sdxl",
        title="SDXL",
        signatures=(
            has(_FIRST, _LABEL, lacks=(_SHALLOW,)),
            has(*_DIFFUSERS, "add_embedding.linear_1.weight"),
        ),
        native_size=1024,
        latent_channels=4,
        latent_scale=0.13025,
        objective="ddpm",
        kohya_versions=("sdxl",),
        architectures=("stable-diffusion-xl",),
        trainable=True,
        parts=(
            Part("first text encoder", ("conditioner.embedders.0.transformer.",)),
            Part("second text encoder", ("conditioner.embedders.1.model.",)),
            _VAE,
        ),
        variants=(
            *_SD_INPUTS,
            Variant("Playground", has("edm_mean"), "it uses another noise schedule (EDM)"),
            Variant(
                "{family} EDM v-prediction",
                has("edm_vpred.sigma_max"),
                "it uses another noise schedule (EDM)",
            ),
            Variant("Mugen", shaped({"out.2.weight": (32, None, 3, 3)}), "its latents have 32 channels"),
            Variant("SSD-1B", _depth(4), _CUT_DOWN),
            Variant("Segmind Vega", _depth(2), _CUT_DOWN),
            Variant("cut-down {family}", has(_FIRST, lacks=(_DEEPEST,)), _CUT_DOWN),
        ),
    ),
    Family(
        key="sd2",
        title="Stable Diffusion 2",
        signatures=(
            shaped({_FIRST: CONV, _MIDDLE: LINEAR}),
            shaped({**dict.fromkeys(_DIFFUSERS), _DIFFUSERS_MIDDLE: LINEAR}),
        ),
        native_size=512,
        latent_channels=4,
        latent_scale=0.18215,
        objective="ddpm",
        kohya_versions=("sd_v2", "sd_2", "sd2"),
        architectures=("stable-diffusion-v2",),
        trainable=True,
        nickname="SD2",
        parts=(Part("text encoder", ("cond_stage_model.model.",)), _VAE),
        variants=(*_SD_INPUTS, Variant("{family} unCLIP", has(_LABEL), _NEEDS_PICTURE)),
    ),
    Family(
        key="sd15",
        title="Stable Diffusion 1.5",
        signatures=(
            shaped({_FIRST: CONV, _MIDDLE: CONV}, lacks=(_LABEL,)),
            shaped({**dict.fromkeys(_DIFFUSERS), _DIFFUSERS_MIDDLE: CONV}),
        ),
        native_size=512,
        latent_channels=4,
        latent_scale=0.18215,
        objective="ddpm",
        kohya_versions=("sd_v1", "sd_1", "sd1"),
        architectures=("stable-diffusion-v1",),
        trainable=True,
        nickname="SD1.5",
        parts=(Part("text encoder", ("cond_stage_model.transformer.",)), _VAE),
        variants=_SD_INPUTS,
    ),
)

FAMILIES: Mapping[str, Family] = MappingProxyType({family.key: family for family in FAMILIES_IN_ORDER})


def find(weights: Weights) -> tuple[Family, Variant | None] | None:
    """Return the family that `weights` belong to and its variant, if it is one; None when none is known."""
    for family in FAMILIES_IN_ORDER:
        if any(matches(signature, weights) for signature in family.signatures):
            return family, next((v for v in family.variants if matches(v.signature, weights)), None)
    return None


def by_kohya_version(text: str) -> Family | None:
    """Return the family that a LoRA's `ss_base_model_version` names."""
    return _by_beginning(text, "kohya_versions")


def by_architecture(text: str) -> Family | None:
    """Return the family that a file's `modelspec.architecture` names."""
    return _by_beginning(text, "architectures")


def _by_beginning(text: str, attribute: str) -> Family | None:
    text = text.strip().lower()
    for family in FAMILIES_IN_ORDER:
        if any(text.startswith(beginning) for beginning in getattr(family, attribute)):
            return family
    return None
