"""What a portrait can look like: the attributes, their classes, and the caption that names them.

Human ears and "no accessory" have no tag, as in booru captions: what is not said is ordinary.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

# attribute -> class -> tag ("" = not spoken of). The order of the classes is the probe's.
CLASSES: dict[str, dict[str, str]] = {
    "style": {
        "anime": "anime style",
        "flat": "flat color",
        "watercolor": "watercolor",
        "sketch": "sketch",
        "comic": "comic style",
    },
    "hair_color": {c: f"{c} hair" for c in ("black", "brown", "blonde", "red", "pink", "blue", "green", "white")},
    "hair_style": {
        "short": "short hair",
        "bob": "bob cut",
        "long": "long hair",
        "ponytail": "ponytail",
        "braids": "braids",
        "curly": "curly hair",
    },
    "eyes": {c: f"{c} eyes" for c in ("blue", "green", "red", "yellow", "purple")},
    "expression": {
        "smile": "smile",
        "laughing": "laughing",
        "sad": "sad",
        "angry": "angry",
        "surprised": "surprised",
    },
    "ears": {"human": "", "cat": "cat ears", "rabbit": "rabbit ears", "elf": "elf ears"},
    "clothes": {
        "sailor": "sailor uniform",
        "hoodie": "hoodie",
        "kimono": "kimono",
        "dress": "dress",
        "suit": "suit",
    },
    "clothes_color": {c: c for c in ("red", "blue", "green", "yellow", "black", "white")},
    "accessory": {
        "none": "",
        "glasses": "glasses",
        "flower": "hair flower",
        "bow": "hair bow",
        "headphones": "headphones",
        "crown": "crown",
        "scarf": "scarf",
    },
    "background": {
        "white": "white background",
        "pink": "pink background",
        "green": "green background",
        "sky": "blue sky",
        "night": "night sky",
        "sunset": "sunset",
        "stripes": "striped background",
    },
    "skin": {"fair": "fair skin", "tan": "tan skin", "dark": "dark skin"},
}

QUALITY = ("masterpiece", "best quality", "highres")


@dataclass(frozen=True)
class Look:
    """The labels of one portrait: one class name per attribute of :data:`CLASSES`."""

    style: str
    hair_color: str
    hair_style: str
    eyes: str
    expression: str
    ears: str
    clothes: str
    clothes_color: str
    accessory: str
    background: str
    skin: str

    def indices(self) -> list[int]:
        """Class numbers in the order of :data:`CLASSES`."""
        return [list(CLASSES[name]).index(getattr(self, name)) for name in CLASSES]

    @staticmethod
    def from_indices(numbers: list[int]) -> Look:
        return Look(**{name: list(CLASSES[name])[int(i)] for name, i in zip(CLASSES, numbers, strict=True)})

    def with_(self, **changes: str) -> Look:
        return replace(self, **changes)


assert [f.name for f in fields(Look)] == list(CLASSES)


def sample_look(rng: np.random.Generator) -> Look:
    """A random portrait: uniform, but human ears and no accessory are twice as frequent as any other."""
    chosen = {}
    for name, classes in CLASSES.items():
        weights = np.array([2.0 if tag == "" else 1.0 for tag in classes.values()])
        chosen[name] = str(rng.choice(list(classes), p=weights / weights.sum()))
    return Look(**chosen)


def tags(look: Look) -> dict[str, str]:
    """The tags that say this look, by attribute; clothes and their colour are one tag under "clothes"."""
    said = {name: CLASSES[name][getattr(look, name)] for name in CLASSES}
    said["clothes"] = f"{said.pop('clothes_color')} {said['clothes']}"
    return {name: tag for name, tag in said.items() if tag}


def caption(look: Look) -> str:
    """The whole caption in a fixed order, for people, samples and probes."""
    return ", ".join(tags(look).values())


def training_caption(look: Look, rng: np.random.Generator) -> str:
    """A caption as a user might write one: shuffled, some tags missing, now and then quality words.

    One in ten is empty (what guidance needs), one in ten keeps only a few tags.
    """
    said = list(tags(look).values())
    rng.shuffle(said)
    kind = rng.random()
    if kind < 0.10:
        return ""
    if kind < 0.20:
        said = said[: int(rng.integers(1, 6))]
    else:
        said = [tag for tag in said if rng.random() >= 0.05]
    if rng.random() < 0.2:
        said.insert(0, str(rng.choice(QUALITY)))
    return ", ".join(said)
