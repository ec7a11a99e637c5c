"""Captions -> token ids -> features of CLIP text encoders.

Rules per family (FACTS section 2; the same as sd-scripts'): ids are start, at most 75 tokens, end, padding. Longer
captions become several such rows, whose features are joined again as one start, all bodies, one end.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ..clip_vocab import ClipBpe

if TYPE_CHECKING:
    from torch import Tensor, nn

BODY = 75
ROW = BODY + 2
MOST_ROWS = 3


class Encoded(NamedTuple):
    """Features of captions.

    Attributes:
        hidden: [B, 2 + 75 * rows, D] of the layer asked for, before the final norm.
        last: [B, 77, D] of the last layer of the first row, behind the final norm.
    """

    hidden: Tensor
    last: Tensor


@lru_cache(maxsize=1)
def tokenizer() -> ClipBpe:
    """Return the tokenizer, made once."""
    return ClipBpe()


def rows_needed(text: str) -> int:
    """Return how many rows of 75 tokens `text` fills, from 1 to 3; what is longer is cut off."""
    return min(MOST_ROWS, max(1, -(-len(tokenizer().encode(text)) // BODY)))


def token_rows(text: str, rows: int, pad: int) -> list[list[int]]:
    """Return `rows` rows of 77 ids; a row that the text does not reach holds start, end and padding."""
    bpe = tokenizer()
    ids = bpe.encode(text)
    made = []
    for row in range(rows):
        body = ids[row * BODY : (row + 1) * BODY]
        made.append([bpe.start_id, *body, bpe.end_id, *[pad] * (BODY - len(body))])
    return made


def token_ids(texts: Sequence[str], rows: int, pad: int) -> Tensor:
    """Return ids [B * rows, 77] as int64."""
    import torch

    return torch.tensor([row for text in texts for row in token_rows(text, rows, pad)], dtype=torch.int64)


def encode(encoder: nn.Module, ids: Tensor, rows: int, skip: int) -> Encoded:
    """Run a text encoder; gradients flow where it wants them.

    Args:
        encoder: transformers' CLIPTextModel or CLIPTextModelWithProjection.
        ids: [B * rows, 77].
        rows: rows of each caption.
        skip: layer that is read, counted from the last, which is 1.

    Raises:
        ValueError: the encoder has fewer layers.
    """
    body: Any = getattr(encoder, "text_model", encoder)
    layers = body.encoder.layers
    if not 1 <= skip <= len(layers):
        raise ValueError(f"layer {skip} from the last of {len(layers)}")
    caught: list[Any] = []
    # transformers' own hidden_states changed between versions in what their last entry is; a hook has not.
    handle = layers[len(layers) - skip].register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    try:
        last = body(input_ids=ids.to(body.embeddings.token_embedding.weight.device)).last_hidden_state
    finally:
        handle.remove()
    hidden = caught[0][0] if isinstance(caught[0], tuple) else caught[0]
    return Encoded(_join(hidden, rows), last[::rows])


def final_norm(encoder: nn.Module, hidden: Tensor) -> Tensor:
    """Return `hidden` behind the encoder's final norm."""
    body: Any = getattr(encoder, "text_model", encoder)
    return body.final_layer_norm(hidden)


def pooled(encoder: nn.Module, ids: Tensor, rows: int, last: Tensor) -> Tensor:
    """Return the projected state of the first end-of-text token [B, P].

    Found by its id: the widespread "largest id" rule picks a learnt embedding's token when there is one.
    """
    import torch

    at = (ids[::rows] == ClipBpe.end_id).int().argmax(dim=1).to(last.device)
    projection: Any = encoder.text_projection
    return projection(last[torch.arange(len(last), device=last.device), at])


def _join(hidden: Tensor, rows: int) -> Tensor:
    """Join rows [B * rows, 77, D] to [B, 2 + 75 * rows, D]."""
    import torch

    if rows == 1:
        return hidden
    parts = hidden.unflatten(0, (-1, rows))
    bodies = [parts[:, row, 1 : 1 + BODY] for row in range(rows)]
    return torch.cat([parts[:, 0, :1], *bodies, parts[:, -1, -1:]], dim=1)
