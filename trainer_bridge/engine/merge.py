"""Merges LoRA files into the weights of networks in memory, and takes them out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint import inspect, read_header
from ..errors import UserError
from .families.base import ModelFamily

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Ends of a plain LoRA's keys; a LyCORIS, a DoRA or a diffusers file has others.
_ENDS = (".lora_down.weight", ".lora_up.weight", ".lora_mid.weight", ".alpha")


@contextmanager
def merged(
    family: ModelFamily, modules: Mapping[str, nn.Module], loras: Sequence[tuple[Path, float]]
) -> Iterator[None]:
    """Draw with LoRAs inside: each weight becomes `W + weight * alpha / rank * up @ down`.

    The changed weights are copies; afterwards the old ones stand in their places again, untouched.

    Args:
        modules: the networks, all parts that a LoRA of the family can change.
        loras: files and weights.

    Raises:
        UserError: a file is no LoRA for these networks, and why.
    """
    old: dict[Any, Tensor] = {}
    try:
        for path, weight in loras:
            _add(family, modules, path, weight, old)
        yield
    finally:
        for module, value in old.items():
            module.weight.data = value


def _add(
    family: ModelFamily, modules: Mapping[str, nn.Module], path: Path, weight: float, old: dict[Any, Tensor]
) -> None:
    """Merge one file; `old` receives the weights as they were before the first."""
    places = _places(family, modules)
    layers = _read(path)
    unmatched = sorted(stem for stem in layers if stem not in places)
    if unmatched:
        raise UserError(
            f"{path.name} does not fit {family.checkpoint.path.name}: {len(unmatched)} of its {len(layers)} layers are"
            f" not in the base, for instance {unmatched[0][:80]!r}.",
            "Choose a LoRA that was trained on a base of the same family.",
        )
    for stem, layer in layers.items():
        module: Any = places[stem]
        old.setdefault(module, module.weight.data)
        change = _difference(path, stem, layer, module.weight.data)
        module.weight.data = (module.weight.data.float() + weight * change).to(old[module].dtype)


def _places(family: ModelFamily, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    places: dict[str, nn.Module] = {}
    for part in ("unet", *family.text_parts):
        stems = family.lora_stems(part, modules[part])
        places |= {stem: modules[part].get_submodule(where) for stem, where in stems.items()}
    return places


def _read(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return key stem -> end of the key -> tensor, after the header has been found sound."""
    from safetensors import SafetensorError, safe_open

    header = read_header(path)
    kind = inspect(path)
    if kind.kind != "lora":
        raise UserError(f"{path.name} is {kind.title}, not a LoRA.", "Choose a LoRA.")
    layers: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            for name in header.tensors:
                end = next((end for end in _ENDS if name.endswith(end)), None)
                if end is None or (kind.lora is not None and kind.lora.type != "LoRA"):
                    raise UserError(
                        f"{path.name} is not a plain LoRA with kohya's names; it has for instance {name[:80]!r}.",
                        "Try it in the WebUI, which draws with more kinds.",
                    )
                layers.setdefault(name[: -len(end)], {})[end] = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path.name} cannot be read ({error}).", "Check that the file is complete.") from None
    return layers


def _difference(path: Path, stem: str, layer: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    """Return `alpha / rank * up @ down` in the shape of `weight`, fp32."""
    down, up = layer.get(".lora_down.weight"), layer.get(".lora_up.weight")
    if down is None or up is None or ".lora_mid.weight" in layer or down.dim() < 2 or up.dim() < 2:
        raise _wrong(path, stem, "is not made of one lora_down and one lora_up")
    rank, rows = down.shape[0], weight.shape[0]
    if rank == 0 or up.shape[1] != rank or up.shape[2:].numel() != 1:
        raise _wrong(path, stem, "has two halves of different rank")
    # Before anything is multiplied: the product of two long vectors can be larger than any memory.
    if up.shape[0] != rows or down.numel() // rank * rows != weight.numel():
        raise _wrong(path, stem, f"does not fit a layer of shape {list(weight.shape)}")
    stored = layer.get(".alpha")
    alpha = float(rank) if stored is None or stored.numel() != 1 else float(stored.float().reshape(()))
    change = alpha / rank * (up.float().reshape(rows, rank) @ down.float().reshape(rank, -1))
    if not bool(change.isfinite().all()):
        raise _wrong(path, stem, "holds values that are no numbers")
    return change.reshape(weight.shape).to(weight.device)


def _wrong(path: Path, stem: str, fault: str) -> UserError:
    return UserError(f"{path.name}: the layer {stem[:80]!r} {fault}.", "Choose a LoRA for a base of this family.")
