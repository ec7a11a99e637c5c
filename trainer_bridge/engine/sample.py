"""`generate`: draws the pictures of a request file with a base and LoRAs.

The request is `{"base": path, "pictures": [{"prompt", "negative", "seed", "width", "height", "steps", "cfg",
"sampler": "ddim", "clip_skip", "loras": [[path, weight], ...], "out": png}, ...], "threads": n, "precision": p}`;
`precision` is `no` (fp32) or `bf16`. One JSON line for each picture goes to standard output once its file is there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import limits
from ..checkpoint import require_base
from ..errors import UserError
from ..spec import SamplePrompt
from .draw import draw

if TYPE_CHECKING:
    from torch import nn

    from .families.base import ModelFamily

__all__ = ["draw", "generate"]

_MAX_PICTURES = 10_000
_MAX_LORAS = 16
_MAX_SEED = 2**63 - 1
_MAX_THREADS = 256


@dataclass(frozen=True)
class Wanted:
    """One picture of a request.

    Attributes:
        loras: files and weights.
        out: where it goes.
    """

    prompt: SamplePrompt
    steps: int
    cfg: float
    clip_skip: int
    loras: tuple[tuple[Path, float], ...]
    out: Path

    @property
    def together(self) -> tuple[Any, ...]:
        """What pictures must have in common to be drawn at once."""
        return self.loras, self.steps, self.cfg, self.clip_skip


def generate(request: Mapping[str, Any]) -> None:
    """Draw all pictures of a request.

    Raises:
        UserError: a value of the request, the base or a LoRA cannot be used; pictures drawn before are kept.
    """
    import torch

    from . import device
    from .families import for_checkpoint

    wanted = [_wanted(each, place) for place, each in enumerate(_pictures(request))]
    threads = _whole(request, "threads", None, 1, _MAX_THREADS)
    precision = _choice(request, "precision", ("no", "bf16"), "no")
    kind = device.choose()
    device.check_precision(kind, precision)
    if threads is not None:
        torch.set_num_threads(threads)
    family = for_checkpoint(require_base(_text(request, "base", 4096)))
    dtype = device.DTYPES[precision]
    modules = family.load(["unet", "vae", *family.text_parts], device=kind, dtype=dtype)
    # The autoencoder alone: the U-Net was slower that way (fp32, SD1.5 at 256 px and the pocket base at 128 px).
    modules["vae"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for group in _groups(wanted):
        _draw_group(family, modules, group, kind)


def _draw_group(family: ModelFamily, modules: Mapping[str, nn.Module], group: list[Wanted], kind: str) -> None:
    from .merge import merged
    from .picture_file import Made, write_png

    first = group[0]
    with merged(family, modules, first.loras):
        pictures = draw(
            family,
            modules,
            [each.prompt for each in group],
            steps=first.steps,
            cfg=first.cfg,
            clip_skip=first.clip_skip,
            device=kind,
            dtype=modules["unet"].get_parameter("conv_in.weight").dtype,
        )
    names = tuple((path.stem, weight) for path, weight in first.loras)
    for each, picture in zip(group, pictures, strict=True):
        p = each.prompt
        made = Made(
            p.prompt,
            p.negative,
            each.steps,
            each.cfg,
            p.seed,
            p.width,
            p.height,
            model=family.checkpoint.path.stem,
            clip_skip=each.clip_skip,
            loras=names,
        )
        write_png(each.out, picture, made)
        print(json.dumps({"out": str(each.out)}), flush=True)


def _groups(wanted: list[Wanted]) -> Iterator[list[Wanted]]:
    """Yield the pictures that are drawn with the same LoRAs and settings, in the order of the first of each."""
    groups: dict[tuple[Any, ...], list[Wanted]] = {}
    for each in wanted:
        groups.setdefault(each.together, []).append(each)
    yield from groups.values()


def _pictures(request: Mapping[str, Any]) -> list[Any]:
    pictures = request.get("pictures")
    if not isinstance(pictures, list) or not 1 <= len(pictures) <= _MAX_PICTURES:
        raise UserError("The request has no list of pictures.", f"Ask for 1 to {_MAX_PICTURES} pictures.")
    return pictures


def _wanted(picture: Any, place: int) -> Wanted:
    if not isinstance(picture, dict):
        raise UserError(f"Picture {place + 1} of the request is not a table.", "Make the request anew.")
    out = Path(_text(picture, "out", 4096))
    if out.suffix.lower() != ".png" or out.is_dir():
        raise UserError(f"Pictures are written as .png, and {out.name!r} is none.", "Give a name that ends in .png.")
    if not out.parent.is_dir():
        raise UserError(f"There is no folder {out.parent}.", "Make it first, or choose another one.")
    prompt = SamplePrompt(
        _text(picture, "prompt", limits.MAX_PROMPT_CHARS),
        _text(picture, "negative", limits.MAX_PROMPT_CHARS, ""),
        _whole(picture, "seed", 0, 0, _MAX_SEED) or 0,
        _side(picture, "width"),
        _side(picture, "height"),
    )
    _choice(picture, "sampler", ("ddim",), "ddim")
    return Wanted(
        prompt,
        _whole(picture, "steps", 20, 1, 150) or 20,
        _number(picture.get("cfg", 7.0), "cfg", 1, 30),
        _whole(picture, "clip_skip", 1, 1, 12) or 1,
        _loras(picture.get("loras", [])),
        out,
    )


def _loras(value: Any) -> tuple[tuple[Path, float], ...]:
    if not isinstance(value, list) or len(value) > _MAX_LORAS:
        raise UserError(
            "The LoRAs of a picture are not a list.", f"Give at most {_MAX_LORAS} pairs of path and weight."
        )
    loras = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise UserError("A LoRA of a picture is not a pair of path and weight.", "Write FILE:WEIGHT.")
        loras.append((Path(pair[0]), _number(pair[1], "weight", -10, 10)))
    return tuple(loras)


def _side(picture: Mapping[str, Any], name: str) -> int:
    side = _whole(picture, name, 512, 64, 2048) or 512
    if side % 8:
        raise UserError(f"A picture cannot be {side} px wide or high.", "Use multiples of 8 from 64 to 2048.")
    return side


def _text(table: Mapping[str, Any], name: str, longest: int, default: str | None = None) -> str:
    value = table.get(name, default)
    if not isinstance(value, str) or len(value) > longest or "\0" in value:
        raise UserError(f"{name} is not a text of at most {longest} characters.", "Give a shorter text.")
    return value


def _whole(table: Mapping[str, Any], name: str, default: int | None, least: int, most: int) -> int | None:
    value = table.get(name)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise UserError(f"{name} cannot be {str(value)[:40]}.", f"It takes a whole number from {least} to {most}.")
    return value


def _number(value: Any, name: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{name} cannot be {str(value)[:40]}.", f"It takes a number from {least} to {most}.")
    if not least <= value <= most:
        raise UserError(f"{name} cannot be {value:g}.", f"It takes a number from {least} to {most}.")
    return float(value)


def _choice(table: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    value = table.get(name)
    if value is None:
        return default
    if value not in choices:
        raise UserError(f"{name} cannot be {str(value)[:40]!r}.", f"It takes {' or '.join(choices)}.")
    return str(value)
