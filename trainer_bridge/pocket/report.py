"""Writes down what the demo measured: for people (Markdown), for programs (JSON), for the eye (the sheet's panels)."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .proof import as_json as proof_json
from .proof import verdict
from .sheet import Panel, Row

if TYPE_CHECKING:
    from .demo import Outcome

_SHOWN = 6


def sentences(outcome: Outcome) -> Sequence[str]:
    """Say in words what was found for one subject."""
    return verdict(outcome.subject.key.capitalize(), outcome.learned, outcome.kept)


def panels(outcomes: Sequence[Outcome]) -> list[Panel]:
    """Lay out the before/after sheet."""
    return [Panel(_title(outcome), sentences(outcome), _rows(outcome)) for outcome in outcomes]


def as_json(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return the text of `report.json`."""
    return json.dumps(
        {
            "version": 1,
            "passed": all(outcome.passed for outcome in outcomes),
            "seconds": round(seconds, 1),
            "machine": platform.platform(),
            "subjects": [
                {
                    "subject": outcome.subject.key,
                    "trigger": outcome.subject.trigger,
                    "lora": outcome.lora.name,
                    "job": outcome.run.get("id"),
                    **proof_json(outcome.learned, outcome.kept),
                }
                for outcome in outcomes
            ],
        },
        indent=2,
    )


def as_markdown(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return the text of `report.md`."""
    lines = [
        "# What the demo did",
        "",
        f"Two LoRAs were trained on the pocket base in {seconds / 60:.1f} minutes on {platform.platform()}.",
        "",
        "![The same prompts without and with the LoRAs](before-after.png)",
        "",
        "| | distance before | after | at weight 0.8 | after / before | other captions' change / new seed's |",
        "|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        learned, kept = outcome.learned, outcome.kept
        lines.append(
            f"| {outcome.subject.key}, trigger `{outcome.subject.trigger}` | {learned.before:.2f} | {learned.after:.2f}"
            f" | {learned.at_08:.2f} | {learned.ratio:.2f} | {kept.ratio:.2f} |"
        )
    lines += ["", *(f"- {sentence}" for outcome in outcomes for sentence in sentences(outcome)), ""]
    lines += [
        "The distance lies between the mean probe features of the pictures drawn for the held-back captions with the",
        "trigger word in front, and those of the held-back pictures themselves, which the training never saw. The",
        "change of other captions' pictures is the root mean square of their difference, point by point.",
        "",
        "Use a LoRA in a WebUI: copy it to `models/Lora`, choose `pocket.safetensors` as the checkpoint, draw at",
        "128 x 128 px, and prompt `" + outcomes[0].subject.trigger + ", <lora:" + outcomes[0].lora.stem + ":0.8>`.",
        "",
    ]
    return "\n".join(lines)


def _title(outcome: Outcome) -> str:
    return f"{outcome.subject.title}: trigger word “{outcome.subject.trigger}”"


def _rows(outcome: Outcome) -> list[Row]:
    pictures = outcome.pictures

    def row(key: str, label: str, note: str, accent: bool = False) -> Row:
        return Row(label, note, list(pictures[key])[:_SHOWN], accent)

    return [
        row("held_back", "The subject", "held back, never trained on"),
        row("before", "Without the LoRA", "trigger and caption"),
        row("after", "With the LoRA", "same prompts and seeds", accent=True),
        row("other", "Other captions", "without the LoRA"),
        row("other_after", "Other captions", "with the LoRA, no trigger", accent=True),
    ]
