"""A hazelnut in its shell, in colour, lying in any direction on dark cloth (after MVTec AD's category *hazelnut*).

The nut is an ovoid solved per pixel; grain runs along its meridians from the rough pale base to the tip, as relief
and as colour. Flaws change relief and colour before the light falls on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from anomaly_spotter.inputs.sample.camera import Camera
from anomaly_spotter.inputs.sample.lettering import LETTERS, lettering
from anomaly_spotter.inputs.sample.surface import (
    SUPERSAMPLING,
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
    reduced,
    sampled,
    slopes,
    smoothstep,
    stream,
    stroke,
    wander,
)

KINDS = ("crack", "cut", "hole", "print")

_RADIUS = 0.295  # equator of the nut, fraction of the picture's side
_REACH = 1.24  # the nut's frame reaches this many radii from its centre
EXPOSURE = 0.16  # half range; makes brightness useless for telling good from bad
_MERIDIANS, _PARALLELS = 512, 96  # grid of the shell's grain: around the axis, from tip to base
_SEAM = 24  # columns repeated beyond the grid's closing seam, because grain sways across it

# Colours in RGB, 1 = white.
_DARK_SHELL = (0.27, 0.125, 0.055)
_LIGHT_SHELL = (0.63, 0.395, 0.215)
_BASE = (0.63, 0.49, 0.345)
_FUZZ = (0.60, 0.50, 0.39)
_KERNEL = (0.80, 0.66, 0.45)
_INK = (0.80, 0.79, 0.74)
_CLOTH = (0.062, 0.064, 0.070)


@dataclass(frozen=True)
class _Nut:
    """One nut and how it lies. Lengths in radii of the equator, ``axis`` points from base to tip."""

    seed: int
    radius: float  # supersampled pixels
    axis: tuple[float, float, float]
    side: tuple[float, float, float]
    elongation: float
    flatness: float
    taper: float

    @property
    def half(self) -> int:
        """Half the side of the nut's own frame, in supersampled pixels."""
        return int(self.radius * _REACH)


@dataclass(frozen=True)
class _Marks:
    """What a flaw does to the surface; maps ``float32 [H, W]`` of the nut's frame."""

    relief: Map  # added height, pixels
    cover: Map  # 0..1, how much ``colour`` replaces the shell's own
    colour: Map  # RGB, [3, H, W] or [3, 1, 1]


def _draw_nut(seed: int, size: int) -> _Nut:
    rng = stream(seed, "part")
    spin, raise_ = rng.uniform(0, 2 * math.pi), math.radians(rng.normal(-8, 16))
    axis = np.array([math.cos(spin) * math.cos(raise_), math.sin(spin) * math.cos(raise_), math.sin(raise_)])
    side = np.cross(axis, rng.normal(size=3))
    side /= np.linalg.norm(side)
    return _Nut(
        seed=seed,
        radius=size * SUPERSAMPLING * _RADIUS * rng.uniform(0.95, 1.05),
        axis=(float(axis[0]), float(axis[1]), float(axis[2])),
        side=(float(side[0]), float(side[1]), float(side[2])),
        elongation=rng.uniform(1.04, 1.20),
        flatness=rng.uniform(0.90, 0.98),
        taper=rng.uniform(0.05, 0.11),
    )


def _solve(nut: _Nut) -> tuple[Map, Map, Map]:
    """Return (z², along, around): squared depth in radii, cosine to the axis, and angle around it, ``[H, W]``.

    The surface is a distance that depends on the direction, and a pixel's direction depends on its depth: a few rounds
    of iteration settle both. The ovoid is smooth, so half the resolution is enough to solve it.
    """
    half = nut.half
    line = (np.arange(half, dtype=np.float32) * 2 - np.float32(half - 1)) / np.float32(nut.radius)
    x, y = line[None, :], line[:, None]
    third = np.cross(nut.axis, nut.side)
    flat = x * x + y * y
    squared = 1 - flat
    along, a, b = squared, squared, squared
    for _ in range(4):
        z = np.sqrt(np.maximum(squared, 0))
        scale = 1 / np.sqrt(flat + z * z)
        along, a, b = (
            (x * np.float32(d[0]) + y * np.float32(d[1]) + z * np.float32(d[2])) * scale
            for d in (nut.axis, nut.side, third)
        )
        lump = np.float32(0.012) * (np.cos(6 * a * b + 1) + np.cos(5 * along + 3 * a))
        distance = (1 - np.float32(nut.taper) * along + lump) / np.sqrt(
            (along / np.float32(nut.elongation)) ** 2 + a * a + (b / np.float32(nut.flatness)) ** 2
        )
        distance += np.float32(0.06) * np.exp((along - 1) * np.float32(13))
        # The base is nearly a plane: the distance is the softer minimum of the ovoid's and the plane's.
        base = np.float32(0.97 * nut.elongation) / np.maximum(-along, np.float32(0.05))
        gap = np.clip(0.5 + 5 * (base - distance), 0, 1)
        distance = base + gap * (distance - base) - np.float32(0.1) * gap * (1 - gap)
        squared = distance * distance - flat
    squared, along, a, b = (
        np.asarray(cv2.resize(values, (2 * half, 2 * half), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
        for values in (squared, along, a, b)
    )
    return squared, along, np.arctan2(b, a)


def _wrapped(rng: np.random.Generator, cell: tuple[float, float], octaves: int, gain: float = 0.6) -> Map:
    """Return noise ``[_PARALLELS, _MERIDIANS]`` that closes around the nut without a seam."""
    blend = 64
    wide = fractal(rng, (_PARALLELS, _MERIDIANS + blend), cell, octaves, gain)
    ramp = np.linspace(0, 1, blend, dtype=np.float32)[None, :]
    closed = wide[:, :_MERIDIANS].copy()
    closed[:, :blend] = wide[:, :blend] * ramp + wide[:, _MERIDIANS:] * (1 - ramp)
    return closed


def _shell(nut: _Nut, along: Map, around: Map) -> tuple[Map, Map, Map]:
    """Return (colour [3, H, W], relief in pixels [H, W], gloss [H, W]) of the shell without flaw."""
    rng = stream(nut.seed, "shell")
    grain = _wrapped(rng, (240, 26), 4)
    fine = _wrapped(rng, (120, 8), 3)
    lanes = _wrapped(rng, (300, 90), 3)
    maps = np.pad(np.dstack([grain, fine, lanes]), ((0, 0), (_SEAM, _SEAM), (0, 0)), mode="wrap")
    row = (1 - along) * np.float32((_PARALLELS - 1) / 2)
    sway = fractal(rng, along.shape, (nut.radius, nut.radius), 2) * np.float32(3.0)
    column = around * np.float32(_MERIDIANS / (2 * math.pi)) + sway + np.float32(_MERIDIANS / 2 + _SEAM)
    grain, fine, lanes = np.moveaxis(sampled(maps, np.asarray(column, dtype=np.float32), row), 2, 0)

    shape = along.shape
    blotch = fractal(rng, shape, (nut.radius * 0.5, nut.radius * 0.5), 4)
    speckle = fractal(rng, shape, (4, 4), 2, 0.9)
    tone = (
        0.56
        + 0.15 * lanes
        + 0.12 * grain
        + 0.07 * fine
        + 0.08 * blotch
        + 0.03 * speckle
        + rng.uniform(-0.08, 0.08)
    )
    stripe = smoothstep(0.7, 1.7, grain * np.float32(0.8) + fine * np.float32(0.5) - lanes * np.float32(0.2))
    tone = np.clip(tone - 0.30 * stripe, 0, 1.15).astype(np.float32)
    colour = mixed(plane(_DARK_SHELL), plane(_LIGHT_SHELL), tone)
    colour[0] *= 1 + 0.05 * blotch

    fuzz = smoothstep(0.62, 1.0, along + np.float32(0.08) * grain + np.float32(0.05) * speckle) * np.float32(
        0.75
    )
    colour = mixed(colour, plane(_FUZZ), fuzz * (0.75 + 0.25 * np.clip(speckle, -1, 1)))
    edge = -along + np.float32(0.02) * blotch + np.float32(0.022) * grain + np.float32(0.012) * fine
    scar = smoothstep(0.755, 0.80, edge)
    rim = np.exp(-(((edge - np.float32(0.75)) / np.float32(0.035)) ** 2))
    pits = smoothstep(0.9, 2.2, fractal(rng, shape, (9, 9), 2, 0.8))
    colour = mixed(colour, plane(_BASE), scar * (0.72 + 0.16 * np.clip(blotch, -1, 1) + 0.06 * grain))
    colour *= 1 - 0.30 * rim - 0.30 * scar * pits

    pixel = np.float32(nut.radius / 190)  # relief grows with the picture
    relief = pixel * (0.9 * grain + 0.25 * fine - 0.8 * stripe + 0.16 * speckle + 1.6 * lanes)
    relief = (
        relief * (1 - 0.8 * scar)
        + pixel * scar * (1.0 * blotch + 0.4 * speckle - 0.9 * pits)
        - pixel * 1.5 * rim
    )
    gloss = (1 - scar) * (1 - fuzz) * (1 - 0.5 * stripe) * (0.8 + 0.25 * np.clip(blotch, -1, 1))
    return colour, np.asarray(relief, dtype=np.float32), np.asarray(gloss, dtype=np.float32)


def _place(rng: np.random.Generator, nut: _Nut, reach: float) -> tuple[float, float]:
    """Draw a point on the visible side, in pixels of the nut's frame, at most ``reach`` radii from the centre."""
    angle, radius = rng.uniform(0, 2 * math.pi), reach * math.sqrt(rng.uniform(0, 1))
    return nut.half + math.cos(angle) * radius * nut.radius, nut.half + math.sin(angle) * radius * nut.radius


def _crack(rng: np.random.Generator, nut: _Nut, shape: tuple[int, int]) -> _Marks:
    heading = math.atan2(nut.axis[1], nut.axis[0]) + rng.normal(0, 0.5)
    length = nut.radius * rng.uniform(0.45, 1.25)
    middle = _place(rng, nut, 0.35)
    start = (middle[0] - math.cos(heading) * length / 2, middle[1] - math.sin(heading) * length / 2)
    path = wander(rng, start, heading, length, 0.42, 48, memory=0.55)
    width = nut.radius * rng.uniform(0.010, 0.032)
    gap = stroke(shape, path, width, taper=0.95)
    # Along a crack pieces of its edge break out.
    lost = path[int(rng.integers(8, 30)) :][:8]
    gap = np.maximum(gap, stroke(shape, lost, width * rng.uniform(1.0, 1.8), taper=0.9))
    if rng.random() < 0.4:
        fork = path[int(rng.integers(14, 36))]
        turn = heading + rng.choice([-1, 1]) * rng.uniform(0.4, 0.9)
        branch = wander(rng, (float(fork[0]), float(fork[1])), turn, length * 0.35, 0.42, 18, memory=0.55)
        gap = np.maximum(gap, stroke(shape, branch, width * 0.5, taper=0.7))
    lips = blurred(gap, width * 0.8)
    relief = np.float32(width * 0.6) * lips - np.float32(width * 1.6) * blurred(gap, 0.9)
    broken = np.clip(np.roll(lips, (1, 1), (0, 1)) * 1.3 - gap, 0, 1) * np.float32(rng.uniform(0.2, 0.6))
    gap = np.clip(gap * np.float32(1.1), 0, 1) * np.float32(0.92)
    colour = mixed(plane(_KERNEL) * np.float32(0.8), plane((0.06, 0.034, 0.022)), smoothstep(0.2, 0.6, gap))
    return _Marks(relief, np.maximum(gap, broken), colour)


def _cut(rng: np.random.Generator, nut: _Nut, shape: tuple[int, int]) -> _Marks:
    middle = _place(rng, nut, 0.62)
    turn, half = rng.uniform(0, math.pi), nut.radius * rng.uniform(0.16, 0.36)
    wide = half * rng.uniform(0.18, 0.34)
    x, y = offsets(shape, middle)
    along = (x * math.cos(turn) + y * math.sin(turn)) / np.float32(half)
    across = (y * math.cos(turn) - x * math.sin(turn)) / np.float32(wide)
    ragged = np.float32(0.10) * fractal(rng, shape, (14, 14), 3)
    inside = 1 - along * along - np.abs(across + np.float32(0.25) * along * along) + ragged
    wound = smoothstep(-0.02, 0.10, inside)
    fibre = fractal(rng, shape, (5, 5), 3, 0.8)
    # The blade enters flat on one side and leaves a wall on the other.
    depth = np.clip(0.5 + 0.5 * across, 0, 1) * np.clip(inside * 3, 0, 1)
    relief = -np.float32(wide * 0.55) * depth.astype(np.float32) + wound * np.float32(0.35) * fibre
    lip = np.exp(-((inside / np.float32(0.10)) ** 2))
    relief += np.float32(nut.radius * 0.008) * lip
    pale = plane(_KERNEL) * np.float32(rng.uniform(0.62, 1.0))
    tone = 1 + np.float32(0.09) * fibre - np.float32(0.30) * smoothstep(0.2, 1.0, across.astype(np.float32))
    return _Marks(np.asarray(relief, dtype=np.float32), wound, np.asarray(pale * tone, dtype=np.float32))


def _hole(rng: np.random.Generator, nut: _Nut, shape: tuple[int, int]) -> _Marks:
    middle = _place(rng, nut, 0.60)
    radius = nut.radius * rng.uniform(0.055, 0.115)
    x, y = offsets(shape, middle)
    away = np.hypot(x, y) / np.float32(radius) + np.float32(0.06) * fractal(rng, shape, (12, 12), 3)
    pit = smoothstep(1.0, 0.84, away)
    rim = np.exp(-(((away - np.float32(1.10)) / np.float32(0.14)) ** 2))
    relief = np.float32(radius * 0.10) * rim - np.float32(radius * 0.9) * smoothstep(1.02, 0.3, away)
    # Chips of the pale inner shell line the edge; inside it is nearly black, a little less where light falls in.
    lit = np.clip(0.5 + 0.5 * (x + y) / np.float32(radius * 1.4), 0, 1) * smoothstep(0.45, 0.95, away)
    inner = mixed(plane((0.045, 0.03, 0.022)), plane((0.345, 0.23, 0.142)), lit)
    chips = rim * smoothstep(-0.4, 0.8, fractal(rng, shape, (7, 7), 2)) * np.float32(rng.uniform(0.3, 0.9))
    return _Marks(relief, np.maximum(pit, chips), mixed(plane(_KERNEL) * np.float32(0.8), inner, pit))


def _print(rng: np.random.Generator, nut: _Nut, shape: tuple[int, int]) -> _Marks:
    text = "".join(rng.choice(list(LETTERS), int(rng.integers(2, 5))))
    label, height = lettering(text, rng.uniform(0.12, 0.18))
    middle, turn = _place(rng, nut, 0.32), rng.uniform(0, 2 * math.pi)
    size = nut.radius * rng.uniform(0.22, 0.34) / height
    place = affine(turn, (label.shape[1] / 2, label.shape[0] / 2), middle, size)
    label = blurred(label, 0.4 / size)  # the letters are drawn larger than they are shown
    ink = np.asarray(cv2.warpAffine(label, place, shape[::-1]), dtype=np.float32)
    half = shape[0] / 2
    x = np.broadcast_to(np.arange(shape[1], dtype=np.float32)[None, :], shape)
    y = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None], shape)
    # A stamp pressed on a ball: letters narrow towards the outline.
    away = np.clip(np.hypot(x - half, y - half) / np.float32(nut.radius), 0, 0.98)
    stretch = np.arcsin(away) / np.maximum(away, np.float32(1e-3))
    ink = sampled(ink, half + (x - half) * stretch, half + (y - half) * stretch)
    worn = smoothstep(-1.5, 0.4, fractal(rng, shape, (26, 26), 4, 0.8))
    cover = blurred(ink, 0.9) * worn * np.float32(rng.uniform(0.45, 0.9))
    return _Marks(np.zeros(shape, np.float32), cover, plane(_INK))


_FLAWS = {"crack": _crack, "cut": _cut, "hole": _hole, "print": _print}


def _lit(
    nut: _Nut, squared: Map, colour: Map, relief: Map, gloss: Map, light: tuple[float, float, float]
) -> Map:
    """Return the nut's brightness, RGB ``[3, H, W]``."""
    along_x, along_y = slopes(squared * np.float32(nut.radius))
    depth = np.sqrt(np.maximum(squared, 0))
    smooth = Normals.of(along_x * np.float32(-0.5), along_y * np.float32(-0.5), depth + np.float32(0.02))
    normals = smooth.bumped(relief)
    key = np.clip(normals.towards(light) * 0.85 + 0.15, 0, 1)
    fill = np.clip(normals.towards((-light[0], -light[1], 0.8)), 0, 1)
    below = blurred(relief, nut.radius * 0.02) - relief
    hollow = np.clip(1 - below * np.float32(45 / nut.radius), 0.25, 1.12)
    rounding = 0.14 + 0.86 * smoothstep(-0.12, 0.55, depth)  # the cloth reflects nothing onto the flanks
    diffuse = (0.18 + 1.04 * key + 0.16 * fill) * hollow * rounding
    shine = np.maximum(normals.towards(half_way(light)), 0)
    sheen = gloss * rounding * (0.11 * power(shine, 7) + 0.22 * power(shine, 60))
    return np.asarray(colour * diffuse + sheen, dtype=np.float32)


def _cloth(seed: int, size: int) -> Map:
    """Return the dark cloth the nut lies on, RGB ``[size, size, 3]``."""
    rng = stream(seed, "cloth")
    weave = (
        1
        + 0.10 * fractal(rng, (size, size), (3, 3), 2)
        + 0.16 * halo(fractal(rng, (size, size), (size / 3, size / 3), 2), size * 0.04)
    )
    lint = litter(rng, (size, size), (3, 16), (0.02, 0.14))
    return np.asarray(weave[..., None] * np.array(_CLOTH, np.float32) + lint[..., None], dtype=np.float32)


def scene(kind: str, seed: int, size: int, attempt: int) -> Map:
    """Return one nut on its cloth as the camera sees it, without noise.

    Args:
        kind: "good" or one of `KINDS`.
        seed: the part, its pose, its light and the shot.
        size: side of the picture in pixels.
        attempt: another value draws another flaw on the same part.

    Returns:
        RGB ``float32 [size, size, 3]`` in grey levels.
    """
    nut, pose, lamp = _draw_nut(seed, size), stream(seed, "pose"), stream(seed, "light")
    slant, azimuth = math.radians(lamp.uniform(28, 45)), math.radians(lamp.normal(-125, 15))
    light = lamp_at(slant, azimuth)

    squared, along, around = _solve(nut)
    colour, relief, gloss = _shell(nut, along, around)
    if kind != "good":
        marks = _FLAWS[kind](stream(seed, "flaw", attempt), nut, squared.shape)
        colour = mixed(colour, marks.colour, marks.cover)
        relief = relief * (1 - 0.7 * marks.cover) + marks.relief
        gloss = gloss * (1 - marks.cover)
    brightness = _lit(nut, squared, colour, relief, gloss, light)
    cover = np.clip(squared * np.float32(nut.radius / 2) + np.float32(0.5), 0, 1)

    nut_layers = reduced(np.dstack([*(brightness * cover), cover]))
    layers = np.zeros((size, size, 4), np.float32)
    middle = (size - nut_layers.shape[0]) / 2 + pose.normal(0, 0.02, 2).clip(-0.05, 0.05) * size
    left, top = np.round(middle).astype(int)
    layers[top : top + nut_layers.shape[0], left : left + nut_layers.shape[1]] = nut_layers
    cover = layers[..., 3]
    fall = size * 0.05 * math.tan(slant)
    away = np.array([[1, 0, -math.cos(azimuth) * fall], [0, 1, -math.sin(azimuth) * fall]])
    shadow = halo(np.asarray(cv2.warpAffine(cover, away, (size, size)), dtype=np.float32), size * 0.03)
    ground = _cloth(seed, size) * (1 - 0.75 * shadow)[..., None]
    picture = ground * (1 - cover)[..., None] + layers[..., :3]
    return Camera.draw(stream(seed, "camera"), EXPOSURE).expose(np.asarray(picture, dtype=np.float32))
