"""Makes networks from a single checkpoint file, without a hub and without a second copy of the weights.

The networks are made on the meta device; the weights are memory-mapped and put in place, so that a tensor is copied
only where its number format or its device changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..safetensors_header import Tensor as Entry
from .keys import Piece, shape_of

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Bytes of the file that are read before it is mapped anew.
_MAPPED = 128 * 1024**2


def empty_unet(config: Mapping[str, Any]) -> nn.Module:
    """Return diffusers' U-Net of these sizes, without weights."""
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**config)


def empty_vae(config: Mapping[str, Any]) -> nn.Module:
    """Return diffusers' autoencoder of these sizes, without weights."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    with torch.device("meta"):
        return AutoencoderKL(**config)


def empty_text_encoder(config: Mapping[str, Any]) -> nn.Module:
    """Return a text encoder of these sizes, without weights."""
    import torch

    from .clip import ClipText

    with torch.device("meta"):
        return ClipText(**config)


def fill(
    module: nn.Module,
    path: Path,
    pieces: Iterable[Piece],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
) -> nn.Module:
    """Put the weights in place, frozen and in evaluation mode.

    Args:
        module: made on the meta device.
        path: the checkpoint.
        pieces: what fills what.

    Raises:
        UserError: a weight is missing, is left over, or has another shape; or the file cannot be read any more.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    for piece, tensor in _read(path, pieces):
        made = _take(piece, tensor)
        if wanted.get(piece.target) != tuple(made.shape) or piece.target in state:
            raise _does_not_fit(path, piece, tuple(made.shape), wanted.get(piece.target))
        state[piece.target] = made.to(device=device, dtype=dtype)
    missing = wanted.keys() - state.keys()
    if missing:
        raise UserError(
            f"{path.name} lacks {len(missing)} weights of the model, for instance {min(missing)}.",
            "Choose an unmodified checkpoint of the family.",
        )
    module.load_state_dict(state, strict=True, assign=True)
    assert not any(buffer.is_meta for buffer in module.buffers())
    return module.requires_grad_(False).eval()


def translated(tensors: Mapping[str, Entry], pieces: Iterable[Piece]) -> dict[str, Entry]:
    """Return the file's tensors under the module's names, with the shapes that they get there."""
    made: dict[str, Entry] = {}
    for piece in pieces:
        entry = tensors[piece.source]
        made[piece.target] = Entry(entry.dtype, shape_of(piece, entry.shape), entry.start, entry.end)
    return made


def _read(path: Path, pieces: Iterable[Piece]) -> Iterable[tuple[Piece, torch.Tensor]]:
    """Yield each piece with its tensor.

    The file is mapped anew every so often: where the weights change their number format the pages that were read
    are of no use any more, and would count as this process's memory until the last is read.
    """
    from safetensors import SafetensorError, safe_open

    left = list(pieces)[::-1]
    try:
        while left:
            read = 0
            with safe_open(str(path), framework="pt", device="cpu") as file:
                while left and read < _MAPPED:
                    piece = left.pop()
                    tensor = file.get_tensor(piece.source)
                    read += tensor.numel() * tensor.element_size()
                    yield piece, tensor
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path.name} cannot be read ({error}).", "Check that the file is there and complete."
        ) from None


def _take(piece: Piece, tensor: torch.Tensor) -> torch.Tensor:
    shape = shape_of(piece, tuple(tensor.shape))
    if piece.form == "flat":
        return tensor.reshape(shape)
    if piece.form == "transposed":
        return tensor.T.contiguous()
    return tensor if piece.third is None else tensor.chunk(3)[piece.third]


def _does_not_fit(path: Path, piece: Piece, has: tuple[int, ...], wants: tuple[int, ...] | None) -> UserError:
    if wants is None:
        fault = "has no place in the model"
    elif wants == has:
        fault = "stands twice"
    else:
        fault = f"has the shape {list(has)} where {list(wants)} is needed"
    return UserError(
        f"{path.name}: the weight {piece.source[:80]!r} {fault}.",
        "Choose an unmodified checkpoint of the family.",
    )
