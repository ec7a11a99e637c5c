"""CLIP's text encoder (arXiv 2103.00020), in OpenAI's and OpenCLIP's sizes.

Written out, not taken from transformers: that library's import alone costs more time than a short run's first step,
and its modules' names, which LoRA keys follow, changed with its fifth version. Here they are Hugging Face's for good.
The tests hold it against transformers' class and against a reference in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

#: Of the norms; OpenAI's and OpenCLIP's own.
_EPS = 1e-5
_ACTIVATIONS = ("quick_gelu", "gelu")


class Encoded(NamedTuple):
    """Features of rows of ids.

    Attributes:
        hidden: [B, T, D] of the layer asked for, before the final norm.
        last: [B, T, D] of the last layer, behind the final norm.
    """

    hidden: Tensor
    last: Tensor


class ClipText(nn.Module):
    """The whole encoder.

    Args:
        width: of the features; each of `heads` gets an equal share.
        inner: width inside the feed-forward parts.
        activation: `quick_gelu` (OpenAI) or `gelu` (OpenCLIP).
        projection: width that pooled text is projected to; None without.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        positions: int,
        width: int,
        inner: int,
        layers: int,
        heads: int,
        activation: str,
        projection: int | None,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation {activation!r}")
        self.text_model = _Body(vocabulary, positions, width)
        stack = [_Layer(width, inner, heads, activation) for _ in range(layers)]
        self.text_model.encoder.layers.extend(stack)
        self.text_projection = None if projection is None else nn.Linear(width, projection, bias=False)
        self.checkpointing = False

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return len(self.text_model.encoder.layers)

    def gradient_checkpointing_enable(self, options: Mapping[str, object] | None = None) -> None:
        """Compute the layers twice instead of keeping what is between them; `options` as transformers' method."""
        self.checkpointing = True

    def forward(self, ids: Tensor, skip: int = 1) -> Encoded:
        """Encode ids [B, T].

        Args:
            skip: layer that is read, counted from the last, which is 1.

        Raises:
            ValueError: there are fewer layers.
        """
        if not 1 <= skip <= self.layers:
            raise ValueError(f"layer {skip} from the last of {self.layers}")
        body = self.text_model
        now = hidden = body.embeddings(ids)
        for place, layer in enumerate(body.encoder.layers):
            if self.checkpointing and torch.is_grad_enabled():
                now = checkpoint(layer, now, use_reentrant=False)
            else:
                now = layer(now)
            if place == self.layers - skip:
                hidden = now
        return Encoded(hidden, body.final_layer_norm(now))


class _Body(nn.Module):
    def __init__(self, vocabulary: int, positions: int, width: int) -> None:
        super().__init__()
        self.embeddings = _Embeddings(vocabulary, positions, width)
        self.encoder = _Stack()
        self.final_layer_norm = nn.LayerNorm(width, _EPS)


class _Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()


class _Embeddings(nn.Module):
    def __init__(self, vocabulary: int, positions: int, width: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(positions, width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class _Layer(nn.Module):
    def __init__(self, width: int, inner: int, heads: int, activation: str) -> None:
        super().__init__()
        self.self_attn = _Attention(width, heads)
        self.layer_norm1 = nn.LayerNorm(width, _EPS)
        self.mlp = _FeedForward(width, inner, activation)
        self.layer_norm2 = nn.LayerNorm(width, _EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Attention(nn.Module):
    """Each token sees itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        sides = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (side.unflatten(-1, (self.heads, -1)).transpose(1, 2) for side in sides)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.quick = activation == "quick_gelu"
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x))
