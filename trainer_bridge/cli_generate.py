"""`generate`: one picture by the trainer's own sampler."""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

from . import checkpoint, environment, limits, paths, platform, preset, tool
from .checkpoint import Checkpoint, require_base
from .cli_answer import Answer, absolute
from .console import Console, Steps
from .errors import RunFailed, UserError
from .families import FAMILIES
from .fields import BY_NAME
from .spec import TYPES

_MAX_WEIGHT = 10.0
_MAX_LORAS = 20


def generate(options: argparse.Namespace, console: Console) -> Answer:
    """Draw one picture.

    Raises:
        UserError: an argument cannot be used, or the file to write exists.
        RunFailed: drawing failed.
    """
    base = require_base(absolute(options.base))
    loras = [_lora(text, base) for text in options.lora]
    if len(loras) > _MAX_LORAS:
        raise UserError(f"{len(loras)} LoRAs are too many.", f"Use at most {_MAX_LORAS}.")
    picture = _picture(options, base)
    out = _target(options.out)
    environment.trainer_python()
    passing = out.with_name(f".atelier-{secrets.token_hex(6)}.png")
    asked = {**picture, "loras": [[str(path), weight] for path, weight in loras], "out": str(passing)}
    try:
        _draw(base, asked, console)
        if not platform.publish_new(passing, out):
            raise _exists(out)
    except OSError as error:
        raise RunFailed(f"The picture {out} cannot be written: {paths.why(error)}.", "Choose another --out.") from None
    finally:
        passing.unlink(missing_ok=True)
    console.say(f"{out} ({picture['width']} x {picture['height']} px, seed {picture['seed']})")
    return Answer({**asked, "base": str(base.path), "out": str(out)})


def _draw(base: Checkpoint, asked: dict[str, Any], console: Console) -> None:
    request = {"base": str(base.path), "pictures": [asked], "threads": None, "precision": None}
    Steps(console)("Drawing", 0, 0)
    with tempfile.TemporaryDirectory(prefix="atelier-") as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(request), encoding="ascii")
        tool.call("trainer_bridge.engine", ["generate", str(file)])


def _picture(options: argparse.Namespace, base: Checkpoint) -> dict[str, Any]:
    for text, noun in ((options.prompt, "prompt"), (options.negative, "negative prompt")):
        if len(text) > limits.MAX_PROMPT_CHARS:
            raise UserError(f"The {noun} is too long.", f"Use at most {limits.MAX_PROMPT_CHARS} characters.")
    chosen, own = preset.choices(base.family, TYPES[0], base.config)
    usual = {**chosen, **own}

    def setting(name: str, text: str | None) -> Any:
        if text is not None:
            return BY_NAME[name].parse(text)
        return usual[name].value if name in usual else BY_NAME[name].default

    return {
        "prompt": options.prompt,
        "negative": options.negative,
        "seed": _whole(options.seed, "seed", 0, 2**63 - 1),
        "steps": setting("sample_steps", options.steps),
        "cfg": setting("sample_cfg", options.cfg),
        "width": _side(options.width, "width", base),
        "height": _side(options.height, "height", base),
        "sampler": "ddim",
        "clip_skip": setting("clip_skip", None),
    }


def _side(text: str | None, noun: str, base: Checkpoint) -> int:
    side = base.native_size // 8 * 8 if text is None else _whole(text, noun, 64, 2048)
    if side % 8:
        raise UserError(f"The {noun} cannot be {side} px.", "It must be a multiple of 8, from 64 to 2048.")
    return side


def _whole(text: str, noun: str, least: int, most: int) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and least <= int(digits) <= most):
        raise UserError(f"The {noun} cannot be {text[:40]!r}.", f"It is a whole number from {least} to {most}.")
    return int(digits)


def _lora(text: str, base: Checkpoint) -> tuple[Path, float]:
    """Read `FILE[:WEIGHT]`; the colon of a Windows drive is none of ours.

    Raises:
        UserError: no LoRA, one for another family, or a weight that is none.
    """
    path, weight = split_weight(text)
    found = checkpoint.inspect(absolute(path))
    if found.kind != "lora" or found.lora is None:
        raise UserError(f"{found.path.name} is {found.title}, not a LoRA.", "Give a LoRA file to --lora.")
    family = found.lora.base
    if family is not None and family != base.family:
        ours, its = FAMILIES.get(base.family or ""), FAMILIES.get(family)
        wanted = its.title if its else family
        raise UserError(
            f"{found.path.name} is for {wanted}, the base is {ours.title if ours else base.title}.",
            "Use a base of its family.",
        )
    return found.path, weight


def split_weight(text: str) -> tuple[Path, float]:
    """Return file and weight of `FILE[:WEIGHT]`.

    Raises:
        UserError: the weight is not a number within bounds.
    """
    head, colon, tail = text.rpartition(":")
    if os.path.isfile(text) or not colon or not head or "/" in tail or "\\" in tail:
        return Path(text), 1.0
    try:
        weight = float(tail)
    except ValueError:
        return Path(text), 1.0
    if not math.isfinite(weight) or abs(weight) > _MAX_WEIGHT:
        raise UserError(
            f"The weight {tail[:40]!r} of a LoRA is none.", f"Use a number from -{_MAX_WEIGHT:g} to {_MAX_WEIGHT:g}."
        )
    return Path(head), weight


def _target(path: Path) -> Path:
    out = absolute(path)
    if out.suffix.lower() != ".png":
        raise UserError(f"The picture {out.name} is not called .png.", "Give --out a name that ends in .png.")
    paths.require_writable(out.parent, "folder", "Choose another --out.")
    if os.path.lexists(out):
        raise _exists(out)
    return out


def _exists(out: Path) -> UserError:
    return UserError(f"There is a file {out} already; it is left as it is.", "Choose another name for --out.")
