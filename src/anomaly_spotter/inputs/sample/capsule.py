"""A two-part capsule, in colour, on a white sheet (after MVTec AD's category *capsule*).

An opaque dark cap carries an imprint; the body is clear amber gelatine over pale pellets. The shell is a body of
revolution known in closed form, so every pixel's normal is exact; two soft lamps are mirrored in it.
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
    SUPERSAMPLING,
    Map,
    Normals,
    affine,
    blurred,
    fractal,
    halo,
    litter,
    offsets,
    plane,
    power,
    reduced,
    sampled,
    smoothstep,
    stream,
    stroke,
    wander,
)

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("crack", "faulty_imprint", "poke", "scratch", "squeeze")

# Measures as fractions of the capsule's length.
_RADIUS = 0.168  # of the cap; the body slides inside it
_BODY_RADIUS = 0.157
_CAP_END = 0.535
_GROOVES = (0.40, 0.455)  # rings that lock cap and body
_IMPRINT_HEIGHT = 0.125
_IMPRINT_CENTRE = 0.245
_REACH = 0.22  # half height of the capsule's frame
_OVERHANG = 0.03  # the frame's margin before and after the capsule
_LENGTH = 0.76  # of the capsule, fraction of the picture's side
EXPOSURE = 0.10  # half range; makes brightness useless for telling good from bad

# Colours in RGB, 1 = white.
_SHEET = (0.83, 0.84, 0.83)
_CAP = (0.085, 0.080, 0.085)
_INK = (0.70, 0.69, 0.66)
_GELATINE = (0.86, 0.36, 0.055)
_PELLET = (0.97, 0.74, 0.36)


@dataclass(frozen=True)
class _Shell:
    """What a flaw may change of one capsule; maps ``float32 [H, W]`` of the capsule's frame."""

    relief: Map  # added height, pixels
    radius: Map  # radius of the outline at each column, fraction of the length, [1, W]
    shift: Map  # sideways shift of the axis, fraction of the length, [1, W]
    ink: Map  # imprint on the unrolled shell, 0..1
    pale: Map  # whitened or bared gelatine, 0..1
    dark: Map  # open gaps, 0..1


@dataclass(frozen=True)
class _Frame:
    """The capsule's own frame: pixel grid and size."""

    length: float  # supersampled pixels
    shape: tuple[int, int]

    @property
    def u(self) -> Map:
        """Place along the axis in lengths, cap first, ``[1, W]``."""
        return (np.arange(self.shape[1], dtype=np.float32)[None, :] / np.float32(self.length)) - np.float32(
            _OVERHANG
        )

    @property
    def v(self) -> Map:
        """Place across the axis in lengths, ``[H, 1]``."""
        middle = np.float32(self.shape[0] / 2 - 0.5)
        return (np.arange(self.shape[0], dtype=np.float32)[:, None] - middle) / np.float32(self.length)

    def pixel(self, u: float, v: float) -> tuple[float, float]:
        """Return the pixel (x, y) of a place."""
        return (u + _OVERHANG) * self.length, v * self.length + self.shape[0] / 2 - 0.5


def _outline(u: Map) -> Map:
    """Return the good capsule's radius at ``u``, fractions of the length; 0 beyond the ends."""
    radius = np.where(u < _CAP_END, np.float32(_RADIUS), np.float32(_BODY_RADIUS))
    groove = sum(np.exp(-(((u - place) / np.float32(0.008)) ** 2)) for place in _GROOVES)
    radius = radius - np.float32(0.0035) * groove
    # A cap's rim is rounded.
    radius = radius - np.float32(0.006) * smoothstep(_CAP_END - 0.008, _CAP_END, u) * (u < _CAP_END)
    into = np.minimum(u / np.float32(_RADIUS), (1 - u) / np.float32(_BODY_RADIUS))
    dome = np.clip(1 - np.clip(into, 0, 1), 0, 1)
    return np.asarray(radius * np.sqrt(np.maximum(1 - power(dome, 2.15), 0)) * (into > 0), dtype=np.float32)


def _imprint(frame: _Frame, rng: np.random.Generator) -> Map:
    """Return the printed "500" on the unrolled cap, ``float32 [H, W]`` in 0..1, its middle at v = 0."""
    label, height = lettering("500", 0.17)
    size = _IMPRINT_HEIGHT * frame.length / height
    x, y = frame.pixel(_IMPRINT_CENTRE + rng.normal(0, 0.004), 0)
    place = np.array([[size, 0, x - size * label.shape[1] / 2], [0, size, y - size * label.shape[0] / 2]])
    ink = cv2.warpAffine(blurred(label, 0.4 / size), place, frame.shape[::-1])
    worn = 0.90 + 0.07 * fractal(rng, frame.shape, (9, 9), 3, 0.8)
    return np.asarray(ink * np.clip(worn, 0, 1), dtype=np.float32)


def _crack(rng: np.random.Generator, frame: _Frame, shell: _Shell) -> _Shell:
    place = frame.pixel(rng.uniform(0.12, 0.86), rng.uniform(-0.09, 0.09))
    heading = rng.uniform(0, math.pi)
    length = frame.length * rng.uniform(0.08, 0.24)
    start = (place[0] - math.cos(heading) * length / 2, place[1] - math.sin(heading) * length / 2)
    width = frame.length * rng.uniform(0.004, 0.010)
    path = wander(rng, start, heading, length, 0.45, 36, memory=0.5)
    gap = stroke(frame.shape, path, width, taper=0.9)
    if rng.random() < 0.5:
        fork, turn = path[int(rng.integers(10, 26))], heading + rng.choice([-1, 1]) * rng.uniform(0.5, 1.2)
        branch = wander(rng, tuple(fork), turn, length * 0.4, 0.4, 14, memory=0.5)
        gap = np.maximum(gap, stroke(frame.shape, branch, width * 0.6, taper=0.7))
    lips = blurred(gap, width * 0.9)
    return replace(
        shell,
        relief=shell.relief + np.float32(width * 0.5) * lips - np.float32(width * 1.2) * blurred(gap, 0.8),
        dark=gap * np.float32(0.85),
        pale=np.clip(lips * np.float32(rng.uniform(0.5, 1.1)) - gap, 0, 1),
    )


def _faulty_imprint(rng: np.random.Generator, frame: _Frame, shell: _Shell) -> _Shell:
    ink, fault = shell.ink, rng.choice(["smeared", "doubled", "missing"])
    if fault == "smeared":
        reach = frame.length * rng.uniform(0.02, 0.06)
        angle = rng.uniform(-0.5, 0.5)
        drag = [
            np.array([[1, 0, math.cos(angle) * reach * t], [0, 1, math.sin(angle) * reach * t]])
            for t in np.linspace(0, 1, 9)
        ]
        trail = np.mean([cv2.warpAffine(ink, move, ink.shape[::-1]) for move in drag], axis=0).astype(
            np.float32
        )
        wet = smoothstep(-0.6, 0.8, fractal(rng, frame.shape, (40, 60), 3))
        ink = ink * (1 - wet) + np.float32(1.15) * trail * wet
    elif fault == "doubled":
        along, down = frame.length * rng.uniform(0.012, 0.03), frame.length * rng.uniform(-0.02, 0.02)
        ghost = cv2.warpAffine(ink, np.array([[1, 0, along], [0, 1, down]]), ink.shape[::-1])
        ink = np.maximum(ink, ghost * np.float32(rng.uniform(0.5, 0.95)))
    else:
        cut = frame.pixel(_IMPRINT_CENTRE + rng.uniform(-0.09, 0.09), rng.uniform(-0.04, 0.04))
        x, y = offsets(frame.shape, cut)
        away = np.hypot(x, y) / np.float32(frame.length * rng.uniform(0.04, 0.09))
        ink = ink * smoothstep(
            0.75, 1.2, (away + np.float32(0.18) * fractal(rng, frame.shape, (20, 20), 3)).astype(np.float32)
        )
    return replace(shell, ink=np.clip(ink, 0, 1))


def _poke(rng: np.random.Generator, frame: _Frame, shell: _Shell) -> _Shell:
    place = frame.pixel(rng.uniform(0.10, 0.90), rng.uniform(-0.085, 0.085))
    size = frame.length * rng.uniform(0.012, 0.030)
    x, y = offsets(frame.shape, place)
    away = np.hypot(x, y * np.float32(rng.uniform(0.75, 1.3))) / np.float32(size)
    away = away + np.float32(0.05) * fractal(rng, frame.shape, (14, 14), 2)
    dent = np.exp(-power(away, 2)) - np.float32(0.30) * np.exp(
        -power((away - np.float32(1.5)) / np.float32(0.45), 2)
    )
    pierced = smoothstep(0.55, 0.35, away) * np.float32(rng.uniform(0.0, 0.9))
    return replace(
        shell,
        relief=shell.relief - np.float32(size * rng.uniform(0.35, 0.8)) * np.asarray(dent, np.float32),
        dark=pierced,
        pale=np.asarray(
            np.exp(-power((away - np.float32(0.8)) / np.float32(0.3), 2)) * np.float32(rng.uniform(0.1, 0.4)),
            np.float32,
        ),
    )


def _scratch(rng: np.random.Generator, frame: _Frame, shell: _Shell) -> _Shell:
    place, heading = (rng.uniform(0.15, 0.85), rng.uniform(-0.08, 0.08)), rng.uniform(0, math.pi)
    groove = np.zeros(frame.shape, np.float32)
    for _ in range(int(rng.integers(1, 5))):
        start = frame.pixel(place[0] + rng.normal(0, 0.02), place[1] + rng.normal(0, 0.02))
        length = frame.length * rng.uniform(0.06, 0.22)
        path = wander(rng, start, heading + rng.normal(0, 0.12), length, 0.04, 16)
        line = stroke(frame.shape, path, frame.length * rng.uniform(0.0022, 0.005), taper=0.7)
        groove = np.maximum(groove, line * np.float32(rng.uniform(0.5, 1.0)))
    broken = groove * smoothstep(-1.3, -0.2, fractal(rng, frame.shape, (10, 10), 3))
    return replace(
        shell, relief=shell.relief - np.float32(2.2) * blurred(broken, 0.8), pale=broken * np.float32(0.75)
    )


def _squeeze(rng: np.random.Generator, frame: _Frame, shell: _Shell) -> _Shell:
    place, reach = rng.uniform(0.15, 0.85), rng.uniform(0.035, 0.085)
    depth = rng.uniform(0.010, 0.030)
    side = float(rng.choice([-1, 1]))
    fold = np.exp(-power(np.abs(frame.u - np.float32(place)) / np.float32(reach), 2.5)).astype(np.float32)
    # One flank gives way: the radius shrinks and the axis moves off, so that the other flank stays where it was.
    across = np.clip(frame.v / np.float32(_RADIUS), -1, 1)
    crease = np.exp(-power(np.abs(across - np.float32(0.55 * side)) / np.float32(0.30), 2))
    wrinkle = fractal(rng, frame.shape, (50, 12), 3)
    relief = fold * crease * (np.float32(-depth * frame.length * 0.45) + np.float32(0.8) * wrinkle)
    return replace(
        shell,
        radius=shell.radius - np.float32(depth / 2) * fold,
        shift=shell.shift - np.float32(side * depth / 2) * fold,
        relief=np.asarray(shell.relief + relief, dtype=np.float32),
        pale=np.asarray(np.float32(0.22) * fold * crease * smoothstep(0.2, 1.5, wrinkle), dtype=np.float32),
    )


_FLAWS: dict[str, Callable[[np.random.Generator, _Frame, _Shell], _Shell]] = {
    "crack": _crack,
    "faulty_imprint": _faulty_imprint,
    "poke": _poke,
    "scratch": _scratch,
    "squeeze": _squeeze,
}


def _pellets(frame: _Frame, rng: np.random.Generator) -> Map:
    """Return the height of the pellets behind the clear body, 0 between them and 1 on top, ``float32 [H, W]``."""
    pitch = frame.length * 0.044
    heap = np.zeros(frame.shape, np.float32)
    half = int(pitch * 0.62)
    line = np.arange(-half, half + 1, dtype=np.float32)
    columns = int(frame.shape[1] * 0.5 / pitch) + 2
    rows = int(frame.shape[0] / (pitch * 0.86)) + 2
    for row in range(rows):
        for column in range(columns):
            x = frame.shape[1] - (column + 0.5 * (row % 2)) * pitch + rng.normal(0, pitch * 0.12)
            y = row * pitch * 0.86 + rng.normal(0, pitch * 0.12)
            radius = pitch * rng.uniform(0.48, 0.60)
            left, top = round(x) - half, round(y) - half
            if left < 0 or top < 0 or left + line.size > frame.shape[1] or top + line.size > frame.shape[0]:
                continue
            away = np.hypot(
                line[None, :] - np.float32(x - round(x)), line[:, None] - np.float32(y - round(y))
            )
            dome = 1 - power(away / np.float32(radius), 2)
            window = heap[top : top + line.size, left : left + line.size]
            np.maximum(window, np.sqrt(np.maximum(dome, 0)) * np.float32(rng.uniform(0.8, 1.0)), out=window)
    return heap


def _lamp(normals: Normals, across: tuple[float, float], along: float, soft: float) -> Map:
    """Return how much of a long soft lamp is mirrored: it spans ``across`` in y and ±``along`` in x of the reflection."""
    x, y = 2 * normals.z * normals.x, 2 * normals.z * normals.y
    bar = smoothstep(across[0] - soft, across[0] + soft, y) * smoothstep(
        across[1] + soft, across[1] - soft, y
    )
    return bar * smoothstep(along + 0.30, along - 0.30, np.abs(x)) * (normals.z > 0.3)


def _lit(frame: _Frame, shell: _Shell, seed: int) -> tuple[Map, Map]:
    """Return (brightness RGB ``[3, H, W]``, cover ``[H, W]``) of the capsule in its own frame."""
    lamp, part = stream(seed, "light"), stream(seed, "part")
    roll = part.normal(0, 0.16)
    radius = np.broadcast_to(shell.radius, frame.shape)
    v = frame.v - shell.shift
    squared = radius * radius - v * v
    cover = np.clip(
        squared * np.float32(frame.length) / (2 * np.abs(v) + np.float32(0.01)) + np.float32(0.5), 0, 1
    ) * (radius > 0)
    depth = np.sqrt(np.maximum(squared, 0))
    steep = np.gradient(shell.radius, axis=1) * np.float32(frame.length)
    haze = fractal(part, frame.shape, (30, 30), 4, 0.7)  # handling dulls the gloss here and there
    wobble = np.float32(0.9) * fractal(part, frame.shape, (45, 110), 3, 0.35)
    smooth = Normals.of(
        np.broadcast_to(-radius * steep, frame.shape), v + 0 * radius, depth + np.float32(0.002)
    )
    normals = smooth.bumped(shell.relief + wobble)

    cap = smoothstep(_CAP_END + 0.001, _CAP_END - 0.001, frame.u)
    around = np.arcsin(np.clip(v / np.maximum(radius, np.float32(1e-3)), -1, 1)) + np.float32(roll)
    x_at = np.broadcast_to(np.arange(frame.shape[1], dtype=np.float32)[None, :], frame.shape)
    y_at = around * np.float32(_RADIUS * frame.length) + np.float32(frame.shape[0] / 2 - 0.5)
    ink = (
        sampled(shell.ink, np.ascontiguousarray(x_at), np.asarray(y_at, dtype=np.float32))
        * cap
        * (1 - shell.dark)
    )

    sky = np.clip(0.62 - 0.45 * normals.y + 0.12 * normals.z, 0, 1.2)
    dark = (
        plane(_CAP) * (0.75 + 0.9 * sky + 0.05 * haze)
        + (plane(_INK) * (0.35 + 0.65 * sky) - plane(_CAP)) * ink
    )

    heap = blurred(_pellets(frame, stream(seed, "pellets")), frame.length * 0.0035)
    dust = fractal(stream(seed, "powder"), frame.shape, (5, 5), 3, 0.9)
    facing = smooth.z
    behind = np.clip(0.12 + 0.85 * heap + 0.07 * dust, 0, 1) * smoothstep(0.12, 0.62, facing)
    # Gelatine is thicker towards the outline, and lamplight from above gathers at the lower flank.
    glow = smoothstep(0.25, 0.85, smooth.y) * smoothstep(0.05, 0.35, facing)
    thick = 1 - 0.55 * smoothstep(0.75, 0.1, facing)
    clear = plane(_GELATINE) * (0.50 + 0.22 * sky) * thick
    clear = clear + (plane(_PELLET) * plane((0.92, 0.66, 0.38)) * (0.62 + 0.35 * sky) - clear) * (
        0.78 * behind
    )
    clear = clear + glow * (0.55 + 0.6 * heap) * plane((0.20, 0.10, 0.03))
    within = np.exp(-(((frame.u - np.float32(_CAP_END)) / np.float32(0.014)) ** 2)) * (frame.u >= _CAP_END)
    clear = clear * (1 - np.float32(0.45) * within)  # the cap's rim shades the body

    colour = dark * cap + clear * (1 - cap)
    colour = colour * (1 - shell.dark * np.float32(0.85))
    bared = plane((0.62, 0.60, 0.58)) * cap + plane((1.0, 0.80, 0.55)) * (1 - cap)
    colour = colour + (bared * (0.45 + 0.5 * sky) - colour) * shell.pale

    height = -lamp.uniform(0.66, 0.78)
    mirrored = 0.50 * _lamp(normals, (height - 0.10, height + 0.12), 0.42, 0.06)
    mirrored += 0.13 * _lamp(normals, (height - 0.35, height + 0.45), 0.75, 0.30)
    mirrored += 0.10 * _lamp(normals, (0.62, 0.86), 0.70, 0.14) + 0.05 * power(np.maximum(normals.z, 0), 8)
    mirrored *= 1 + 0.07 * haze
    grazing = power(np.clip(1 - normals.z, 0, 1), 4)
    colour = colour + (np.clip(mirrored + 0.55 * grazing, 0, 0.95) * (1 - 0.8 * shell.dark)) * (
        np.float32(0.96) - colour
    )
    specks = litter(stream(seed, "dust"), (frame.shape[1], frame.shape[1]), (4, 16), (0.05, 0.30))[
        : frame.shape[0]
    ]
    colour = colour + specks * (np.float32(0.75) - colour)
    return np.asarray(colour, dtype=np.float32), np.asarray(cover, dtype=np.float32)


def scene(kind: str, seed: int, size: int, attempt: int) -> Map:
    """Return one capsule on its sheet as the camera sees it, without noise.

    Args:
        kind: "good" or one of `KINDS`.
        seed: the part, its pose, its light and the shot.
        size: side of the picture in pixels.
        attempt: another value draws another flaw on the same part.

    Returns:
        RGB ``float32 [size, size, 3]`` in grey levels.
    """
    pose = stream(seed, "pose")
    canvas = size * SUPERSAMPLING
    length = canvas * _LENGTH * pose.uniform(0.985, 1.015)
    turn = math.radians(pose.normal(0, 2.5))
    frame = _Frame(length, (2 * int(length * _REACH), int(length * (1 + 2 * _OVERHANG))))
    empty = np.zeros(frame.shape, np.float32)
    shell = _Shell(
        relief=empty,
        radius=_outline(frame.u),
        shift=np.zeros_like(frame.u),
        ink=_imprint(frame, stream(seed, "imprint")),
        pale=empty,
        dark=empty,
    )
    if kind != "good":
        shell = _FLAWS[kind](stream(seed, "flaw", attempt), frame, shell)
    colour, cover = _lit(frame, shell, seed)

    centre = canvas / 2 + pose.normal(0, 0.012, 2).clip(-0.03, 0.03) * canvas
    place = affine(turn, (frame.shape[1] / 2, frame.shape[0] / 2), (centre[0], centre[1]))
    layers = np.dstack([*(colour * cover), cover, cover * (frame.u > _CAP_END)])
    layers = reduced(
        np.asarray(cv2.warpAffine(layers, place, (canvas, canvas), flags=cv2.INTER_LINEAR), dtype=np.float32)
    )
    cover, amber = layers[..., 3], layers[..., 4]

    fall = np.array([[1, 0, size * 0.004], [0, 1, size * 0.030]])
    cast, stained = (
        np.asarray(cv2.warpAffine(layer, fall, (size, size)), dtype=np.float32) for layer in (cover, amber)
    )
    contact, wide, stained = halo(cast, size * 0.012), halo(cast, size * 0.05), halo(stained, size * 0.018)
    rng = stream(seed, "sheet")
    sheet = (
        1
        + 0.012 * halo(fractal(rng, (size, size), (size / 3, size / 3), 2), size * 0.05)
        + 0.004 * fractal(rng, (size, size), (4, 4), 2)
    )
    sheet = sheet * (1 - 0.34 * contact - 0.24 * wide)
    ground = plane(_SHEET) * sheet + stained * plane((0.16, 0.02, -0.10))
    picture = np.moveaxis(ground * (1 - cover), 0, 2) + layers[..., :3]
    return Camera.draw(stream(seed, "camera"), EXPOSURE).expose(
        np.ascontiguousarray(picture, dtype=np.float32)
    )
