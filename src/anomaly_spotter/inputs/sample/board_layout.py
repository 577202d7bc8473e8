"""The one layout that all boards of the sample share: where components sit and how traces run between them.

Made by rule from a fixed random stream, in units from the upper left corner of the picture; see `board` for the painting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from anomaly_spotter.inputs.sample.surface import stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT = 1536, 1024  # of the layout, in its own units; pixels at the nominal size 320

Point = tuple[float, float]


@dataclass(frozen=True)
class Pad:
    """A soldered land: centre and half sides, in units."""

    x: float
    y: float
    half_x: float
    half_y: float


@dataclass(frozen=True)
class Part:
    """A component: body's centre and half sides in units, its pads, and how it looks."""

    x: float
    y: float
    half_x: float
    half_y: float
    look: str  # "chip", "resistor" or "capacitor"
    name: str
    pads: tuple[Pad, ...]


@dataclass(frozen=True)
class Layout:
    """What all boards have in common, in units from the upper left corner of the picture."""

    parts: tuple[Part, ...]
    traces: tuple[tuple[Point, ...], ...]
    vias: tuple[Point, ...]


def _chip(x: float, y: float, half_x: float, half_y: float, pins: int, four: bool, name: str) -> Part:
    """Return a chip with ``pins`` pins on its left and right sides, and as many above and below if ``four``."""
    pitch = 2 * half_y / (pins + 0.5)
    places = [(index - (pins - 1) / 2) * pitch for index in range(pins)]
    half = pitch * 0.28
    pads = [Pad(x + side * (half_x + 9), y + v, 9, half) for side in (-1, 1) for v in places]
    if four:
        pads += [Pad(x + u, y + side * (half_y + 9), half, 9) for side in (-1, 1) for u in places]
    return Part(x, y, half_x, half_y, "chip", name, tuple(pads))


def _small(x: float, y: float, upright: bool, look: str, name: str) -> Part:
    """Return a resistor or capacitor with a pad at either end."""
    long, wide = (9.0, 5.5) if look == "resistor" else (10.0, 6.5)
    ends = [(0.0, -long), (0.0, long)] if upright else [(-long, 0.0), (long, 0.0)]
    half = (wide + 1.5, 5.5) if upright else (5.5, wide + 1.5)
    pads = tuple(Pad(x + u, y + v, *half) for u, v in ends)
    body = (wide, long) if upright else (long, wide)
    return Part(x, y, *body, look, name, pads)


CHIPS = (
    _chip(420, 360, 92, 92, 14, True, "M4871"),
    _chip(1010, 320, 62, 96, 12, False, "T3340"),
    _chip(1250, 700, 76, 76, 11, True, "AN217"),
    _chip(300, 780, 46, 70, 8, False, "LM54"),
    _chip(720, 760, 52, 64, 7, False, "PC18"),
    _chip(1310, 250, 36, 44, 4, False, "L7"),
    _chip(985, 845, 36, 44, 4, False, "T2"),
)


def _free(x: float, y: float, parts: list[Part], room: float) -> bool:
    return all(abs(x - part.x) > part.half_x + room or abs(y - part.y) > part.half_y + room for part in parts)


@cache
def layout() -> Layout:
    """Make the one layout: chips where they are named, small parts in rows around them, traces between pads."""
    rng, parts = stream(1, "board", "layout"), list(CHIPS)
    for row in range(9):
        for column in range(17):
            x, y = 100 + column * 84.0, 116 + row * 101.0
            if rng.random() < 0.30 or not _free(x, y, parts, 46):
                continue
            look, letter = ("resistor", "T") if rng.random() < 0.5 else ("capacitor", "C")
            upright = bool(rng.random() < 0.4)
            parts.append(
                _small(x, y, upright, look, f"{letter}{len(parts) % 50 // 10}{rng.choice(list('0123457'))}")
            )
    ends = [pad for part in parts for pad in part.pads]
    traces, vias = [], []
    taken = np.array([[pad.x, pad.y] for pad in ends])
    for pad in ends:
        trace = _route(rng, pad, parts, taken)
        if trace is not None:
            traces.append(trace)
            vias.append(trace[-1])
            taken = np.vstack([taken, _along(trace)])
    for lane in range(4):
        start, end = (100 + 30.0 * lane, 42 + 9.0 * lane), (1430 - 30.0 * lane, 42 + 9.0 * lane)
        traces.append((start, (WIDTH / 2, start[1]), end))
        vias += [start, end]
    return Layout(tuple(parts), tuple(traces), tuple(vias))


def _along(trace: tuple[Point, ...]) -> NDArray[np.float64]:
    """Return points ``[N, 2]`` along a trace, densely enough to keep others away from it."""
    corners = np.array(trace)
    steps = np.linspace(0, 1, 8)[:, None]
    return np.vstack([start + steps * (end - start) for start, end in pairwise(corners)])


def _route(
    rng: np.random.Generator, pad: Pad, parts: list[Part], taken: NDArray[np.float64]
) -> tuple[Point, ...] | None:
    """Return a trace from a pad outwards, with two bends, to a via; None if there is no way clear of the others."""
    part = next(part for part in parts if pad in part.pads)
    sideways = pad.half_x >= pad.half_y if part.look == "chip" else part.half_x > part.half_y
    sign = math.copysign(1, pad.x - part.x if sideways else pad.y - part.y)
    apart = np.abs(taken - (pad.x, pad.y)).max(axis=1)
    others = taken[(apart > 0) & (apart < 180)]  # no trace reaches further
    for _ in range(12):
        ahead, slant, on = rng.uniform(14, 60), rng.choice([-1, 1]) * rng.uniform(6, 40), rng.uniform(4, 50)
        steps = ((ahead, 0.0), (ahead + abs(slant), slant), (ahead + abs(slant) + on, slant))
        moves = [(sign * along, aside) if sideways else (aside, sign * along) for along, aside in steps]
        trace = ((pad.x, pad.y), *((pad.x + u, pad.y + v) for u, v in moves))
        x, y = trace[-1]
        if not (60 < x < WIDTH - 60 and 96 < y < HEIGHT - 60) or not _free(x, y, parts, 24):
            continue
        gaps = np.hypot(*(_along(trace)[:, None] - others[None]).transpose(2, 0, 1))
        if gaps.min() > 9 and gaps[-1].min() > 15:
            return trace
    return None
