"""Warms the text encoder up, so that "red" is bound to "hair" before the U-Net starts to listen.

    python -m trainer_bridge.pocket.make.text --work DIR [--steps N]

Linear heads at the end-of-text position and at the last padding position read the labels back from the
features. Only the tokens that captions use are trained; all others keep their random start, and a few of
them are mixed into captions, so that an unknown word (a LoRA's trigger) changes little.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from ...clip_vocab import ENTRIES, ClipBpe
from . import models, workers
from .labels import CLASSES, QUALITY, Look, sample_look, tags, training_caption

_BPE = ClipBpe()


def used_ids() -> list[int]:
    """Ids of all tokens that captions are made of, with start, end and the comma."""
    words = {tag for classes in CLASSES.values() for tag in classes.values() if tag} | set(QUALITY) | {","}
    ids = {i for word in words for i in _BPE.encode(word)}
    return sorted(ids | {_BPE.start_id, _BPE.end_id})


class TrainedTokens(nn.Module):
    """A token table of which only ``ids`` are trained; the others are a fixed random start."""

    table: Tensor
    place: Tensor

    def __init__(self, table: Tensor, ids: list[int]) -> None:
        super().__init__()
        self.register_buffer("table", table.detach().clone())
        place = torch.full((table.shape[0],), -1)
        place[ids] = torch.arange(len(ids))
        self.register_buffer("place", place)
        self.ids = ids
        self.trained = nn.Parameter(table.detach()[ids].clone())

    def forward(self, ids: Tensor) -> Tensor:
        place = self.place[ids]
        rows = self.trained[place.clamp(min=0)]
        return torch.where((place >= 0)[..., None], rows, self.table[ids].to(rows.dtype))

    def full(self) -> Tensor:
        """The whole table [49408, width], float32."""
        table = self.table.float().clone()
        table[self.ids] = self.trained.detach().float()
        return table


def _embeddings(net: CLIPTextModel) -> Any:
    return net.embeddings if hasattr(net, "embeddings") else net.text_model.embeddings


def trainable(net: CLIPTextModel) -> CLIPTextModel:
    """The same encoder with a :class:`TrainedTokens` table in place of its own."""
    inner = _embeddings(net)
    inner.token_embedding = TrainedTokens(inner.token_embedding.weight, used_ids())
    return net


def plain_state(net: CLIPTextModel) -> dict[str, Tensor]:
    """The state of an ordinary CLIPTextModel with these weights, float32."""
    state = {k: v.detach().float() for k, v in net.state_dict().items() if ".token_embedding." not in f".{k}"}
    prefix = next(k for k in state if k.endswith("position_embedding.weight")).removesuffix("position_embedding.weight")
    state[f"{prefix}token_embedding.weight"] = _embeddings(net).token_embedding.full()
    return state


def with_strangers(text: str, rng: np.random.Generator) -> list[int]:
    """77 ids of a caption; 4 % of its tags are followed by one to three random unknown tokens."""
    ids: list[int] = []
    for i, tag in enumerate(text.split(", ") if text else []):
        ids += ([_comma()] if i else []) + _BPE.encode(tag)
        if rng.random() < 0.04:
            ids += [int(n) for n in rng.integers(512, ENTRIES - 2, int(rng.integers(1, 4)))]
    ids = [_BPE.start_id, *ids[:75], _BPE.end_id]
    return ids + [_BPE.end_id] * (77 - len(ids))


def _comma() -> int:
    return _BPE.encode(",")[0]


def padded(texts: list[str]) -> Tensor:
    """Ids [N, 77] of plain captions."""
    return torch.tensor([_BPE.encode_padded(text) for text in texts])


def _said(look: Look, text: str) -> list[int]:
    """Class numbers, or the number of classes where the caption does not say."""
    spoken = tags(look)
    numbers = look.indices()
    out = []
    for i, (name, classes) in enumerate(CLASSES.items()):
        tag = spoken.get("clothes" if name == "clothes_color" else name)
        out.append(numbers[i] if tag and f", {tag}," in f", {text}," else len(classes))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=450)
    args = parser.parse_args()
    torch.manual_seed(3)
    torch.set_num_threads(1)
    net = trainable(models.text_encoder())
    width = models.TEXT["hidden_size"]
    heads = [nn.Linear(width, 2 * (len(c) + 1)) for c in CLASSES.values()]
    params = [*net.parameters(), *(p for head in heads for p in head.parameters())]
    optimizer = torch.optim.AdamW(params, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(args.steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 40) * min(1, 1.05 - step / args.steps)
        rng = np.random.default_rng([31, step])
        looks = [sample_look(rng) for _ in range(64)]
        texts = [training_caption(look, rng) for look in looks]
        ids = torch.tensor([with_strangers(text, rng) for text in texts])
        hidden = net(input_ids=ids).last_hidden_state
        end = hidden[torch.arange(64), (ids == _BPE.end_id).int().argmax(1)]
        wanted = torch.tensor([_said(a, b) for a, b in zip(looks, texts, strict=True)])
        loss, right = torch.zeros(()), []
        for i, head in enumerate(heads):
            size = head.out_features // 2
            for logits in (head(end)[:, :size], head(hidden[:, -1])[:, size:]):
                loss = loss + nn.functional.cross_entropy(logits, wanted[:, i]) / (2 * len(heads))
                right.append((logits.argmax(1) == wanted[:, i]).float().mean())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(f"{step + 1}: loss {loss.item():.3f}, read back {torch.stack(right).mean():.3f}", flush=True)
    workers.save(args.work / "text.pt", {"model": plain_state(net)})


if __name__ == "__main__":
    main()
