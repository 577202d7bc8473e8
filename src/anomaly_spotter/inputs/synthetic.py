"""Synthetic defects: good pictures in, corrupted copies and the truth about them out.

For training networks that restore or find defects, and for telling candidates apart without a real one. The kinds are
a mixture of three papers and of what spoils parts in practice: pasted patches and scars (CutPaste: Li et al., CVPR
2021), noise-textured patches of random opacity (DRAEM: Zavrtanik et al., ICCV 2021), patches whose brightness is bent
to their new surroundings, log-uniform in size and placed on the object (NSA: Schlüter et al., ECCV 2022), and
scratches, dents, missing material, spots, blur and noise. All work happens in the defect's bounding box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    _Outline = tuple[NDArray[np.float64], int]
    _Floats = NDArray[np.float32]
    _Kind = tuple[Callable[["_Scene"], _Outline], Callable[["_Scene", "_Patch"], _Floats]]

SMALLEST_SIDE: Final = 16
"""Pictures with a shorter side than this many pixels are refused."""

VISIBLE: Final = 4
"""A pixel belongs to a defect's mask when a channel differs by at least this many of the 255 grey levels."""

_ATTEMPTS = 4  # to paint a defect that shows
_RADIUS = (0.02, 0.25)  # of the short side, log-uniform
_CONTRAST = (10.0, 110.0)  # grey levels, log-uniform, times the strength
_UNIFORM_SHARE = 0.25  # of defects placed anywhere; the others go where the picture has texture


def corrupt(
    picture: NDArray[np.uint8],
    donor: NDArray[np.uint8],
    rng: np.random.Generator,
    strength: float = 1.0,
    kinds: Sequence[str] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paint one to three synthetic defects on a copy of a good picture.

    Args:
        picture: ``uint8 [H, W, C]``, C = 1 or 3, sides of at least :data:`SMALLEST_SIDE`. Not modified.
        donor: Another good picture of the same shape, the source of pasted patches; may be ``picture`` itself.
        rng: The only source of randomness: equal generators give equal results.
        strength: Scales contrast and opacity; 1 ranges from faint to strong, 0.3 is faint, 2 is glaring. Above 0.
        kinds: Names from :data:`SYNTHETIC_KINDS` to draw from; all of them when ``None``.

    Returns:
        The corrupted copy, and its mask ``bool [H, W]``: true where a defect noticeably changed the picture, small
        gaps closed, never beyond the defect's outline. Outside the mask the copy differs by less than :data:`VISIBLE` grey levels. The mask is empty only when nothing showed
        in several attempts (blurring a flat picture, a tiny strength).

    Raises:
        ValueError: If shapes or types do not fit, the strength is not above 0, or a kind is unknown.
    """
    _check(picture, donor, strength)
    painters = _painters(kinds)
    scene = _Scene(picture.copy(), donor, _Places.of(picture), rng, strength)
    mask = np.zeros(picture.shape[:2], dtype=bool)
    for _ in range(int(rng.integers(1, 4))):
        for _ in range(_ATTEMPTS):
            kind = painters[int(rng.integers(len(painters)))]
            if _paint(kind, scene, picture, mask):
                break
    return scene.picture, mask


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the picture has texture: the gradient magnitude on a coarse grid of cells, row by row."""

    columns: int
    cell: tuple[float, float]  # (width, height) in pixels
    cumulative: NDArray[np.float64]  # [cells]
    calmest: NDArray[np.intp]  # the calmest eighth of the cells

    @classmethod
    def of(cls, picture: NDArray[np.uint8]) -> _Places:
        height, width, channels = picture.shape
        small = cv2.resize(picture, (min(96, width), min(96, height)), interpolation=cv2.INTER_AREA)
        small = small.reshape(*small.shape[:2], channels).astype(np.float32)
        cross = np.abs(small[1:, 1:] - small[:-1, :-1]) + np.abs(small[1:, :-1] - small[:-1, 1:])  # Roberts
        columns, rows = min(24, width // 8), min(24, height // 8)
        texture = cv2.resize(cross.max(axis=2), (columns, rows), interpolation=cv2.INTER_AREA)
        weights = (texture.astype(np.float64).ravel() + 1) ** 2
        calmest = np.argsort(weights, kind="stable")[: max(1, weights.size // 8)]
        return cls(columns, (width / columns, height / rows), np.cumsum(weights), calmest)

    def textured(self, rng: np.random.Generator) -> tuple[float, float]:
        """Return a point ``(x, y)``, the likelier the more texture is there."""
        if rng.random() < _UNIFORM_SHARE:
            return self._inside(int(rng.integers(self.cumulative.size)), rng)
        cell = int(np.searchsorted(self.cumulative, rng.random() * self.cumulative[-1], side="right"))
        return self._inside(min(cell, self.cumulative.size - 1), rng)

    def calm(self, rng: np.random.Generator) -> tuple[float, float]:
        """Return a point ``(x, y)`` of the background, or of the smoothest surface."""
        return self._inside(int(rng.choice(self.calmest)), rng)

    def _inside(self, cell: int, rng: np.random.Generator) -> tuple[float, float]:
        row, column = divmod(cell, self.columns)
        return (column + rng.random()) * self.cell[0], (row + rng.random()) * self.cell[1]


@dataclass(frozen=True, slots=True)
class _Scene:
    """What a painter may look at; ``picture`` is the copy under work."""

    picture: NDArray[np.uint8]
    donor: NDArray[np.uint8]
    places: _Places
    rng: np.random.Generator
    strength: float

    @property
    def short_side(self) -> float:
        return float(min(self.picture.shape[:2]))

    def log_uniform(self, low: float, high: float) -> float:
        return float(low * (high / low) ** self.rng.random())

    def radius(self) -> float:
        return max(1.0, self.short_side * self.log_uniform(*_RADIUS))

    def opacity(self) -> float:
        return min(1.0, self.strength * self.log_uniform(0.4, 1.2))

    def contrast(self, patch: _Patch) -> NDArray[np.float32]:
        """Signed grey levels per channel ``[C]``, rather darker on bright ground; grey or tinted."""
        sign = -1 if self.rng.random() < patch.before.mean() / 255 else 1
        tint = np.ones(patch.before.shape[2])
        if self.rng.random() < 0.3:
            tint = self.rng.uniform(-0.3, 1, tint.size)
            tint /= np.abs(tint).max()
        return _float32(sign * self.strength * self.log_uniform(*_CONTRAST) * tint)


@dataclass(frozen=True, slots=True)
class _Patch:
    """A place to paint: the bounding box of a shape in the picture."""

    window: tuple[slice, slice]
    inside: NDArray[np.bool_]  # [h, w]
    depth: NDArray[np.float32]  # [h, w] distance to the shape's edge in pixels, 0 outside
    before: NDArray[np.float32]  # [h, w, C]


def _paint(kind: _Kind, scene: _Scene, original: NDArray[np.uint8], mask: NDArray[np.bool_]) -> bool:
    """Paint one defect into the scene and the mask; leave both alone and return false if it would not show."""
    outline, fill = kind
    points, thickness = outline(scene)
    patch = _cut(scene, points + scene.places.textured(scene.rng), thickness)
    if not patch.inside.any():
        return False
    mixed = _faded(patch, fill(scene, patch), _edge(patch, scene.rng))
    after = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    changed = cv2.absdiff(after, original[patch.window]).reshape(after.shape).max(axis=2) >= VISIBLE
    if np.count_nonzero(changed & patch.inside) < max(3, patch.inside.sum() // 10):
        return False
    closed = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    scene.picture[patch.window] = after
    mask[patch.window] = np.where(patch.inside, closed > 0, mask[patch.window])
    return True


def _cut(scene: _Scene, points: NDArray[np.float64], thickness: int) -> _Patch:
    """Draw a shape (filled when ``thickness`` is 0, else stroked) and cut its bounding box out of the picture."""
    size = np.array(scene.picture.shape[1::-1])
    low = np.clip(np.floor(points.min(axis=0)).astype(int) - thickness - 2, 0, size - 4)
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + thickness + 2, low + 4, size)
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    canvas = np.zeros((bottom - top, right - left), dtype=np.uint8)
    corners = [np.rint((points - low) * 16).astype(np.int32)]
    if thickness:
        cv2.polylines(canvas, corners, isClosed=False, color=1, thickness=thickness, shift=4)
    else:
        cv2.fillPoly(canvas, corners, color=1, shift=4)
    window = (slice(top, bottom), slice(left, right))
    depth = _float32(cv2.distanceTransform(canvas, cv2.DIST_L2, 3))
    return _Patch(window, canvas.astype(bool), depth, _float32(scene.picture[window]))


def _edge(patch: _Patch, rng: np.random.Generator) -> NDArray[np.float32]:
    """Opacity ``[h, w, 1]`` in [0, 1]: 0 outside, rising inwards from the edge, hard in two of five cases."""
    feather = 1.0 if rng.random() < 0.4 else max(1.0, rng.random() * float(patch.depth.max()))
    return _float32(np.minimum(patch.depth / feather, 1))[..., None]


# --- outlines: points [N, 2] around the origin and the thickness of the stroke, 0 for a filled shape ------------------


def _area(scene: _Scene) -> _Outline:
    """A blob or a polygon, stretched and turned."""
    rng, radius = scene.rng, scene.radius()
    if rng.random() < 0.7:
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        waves = np.arange(1, 6)
        phases = np.outer(waves, angles) + rng.uniform(0, 2 * np.pi, (5, 1))
        reach = np.exp(0.3 * (rng.standard_normal(5) / waves) @ np.cos(phases))
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 9))))
        reach = rng.uniform(0.6, 1, angles.size)
    reach *= radius / reach.max()
    squeeze = scene.log_uniform(0.4, 1)
    points = np.stack([reach * np.cos(angles), squeeze * reach * np.sin(angles)], axis=1)
    return _turned(points, rng), 0


def _bar(scene: _Scene) -> _Outline:
    """A long thin rectangle."""
    half = max(3.0, 1.3 * scene.radius())
    across = max(1.0, half * scene.log_uniform(0.06, 0.3))
    points = np.array([[-half, -across], [half, -across], [half, across], [-half, across]])
    return _turned(points, scene.rng), 0


def _stroke(scene: _Scene) -> _Outline:
    """A poly-line that bends a little at each of its joints."""
    rng, count = scene.rng, int(scene.rng.integers(2, 8))
    heading = np.cumsum(rng.normal(0, 0.35, count))
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * rng.uniform(0.5, 1, (count, 1))
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    points = (points - points.mean(axis=0)) * (max(3.0, 3 * scene.radius()) / count)
    return _turned(points, rng), int(rng.integers(1, 2 + max(1, int(scene.short_side / 128))))


def _turned(points: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(points @ turn, dtype=np.float64)


# --- fills: what the patch [h, w, C] looks like under full opacity, in grey levels ------------------------------------


def _paste(scene: _Scene, patch: _Patch) -> _Floats:
    """Another place of the same picture."""
    return _blended(scene, patch, _sample(scene, scene.picture, scene.places.textured(scene.rng), patch))


def _transplant(scene: _Scene, patch: _Patch) -> _Floats:
    """A place of the donor."""
    return _blended(scene, patch, _sample(scene, scene.donor, scene.places.textured(scene.rng), patch))


def _texture(scene: _Scene, patch: _Patch) -> _Floats:
    """Fractal noise in islands, see-through."""
    rng, size = scene.rng, patch.inside.shape
    grain = _fractal(rng, size, patch.before.shape[2] if rng.random() < 0.3 else 1, int(rng.integers(2, 9)))
    islands = _fractal(rng, size, 1, int(rng.integers(2, 5))) > rng.uniform(-1.5, 0)
    ground = patch.before[patch.inside].mean(axis=0) + 0.5 * scene.contrast(patch)
    return _faded(patch, ground + scene.contrast(patch) * grain, scene.opacity() * islands)


def _line(scene: _Scene, patch: _Patch) -> _Floats:
    """Dark or bright, now stronger, now weaker."""
    fade = np.clip(1 + 0.4 * _fractal(scene.rng, patch.inside.shape, 1, 3), 0.2, 1.5)
    return _float32(patch.before + scene.contrast(patch) * fade)


def _dent(scene: _Scene, patch: _Patch) -> _Floats:
    """The surface bulges in or out: what is seen moves along the slope, and the slope catches the light."""
    height, width = patch.inside.shape
    reach = float(patch.depth.max())
    dome = cv2.blur((1 - np.cos(patch.depth * np.float32(np.pi / reach))) / 2, (3, 3))
    down, right = np.gradient(dome * reach)  # slopes of about 1
    push = np.float32(scene.rng.choice([-1, 1]) * min(0.6, 0.35 * scene.strength) * reach)
    x = _float32(np.arange(width) + push * right)
    y = _float32(np.arange(height)[:, None] + push * down)
    moved = cv2.remap(patch.before, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    light = scene.rng.uniform(0, 2 * np.pi)
    shade = np.cos(light) * right + np.sin(light) * down
    return _float32(moved.reshape(patch.before.shape) + 0.7 * scene.contrast(patch) * shade[..., None])


def _missing(scene: _Scene, patch: _Patch) -> _Floats:
    """Background, or the mean of the surroundings with a little grain."""
    if scene.rng.random() < 0.5:
        return _sample(scene, scene.picture, scene.places.calm(scene.rng), patch)
    around = patch.before[0] if patch.inside.all() else patch.before[~patch.inside]
    grain = scene.rng.standard_normal((*patch.inside.shape, 1), dtype=np.float32)
    return _float32(around.mean(axis=0) + 2 * grain)


def _spot(scene: _Scene, patch: _Patch) -> _Floats:
    """Brighter or darker all over."""
    return patch.before + scene.contrast(patch)


def _blur(scene: _Scene, patch: _Patch) -> _Floats:
    """Out of focus."""
    side = 3 + 2 * int(scene.log_uniform(1, 2 + 0.04 * scene.short_side))
    blurred = cv2.blur(cv2.blur(patch.before, (side, side)), (side, side))
    return _faded(patch, _float32(blurred).reshape(patch.before.shape), scene.opacity())


def _noise(scene: _Scene, patch: _Patch) -> _Floats:
    """Grain of one to three pixels."""
    grain, (height, width) = int(scene.rng.integers(1, 4)), patch.inside.shape
    speckle = scene.rng.standard_normal((height // grain + 1, width // grain + 1), dtype=np.float32)
    speckle = _float32(cv2.resize(speckle, (width, height), interpolation=cv2.INTER_LINEAR))
    return patch.before + scene.contrast(patch) * speckle[..., None]


def _sample(scene: _Scene, source: NDArray[np.uint8], centre: tuple[float, float], patch: _Patch) -> _Floats:
    """The source around ``centre`` (x, y), as large as the patch: straight or turned, mirrored or not."""
    height, width = patch.inside.shape
    angle = scene.rng.choice([0, scene.rng.uniform(0, 2 * np.pi)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn[:, 0] *= scene.rng.choice([-1, 1])
    across = np.column_stack([turn, centre - turn @ (width / 2, height / 2)])  # from the patch to the source
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(source, across, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return _float32(cut).reshape(patch.before.shape)


def _blended(scene: _Scene, patch: _Patch, pasted: _Floats) -> _Floats:
    """As it is, shifted to the brightness it covers, or bent to the brightness all around; sometimes stained."""
    choice = scene.rng.random()
    if choice < 0.25:
        pasted = _float32(pasted + (patch.before - pasted)[patch.inside].mean(axis=0))
    elif choice < 0.6:
        pasted = pasted + _membrane(patch, pasted)
    if scene.rng.random() < 0.25:
        pasted = pasted + 0.5 * scene.contrast(patch)
    return _faded(patch, pasted, scene.opacity())


def _faded(patch: _Patch, painted: _Floats, opacity: float | _Floats) -> _Floats:
    return _float32(patch.before + opacity * (painted - patch.before))


def _membrane(patch: _Patch, pasted: _Floats) -> _Floats:
    """The gap around the shape between picture and paste, carried smoothly across it: a cheap Poisson blend."""
    height, width = patch.inside.shape
    outside = _float32(~patch.inside)[..., None]
    layers = np.dstack([(patch.before - pasted) * outside, outside])
    small = cv2.resize(layers, (min(12, width), min(12, height)), interpolation=cv2.INTER_AREA)
    total = cv2.GaussianBlur(small, (0, 0), 1) + 1e-3 * small.mean(axis=(0, 1))
    gap = cv2.resize(total[..., :-1] / np.maximum(total[..., -1:], 1e-9), (width, height))
    return _float32(gap).reshape(patch.before.shape)


def _fractal(rng: np.random.Generator, size: tuple[int, ...], channels: int, cells: int) -> _Floats:
    """Smooth noise ``[h, w, channels]`` of about unit deviation: three octaves, the coarsest of ``cells`` across."""
    height, width = size
    total = np.zeros((height, width, channels), dtype=np.float32)
    for side, weight in ((cells, 1.3), (2 * cells, 0.8), (4 * cells, 0.5)):
        grid = rng.standard_normal((side + 1, side + 1, channels), dtype=np.float32) * np.float32(weight)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR).reshape(total.shape)
    return total


def _float32(values: NDArray[np.generic]) -> _Floats:
    return np.asarray(values, dtype=np.float32)


_KINDS: Final[dict[str, _Kind]] = {  # an outline and what fills it
    "cut_paste": (_area, _paste),
    "transplant": (_area, _transplant),
    "texture": (_area, _texture),
    "scar": (_bar, _paste),
    "scratch": (_stroke, _line),
    "dent": (_area, _dent),
    "missing": (_area, _missing),
    "spot": (_area, _spot),
    "blur": (_area, _blur),
    "noise": (_area, _noise),
}
SYNTHETIC_KINDS: Final[tuple[str, ...]] = tuple(_KINDS)
"""Names of all kinds of defects, as :func:`corrupt` takes them."""


def _painters(kinds: Sequence[str] | None) -> list[_Kind]:
    names = SYNTHETIC_KINDS if kinds is None else kinds
    if isinstance(names, str) or not names or not set(names) <= set(SYNTHETIC_KINDS):
        raise ValueError(f"kinds must be one or more of {', '.join(SYNTHETIC_KINDS)}; found {names!r}")
    return [_KINDS[name] for name in names]


def _check(picture: NDArray[np.uint8], donor: NDArray[np.uint8], strength: float) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise ValueError(f"picture must be uint8 [H, W, 1 or 3], found {picture.dtype} {picture.shape}")
    if min(picture.shape[:2]) < SMALLEST_SIDE:
        raise ValueError(f"picture must have sides of {SMALLEST_SIDE} pixels or more, found {picture.shape}")
    if donor.dtype != np.uint8 or donor.shape != picture.shape:
        raise ValueError(
            f"donor must be uint8 {picture.shape} as picture is, found {donor.dtype} {donor.shape}"
        )
    if not 0 < strength < np.inf:
        raise ValueError(f"strength must be a number above 0, found {strength}")
