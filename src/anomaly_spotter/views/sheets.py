"""Inspections to sheets: the four-panel picture of one part, and the contact sheet of many."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from anomaly_spotter.inputs.preprocess import to_rgb
from anomaly_spotter.views import lettering
from anomaly_spotter.views.heatmap import colour_bar, heatmap
from anomaly_spotter.views.lettering import INK, LINE, MUTED, PAPER, WELL
from anomaly_spotter.views.overlay import overlay, resized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.scoring.inspection import Inspection

_MARGIN, _GAP = 28, 24
_LABEL, _FOOT = 28, 42  # heights of the line above and the lines below each panel
_NARROWEST = 260  # a panel's cell is at least this wide, so that its words fit
_PREFERRED_ASPECT = 16 / 9


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    picture: NDArray[np.uint8] | None  # RGB; None draws the placeholder
    foot: str = ""
    scale: tuple[float, float] | None = None  # low and high of a colour bar, drawn instead of the foot


def four_panel(inspection: Inspection) -> NDArray[np.uint8]:
    """One part on one sheet: picture, what the model expects, heat map with its scale, overlay with contours.

    Small pictures are enlarged by whole factors and large ones shrunk, so that every sheet reads well on a screen.

    Args:
        inspection: What was found on the picture, any size and shape; its ``display_range`` sets the colours.

    Returns:
        ``uint8 [H', W', 3]`` RGB.
    """
    rows, columns = inspection.picture.shape[:2]
    width, height = _display_size(columns, rows)
    shown = resized(inspection, width, height)
    panels = (
        _Panel("Picture", to_rgb(shown.picture), f"{columns} × {rows} pixels"),
        _Panel(
            "Normal look",
            None if shown.normal is None else to_rgb(shown.normal),
            "what the model expects here",
        ),
        _Panel("Heat map", heatmap(shown.anomaly_map, *shown.display_range), scale=shown.display_range),
        _Panel("Findings", overlay(shown), _findings(inspection)),
    )
    cell = max(width, _NARROWEST), _LABEL + height + _FOOT
    across = min((4, 2, 1), key=lambda count: _misfit(count, *cell))
    title_height = 78 + (24 if inspection.notes else 0)
    canvas = Image.new(
        "RGB",
        (
            2 * _MARGIN + across * cell[0] + (across - 1) * _GAP,
            _MARGIN + title_height + (4 // across) * (cell[1] + _GAP) - _GAP + _MARGIN // 2,
        ),
        PAPER,
    )
    _draw_title(canvas, inspection, _MARGIN + title_height)
    for index, panel in enumerate(panels):
        row, column = divmod(index, across)
        left = _MARGIN + column * (cell[0] + _GAP)
        _draw_panel(
            canvas, panel, left, _MARGIN + title_height + row * (cell[1] + _GAP), cell[0], (width, height)
        )
    return np.array(canvas)


def contact_sheet(
    items: Sequence[tuple[Inspection, str]], columns: int = 5, tile: int = 240
) -> NDArray[np.uint8]:
    """Overlays of many parts in a grid, each with its verdict mark and a one-line caption.

    Args:
        items: Inspections with captions, drawn row by row; an empty sequence gives a sheet that says so.
        columns: Most tiles in a row, at least 1.
        tile: Side of the square each overlay is fitted into, in pixels, at least 32.

    Returns:
        ``uint8 [H', W', 3]`` RGB.

    Raises:
        ValueError: ``columns`` or ``tile`` is too small.
    """
    if columns < 1 or tile < 32:
        raise ValueError(f"expected columns >= 1 and tile >= 32, found {columns} and {tile}")
    gap, foot = 16, 30
    across = max(1, min(columns, len(items)))
    down = max(1, ceil(len(items) / across))
    canvas = Image.new("RGB", (gap + across * (tile + gap), gap + down * (tile + foot)), PAPER)
    draw = ImageDraw.Draw(canvas)
    face = lettering.font(13)
    if not items:
        draw.text(
            (canvas.width / 2, canvas.height / 2),
            "no pictures",
            fill=MUTED,
            font=lettering.font(16),
            anchor="mm",
        )
    for index, (inspection, caption) in enumerate(items):
        row, column = divmod(index, across)
        left, top = gap + column * (tile + gap), gap + row * (tile + foot)
        rows, wide = inspection.picture.shape[:2]
        factor = tile / max(rows, wide)
        size = max(1, round(wide * factor)), max(1, round(rows * factor))
        draw.rectangle((left, top, left + tile - 1, top + tile - 1), fill=WELL)
        picture = Image.fromarray(overlay(resized(inspection, *size)))
        canvas.paste(picture, (left + (tile - size[0]) // 2, top + (tile - size[1]) // 2))
        lettering.put_mark(canvas, inspection.verdict, left, top + tile + 6, 16)
        draw.text(
            (left + 23, top + tile + 14),
            lettering.fit(caption, face, tile - 23),
            fill=INK,
            font=face,
            anchor="lm",
        )
    return np.array(canvas)


def _display_size(columns: int, rows: int) -> tuple[int, int]:
    """Width and height a picture is shown at: its own where that suits a screen."""
    longest, shortest = max(columns, rows), min(columns, rows)
    largest = 720 if longest < 3 * shortest else 1200
    if longest < 256:
        factor: float = ceil(256 / longest)
    else:
        factor = min(1.0, largest / longest)
    return max(1, round(columns * factor)), max(1, round(rows * factor))


def _misfit(across: int, width: int, height: int) -> float:
    """How far a grid of four cells is from the shape of a screen."""
    return abs(log(across * width / (4 // across * height) / _PREFERRED_ASPECT))


def _findings(inspection: Inspection) -> str:
    regions = inspection.regions
    if not regions:
        return "no region above the limit"
    count = "1 region" if len(regions) == 1 else f"{len(regions)} regions"
    return f"{count}, strongest {regions[0].peak:.2f}"


def _draw_title(canvas: Image.Image, inspection: Inspection, bottom: int) -> None:
    draw = ImageDraw.Draw(canvas)
    right = canvas.width - _MARGIN
    mark = 44
    lettering.put_mark(canvas, inspection.verdict, _MARGIN, _MARGIN - 4, mark)
    left = _MARGIN + mark + 16
    verdict_face, name_face, small = lettering.font(22, bold=True), lettering.font(17), lettering.font(14)
    draw.text(
        (left, _MARGIN + 16),
        str(inspection.verdict),
        fill=lettering.verdict_colour(inspection.verdict),
        font=verdict_face,
        anchor="ls",
    )
    name_left = left + round(verdict_face.getlength(str(inspection.verdict))) + 16
    name = "/".join(inspection.source.parts[-2:]) if inspection.source else "picture without a file"
    draw.text(
        (name_left, _MARGIN + 16),
        lettering.fit(name, name_face, right - name_left),
        fill=INK,
        font=name_face,
        anchor="ls",
    )
    facts = (
        inspection.reason
        or f"score {inspection.score:.2f}   limit {inspection.threshold:.2f}   p-value {_p_value(inspection.p_value)}"
    )
    draw.text(
        (left, _MARGIN + 40), lettering.fit(facts, small, right - left), fill=MUTED, font=small, anchor="ls"
    )
    if inspection.notes:
        notes = lettering.fit("Note: " + "; ".join(inspection.notes), small, right - left)
        draw.text((left, _MARGIN + 63), notes, fill=MUTED, font=small, anchor="ls")
    draw.line((_MARGIN, bottom - 18, right, bottom - 18), fill=LINE)


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _draw_panel(
    canvas: Image.Image, panel: _Panel, left: int, top: int, cell_width: int, size: tuple[int, int]
) -> None:
    draw = ImageDraw.Draw(canvas)
    small = lettering.font(13)
    draw.text(
        (left, top + _LABEL - 11), panel.title, fill=INK, font=lettering.font(15, bold=True), anchor="ls"
    )
    top += _LABEL
    width, height = size
    draw.rectangle((left, top, left + cell_width - 1, top + height - 1), fill=WELL)
    if panel.picture is not None:
        canvas.paste(Image.fromarray(panel.picture), (left + (cell_width - width) // 2, top))
    else:
        words = lettering.fit("not available for this model", small, cell_width - 16)
        draw.text((left + cell_width / 2, top + height / 2), words, fill=MUTED, font=small, anchor="mm")
    foot = top + height + 8
    if panel.scale is None:
        text = panel.foot if panel.picture is not None else ""
        draw.text(
            (left, foot + 14), lettering.fit(text, small, cell_width), fill=MUTED, font=small, anchor="ls"
        )
    else:
        _draw_scale(canvas, left, foot, cell_width, *panel.scale)


def _draw_scale(canvas: Image.Image, left: int, top: int, width: int, low: float, high: float) -> None:
    """The colour bar with its ends and, where it lies between them, the decision limit."""
    draw, face = ImageDraw.Draw(canvas), lettering.font(12)
    width = min(width, 420)
    canvas.paste(Image.fromarray(colour_bar(width, 10)), (left, top))
    ends = (f"{low:.3g} typical" if low == 0 else f"{low:.3g}", f"{high:.3g}")
    baseline = top + 25
    draw.text((left, baseline), ends[0], fill=MUTED, font=face, anchor="ls")
    draw.text((left + width, baseline), ends[1], fill=MUTED, font=face, anchor="rs")
    if low < 1 < high:
        x = left + width * (1 - low) / (high - low)
        free = (left + face.getlength(ends[0]) + 8, left + width - face.getlength(ends[1]) - 8)
        draw.line((x, top, x, top + 12), fill=PAPER, width=1)
        half = face.getlength("1 limit") / 2
        if free[0] <= x - half and x + half <= free[1]:
            draw.text((x, baseline), "1 limit", fill=MUTED, font=face, anchor="ms")
