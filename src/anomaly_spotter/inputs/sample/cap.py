"""A printed crown cap seen from above, in colour, always in the same pose on a plain pale ground.

The cap is a height map (flat top, beaded ring, fluted skirt) lit by two lamps; the print is a set of sectors, a disc and
lettering in enamel. Flaws change outline, height or print before the light falls on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.inputs.sample.camera import Camera
from anomaly_spotter.inputs.sample.lettering import lettering
from anomaly_spotter.inputs.sample.surface import (
    Map,
    Normals,
    affine,
    blurred,
    fractal,
    half_way,
    halo,
    lamp_at,
    litter,
    mixed,
    offsets,
    plane,
    power,
    smoothstep,
    spot,
    stream,
    stroke,
    wander,
)

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("colour_shift", "contamination", "dent", "missing_print", "scratched_print")
EXPOSURE = 0.10  # half range; makes brightness useless for telling good from bad

_RADIUS = 0.405  # of the cap, fraction of the picture's side
_SHIFT, _TURN = 2 / 320, math.radians(1.0)  # greatest jitter of the pose: fraction of the side, and angle
_FLUTES = 21
_SECTORS = 10
_DISC, _INNER, _OUTER = 0.44, 0.49, 0.70  # radii of the print, in radii of the cap

# Colours in RGB, 1 = white.
_GROUND = (0.80, 0.82, 0.84)
_CREAM = (0.84, 0.79, 0.66)
_CRIMSON = (0.56, 0.055, 0.075)
_GOLD = (0.76, 0.53, 0.12)
_BLUE = (0.055, 0.13, 0.34)
_METAL = (0.52, 0.52, 0.53)
_WRONG = ((0.66, 0.25, 0.06), (0.40, 0.06, 0.24), (0.72, 0.66, 0.30), (0.52, 0.46, 0.13))
_DIRT = ((0.10, 0.08, 0.06), (0.30, 0.22, 0.12), (0.72, 0.70, 0.64), (0.14, 0.20, 0.16))


@dataclass(frozen=True)
class _Cap:
    """One cap and what a flaw may change of it; maps ``float32 [H, W]``, colours ``[3, H, W]`` or ``[3, 1, 1]``."""

    seed: int
    centre: tuple[float, float]
    turn: float
    radius: float  # pixels
    away: Map  # distance from the centre, in radii
    angle: Map  # around the centre in radians, from the print's right
    edge: Map  # outline's radius in each pixel's direction, in radii
    relief: Map  # added height, pixels
    print: Map  # share of the enamel that is there, 0..1
    bared: Map  # share of bare metal, 0..1
    shift: Map  # how far colours are moved towards ``wrong``
    wrong: Map
    dirt: Map  # cover of what lies on the cap, 0..1
    dirt_colour: Map

    def place(self, rng: np.random.Generator, least: float, greatest: float) -> tuple[float, float]:
        """Return a random pixel (x, y) at a distance between the two given radii."""
        angle, away = rng.uniform(0, 2 * math.pi), self.radius * rng.uniform(least, greatest)
        return self.centre[0] + math.cos(angle) * away, self.centre[1] + math.sin(angle) * away


def _placed(seed: int, size: int) -> _Cap:
    """Return a good cap as it lies before the camera."""
    rng, shape = stream(seed, "pose"), (size, size)
    centre = size / 2 + rng.uniform(-_SHIFT, _SHIFT, 2) * size
    turn = rng.uniform(-_TURN, _TURN)
    x, y = offsets(shape, (centre[0], centre[1]))
    radius = size * _RADIUS * rng.uniform(0.997, 1.003)
    angle = np.mod(np.arctan2(y, x) - np.float32(turn), np.float32(2 * math.pi))
    empty = np.zeros(shape, np.float32)
    return _Cap(
        seed=seed,
        centre=(float(centre[0]), float(centre[1])),
        turn=turn,
        radius=radius,
        away=np.asarray(np.hypot(x, y) / np.float32(radius), dtype=np.float32),
        angle=angle,
        edge=np.asarray(1 + np.float32(0.022) * np.cos(angle * np.float32(_FLUTES)), dtype=np.float32),
        relief=empty,
        print=np.ones(shape, np.float32),
        bared=empty,
        shift=empty,
        wrong=plane(_CREAM),
        dirt=empty,
        dirt_colour=plane(_DIRT[0]),
    )


def _colour_shift(rng: np.random.Generator, cap: _Cap) -> _Cap:
    """One sector of the print has got another tone."""
    step = 2 * math.pi / _SECTORS
    sector = np.floor(cap.angle / np.float32(step)) == rng.integers(_SECTORS)
    ring = _band(cap, _INNER, _OUTER)
    wrong = _WRONG[int(rng.integers(len(_WRONG)))]
    return replace(
        cap,
        shift=np.asarray(sector * ring * np.float32(rng.uniform(0.22, 0.60)), np.float32),
        wrong=plane(wrong),
    )


def _contamination(rng: np.random.Generator, cap: _Cap) -> _Cap:
    """Drops, crumbs or a fibre lie on the cap."""
    shape, cover = cap.away.shape, np.zeros(cap.away.shape, np.float32)
    place = cap.place(rng, 0.0, 0.85)
    if rng.random() < 0.35:
        length = cap.radius * rng.uniform(0.2, 0.6)
        path = wander(rng, place, rng.uniform(0, 2 * math.pi), length, 0.3, 24, memory=0.9)
        cover = stroke(shape, path, cap.radius * rng.uniform(0.010, 0.020), taper=0.3)
    else:
        for _ in range(int(rng.integers(1, 5))):
            centre = (
                place[0] + rng.normal(0, cap.radius * 0.06),
                place[1] + rng.normal(0, cap.radius * 0.06),
            )
            drop = smoothstep(
                1.15, 0.85, spot(rng, shape, centre, cap.radius * rng.uniform(0.02, 0.06), 0.15)
            )
            cover = np.maximum(cover, drop)
    colour = _DIRT[int(rng.integers(len(_DIRT)))]
    return replace(
        cap,
        relief=np.float32(1.2) * blurred(cover, 1.0),
        dirt=cover * np.float32(rng.uniform(0.5, 0.95)),
        dirt_colour=plane(colour),
    )


def _dent(rng: np.random.Generator, cap: _Cap) -> _Cap:
    """The top is dented, or the skirt is bent in or out."""
    if rng.random() < 0.5:
        x, y = offsets(cap.away.shape, cap.place(rng, 0.0, 0.72))
        turn, reach = rng.uniform(0, math.pi), cap.radius * rng.uniform(0.05, 0.12)
        along = (x * np.float32(math.cos(turn)) + y * np.float32(math.sin(turn))) / np.float32(reach)
        across = (y * np.float32(math.cos(turn)) - x * np.float32(math.sin(turn))) / np.float32(
            reach * rng.uniform(0.4, 1.0)
        )
        depth = cap.radius * rng.uniform(0.010, 0.028)
        return replace(cap, relief=np.float32(-depth) * np.exp(-along * along - across * across))
    apart = np.abs(
        np.mod(cap.angle - np.float32(rng.uniform(0, 2 * math.pi)), np.float32(2 * math.pi))
        - np.float32(math.pi)
    )
    fold = np.exp(-power(apart / np.float32(rng.uniform(0.07, 0.16)), 2.5))
    depth = rng.choice([-1, -1, 1]) * rng.uniform(0.025, 0.055)
    skirt = smoothstep(0.74, 1.0, cap.away)
    return replace(
        cap,
        edge=np.asarray(cap.edge + np.float32(depth) * fold, dtype=np.float32),
        relief=np.asarray(np.float32(1.4 * depth * cap.radius) * fold * skirt, dtype=np.float32),
    )


def _missing_print(rng: np.random.Generator, cap: _Cap) -> _Cap:
    """Some enamel did not take: the cream base shows."""
    away = spot(rng, cap.away.shape, cap.place(rng, 0.0, 0.68), cap.radius * rng.uniform(0.05, 0.13), 0.16)
    return replace(cap, print=1 - smoothstep(1.1, 0.9, away) * np.float32(rng.uniform(0.55, 1.0)))


def _scratched_print(rng: np.random.Generator, cap: _Cap) -> _Cap:
    shape, place, heading = cap.away.shape, cap.place(rng, 0.0, 0.6), rng.uniform(0, 2 * math.pi)
    marks = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        start = (place[0] + rng.normal(0, cap.radius * 0.05), place[1] + rng.normal(0, cap.radius * 0.05))
        path = wander(rng, start, heading + rng.normal(0, 0.1), cap.radius * rng.uniform(0.2, 0.6), 0.05, 16)
        marks = np.maximum(marks, stroke(shape, path, cap.radius * rng.uniform(0.008, 0.018), taper=0.7))
    broken = marks * smoothstep(-1.2, 0.0, fractal(rng, shape, (8, 8), 3)) * (cap.away < 0.95)
    return replace(
        cap,
        relief=np.float32(-0.5) * blurred(broken, 0.6),
        bared=np.asarray(broken * np.float32(rng.uniform(0.5, 1.0)), dtype=np.float32),
    )


_FLAWS: dict[str, Callable[[np.random.Generator, _Cap], _Cap]] = {
    "colour_shift": _colour_shift,
    "contamination": _contamination,
    "dent": _dent,
    "missing_print": _missing_print,
    "scratched_print": _scratched_print,
}


def _band(cap: _Cap, inner: float, outer: float) -> Map:
    """Return how much of each pixel lies between two radii, ``[H, W]``."""
    reach = np.float32(cap.radius)
    beyond = np.clip((cap.away - np.float32(inner)) * reach + np.float32(0.5), 0, 1)
    within = np.clip((np.float32(outer) - cap.away) * reach + np.float32(0.5), 0, 1)
    return np.asarray(beyond * within, dtype=np.float32)


def _text(cap: _Cap, text: str, height: float, weight: float, below: float) -> Map:
    """Return one line of lettering, ``[H, W]`` in 0..1; ``height`` and ``below`` (the centre) in radii."""
    label, full = lettering(text, weight)
    size = cap.radius * height / full
    offset = cap.radius * below
    target = (
        cap.centre[0] - math.sin(cap.turn) * offset,
        cap.centre[1] + math.cos(cap.turn) * offset,
    )
    place = affine(cap.turn, (label.shape[1] / 2, label.shape[0] / 2), target, size)
    ink = cv2.warpAffine(blurred(label, 0.4 / size), place, cap.away.shape[::-1])
    return np.asarray(ink, dtype=np.float32)


def _printed(cap: _Cap) -> Map:
    """Return the colour of the cap's top, RGB ``[3, H, W]``."""
    rng, shape = stream(cap.seed, "print"), cap.away.shape
    # Each colour is a printing pass of its own: passes are off by fractions of a pixel and take unevenly.
    slip = rng.normal(0, 0.0022, 3)
    density = [1 - np.float32(0.05) * np.abs(fractal(rng, shape, (14, 14), 3, 0.8)) for _ in range(2)]
    step = np.float32(2 * math.pi / _SECTORS)
    place = np.mod(cap.angle + np.float32(slip[0]), 2 * step)
    arc = cap.away * np.float32(cap.radius)
    gold = np.clip((step - place) * arc + np.float32(0.5), 0, 1) * np.clip(
        place * arc + np.float32(0.5), 0, 1
    )
    ring = _band(cap, _INNER + slip[1], _OUTER + slip[1])
    disc = _band(cap, -1, _DISC + slip[2])
    rim = _band(cap, _OUTER + 0.03, 2)
    colour = mixed(plane(_CREAM), plane(_CRIMSON), np.maximum(ring, rim) * density[0] * cap.print)
    colour = mixed(colour, plane(_GOLD), ring * gold * density[1] * cap.print)
    colour = mixed(colour, plane(_BLUE), disc * density[1] * cap.print)
    letters = np.maximum(_text(cap, "MALT", 0.235, 0.19, -0.075), _text(cap, "1874", 0.125, 0.16, 0.19))
    colour = mixed(colour, plane(_CREAM), letters * density[0] * cap.print)
    colour = mixed(colour, cap.wrong, cap.shift)
    return mixed(colour, plane(_METAL), cap.bared)


def _lit(cap: _Cap) -> Map:
    """Return the brightness of the cap, RGB ``[3, H, W]``."""
    rng, lamp = stream(cap.seed, "part"), stream(cap.seed, "light")
    skirt = smoothstep(0.76, 1.06, cap.away)
    flutes = smoothstep(0.80, 0.97, cap.away) * np.cos(cap.angle * np.float32(_FLUTES))
    bead = np.exp(-power((cap.away - np.float32(0.735)) / np.float32(0.016), 2))
    # Stamping leaves every top a little uneven.
    wobble = fractal(rng, cap.away.shape, (cap.radius * 0.5, cap.radius * 0.5), 2)
    height = np.float32(0.02) * (1 - cap.away * cap.away) - np.float32(0.24) * skirt
    height = (
        height + np.float32(0.030) * flutes + np.float32(0.006) * bead + np.float32(0.0016) * wobble
    ) * np.float32(cap.radius) + cap.relief
    flat = np.zeros(cap.away.shape, np.float32)
    normals = Normals.of(flat, flat, flat + 1).bumped(np.asarray(height, dtype=np.float32))
    slant, azimuth = math.radians(lamp.uniform(32, 42)), math.radians(lamp.normal(-125, 5))
    light = lamp_at(slant, azimuth)
    key = np.clip(normals.towards(light), 0, 1)
    fill = np.clip(normals.towards((-light[0], -light[1], 0.9)), 0, 1)
    shine = np.maximum(normals.towards(half_way(light)), 0)
    gloss = np.float32(0.10) * power(shine, 8) + np.float32(0.42) * power(shine, 70)
    haze = 1 + np.float32(0.12) * fractal(rng, cap.away.shape, (20, 20), 3)
    colour = mixed(_printed(cap), cap.dirt_colour, cap.dirt)
    dull = 1 - np.float32(0.8) * cap.dirt
    return np.asarray(
        colour * (np.float32(0.16) + np.float32(0.74) * key + np.float32(0.24) * fill) + gloss * haze * dull,
        dtype=np.float32,
    )


def scene(kind: str, seed: int, size: int, attempt: int) -> Map:
    """Return one cap on its ground as the camera sees it, without noise.

    Args:
        kind: "good" or one of `KINDS`.
        seed: the cap, its pose, its light and the shot.
        size: side of the picture in pixels.
        attempt: another value draws another flaw on the same cap.

    Returns:
        RGB ``float32 [size, size, 3]`` in grey levels.
    """
    cap = _placed(seed, size)
    if kind != "good":
        cap = _FLAWS[kind](stream(seed, "flaw", attempt), cap)
    cover = np.clip((cap.edge - cap.away) * np.float32(cap.radius) + np.float32(0.5), 0, 1)
    fall = np.array([[1, 0, size * 0.016], [0, 1, size * 0.022]])
    cast = np.asarray(cv2.warpAffine(cover, fall, (size, size)), dtype=np.float32)
    rng = stream(seed, "ground")
    ground = 1 + np.float32(0.012) * fractal(rng, cover.shape, (size / 3, size / 3), 2)
    ground = ground * (
        1 - np.float32(0.34) * halo(cast, size * 0.012) - np.float32(0.14) * halo(cast, size * 0.04)
    )
    ground = ground * (1 - litter(rng, cover.shape, (0, 6), (0.03, 0.14)))
    picture = mixed(plane(_GROUND) * ground, _lit(cap), cover)
    return Camera.draw(stream(seed, "camera"), EXPOSURE).expose(
        np.ascontiguousarray(np.moveaxis(picture, 0, 2))
    )
