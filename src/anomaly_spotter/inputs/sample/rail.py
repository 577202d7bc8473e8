"""A long punched steel rail on dark cloth, in grey: three times as wide as high, lying nearly the same each time.

The part is a signed distance (negative in the metal): outline and holes are exact, edges are smooth at any size, and a
flaw moves, closes or frays the outline. The metal is brushed along its length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.inputs.sample.camera import Camera
from anomaly_spotter.inputs.sample.surface import (
    Map,
    Normals,
    blurred,
    fractal,
    half_way,
    halo,
    lamp_at,
    litter,
    offsets,
    power,
    sampled,
    smoothstep,
    spot,
    stream,
    stroke,
    wander,
)

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("bend", "burr", "dirt", "missing_hole", "scratch")
EXPOSURE = 0.12  # half range; makes brightness useless for telling good from bad

_HEIGHT, _ASPECT = 0.6, 3  # of the picture: fraction of the nominal size, and width to height

# Measures as fractions of the picture's height, from the part's middle.
_HALF_LENGTH, _HALF_WIDTH, _CORNER = 1.36, 0.25, 0.05
_CHAMFER = 0.018
# Holes as (x, half length, radius): a round hole has no length.
_HOLES = (
    (-1.20, 0.0, 0.062),
    (-0.86, 0.11, 0.050),
    (-0.50, 0.0, 0.085),
    (-0.17, 0.0, 0.050),
    (0.17, 0.0, 0.050),
    (0.50, 0.0, 0.085),
    (0.86, 0.11, 0.050),
    (1.20, 0.0, 0.062),
)


@dataclass(frozen=True)
class _Rail:
    """One rail and what a flaw may change of it; maps ``float32 [H, W]`` or such that broadcast to it."""

    scale: float  # pixels per unit: the picture's height
    x: Map  # place along the rail in units
    y: Map  # place across it
    sag: Map  # how far a bend has moved the metal down, in units
    open: tuple[bool, ...]  # which holes are there
    fray: Map  # added to the signed distance, pixels
    relief: Map  # added height, pixels
    fresh: Map  # share of freshly torn, bright metal
    dirt: Map  # cover of dirt, 0..1


def _laid(seed: int, size: int) -> _Rail:
    """Return a good rail as it lies before the camera."""
    rng = stream(seed, "pose")
    height = round(size * _HEIGHT)
    shape = (height, height * _ASPECT)
    shift = rng.uniform(-0.035, 0.035, 2) * height
    turn = math.radians(rng.uniform(-0.35, 0.35))
    x, y = offsets(shape, (shape[1] / 2 - 0.5 + shift[0], shape[0] / 2 - 0.5 + shift[1]))
    sine, cosine, unit = np.float32(math.sin(turn)), np.float32(math.cos(turn)), np.float32(height)
    empty = np.zeros(shape, np.float32)
    return _Rail(
        scale=height,
        x=np.asarray((x * cosine + y * sine) / unit, dtype=np.float32),
        y=np.asarray((y * cosine - x * sine) / unit, dtype=np.float32),
        sag=empty,
        open=(True,) * len(_HOLES),
        fray=empty,
        relief=empty,
        fresh=empty,
        dirt=empty,
    )


def _place(rng: np.random.Generator, rail: _Rail, reach: float = 0.19) -> tuple[float, float]:
    """Return a random pixel (x, y) on the metal or in a hole of it."""
    rows, columns = rail.x.shape
    u, v = rng.uniform(-1.28, 1.28), rng.uniform(-reach, reach)
    return columns / 2 + u * rail.scale, rows / 2 + v * rail.scale


def _bend(rng: np.random.Generator, rail: _Rail) -> _Rail:
    """One end is bent sideways, off the picture's line."""
    side = float(rng.choice([-1, 1]))
    start = rng.uniform(0.70, 1.05)
    past = np.maximum(side * rail.x - np.float32(start), 0) / np.float32(_HALF_LENGTH - start)
    depth = rng.choice([-1, 1]) * rng.uniform(0.010, 0.035)
    return replace(rail, sag=np.float32(depth) * power(np.asarray(past, dtype=np.float32), 1.6))


def _burr(rng: np.random.Generator, rail: _Rail) -> _Rail:
    """Shreds of metal stand out from an edge, of the outline or of a hole."""
    distance = _distance(rail)
    if rng.random() < 0.5:
        x, _, radius = _HOLES[int(rng.integers(len(_HOLES)))]
        angle = rng.uniform(0, 2 * math.pi)
        centre = (x + radius * math.cos(angle), radius * math.sin(angle))
    else:
        centre = (rng.uniform(-1.25, 1.25), float(rng.choice([-1, 1])) * _HALF_WIDTH)
    away = np.hypot(rail.x - np.float32(centre[0]), rail.y - np.float32(centre[1]))
    near = smoothstep(1.0, 0.45, away / np.float32(rng.uniform(0.035, 0.085)))
    cell = rail.scale * 0.03
    teeth = np.abs(fractal(rng, rail.x.shape, (cell, cell), 3, 0.8)) + np.float32(0.4)
    grown = near * teeth * np.float32(rail.scale * rng.uniform(0.008, 0.020))
    beside = (distance - grown / 2) / np.float32(rail.scale * 0.014)
    edge = np.exp(-beside * beside)
    return replace(
        rail,
        fray=-grown,
        fresh=np.asarray(near * edge * np.float32(rng.uniform(0.4, 0.9)), dtype=np.float32),
    )


def _dirt(rng: np.random.Generator, rail: _Rail) -> _Rail:
    cover, place = np.zeros(rail.x.shape, np.float32), _place(rng, rail)
    for _ in range(int(rng.integers(1, 6))):
        centre = (
            place[0] + rng.normal(0, rail.scale * 0.04),
            place[1] + rng.normal(0, rail.scale * 0.03),
        )
        radius = rail.scale * rng.uniform(0.012, 0.045)
        drop = smoothstep(1.3, 0.7, spot(rng, rail.x.shape, centre, radius, 0.2))
        cover = np.maximum(cover, drop * np.float32(rng.uniform(0.25, 0.85)))
    return replace(rail, dirt=cover)


def _missing_hole(rng: np.random.Generator, rail: _Rail) -> _Rail:
    missing = int(rng.integers(len(_HOLES)))
    return replace(rail, open=tuple(index != missing for index in range(len(_HOLES))))


def _scratch(rng: np.random.Generator, rail: _Rail) -> _Rail:
    groove, place, heading = (
        np.zeros(rail.x.shape, np.float32),
        _place(rng, rail),
        rng.uniform(0, 2 * math.pi),
    )
    for _ in range(int(rng.integers(1, 4))):
        start = (place[0] + rng.normal(0, rail.scale * 0.02), place[1] + rng.normal(0, rail.scale * 0.02))
        length = rail.scale * rng.uniform(0.12, 0.45)
        path = wander(rng, start, heading + rng.normal(0, 0.1), length, 0.05, 16)
        line = stroke(rail.x.shape, path, rail.scale * rng.uniform(0.005, 0.010), taper=0.7)
        groove = np.maximum(groove, line * np.float32(rng.uniform(0.5, 1.0)))
    return replace(
        rail,
        relief=np.float32(-0.8) * blurred(groove, 0.6),
        fresh=groove * np.float32(rng.uniform(0.25, 0.7)),
    )


_FLAWS: dict[str, Callable[[np.random.Generator, _Rail], _Rail]] = {
    "bend": _bend,
    "burr": _burr,
    "dirt": _dirt,
    "missing_hole": _missing_hole,
    "scratch": _scratch,
}


def _distance(rail: _Rail) -> Map:
    """Return the signed distance to the nearest edge in pixels, ``[H, W]``, negative in the metal."""
    y = rail.y - rail.sag
    beyond_x = np.abs(rail.x) - np.float32(_HALF_LENGTH - _CORNER)
    beyond_y = np.abs(y) - np.float32(_HALF_WIDTH - _CORNER)
    outside = np.hypot(np.maximum(beyond_x, 0), np.maximum(beyond_y, 0))
    distance = outside + np.minimum(np.maximum(beyond_x, beyond_y), 0) - np.float32(_CORNER)
    for (x, half, radius), is_open in zip(_HOLES, rail.open, strict=True):
        if is_open:
            along = np.maximum(np.abs(rail.x - np.float32(x)) - np.float32(half), 0)
            distance = np.maximum(distance, np.float32(radius) - np.hypot(along, y))
    return np.asarray(distance * np.float32(rail.scale) + rail.fray, dtype=np.float32)


def _brushed(rng: np.random.Generator, rail: _Rail) -> Map:
    """Return the marks of brushing along the rail, ``[H, W]``; they follow a bend."""
    shape = rail.x.shape
    marks = fractal(rng, shape, (2, rail.scale * 0.6), 3, 0.8)
    x, y = offsets(shape, (0.0, 0.0))
    columns = np.broadcast_to(x, shape)
    return sampled(
        marks, np.ascontiguousarray(columns), np.asarray(y - rail.sag * np.float32(rail.scale), np.float32)
    )


def _lit(rail: _Rail, distance: Map, light: tuple[float, float, float], seed: int) -> Map:
    """Return the brightness of the metal, ``[H, W]``."""
    rng, shape = stream(seed, "metal"), rail.x.shape
    brushed = _brushed(rng, rail)
    grain = fractal(rng, shape, (4, 4), 3, 0.9)
    tarnish = fractal(rng, shape, (rail.scale * 0.4, rail.scale * 0.7), 3)
    chamfer = rail.scale * _CHAMFER
    slope = power(np.clip(1 + distance / np.float32(chamfer), 0, 1), 2) * np.float32(-0.5 * chamfer)
    flat = np.zeros(shape, np.float32)
    relief = slope + np.float32(0.10) * brushed + np.float32(0.05) * grain + rail.relief
    normals = Normals.of(flat, flat, flat + 1).bumped(np.asarray(relief, dtype=np.float32))
    shine = np.maximum(normals.towards(half_way(light)), 0)
    brightness = 0.14 + 0.32 * np.clip(normals.towards(light), 0, 1) + 0.22 * power(shine, 14)
    brightness = brightness * (1 + 0.05 * brushed + 0.03 * grain + 0.04 * tarnish)
    brightness = brightness + rail.fresh * (np.float32(0.80) + np.float32(0.08) * grain - brightness)
    soiled = np.float32(0.12) + np.float32(0.02) * grain
    return np.asarray(brightness + rail.dirt * (soiled - brightness), dtype=np.float32)


def scene(kind: str, seed: int, size: int, attempt: int) -> Map:
    """Return one rail on its cloth as the camera sees it, without noise.

    Args:
        kind: "good" or one of `KINDS`.
        seed: the rail, its pose, its light and the shot.
        size: nominal size; the picture is 0.6 times as high and 1.8 times as wide.
        attempt: another value draws another flaw on the same rail.

    Returns:
        ``float32 [H, 3 H]`` in grey levels.
    """
    lamp = stream(seed, "light")
    slant, azimuth = math.radians(lamp.uniform(28, 40)), math.radians(lamp.normal(-115, 6))
    light = lamp_at(slant, azimuth)
    rail = _laid(seed, size)
    if kind != "good":
        rail = _FLAWS[kind](stream(seed, "flaw", attempt), rail)
    distance = _distance(rail)
    cover, shape = np.clip(np.float32(0.5) - distance, 0, 1), distance.shape
    fall = rail.scale * 0.05 * math.tan(slant)
    away = np.array([[1, 0, -math.cos(azimuth) * fall], [0, 1, -math.sin(azimuth) * fall]])
    cast = np.asarray(cv2.warpAffine(cover, away, shape[::-1]), dtype=np.float32)
    rng = stream(seed, "cloth")
    cloth = np.float32(0.085) * (1 + np.float32(0.14) * fractal(rng, shape, (3, 3), 2))
    cloth = cloth * (1 - np.float32(0.7) * halo(cast, rail.scale * 0.015))
    cloth = cloth + np.float32(0.5) * litter(rng, shape, (3, 14), (0.04, 0.22))
    metal = _lit(rail, distance, light, seed)
    return Camera.draw(stream(seed, "camera"), EXPOSURE).expose(
        np.asarray(cloth + cover * (metal - cloth), dtype=np.float32)
    )
