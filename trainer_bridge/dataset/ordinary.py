"""Captions of ordinary pictures, in the words that tag-trained bases know.

A run that holds the base asks it what it draws for these, and teaches the LoRA to leave that as it is: the captions
of the training pictures alone would only guard the few words that stand in them.
"""

from __future__ import annotations

from ..counter import below, uniform

#: Groups of tags that exclude each other -> how often a caption names one.
_GROUPS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.5, ("1girl", "1boy", "solo", "portrait", "a woman", "a man", "a person", "upper body")),
    (0.7, tuple(f"{c} hair" for c in ("black", "brown", "blonde", "red", "pink", "blue", "green", "white", "purple"))),
    (0.6, ("short hair", "long hair", "bob cut", "ponytail", "braids", "twintails", "curly hair")),
    (0.6, tuple(f"{c} eyes" for c in ("blue", "green", "red", "brown", "yellow", "purple"))),
    (0.6, ("smile", "laughing", "sad", "angry", "surprised", "open mouth", "closed eyes", "serious")),
    (0.2, ("cat ears", "rabbit ears", "elf ears", "animal ears", "horns")),
    (
        0.6,
        (
            *(f"{c} shirt" for c in ("white", "black", "red", "blue")),
            *(f"{c} dress" for c in ("white", "black", "red", "green")),
            *(f"{c} kimono" for c in ("red", "blue")),
            "sailor uniform",
            "hoodie",
            "suit",
            "armor",
            "sweater",
            "jacket",
        ),
    ),
    (0.4, ("glasses", "hair flower", "hair bow", "headphones", "crown", "scarf", "hat", "necklace", "earrings")),
    (
        0.6,
        (
            "white background",
            "simple background",
            "blue sky",
            "night sky",
            "sunset",
            "outdoors",
            "indoors",
            "city",
            "forest",
            "beach",
            "green background",
            "pink background",
            "striped background",
        ),
    ),
    (0.3, ("anime style", "flat color", "watercolor", "sketch", "comic style", "oil painting", "photo", "3d render")),
    (0.2, ("fair skin", "tan skin", "dark skin")),
)

#: How many different ones a run uses: enough to cover the words, few enough to encode at once.
COUNT = 64


def ordinary_caption(seed: int, number: int) -> str:
    """Return one of :data:`COUNT` captions of a run, decided by its arguments alone."""
    keys = (seed, "ordinary", number)
    tags = [
        group[below(len(group), *keys, place, "which")]
        for place, (share, group) in enumerate(_GROUPS)
        if uniform(*keys, place) < share
    ]
    return ", ".join(sorted(tags, key=lambda tag: uniform(*keys, tag)))
