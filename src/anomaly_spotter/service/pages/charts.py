"""Numbers -> inline SVG, drawn by the server: scores against the limit, scores over calibration, and lines over time.

The content security policy allows no style inside a page, so shapes carry classes (``static/charts.css``) and follow the
light and the dark theme. Each chart names itself in words for a screen reader.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anomaly_spotter.service.pages.words import Words

WIDTH = 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 26, 34
_MOST_BINS = 36


@dataclass(frozen=True, slots=True)
class _Frame:
    """Data coordinates to pixels of the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int

    def across(self, value: float) -> float:
        share = (value - self.x[0]) / (self.x[1] - self.x[0])
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def up(self, value: float) -> float:
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return round(self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM), 1)


@dataclass(frozen=True, slots=True)
class Line:
    """One curve.

    Attributes:
        name: What it is, for the legend.
        points: ``(x, y)`` in order of ``x``; ``y`` of ``None`` leaves a gap.
        style: ``""`` or ``second``.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    style: str = ""


def score_histogram(
    calibration: Sequence[float], recent: Sequence[float], limit: float, words: Words, height: int = 280
) -> Markup:
    """Scores of recent parts over those of the good parts of calibration, as shares, with the decision limit.

    Args:
        calibration: Scores of the held-out good parts.
        recent: Scores of the parts inspected lately; not finite ones (could not be judged) are left out.
        limit: Decision limit on the same scale.
        words: Language.
        height: Of the drawing; its width is :data:`WIDTH`.
    """
    known = np.asarray([score for score in calibration if math.isfinite(score)], np.float64)
    new = np.asarray([score for score in recent if math.isfinite(score)], np.float64)
    everything = np.concatenate([known, new, [limit, 0.0]])
    high = float(min(everything.max(), max(3 * limit, float(np.quantile(everything, 0.98)))))
    low = float(everything.min())
    edges = np.linspace(low, high * 1.04, _MOST_BINS + 1)
    shares = [
        np.histogram(np.clip(group, low, high), edges)[0] / max(1, group.size) for group in (known, new)
    ]
    top = max(0.05, float(max(share.max() for share in shares)) * 1.12)
    frame = _Frame((float(edges[0]), float(edges[-1])), (0.0, top), height)
    parts = [
        _grid(frame, _ticks(0, top, 4), lambda value: words.percent(value)),
        _x_axis(frame, _ticks(*frame.x, 6), lambda value: words.number(value, 1)),
    ]
    for share, left, right in zip(shares[0], edges[:-1], edges[1:], strict=True):
        if share:
            x, width = frame.across(left), frame.across(right) - frame.across(left) - 1
            parts.append(
                f'<rect class="bar-reference" x="{x}" y="{frame.up(share)}" width="{width:.1f}" height="{frame.up(0) - frame.up(share):.1f}"/>'
            )
    if new.size:
        outline = _steps(frame, shares[1].tolist(), edges.tolist())
        parts.append(f'<path class="bar-fill" d="{outline} Z"/><path class="bar-recent" d="{outline}"/>')
    parts.append(_limit(frame, limit, words("limit")))
    label = words(
        "Distribution of scores: {known} good parts of the calibration, {new} recent parts, limit {limit}",
        known=known.size, new=new.size, limit=words.number(limit, 2),
    )  # fmt: skip
    return _svg(parts, height, label)


def lines(
    curves: Sequence[Line],
    words: Words,
    *,
    label: str,
    x_labels: Sequence[tuple[float, str]],
    height: int = 260,
    percent: bool = False,
    level: tuple[float, str] | None = None,
    from_zero: bool = True,
) -> Markup:
    """Curves over a common axis.

    Args:
        curves: What to draw; at least one point in all.
        words: Language.
        label: What the chart shows, for screen readers.
        x_labels: Marks of the x axis.
        height: Of the drawing.
        percent: Whether values are shares to be written in percent.
        level: A horizontal line and its name, for example the promised rate.
        from_zero: Whether the y axis starts at 0.
    """
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points if y is not None and math.isfinite(y)]
    if level is not None:
        ys.append(level[0])
    low, high = (0.0 if from_zero else min(ys, default=0.0)), max(ys, default=1.0)
    high = high + 0.12 * (high - low) if high > low else low + 1.0
    left, right = min(xs, default=0.0), max(xs, default=1.0)
    frame = _Frame((left, right if right > left else left + 1), (low, high), height)
    digits = max(0, -math.floor(math.log10((high - low) / 4))) if high > low else 0

    def written(value: float) -> str:
        return words.percent(value) if percent else words.number(value, digits)

    parts = [_grid(frame, _ticks(low, high, 4), written)]
    parts += [
        f'<text x="{frame.across(x)}" y="{height - 10}" text-anchor="middle">{escape(text)}</text>'
        for x, text in x_labels
    ]
    if level is not None:
        y = frame.up(level[0])
        parts.append(
            f'<path class="limit" d="M{_LEFT} {y}H{WIDTH - _RIGHT}"/><text class="limit-word" x="{WIDTH - _RIGHT}" y="{y - 7}" text-anchor="end">{escape(level[1])}</text>'
        )
    parts += [_curve(frame, curve) for curve in curves]
    return _svg(parts, height, label)


def gauge(score: float | None, limit: float, words: Words) -> Markup:
    """Where a score lies between a typical good part (0), the decision limit and far beyond it."""
    width, height, top = 360, 84, 30
    known = score if score is not None and math.isfinite(score) else None
    left, right = min(0.0, known or 0.0), max(2.0 * limit, 1.15 * (known or 0.0))

    def across(value: float) -> float:
        return round(12 + (value - left) / (right - left) * (width - 24), 1)

    at = across(limit)
    parts = [
        f'<rect class="ok-zone" x="0" y="{top}" width="{at}" height="26" rx="6"/>',
        f'<rect class="defect-zone" x="{at}" y="{top}" width="{width - at}" height="26" rx="6"/>',
        f'<path class="limit" d="M{at} {top - 6}v38"/>',
        (
            f'<text class="limit-word" x="{at}" y="{top - 12}" text-anchor="middle">'
            f"{escape(words('limit'))} {words.number(limit, 2)}</text>"
        ),
    ]
    if known is not None:
        parts.append(f'<circle class="needle" cx="{across(known)}" cy="{top + 13}" r="9"/>')
        place = min(max(across(known), 18), width - 18)
        parts.append(
            f'<text class="needle-word" x="{place}" y="{height - 6}" text-anchor="middle">{words.number(known, 2)}</text>'
        )
    label = words("Score {score}, limit {limit}", score=words.number(score, 2), limit=words.number(limit, 2))
    return _svg(parts, height, label, width, "chart gauge")


# --- parts ------------------------------------------------------------------------------------------------------------


def _svg(parts: Sequence[str], height: int, label: str, width: int = WIDTH, kind: str = "chart") -> Markup:
    body = "".join(parts)
    return Markup(  # noqa: S704  words are escaped above
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'
    )


def _grid(frame: _Frame, ticks: Sequence[float], written: Callable[[float], str]) -> str:
    return "".join(
        f'<path class="grid" d="M{_LEFT} {frame.up(tick)}H{WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 8}" y="{frame.up(tick) + 4}" text-anchor="end">{escape(written(tick))}</text>'
        for tick in ticks
    )


def _x_axis(frame: _Frame, ticks: Sequence[float], written: Callable[[float], str]) -> str:
    return "".join(
        f'<text x="{frame.across(tick)}" y="{frame.height - 10}" text-anchor="middle">{escape(written(tick))}</text>'
        for tick in ticks
    )


def _limit(frame: _Frame, limit: float, word: str) -> str:
    x = frame.across(limit)
    return f'<path class="limit" d="M{x} {_TOP - 6}V{frame.height - _BOTTOM}"/><text class="limit-word" x="{x + 8}" y="{_TOP + 4}">{escape(word)}</text>'


def _steps(frame: _Frame, shares: Sequence[float], edges: Sequence[float]) -> str:
    d = [f"M{frame.across(edges[0])} {frame.up(0)}"]
    for share, right in zip(shares, edges[1:], strict=True):
        d.append(f"V{frame.up(share)}H{frame.across(right)}")
    return " ".join([*d, f"V{frame.up(0)}"])


def _curve(frame: _Frame, curve: Line) -> str:
    style = f" {curve.style}" if curve.style else ""
    pieces: list[list[str]] = [[]]
    for x, y in curve.points:
        if y is None or not math.isfinite(y):
            pieces.append([])
        else:
            pieces[-1].append(f"{frame.across(x)} {frame.up(y)}")
    drawn = []
    for piece in pieces:
        if len(piece) == 1:
            across, up = piece[0].split()
            drawn.append(f'<circle class="dot{style}" cx="{across}" cy="{up}" r="4"/>')
        elif piece:
            drawn.append(f'<path class="line{style}" d="M{" L".join(piece)}"/>')
    return "".join(drawn)


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers inside ``low..high``, roughly ``about`` of them."""
    span = max(high - low, 1e-12)
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw - 1e-12)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]
