"""Blue twill cloth that fills the picture, in colour (after MVTec AD's textures *carpet* and *grid*).

Two families of yarns cross; which one lies on top follows from their heights, so that a flaw needs only to bend, sink
or lift yarns. No two pictures show the same piece: phase, angle, yarns and waviness are new each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from anomaly_spotter.inputs.sample.camera import Camera
from anomaly_spotter.inputs.sample.surface import (
    Map,
    blurred,
    fractal,
    litter,
    mixed,
    offsets,
    plane,
    power,
    slopes,
    smoothstep,
    spot,
    stream,
    stroke,
    wander,
)

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("broken_thread", "foreign_fibre", "hole", "stain", "weave_fault")
EXPOSURE = 0.12  # half range; makes brightness useless for telling good from bad

_YARNS = 34  # across the picture
_TABLE = 128  # yarns of either family whose looks are drawn; the picture shows about a quarter of them

# Colours in RGB, 1 = white.
_WARP = (0.17, 0.25, 0.42)
_WEFT = (0.60, 0.60, 0.56)
_BEHIND = (0.035, 0.035, 0.04)
_FIBRES = ((0.55, 0.13, 0.10), (0.82, 0.80, 0.74), (0.05, 0.05, 0.05), (0.72, 0.55, 0.16))
_STAINS = ((0.42, 0.34, 0.22), (0.50, 0.50, 0.52), (0.62, 0.42, 0.40))


@dataclass(frozen=True)
class _Cloth:
    """What a flaw may change of one piece; maps ``float32 [H, W]``, colours ``[3, H, W]`` or ``[3, 1, 1]``."""

    u: Map  # place across the warp, in yarns
    v: Map  # place across the weft, in yarns
    warp: Map  # height added to the warp, in half thicknesses; below -2 it is gone
    weft: Map
    filter: Map  # what a stain leaves of each colour
    fibre: Map  # cover of what lies on the cloth, 0..1
    fibre_colour: Map


def _laid(seed: int, size: int) -> _Cloth:
    """Return a good piece as it lies before the camera."""
    rng, shape = stream(seed, "pose"), (size, size)
    x, y = offsets(shape, (size / 2, size / 2))
    turn = math.radians(rng.normal(0, 1.5))
    sine, cosine = np.float32(math.sin(turn)), np.float32(math.cos(turn))
    pitch = size / _YARNS * rng.uniform(0.98, 1.02, 2)
    phase = _TABLE / 2 + rng.uniform(0, 8, 2)
    sway = [np.float32(0.10) * fractal(rng, shape, (size / 4, size / 4), 2) for _ in range(2)]
    empty = np.zeros(shape, np.float32)
    return _Cloth(
        u=(x * cosine + y * sine) / np.float32(pitch[0]) + np.float32(phase[0]) + sway[0],
        v=(y * cosine - x * sine) / np.float32(pitch[1]) + np.float32(phase[1]) + sway[1],
        warp=empty,
        weft=empty,
        filter=plane((1, 1, 1)),
        fibre=empty,
        fibre_colour=plane((0, 0, 0)),
    )


def _place(rng: np.random.Generator, size: int) -> tuple[float, float]:
    return size * rng.uniform(0.12, 0.88), size * rng.uniform(0.12, 0.88)


def _yarns_at(cloth: _Cloth, place: tuple[float, float]) -> tuple[float, float]:
    """Return the (u, v) of the crossing nearest to a pixel."""
    row, column = int(place[1]), int(place[0])
    return math.floor(cloth.u[row, column]) + 0.5, math.floor(cloth.v[row, column]) + 0.5


def _broken_thread(rng: np.random.Generator, cloth: _Cloth) -> _Cloth:
    """One yarn is torn and drawn back; the rest of it lies loose."""
    size = cloth.u.shape[0]
    u, v = _yarns_at(cloth, _place(rng, size))
    along, across, which = (cloth.v, cloth.u, "warp") if rng.random() < 0.6 else (cloth.u, cloth.v, "weft")
    start, middle = (v, u) if which == "warp" else (u, v)
    half = rng.uniform(1.5, 5.0)
    yarn = np.abs(across - np.float32(middle)) < np.float32(0.5)
    gone = yarn * smoothstep(half + 0.4, half - 0.4, np.abs(along - np.float32(start)))
    loose = yarn * np.exp(-power(np.abs(np.abs(along - np.float32(start)) - np.float32(half + 1.2)), 2))
    height = np.asarray(np.float32(0.5) * loose - np.float32(6) * gone, dtype=np.float32)
    return replace(cloth, warp=height) if which == "warp" else replace(cloth, weft=height)


def _foreign_fibre(rng: np.random.Generator, cloth: _Cloth) -> _Cloth:
    size = cloth.u.shape[0]
    length = size * rng.uniform(0.08, 0.30)
    path = wander(rng, _place(rng, size), rng.uniform(0, 2 * math.pi), length, 0.22, 30, memory=0.9)
    cover = stroke(cloth.u.shape, path, size * rng.uniform(0.003, 0.007), taper=0.3)
    colour = _FIBRES[int(rng.integers(len(_FIBRES)))]
    return replace(cloth, fibre=np.minimum(cover, np.float32(0.92)), fibre_colour=plane(colour))


def _hole(rng: np.random.Generator, cloth: _Cloth) -> _Cloth:
    size = cloth.u.shape[0]
    centre = _place(rng, size)
    radius = size * rng.uniform(0.014, 0.040)
    away = spot(rng, cloth.u.shape, centre, radius, 0.10)
    gone = np.float32(-6) * smoothstep(1.08, 0.92, away)
    # The torn yarns are pushed aside and stand up around the hole.
    x, y = offsets(cloth.u.shape, centre)
    push = np.exp(-power(away / np.float32(1.6), 2)) * np.float32(-0.55 / radius)
    rim = np.float32(0.25) * np.exp(-power((away - np.float32(1.25)) / np.float32(0.3), 2))
    return replace(
        cloth,
        u=np.asarray(cloth.u + push * x, dtype=np.float32),
        v=np.asarray(cloth.v + push * y, dtype=np.float32),
        warp=gone + rim,
        weft=gone + rim * np.float32(rng.uniform(0, 1)),
    )


def _stain(rng: np.random.Generator, cloth: _Cloth) -> _Cloth:
    size = cloth.u.shape[0]
    away = spot(rng, cloth.u.shape, _place(rng, size), size * rng.uniform(0.025, 0.075), 0.16)
    # A drop dries from the edge inwards and leaves a darker border.
    border = np.exp(-power((away - np.float32(0.95)) / np.float32(0.10), 2)) * np.float32(rng.uniform(0, 0.4))
    wet = (smoothstep(1.1, 0.85, away) + border) * np.float32(rng.uniform(0.15, 0.75))
    colour = plane(_STAINS[int(rng.integers(len(_STAINS)))])
    return replace(cloth, filter=np.asarray(1 - wet * (1 - colour), dtype=np.float32))


def _weave_fault(rng: np.random.Generator, cloth: _Cloth) -> _Cloth:
    """A few neighbouring yarns float over those they should have passed below."""
    u, v = _yarns_at(cloth, _place(rng, cloth.u.shape[0]))
    along, across, which = (cloth.v, cloth.u, "warp") if rng.random() < 0.5 else (cloth.u, cloth.v, "weft")
    start, middle = (v, u) if which == "warp" else (u, v)
    half, width = rng.uniform(2.0, 6.0), float(rng.choice([0.5, 0.5, 1.0, 1.5]))
    floats = (np.abs(across - np.float32(middle + width - 0.5)) < np.float32(width)) * smoothstep(
        half + 0.7, half - 0.3, np.abs(along - np.float32(start))
    )
    height = np.asarray(np.float32(rng.uniform(0.9, 1.5)) * floats, dtype=np.float32)
    return replace(cloth, warp=height) if which == "warp" else replace(cloth, weft=height)


_FLAWS: dict[str, Callable[[np.random.Generator, _Cloth], _Cloth]] = {
    "broken_thread": _broken_thread,
    "foreign_fibre": _foreign_fibre,
    "hole": _hole,
    "stain": _stain,
    "weave_fault": _weave_fault,
}


def _family(rng: np.random.Generator, across: Map, other: Map, lag: float) -> tuple[Map, Map, Map]:
    """Return (height, tone, twist) of the yarns that lie side by side along ``across`` and cross those of ``other``.

    The height is that of the yarn's upper side in half thicknesses, and -3 where there is a gap between two yarns.
    """
    index = np.floor(across).astype(np.int32)
    within = across - index - np.float32(0.5)
    tones = rng.normal(1, 0.055, _TABLE).astype(np.float32)
    widths = rng.normal(1.04, 0.035, _TABLE).astype(np.float32)
    index &= _TABLE - 1
    aside = within * np.float32(2) / widths[index]
    # Over two, under two, each yarn one step later than its neighbour: twill.
    wave = np.cos((other - index + np.float32(lag)) * np.float32(math.pi / 2))
    height = np.sqrt(np.maximum(1 - aside * aside, 0)) + np.float32(0.75) * wave
    height[np.abs(aside) > 1] = -3
    twist = np.sin((other * np.float32(2.6) + within * np.float32(2.2)) * np.float32(2 * math.pi))
    return height, tones[index], twist


def _woven(seed: int, cloth: _Cloth) -> Map:
    """Return the brightness of the cloth, RGB ``[3, H, W]``."""
    rng, lamp, shape = stream(seed, "yarns"), stream(seed, "light"), cloth.u.shape
    warp, warp_tone, warp_twist = _family(rng, cloth.u, cloth.v, 0.0)
    # The warp is up where the weft is down: seen from a weft yarn the same steps run the other way.
    weft, weft_tone, weft_twist = _family(rng, cloth.v, cloth.u, 1.0)
    warp, weft = warp + cloth.warp, weft + cloth.weft
    top = smoothstep(-0.10, 0.10, warp - weft)
    height = np.maximum(np.maximum(warp, weft), np.float32(-1.2))
    fuzz = fractal(rng, shape, (3, 3), 2, 0.9)
    twist = weft_twist + top * (warp_twist - weft_twist)
    tone = (weft_tone + top * (warp_tone - weft_tone)) * (
        1 + np.float32(0.07) * twist + np.float32(0.075) * fuzz
    )
    direction = lamp.uniform(-2.6, -2.0)
    along_x, along_y = slopes(blurred(height, 0.5))
    lit = -along_x * np.float32(math.cos(direction)) - along_y * np.float32(math.sin(direction))
    depth = np.clip(np.float32(0.66) + np.float32(0.22) * height, 0.18, 1.1)
    shade = depth + np.float32(0.24) * np.clip(lit, -0.8, 0.8)
    colour = mixed(plane(_WEFT), plane(_WARP), top) * (tone * shade)
    colour = mixed(plane(_BEHIND), colour, smoothstep(-1.1, -0.6, height)) * cloth.filter
    lint = litter(stream(seed, "lint"), shape, (2, 9), (0.05, 0.20))
    colour = mixed(colour, plane((0.75, 0.75, 0.75)), lint)
    shadow = np.roll(cloth.fibre, (1, 1), (0, 1)) * np.float32(0.35)
    return mixed(colour * (1 - shadow), cloth.fibre_colour * (1 + np.float32(0.1) * fuzz), cloth.fibre)


def scene(kind: str, seed: int, size: int, attempt: int) -> Map:
    """Return one piece of cloth as the camera sees it, without noise.

    Args:
        kind: "good" or one of `KINDS`.
        seed: the piece, its pose, its light and the shot.
        size: side of the picture in pixels.
        attempt: another value draws another flaw on the same piece.

    Returns:
        RGB ``float32 [size, size, 3]`` in grey levels.
    """
    cloth = _laid(seed, size)
    if kind != "good":
        cloth = _FLAWS[kind](stream(seed, "flaw", attempt), cloth)
    picture = np.ascontiguousarray(np.moveaxis(_woven(seed, cloth), 0, 2))
    return Camera.draw(stream(seed, "camera"), EXPOSURE).expose(picture)
