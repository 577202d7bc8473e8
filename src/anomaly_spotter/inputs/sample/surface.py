"""What the drawn parts share before the camera: random streams, noise textures, noisy strokes, normals and light.

All maps are ``float32``. Lengths are pixels of the map at hand, directions are (x right, y down, z to the camera).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]

SUPERSAMPLING = 2  # parts are drawn this many times finer than the picture, then averaged down: clean edges
SUBPIXEL_BITS = 4  # cv2 draws at 1/16 pixel


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the random stream of one purpose, the same for the same seed and names.

    Separate purposes ("part", "light", "flaw", ...) keep a part the same whether or not it gets a flaw.

    Args:
        seed: any integer >= 0.
        names: what the stream is for.
    """
    words = [name if isinstance(name, int) else zlib.crc32(name.encode()) for name in names]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


def blurred(values: Map, sigma: float) -> Map:
    """Return the Gaussian blur of ``float32 [H, W]`` or ``[H, W, C]``; sigma in pixels."""
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), dtype=np.float32)


def halo(values: Map, sigma: float) -> Map:
    """Return a wide blur of ``float32 [H, W]``, computed coarsely: for shadows, where sigma is many pixels."""
    height, width = values.shape
    step = max(1, int(sigma / 2))
    small = cv2.resize(values, (max(2, width // step), max(2, height // step)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / step)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def offsets(shape: tuple[int, int], centre: tuple[float, float]) -> tuple[Map, Map]:
    """Return how far each pixel lies right of (``[1, W]``) and below (``[H, 1]``) the place ``centre`` = (x, y)."""
    x = np.arange(shape[1], dtype=np.float32)[None, :] - np.float32(centre[0])
    y = np.arange(shape[0], dtype=np.float32)[:, None] - np.float32(centre[1])
    return x, y


def spot(
    rng: np.random.Generator,
    shape: tuple[int, int],
    centre: tuple[float, float],
    radius: float,
    ragged: float,
) -> Map:
    """Return the distance from ``centre`` in radii, ``float32 [H, W]``: the outline of a stain, chip or pit is at 1.

    Args:
        rng: the stream to draw from.
        shape: (H, W) of the result.
        centre: (x, y) in pixels.
        radius: mean radius in pixels.
        ragged: deviation of the outline, in radii.
    """
    x, y = offsets(shape, centre)
    away = np.hypot(x, y) / np.float32(radius)
    return np.asarray(away + np.float32(ragged) * fractal(rng, shape, (radius, radius), 3), dtype=np.float32)


def affine(
    turn: float, source: tuple[float, float], target: tuple[float, float], scale: float = 1.0
) -> NDArray[np.float64]:
    """Return the map ``float64 [2, 3]`` that turns (radians, clockwise), scales and brings ``source`` to ``target``."""
    rotation = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return np.hstack([rotation, (np.array(target) - rotation @ np.array(source))[:, None]])


def sampled(values: Map, x: Map, y: Map) -> Map:
    """Return ``values`` read at the pixel positions ``x``, ``y`` (each ``float32 [H, W]``), edges repeated."""
    return np.asarray(
        cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), dtype=np.float32
    )


def power(values: Map, exponent: float) -> Map:
    """Return ``values ** exponent`` for values >= 0 (several times faster than NumPy's)."""
    return np.asarray(cv2.pow(values, exponent), dtype=np.float32)


def plane(colour: tuple[float, float, float]) -> Map:
    """Return a colour as ``float32 [3, 1, 1]``; colours are kept plane by plane, ``[3, H, W]``, while they are mixed."""
    return np.array(colour, np.float32)[:, None, None]


def mixed(low: Map, high: Map, share: NDArray[np.floating]) -> Map:
    """Return the colour ``low`` moved towards ``high`` (each ``[3, H, W]`` or ``[3, 1, 1]``) by ``share [H, W]``."""
    return np.asarray(low + share * (high - low), dtype=np.float32)


def smoothstep(low: float, high: float, values: Map) -> Map:
    """Return 0 below ``low``, 1 above ``high`` and a smooth ramp between (``low > high`` falls instead)."""
    ramp = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), dtype=np.float32)


def fractal(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cell: tuple[float, float],
    octaves: int = 4,
    gain: float = 0.55,
) -> Map:
    """Return smooth random texture of mean about 0 and deviation about 1.

    Args:
        rng: the stream to draw from.
        shape: (H, W) of the result.
        cell: (vertical, horizontal) size in pixels of the coarsest grain; unequal sizes give stripes.
        octaves: how many times the grain is halved.
        gain: the strength of each octave relative to the coarser one.
    """
    height, width = shape
    total = np.zeros(shape, np.float32)
    power = 0.0
    for octave in range(octaves):
        step_y, step_x = (max(size / 2**octave, 1.0) for size in cell)
        rows, columns = math.ceil(height / step_y) + 2, math.ceil(width / step_x) + 2
        grid = rng.standard_normal((rows, columns), dtype=np.float32)
        # The random offset keeps the octaves' grid lines from meeting in one place.
        shift_y, shift_x = rng.uniform(0, 1, 2)
        place = np.array([[1 / step_x, 0, shift_x], [0, 1 / step_y, shift_y]])
        # Neighbours are weighted after interpolation, so a grain keeps about half of its variance.
        total += np.float32(gain**octave) * np.asarray(
            cv2.warpAffine(
                grid,
                place,
                (width, height),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT,
            ),
            dtype=np.float32,
        )
        power += gain ** (2 * octave) * (0.45 if min(step_x, step_y) > 1 else 1.0)
    return total / np.float32(math.sqrt(power))


def wander(
    rng: np.random.Generator,
    start: tuple[float, float],
    heading: float,
    length: float,
    jitter: float,
    steps: int = 24,
    memory: float = 0.75,
) -> NDArray[np.float64]:
    """Return a noisy path ``float64 [steps + 1, 2]`` of (x, y), as a crack or a slipping tool leaves it.

    Args:
        rng: the stream to draw from.
        start: (x, y) of the first point.
        heading: first direction in radians.
        length: path length in pixels.
        jitter: deviation of the heading, in radians per step; it is pulled back to ``heading``.
        steps: number of straight pieces.
        memory: how much of the heading's deviation each piece keeps, 0 (jagged) to 1 (winding).
    """
    turn = rng.normal(0, jitter, steps)
    drift = np.convolve(turn, memory ** np.arange(steps))[:steps]
    angle = heading + drift
    step = length / steps * rng.uniform(0.6, 1.4, steps)
    moves = np.stack([np.cos(angle) * step, np.sin(angle) * step], axis=1)
    return np.vstack([[start], np.asarray(start) + np.cumsum(moves, axis=0)])


def stroke(shape: tuple[int, int], path: NDArray[np.float64], width: float, taper: float = 0.0) -> Map:
    """Return how much of each pixel a stroke covers, ``float32 [H, W]`` in [0, 1].

    Args:
        shape: (H, W) of the result.
        path: points (x, y), ``[N, 2]``.
        width: width in pixels in the middle of the path; below 1 it covers its pixels in part.
        taper: 0 for an even stroke, 1 for one that thins to nothing at both ends.
    """
    canvas = np.zeros(shape, np.uint8)
    fixed = np.round(path * 2**SUBPIXEL_BITS).astype(np.int32)
    count = len(fixed) - 1
    for index in range(count):
        middle = math.sin(math.pi * (index + 0.5) / count)
        local = width * (1 - taper + taper * middle)
        cv2.line(
            canvas,
            fixed[index].tolist(),
            fixed[index + 1].tolist(),
            int(255 * min(1.0, max(local, 0.15))),
            max(1, round(local)),
            cv2.LINE_AA,
            SUBPIXEL_BITS,
        )
    return canvas.astype(np.float32) / np.float32(255)


def litter(
    rng: np.random.Generator, shape: tuple[int, int], count: tuple[int, int], strength: tuple[float, float]
) -> Map:
    """Return the specks and short fibres that lie on any real sheet, ``float32 [H, W]`` in [0, 1].

    Args:
        rng: the stream to draw from.
        shape: (H, W) of the result.
        count: least and greatest number of them.
        strength: least and greatest contrast.
    """
    canvas, (height, width) = np.zeros(shape, np.uint8), shape
    for _ in range(int(rng.integers(*count, endpoint=True))):
        start = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
        heading = rng.uniform(0, 2 * math.pi)
        reach = min(shape) * rng.uniform(0.001, 0.018)
        fibre = wander(rng, start, heading, reach, 0.4, 5)
        fixed = np.round(fibre * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.polylines(
            canvas, [fixed], False, int(255 * rng.uniform(*strength)), 1, cv2.LINE_AA, SUBPIXEL_BITS
        )
    return canvas.astype(np.float32) / np.float32(255)


def slopes(height: Map) -> tuple[Map, Map]:
    """Return the derivatives (along x, along y) of ``float32 [H, W]``, per pixel."""
    along_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    along_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    return np.asarray(along_x, dtype=np.float32), np.asarray(along_y, dtype=np.float32)


@dataclass(frozen=True)
class Normals:
    """Unit surface normals; each part ``float32 [H, W]``."""

    x: Map
    y: Map
    z: Map

    @classmethod
    def of(cls, x: Map, y: Map, z: Map) -> Normals:
        """Return the given directions scaled to length 1."""
        scale = 1 / np.sqrt(x * x + y * y + z * z + np.float32(1e-12))
        return cls(x * scale, y * scale, z * scale)

    def bumped(self, relief: Map) -> Normals:
        """Return the normals after a relief (height in pixels, ``[H, W]``) is laid on the surface."""
        along_x, along_y = slopes(relief)
        return Normals.of(self.x - along_x, self.y - along_y, self.z)

    def towards(self, direction: tuple[float, float, float]) -> Map:
        """Return the cosine between the normals and a direction, which is scaled to length 1 first."""
        x, y, z = (np.float32(part / math.hypot(*direction)) for part in direction)
        return np.asarray(self.x * x + self.y * y + self.z * z, dtype=np.float32)


def lamp_at(slant: float, azimuth: float) -> tuple[float, float, float]:
    """Return the unit direction to a lamp: ``slant`` from the camera's axis, ``azimuth`` from the right, in radians."""
    return math.cos(azimuth) * math.sin(slant), math.sin(azimuth) * math.sin(slant), math.cos(slant)


def half_way(light: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the direction half way between a light and the camera: where a highlight of it appears."""
    norm = math.hypot(*light)
    return light[0] / norm, light[1] / norm, light[2] / norm + 1


def reduced(values: Map) -> Map:
    """Average a supersampled map ``[k H, k W(, C)]`` down to the picture's pixels ``[H, W(, C)]``."""
    height, width = values.shape[0] // SUPERSAMPLING, values.shape[1] // SUPERSAMPLING
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA), dtype=np.float32)
