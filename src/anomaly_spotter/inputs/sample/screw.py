"""A countersunk wood screw, grey, lying in any direction on a light sheet (after MVTec AD's category *screw*).

The screw is solved as a height map in its own frame (u along the axis from the tip, v across), tilted towards the
camera as a screw lies on its head's rim, lit, and turned into the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.inputs.sample.camera import Camera
from anomaly_spotter.inputs.sample.surface import (
    SUPERSAMPLING,
    Map,
    Normals,
    affine,
    blurred,
    fractal,
    half_way,
    halo,
    litter,
    power,
    reduced,
    sampled,
    slopes,
    smoothstep,
    stream,
    stroke,
    wander,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("manipulated_front", "scratch_head", "scratch_neck", "thread_side", "thread_top")

# The screw's measures as fractions of its length.
_TIP_END = 0.15
_THREAD_END = 0.60
_NECK_END = 0.845
_RIM_START = 0.985
_CORE_RADIUS = 0.050
_SHANK_RADIUS = 0.060
_HEAD_RADIUS = 0.140
_RIDGE = 0.033
_PITCH = 0.071
EXPOSURE = 0.10  # half range; makes brightness useless for telling good from bad
_MARGIN = 6  # pixels around the screw in its own frame


@dataclass(frozen=True)
class _Part:
    """One screw and how it lies; lengths in supersampled pixels, angles in radians."""

    seed: int
    length: float
    turn: float  # direction from tip to head in the picture
    tilt: float  # how far the head's end is turned to the camera
    phase: float  # where the helix starts, in turns
    drive: float  # how the recess in the head is turned


@dataclass(frozen=True)
class _Nick:
    """One damaged place of the thread: ridges lose ``depth`` of their height around (u, angle)."""

    u: float  # fraction of the length
    angle: float  # radians around the axis; pi/2 faces the camera
    reach_u: float  # fraction of the length
    reach_angle: float  # radians
    depth: float  # 0..1


@dataclass(frozen=True)
class _Flaw:
    """What is wrong with one screw; the default is nothing."""

    nicks: tuple[_Nick, ...] = ()
    bend: float = 0.0  # sideways shift of the tip, fraction of the length
    blunt: float = 0.0  # missing end of the tip, fraction of the length
    scratches: tuple[tuple[NDArray[np.float64], float], ...] = field(
        default=()
    )  # path in fractions, width in fractions
    scrape: tuple[float, float, float, float] | None = (
        None  # centre u, v, half length, half width, in fractions
    )


def _draw_flaw(kind: str, rng: np.random.Generator) -> _Flaw:
    if kind == "manipulated_front":
        bent, blunt = [(True, False), (False, True), (True, True)][int(rng.integers(3))]
        return _Flaw(
            bend=float(rng.choice([-1, 1]) * rng.uniform(0.02, 0.06)) if bent else 0.0,
            blunt=float(rng.uniform(0.015, 0.05)) if blunt else 0.0,
        )
    if kind in ("thread_side", "thread_top"):
        side = float(rng.choice([0.12, math.pi - 0.12])) if kind == "thread_side" else math.pi / 2
        first = rng.uniform(0.16, 0.50)
        return _Flaw(
            nicks=tuple(
                _Nick(
                    u=float(first + index * _PITCH * rng.uniform(0.85, 1.15)),
                    angle=side + float(rng.normal(0, 0.12 if kind == "thread_side" else 0.35)),
                    reach_u=float(rng.uniform(0.018, 0.032)),
                    reach_angle=float(rng.uniform(0.35, 0.8)),
                    depth=float(rng.uniform(0.55, 1.0)),
                )
                for index in range(int(rng.integers(1, 4)))
            )
        )
    if kind in ("scratch_head", "scratch_neck"):
        head = kind == "scratch_head"
        centre = (
            (rng.uniform(0.885, 0.965), rng.uniform(-0.05, 0.05))
            if head
            else (rng.uniform(0.64, 0.82), rng.uniform(-0.025, 0.025))
        )
        heading = rng.uniform(0, math.pi)
        paths = []
        for _ in range(int(rng.integers(1, 5))):
            start = (centre[0] + rng.normal(0, 0.012), centre[1] + rng.normal(0, 0.012))
            length = rng.uniform(0.03, 0.09)
            path = wander(rng, start, heading + rng.normal(0, 0.25), length, 0.08, 10)
            paths.append((path, float(rng.uniform(0.003, 0.008))))
        scrape = None
        if rng.random() < 0.6:
            scrape = (
                float(centre[0]),
                float(centre[1]),
                float(rng.uniform(0.014, 0.042)),
                float(rng.uniform(0.008, 0.02)),
            )
        return _Flaw(scratches=tuple(paths), scrape=scrape)
    return _Flaw()


def _profile(u: Map, blunt: float) -> Map:
    """Return the radius without thread at ``u``; all in fractions of the length."""
    points = (
        (blunt, 0.0),
        (blunt + 0.003, 0.010 + 0.3 * blunt),
        (0.065, 0.027 + 0.1 * blunt),
        (_TIP_END, _CORE_RADIUS * 0.96),
        (0.22, _CORE_RADIUS),
        (_THREAD_END - 0.010, _CORE_RADIUS),
        (_THREAD_END, _SHANK_RADIUS),
        (_NECK_END, _SHANK_RADIUS * 1.01),
        (0.868, 0.066),
        (0.890, 0.078),
        (_RIM_START - 0.004, _HEAD_RADIUS * 0.985),
        (_RIM_START, _HEAD_RADIUS),
        (1.0, _HEAD_RADIUS * 0.995),
    )
    ends, radii = zip(*points, strict=True)
    return np.asarray(np.interp(u, ends, radii, left=0.0, right=0.0), dtype=np.float32)


def _thread(u: Map, v: Map, flaw: _Flaw, phase: float) -> tuple[Map, Map]:
    """Return (z², damage) of the threaded screw on the grid ``u [1, W]`` x ``v [H, 1]``, in fractions of the length.

    Solved by iteration: the ridge's height at a place depends on its angle, and that angle on the ridge's height.
    """
    core = _profile(u, flaw.blunt)
    envelope = smoothstep(0.0, 0.12, u - flaw.blunt) * smoothstep(_THREAD_END + 0.01, _THREAD_END - 0.05, u)
    squared = core * core - v * v
    damage = np.zeros_like(squared)
    for _ in range(6):
        angle = np.arctan2(np.sqrt(np.maximum(squared, 0)), np.broadcast_to(v, squared.shape))
        turn = u / np.float32(_PITCH) - angle / np.float32(2 * math.pi) + np.float32(phase)
        ridge = smoothstep(0.20, 0.05, np.abs(turn - np.floor(turn) - np.float32(0.5)))
        damage = np.zeros_like(squared)
        for nick in flaw.nicks:
            away = ((u - nick.u) / nick.reach_u) ** 2 + ((angle - nick.angle) / nick.reach_angle) ** 2
            damage = np.maximum(damage, np.float32(nick.depth) * np.exp(-away * away).astype(np.float32))
        radius = core + np.float32(_RIDGE) * envelope * ridge * (1 - damage)
        squared = np.float32(0.4) * squared + np.float32(0.6) * (radius * radius - v * v)
    return squared, damage


def _worn(shape: tuple[int, int], flaw: _Flaw, length: float, rng: np.random.Generator) -> tuple[Map, Map]:
    """Return (groove, fresh metal) of the flaw's scratches in the screw's frame, each in [0, 1]."""
    origin = (_MARGIN, shape[0] / 2)
    groove = np.zeros(shape, np.float32)
    for path, width in flaw.scratches:
        groove = np.maximum(groove, stroke(shape, path * length + origin, width * length, taper=0.6))
    fresh = groove.copy()
    if flaw.scrape is not None:
        centre_u, centre_v, half_length, half_width = (part * length for part in flaw.scrape)
        x = np.arange(shape[1], dtype=np.float32)[None, :] - np.float32(origin[0] + centre_u)
        y = np.arange(shape[0], dtype=np.float32)[:, None] - np.float32(origin[1] + centre_v)
        inside = 1 - np.sqrt((x / half_length) ** 2 + (y / half_width) ** 2)
        ragged = inside + np.float32(0.28) * fractal(rng, shape, (8, 20))
        fresh = np.maximum(fresh, smoothstep(0.1, 0.45, ragged.astype(np.float32)))
    return groove, fresh


def _lit(squared: Map, damage: Map, flaw: _Flaw, part: _Part, light: tuple[float, float, float]) -> Map:
    """Return the brightness of the screw's side in its own frame; ``squared`` is z² in pixels."""
    shape = squared.shape
    depth = np.sqrt(np.maximum(squared, 0))
    along_u, along_v = slopes(squared)
    smooth = Normals.of(along_u * np.float32(-0.5), along_v * np.float32(-0.5), depth + 1)

    rng = stream(part.seed, "metal")
    drawn = fractal(rng, shape, (3, 90), octaves=3)  # marks of wire drawing, along the axis
    turned = fractal(rng, shape, (70, 3), octaves=3)  # marks of the lathe, around the head
    grain = fractal(rng, shape, (5, 5), octaves=3, gain=0.9)
    stain = fractal(rng, shape, (40, 60), octaves=3)
    u = ((np.arange(shape[1], dtype=np.float32) - _MARGIN) / np.float32(part.length))[None, :]
    head = smoothstep(0.86, 0.89, u)
    finish = drawn * (1 - head) + turned * head

    groove, fresh = _worn(shape, flaw, part.length, stream(part.seed, "wear"))
    fresh = np.maximum(fresh, np.float32(0.8) * smoothstep(0.25, 0.8, damage))
    relief = np.float32(0.10) * finish + np.float32(0.10) * grain - np.float32(1.3) * blurred(groove, 0.8)
    relief += fresh * np.float32(0.45) * fractal(rng, shape, (6, 6), octaves=3, gain=0.9)
    normals = smooth.bumped(relief)

    key = normals.towards(light)
    gloss = np.maximum(normals.towards(half_way(light)), 0)
    mirror = np.maximum(normals.towards(half_way((-light[0], -light[1], light[2]))), 0)
    brightness = 0.13 + 0.20 * np.clip(key * 0.75 + 0.25, 0, 1) + 0.10 * normals.z
    brightness += (
        0.13 * power(gloss, 6)
        + 0.34 * power(gloss, 36) * (1 + 0.25 * grain + 0.2 * finish)
        + 0.06 * power(mirror, 14)
    )
    brightness *= 1 + 0.05 * finish + 0.05 * grain + 0.05 * stain
    # Roots of ridges see less of the sky than crests: what lies below its surroundings is darker.
    below = np.clip((blurred(depth, part.length * 0.011) - depth) / np.float32(part.length * 0.018), -0.35, 1)
    brightness *= 1 - np.float32(0.55) * below
    torn = 0.30 + 0.22 * np.clip(key, 0, 1) + 0.18 * power(gloss, 8) + 0.04 * grain
    return np.asarray(brightness + fresh * (torn - 0.6 * brightness), dtype=np.float32)


def _face(p: Map, v: Map, part: _Part, light: tuple[float, float, float]) -> tuple[Map, Map]:
    """Return (brightness, cover) of the head's flat end, seen at a slant; ``p`` and ``v`` in fractions of the length."""
    away = (np.float32(math.cos(part.tilt)) - p) / np.float32(math.sin(part.tilt))
    radius = np.hypot(away, v) / np.float32(_HEAD_RADIUS * 0.995)
    cover = smoothstep(1.03, 0.985, radius)
    angle = np.arctan2(away, np.broadcast_to(v, radius.shape)) + np.float32(part.drive)
    lobes = np.float32(0.40) * (1 + np.float32(0.16) * np.cos(6 * angle))
    wall = np.cos(angle - np.float32(part.drive) - math.atan2(light[2], light[1]))  # > 0: the lit side
    rng = stream(part.seed, "face")
    rings = fractal(rng, (1, 256), (1, 5), octaves=3)[0]
    turned = np.interp(radius, np.linspace(0, 1.2, 256), rings).astype(np.float32)
    flat = (
        0.30
        + 0.30 * max(light[0], 0.0)
        + 0.05 * turned
        + 0.05 * fractal(rng, radius.shape, (6, 6), octaves=3, gain=0.9)
    )
    bevel = smoothstep(0.86, 0.95, radius)
    flat = flat + bevel * np.float32(0.10) * wall
    recess = smoothstep(0.04, -0.02, radius - lobes)
    deep = 0.10 + 0.42 * smoothstep(0.5, 1.0, radius / lobes) * smoothstep(-0.1, 0.9, -wall)
    rim = np.exp(-(((radius - lobes - np.float32(0.03)) / np.float32(0.05)) ** 2))
    flat = flat + rim * np.float32(0.09)
    return np.asarray(flat * (1 - recess) + deep * recess, dtype=np.float32), cover


def _seen(
    squared: Map, side: Map, flaw: _Flaw, part: _Part, light: tuple[float, float, float]
) -> tuple[Map, Map]:
    """Tilt the screw towards the camera and put its face on; return (brightness, cover) in the screw's frame."""
    rows, columns = squared.shape
    x = np.broadcast_to(np.arange(columns, dtype=np.float32)[None, :], squared.shape)
    y = np.broadcast_to(np.arange(rows, dtype=np.float32)[:, None], squared.shape)
    sine, cosine = np.float32(math.sin(part.tilt)), np.float32(math.cos(part.tilt))
    depth = np.sqrt(np.maximum(squared, 0))
    along = (x - _MARGIN) / cosine
    shift = np.float32(flaw.bend * part.length) * smoothstep(0.15, 0.0, along / np.float32(part.length)) ** 2
    y_at = y - shift
    x_at = along + _MARGIN
    for _ in range(4):  # where the ray through the pixel meets the surface, by fixed point
        x_at = along + sampled(depth, x_at, y_at) * sine / cosine + _MARGIN
    middle = np.abs(y - np.float32(rows / 2 - 0.5))
    cover = np.clip(sampled(squared, x_at, y_at) / (2 * middle + 4) + np.float32(0.5), 0, 1)
    brightness = sampled(side, x_at, y_at)
    face, in_face = _face(
        (x[:1] - _MARGIN) / np.float32(part.length),
        (y[:, :1] - np.float32(rows / 2 - 0.5)) / np.float32(part.length),
        part,
        light,
    )
    return brightness * (1 - in_face) + face * in_face, np.maximum(cover, in_face)


def _sheet(seed: int, size: int) -> Map:
    """Return the light sheet the screw lies on, ``float32 [size, size]``."""
    rng = stream(seed, "sheet")
    shape = (size, size)
    sheet = (
        0.80
        + 0.010 * halo(fractal(rng, shape, (size / 3, size / 3), octaves=2), size * 0.05)
        + 0.004 * fractal(rng, shape, (5, 7), octaves=2)
    )
    return np.asarray(sheet * (1 - litter(rng, shape, (2, 14), (0.03, 0.16))), dtype=np.float32)


def scene(kind: str, seed: int, size: int, attempt: int) -> Map:
    """Return one screw on its sheet as the camera sees it, without noise.

    Args:
        kind: "good" or one of `KINDS`.
        seed: the part, its pose, its light and the shot.
        size: side of the picture in pixels.
        attempt: another value draws another flaw on the same part.

    Returns:
        ``float32 [size, size]`` in grey levels.
    """
    pose, lamp = stream(seed, "pose"), stream(seed, "light")
    canvas = size * SUPERSAMPLING
    part = _Part(
        seed=seed,
        length=canvas * 0.80 * pose.uniform(0.985, 1.015),
        turn=pose.uniform(0, 2 * math.pi),
        tilt=math.radians(pose.uniform(10, 15)),
        phase=pose.uniform(0, 1),
        drive=pose.uniform(0, math.pi / 3),
    )
    centre = pose.normal(0, 0.018, 2).clip(-0.04, 0.04) * canvas + canvas / 2
    slant, azimuth = math.radians(lamp.uniform(35, 50)), math.radians(lamp.normal(-120, 12))
    flaw = _draw_flaw(kind, stream(seed, "flaw", attempt))

    columns = int(part.length * 1.06) + 2 * _MARGIN
    rows = 2 * (int(part.length * 0.15) + _MARGIN)
    u = ((np.arange(columns, dtype=np.float32) - _MARGIN) / np.float32(part.length))[None, :]
    v = ((np.arange(rows, dtype=np.float32) - np.float32(rows / 2 - 0.5)) / np.float32(part.length))[:, None]
    squared = _profile(u, flaw.blunt) ** 2 - v * v
    damage = np.zeros_like(squared)
    threaded = slice(0, int(part.length * (_THREAD_END + 0.01)) + _MARGIN)
    near = slice(rows // 2 - int(part.length * 0.10), rows // 2 + int(part.length * 0.10))
    squared[near, threaded], damage[near, threaded] = _thread(u[:, threaded], v[near], flaw, part.phase)
    # Beyond both ends the radius is 0, which alone would leave a hairline of cover on the axis.
    squared[:, (u[0] > 1) | (u[0] < flaw.blunt)] -= np.float32(_SHANK_RADIUS**2)
    squared *= np.float32(part.length**2)

    toward = math.cos(azimuth - part.turn) * math.sin(slant)
    light = (
        toward * math.cos(part.tilt) + math.cos(slant) * math.sin(part.tilt),
        math.sin(azimuth - part.turn) * math.sin(slant),
        math.cos(slant) * math.cos(part.tilt) - toward * math.sin(part.tilt),
    )
    brightness, cover = _seen(squared, _lit(squared, damage, flaw, part, light), flaw, part, light)

    place = affine(part.turn, (columns / 2, rows / 2), (centre[0], centre[1]))
    layers = cv2.warpAffine(
        np.dstack([brightness * cover, cover]), place, (canvas, canvas), flags=cv2.INTER_LINEAR
    )
    layers = reduced(np.asarray(layers, dtype=np.float32))
    metal, cover = layers[..., 0], layers[..., 1]

    fall = size * 0.022 * math.tan(slant)
    away = np.array([[1, 0, -math.cos(azimuth) * fall], [0, 1, -math.sin(azimuth) * fall]])
    cast = np.asarray(cv2.warpAffine(cover, away, (size, size)), dtype=np.float32)
    shade = 1 - 0.24 * halo(cast, size * 0.012) - 0.30 * halo(cast, size * 0.045)
    sheet = _sheet(seed, size) * shade
    return Camera.draw(stream(seed, "camera"), EXPOSURE).expose(
        np.asarray(sheet * (1 - cover) + metal, dtype=np.float32)
    )
