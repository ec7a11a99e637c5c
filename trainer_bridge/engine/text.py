"""Captions -> token ids -> features of CLIP text encoders.

Rules per family (FACTS section 2; the same as sd-scripts'): ids are start, at most 75 tokens, end, padding. Longer
captions become several such rows, whose features are joined again as one start, all bodies, one end.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from ..clip_vocab import ClipBpe

if TYPE_CHECKING:
    from torch import Tensor

    from .clip import ClipText, Encoded

BODY = 75
ROW = BODY + 2
MOST_ROWS = 3


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


def encode(encoder: ClipText, ids: Tensor, rows: int, skip: int) -> Encoded:
    """Run a text encoder; gradients flow where it wants them.

    Args:
        ids: [B * rows, 77].
        rows: rows of each caption.
        skip: layer that is read, counted from the last, which is 1.

    Returns:
        hidden [B, 2 + 75 * rows, D] of that layer before the final norm; last [B, 77, D] of the first row.
    """
    device = encoder.text_model.final_layer_norm.weight.device
    encoded = encoder(ids.to(device), skip)
    return encoded._replace(hidden=_join(encoded.hidden, rows), last=encoded.last[::rows])


def pooled(encoder: ClipText, ids: Tensor, rows: int, last: Tensor) -> Tensor:
    """Return the projected state of the first end-of-text token [B, P].

    Found by its id: the widespread "largest id" rule picks a learnt embedding's token when there is one.
    """
    import torch

    assert encoder.text_projection is not None
    at = (ids[::rows] == ClipBpe.end_id).int().argmax(dim=1).to(last.device)
    return encoder.text_projection(last[torch.arange(len(last), device=last.device), at])


def _join(hidden: Tensor, rows: int) -> Tensor:
    """Join rows [B * rows, 77, D] to [B, 2 + 75 * rows, D]."""
    import torch

    if rows == 1:
        return hidden
    parts = hidden.unflatten(0, (-1, rows))
    bodies = [parts[:, row, 1 : 1 + BODY] for row in range(rows)]
    return torch.cat([parts[:, 0, :1], *bodies, parts[:, -1, -1:]], dim=1)
