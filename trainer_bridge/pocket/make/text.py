"""Warms the text encoder up, so that "red" is bound to "hair" before the U-Net starts to listen.

    python -m trainer_bridge.pocket.make.text --work DIR [--steps N]

Linear heads at the end-of-text position, at a padding position and where a coloured tag ends read the labels back
from the features, until "red hair, blue eyes" is told from "blue hair, red eyes": the U-Net alone does not teach it
that (with heads that read back 60 % of the clothes' colours, the samples had 34 % of them right). Only the tokens
that captions use are trained; all others keep their random start, and a few of them are mixed into captions, so that
an unknown word (a LoRA's trigger) changes little.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from ...clip_vocab import ENTRIES, ClipBpe
from . import models, workers
from .labels import CLASSES, QUALITY, Look, caption, sample_look, tags, training_caption

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


_COLOURED = {"hair_color": "hair_color", "eyes": "eyes", "clothes_color": "clothes", "background": "background"}


def _last_words() -> dict[str, Tensor]:
    """For the attributes that share colour words: ids of the words that end their tags (hair, eyes, hoodie ...)."""
    tags_of = {name: CLASSES[spot].values() for name, spot in _COLOURED.items()}
    return {name: torch.tensor(sorted({_BPE.encode(t)[-1] for t in of})) for name, of in tags_of.items()}


class Reader(nn.Module):
    """Reads the labels back from features: at the end of text, at padding, and where a coloured tag ends."""

    def __init__(self) -> None:
        super().__init__()
        width = models.TEXT["hidden_size"]
        self.heads = nn.ModuleList(nn.Linear(width, 3 * (len(c) + 1)) for c in CLASSES.values())
        self.words = _last_words()

    def forward(self, hidden: Tensor, ids: Tensor, wanted: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the share read back per attribute [attributes]; ``place`` [N] are padding positions."""
        row = torch.arange(len(ids))
        end = hidden[row, (ids == _BPE.end_id).int().argmax(1)]
        loss, right = hidden.new_zeros(()), []
        for i, (name, head) in enumerate(zip(CLASSES, self.heads)):
            size = len(CLASSES[name]) + 1
            hard = 3.0 if name in self.words else 1.0
            for logits in (head(end)[:, :size], head(hidden[row, place])[:, size : 2 * size]):
                loss = loss + hard * nn.functional.cross_entropy(logits, wanted[:, i]) / 20
                right.append((logits.argmax(1) == wanted[:, i]).float().mean())
            if name in self.words:
                here = torch.isin(ids, self.words[name]) & (wanted[:, i : i + 1] < size - 1)
                said, first = here.any(1), here.int().argmax(1)
                logits = head(hidden[row, first])[:, 2 * size :]
                loss = loss + nn.functional.cross_entropy(logits[said], wanted[said, i]) / 5
        return loss, torch.stack(right).view(-1, 2).mean(1)


def _batch(step: int, count: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [N, 77], class numbers [N, attributes], padding positions [N]."""
    rng = np.random.default_rng([32, step])
    looks = [sample_look(rng) for _ in range(count)]
    texts = [training_caption(look, rng) or caption(look) for look in looks]
    ids = torch.tensor([with_strangers(text, rng) for text in texts])
    wanted = torch.tensor([_said(a, b) for a, b in zip(looks, texts, strict=True)])
    return ids, wanted, torch.from_numpy(rng.integers(50, 77, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    args = parser.parse_args()
    torch.manual_seed(3)
    torch.set_num_threads(1)
    net, reader = trainable(models.text_encoder()), Reader()
    params = [*net.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(params, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    share = torch.zeros(len(CLASSES))
    for step in range(args.steps):
        fall = max(0.0, (step / args.steps - 0.4) / 0.6)
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 40) * (1 + math.cos(math.pi * fall)) / 2
        ids, wanted, place = _batch(step)
        loss, right = reader(net(input_ids=ids).last_hidden_state, ids, wanted, place)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        share = share.lerp(right, 0.1)
        if step % 50 == 49:
            print(
                f"{step + 1}: loss {loss.item():.3f}, read back {share.mean():.3f}, least {share.min():.3f}", flush=True
            )
    workers.save(args.work / "text.pt", {"model": plain_state(net)})


if __name__ == "__main__":
    main()
