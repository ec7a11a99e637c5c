"""What tells a model family: a few decisive weights, by name and shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .safetensors_header import Tensor

#: Sizes of a weight's dimensions; None stands for any size.
Shape = tuple[int | None, ...]

#: Where the denoiser's weights may stand in a file, as they are tried. The first that six weights carry is
#: taken.
PREFIXES: tuple[str, ...] = ("model.diffusion_model.", "net.", "model.")
_ENOUGH = 6

LINEAR: Shape = (None, None)
CONV: Shape = (None, None, None, None)


@dataclass(frozen=True)
class Signature:
    """Weights that tell a family or one of its variants.

    Attributes:
        has: each of these is there, of this shape; None stands for any shape.
        lacks: none of these is there.
    """

    has: Mapping[str, Shape | None]
    lacks: tuple[str, ...] = ()


def has(*keys: str, lacks: tuple[str, ...] = ()) -> Signature:
    return Signature(MappingProxyType(dict.fromkeys(keys)), lacks)


def shaped(shapes: Mapping[str, Shape | None], lacks: tuple[str, ...] = ()) -> Signature:
    return Signature(MappingProxyType(dict(shapes)), lacks)


class Weights(Mapping[str, Tensor]):
    """A file's tensors with the denoiser's prefix taken off; other names can be asked for as they stand."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._all = tensors
        self.prefix = next((p for p in PREFIXES if _carried(tensors, p)), "")
        self.everything = tensors.keys()
        self.names = frozenset(name[len(self.prefix) :] for name in tensors if name.startswith(self.prefix))

    def __getitem__(self, name: str) -> Tensor:
        return self._all[self.prefix + name if name in self.names else name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names or name in self._all


def matches(signature: Signature, weights: Weights) -> bool:
    """Say whether `weights` bear `signature`."""
    if any(name in weights for name in signature.lacks):
        return False
    return all(name in weights and _fits(weights[name].shape, shape) for name, shape in signature.has.items())


def _carried(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return sum(name.startswith(prefix) for name in tensors) >= _ENOUGH


def _fits(shape: tuple[int, ...], wanted: Shape | None) -> bool:
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(want in (None, size) for size, want in zip(shape, wanted, strict=True))
