"""A cast, coarsely ground metal surface that fills the picture, in grey; no two pictures have the same size.

The surface is a relief under a slanting lamp. Contrast is low and so are the flaws': they hide among grain and grinding
marks as strong as they are.
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
    affine,
    blurred,
    fractal,
    halo,
    offsets,
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

KINDS = ("blotch", "crack", "pores", "scratch")
EXPOSURE = 0.12  # half range; makes brightness useless for telling good from bad
_SPREAD = 0.15  # how far height and width may differ from the nominal side, relative


@dataclass(frozen=True)
class _Metal:
    """What a flaw may change of one surface; maps ``float32 [H, W]``."""

    relief: Map  # added height, pixels
    tone: Map  # factor on the reflected light


def _place(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[float, float]:
    return shape[1] * rng.uniform(0.10, 0.90), shape[0] * rng.uniform(0.10, 0.90)


def _blotch(rng: np.random.Generator, metal: _Metal, size: int) -> _Metal:
    shape = metal.relief.shape
    away = spot(rng, shape, _place(rng, shape), size * rng.uniform(0.035, 0.075), 0.22)
    depth = rng.choice([-1, -1, 1]) * rng.uniform(0.07, 0.14)
    return replace(metal, tone=1 + np.float32(depth) * smoothstep(1.3, 0.5, away))


def _crack(rng: np.random.Generator, metal: _Metal, size: int) -> _Metal:
    shape, length = metal.relief.shape, size * rng.uniform(0.12, 0.35)
    path = wander(rng, _place(rng, shape), rng.uniform(0, 2 * math.pi), length, 0.5, 36, memory=0.55)
    gap = blurred(stroke(shape, path, size * rng.uniform(0.002, 0.005), taper=0.8), 0.6)
    return _Metal(
        metal.relief - np.float32(rng.uniform(0.2, 0.6)) * gap, 1 - np.float32(rng.uniform(0.16, 0.34)) * gap
    )


def _pores(rng: np.random.Generator, metal: _Metal, size: int) -> _Metal:
    """A nest of small round pits that gas left in the melt."""
    shape, centre = metal.relief.shape, _place(rng, metal.relief.shape)
    pits = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(1, 8))):
        radius = size * rng.uniform(0.004, 0.011)
        x, y = offsets(
            shape, (centre[0] + rng.normal(0, size * 0.025), centre[1] + rng.normal(0, size * 0.025))
        )
        away = np.hypot(x, y * np.float32(rng.uniform(0.8, 1.25))) / np.float32(radius)
        pits = np.maximum(pits, np.exp(-power(away, 3)) * np.float32(rng.uniform(0.6, 1.0)))
    return _Metal(
        metal.relief - np.float32(rng.uniform(0.4, 1.0)) * pits,
        1 - np.float32(rng.uniform(0.12, 0.30)) * pits,
    )


def _scratch(rng: np.random.Generator, metal: _Metal, size: int) -> _Metal:
    shape, length = metal.relief.shape, size * rng.uniform(0.15, 0.45)
    path = wander(rng, _place(rng, shape), rng.uniform(0, 2 * math.pi), length, 0.03, 16)
    groove = blurred(stroke(shape, path, size * rng.uniform(0.003, 0.006), taper=0.8), 0.6)
    groove = groove * smoothstep(-1.6, 0.2, fractal(rng, shape, (12, 12), 3))
    return _Metal(
        metal.relief - np.float32(rng.uniform(0.2, 0.5)) * groove,
        1 + np.float32(rng.uniform(0.05, 0.16)) * groove,
    )


_FLAWS: dict[str, Callable[[np.random.Generator, _Metal, int], _Metal]] = {
    "blotch": _blotch,
    "crack": _crack,
    "pores": _pores,
    "scratch": _scratch,
}


def _ground(rng: np.random.Generator, shape: tuple[int, int]) -> Map:
    """Return the marks of the grinding belt, all in about one direction, as height in pixels."""
    reach = math.ceil(math.hypot(*shape)) + 2
    marks = fractal(rng, (reach, reach), (3, 110), 3, 0.8)
    place = affine(math.radians(rng.normal(24, 4)), (reach / 2, reach / 2), (shape[1] / 2, shape[0] / 2))
    turned = np.asarray(cv2.warpAffine(marks, place, shape[::-1], flags=cv2.INTER_LINEAR), dtype=np.float32)
    worn = smoothstep(-1.6, 1.2, fractal(rng, shape, (90, 90), 3))
    return turned * worn


def scene(kind: str, seed: int, size: int, attempt: int) -> Map:
    """Return one surface as the camera sees it, without noise.

    Args:
        kind: "good" or one of `KINDS`.
        seed: the surface, its light and the shot.
        size: nominal side of the picture in pixels.
        attempt: another value draws another flaw on the same surface.

    Returns:
        ``float32 [H, W]`` in grey levels, H and W each within 15 % of ``size``.
    """
    cut, rng, lamp = stream(seed, "pose"), stream(seed, "part"), stream(seed, "light")
    shape = (
        round(size * cut.uniform(1 - _SPREAD, 1 + _SPREAD)),
        round(size * cut.uniform(1 - _SPREAD, 1 + _SPREAD)),
    )
    metal = _Metal(np.zeros(shape, np.float32), np.ones(shape, np.float32))
    if kind != "good":
        metal = _FLAWS[kind](stream(seed, "flaw", attempt), metal, size)
    grain = fractal(rng, shape, (9, 9), 4, 0.75)
    waves = fractal(rng, shape, (40, 40), 2)
    along_x, along_y = slopes(
        np.float32(0.085) * grain
        + np.float32(0.15) * waves
        + np.float32(0.075) * _ground(rng, shape)
        + metal.relief
    )
    azimuth = math.radians(lamp.normal(-120, 10))
    lit = along_x * np.float32(-math.cos(azimuth)) + along_y * np.float32(-math.sin(azimuth))
    oxide = halo(fractal(rng, shape, (size / 3, size / 3), 3), size * 0.02)
    speckle = fractal(rng, shape, (3, 3), 2, 0.9)
    tone = metal.tone * (
        1 + np.float32(0.035) * oxide + np.float32(0.012) * grain + np.float32(0.010) * speckle
    )
    brightness = np.float32(0.47) * tone * (1 + np.float32(0.75) * np.clip(lit, -0.7, 0.7))
    return Camera.draw(stream(seed, "camera"), EXPOSURE).expose(np.asarray(brightness, dtype=np.float32))
