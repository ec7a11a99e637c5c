"""Draws the before/after sheet of the demo: what was shown, what the base drew, what the LoRA draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_PAPER = (250, 250, 248)
_INK = (34, 36, 40)
_QUIET = (110, 114, 122)
_ACCENT = (205, 92, 20)
_CELL = 144
_GAP = 8
_MARGIN = 28
_LABEL = 180


@dataclass(frozen=True)
class Row:
    """One line of pictures under one label, left to right in the order of the prompts."""

    label: str
    note: str
    pictures: Sequence[Path]
    accent: bool = False


@dataclass(frozen=True)
class Panel:
    """The rows of one subject under a title and a sentence that says what was measured."""

    title: str
    sentences: Sequence[str]
    rows: Sequence[Row]


def draw_sheet(title: str, panels: Sequence[Panel]) -> Image.Image:
    """Return the sheet as one RGB picture; its width follows the longest row, its height the panels."""
    columns = max(len(row.pictures) for panel in panels for row in panel.rows)
    width = 2 * _MARGIN + _LABEL + columns * (_CELL + _GAP)
    height = _MARGIN + 48 + sum(_panel_height(panel) for panel in panels) + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, fill=_INK, font=_font(26))
    top = _MARGIN + 48
    for panel in panels:
        _draw_panel(sheet, pen, panel, top)
        top += _panel_height(panel)
    return sheet


def _panel_height(panel: Panel) -> int:
    return 34 + 20 * len(panel.sentences) + 10 + len(panel.rows) * (_CELL + _GAP) + 24


def _draw_panel(sheet: Image.Image, pen: ImageDraw.ImageDraw, panel: Panel, top: int) -> None:
    pen.text((_MARGIN, top), panel.title, fill=_INK, font=_font(19))
    top += 32
    for sentence in panel.sentences:
        pen.text((_MARGIN, top), sentence, fill=_QUIET, font=_font(13))
        top += 20
    top += 10
    for row in panel.rows:
        _draw_row(sheet, pen, row, top)
        top += _CELL + _GAP


def _draw_row(sheet: Image.Image, pen: ImageDraw.ImageDraw, row: Row, top: int) -> None:
    pen.text((_MARGIN, top + _CELL // 2 - 20), row.label, fill=_ACCENT if row.accent else _INK, font=_font(15))
    pen.text((_MARGIN, top + _CELL // 2 + 2), row.note, fill=_QUIET, font=_font(12))
    left = _MARGIN + _LABEL
    for path in row.pictures:
        with Image.open(path) as picture:
            cell = picture.convert("RGB").resize((_CELL, _CELL), Image.Resampling.LANCZOS)
        sheet.paste(cell, (left, top))
        left += _CELL + _GAP


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)
