"""Text and verdict marks on pictures, in a font of this package, so that none of the system is needed.

The font is DejaVu Sans 2.37 with its Latin, Greek and Cyrillic letters and its symbols: ``python -m fontTools.subset
DejaVuSans.ttf --layout-features='*' --unicodes=U+0020-024F,U+0300-036F,U+0370-052F,U+1E00-1EFF,U+2000-214F,
U+2190-22FF,U+25A0-27BF,U+FFFD``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from anomaly_spotter.scoring.inspection import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

Colour = tuple[int, int, int]

INK: Colour = (27, 32, 38)
MUTED: Colour = (98, 107, 117)
LINE: Colour = (221, 225, 230)
PAPER: Colour = (255, 255, 255)
WELL: Colour = (244, 245, 247)
OK_COLOUR: Colour = (15, 118, 110)
DEFECT_COLOUR: Colour = (194, 65, 12)

_FONTS = Path(__file__).with_name("fonts")
_SMOOTH = 8
_OCTAGON = ((0.31, 0.02), (0.69, 0.02), (0.98, 0.31), (0.98, 0.69), (0.69, 0.98), (0.31, 0.98), (0.02, 0.69), (0.02, 0.31))  # fmt: skip
_TICK = ((0.27, 0.52), (0.44, 0.69), (0.74, 0.34))
_CROSS = (((0.32, 0.32), (0.68, 0.68)), ((0.68, 0.32), (0.32, 0.68)))


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans at ``size`` pixels."""
    return ImageFont.truetype(_FONTS / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


def verdict_colour(verdict: Verdict) -> Colour:
    """Petrol for OK and vermilion for DEFECT: told apart in any kind of colour vision."""
    return DEFECT_COLOUR if verdict is Verdict.DEFECT else OK_COLOUR


def verdict_mark(verdict: Verdict, size: int) -> Image.Image:
    """A disc with a tick for OK, an octagon with a cross for DEFECT: shape speaks where colour does not.

    Args:
        verdict: What to show.
        size: Side in pixels, at least 1.

    Returns:
        A ``size`` x ``size`` RGBA picture, transparent outside the mark.
    """
    side = size * _SMOOTH  # drawn large, then shrunk: Pillow itself draws no smooth edges
    fill = verdict_colour(verdict)
    mark = Image.new("RGBA", (side, side), (*fill, 0))
    draw = ImageDraw.Draw(mark)
    stroke = max(1, round(side * 0.105))
    if verdict is Verdict.DEFECT:
        draw.polygon(_scaled(_OCTAGON, side), fill=fill)
        for bar in _CROSS:
            _stroke(draw, _scaled(bar, side), stroke)
    else:
        draw.ellipse((side * 0.02, side * 0.02, side * 0.98, side * 0.98), fill=fill)
        _stroke(draw, _scaled(_TICK, side), stroke)
    return mark.resize((size, size), Image.Resampling.BOX)


def put_mark(canvas: Image.Image, verdict: Verdict, left: int, top: int, size: int) -> None:
    """Paste :func:`verdict_mark` on an RGB canvas."""
    mark = verdict_mark(verdict, size)
    canvas.paste(mark, (left, top), mark)


def clean(text: str) -> str:
    """One printable line: control characters become spaces, undecodable bytes of file names question marks."""
    shown = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(letter if letter.isprintable() else " " for letter in shown)


def fit(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """Shorten ``text`` in its middle until it is at most ``width`` pixels wide; both ends of a file name matter."""
    text = clean(text)
    if face.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        keep = (low + high + 1) // 2
        low, high = (keep, high) if face.getlength(_shortened(text, keep)) <= width else (low, keep - 1)
    return _shortened(text, low) if low else ""


def _shortened(text: str, keep: int) -> str:
    head, tail = (keep + 1) // 2, keep // 2
    return f"{text[:head].rstrip()}…{text[len(text) - tail :].lstrip()}"


def _scaled(points: Sequence[tuple[float, float]], side: int) -> list[tuple[float, float]]:
    return [(x * side, y * side) for x, y in points]


def _stroke(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], width: int) -> None:
    draw.line(points, fill=PAPER, width=width, joint="curve")
    radius = width / 2
    for x, y in points[:1] + points[-1:]:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=PAPER)
