"""Matching a picture's edges to the mean good part: coarse search over turns and shifts, then sub-pixel refinement.

The refinement is the inverse compositional form of Lucas and Kanade's registration (Baker and Matthews 2004) with
gain and offset as extra unknowns: how the template changes under each small motion is known beforehand, so one
iteration is one warp and one product of a 5 x N matrix with the warped picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from anomaly_spotter.inputs.alignment.motion import Motion, resize, sample, wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.inputs.alignment.foreground import Blob

COARSE, MIDDLE, FINE = 70, 150, 600
"""Most pixels of the template's long side at the three resolutions; whole halvings, which are fast."""
_PIXELS = 150_000  # most pixels of a template at any resolution
_TURN_STEP = math.radians(10)
_TURN_SLACK = math.radians(5)
_SHIFT = 0.12  # the coarse search covers this share of the long side in every direction
_SHORTLIST = 3
_ITERATIONS = 6
_STEP_LIMIT = 2.0  # pixels
_SETTLED = 0.02  # pixels


@dataclass(frozen=True, slots=True)
class Orientation:
    """How parts may lie in a picture, learned from the good ones. Radians.

    Attributes:
        follows_axis: Whether the part is elongated enough for its long axis to tell its direction (up to half a turn).
        base: Usual turn of the frame in the picture.
        reach: Largest turn away from it: 0 where a turn cannot be told, pi / n for n-fold symmetry, pi for any turn.
    """

    follows_axis: bool
    base: float
    reach: float

    def candidates(self, blob: Blob) -> list[float]:
        """Turns of the frame worth trying for a part."""
        if self.follows_axis:
            along = [blob.angle, blob.angle + math.pi]
            within = [a for a in along if abs(float(wrapped(a - self.base))) <= self.reach + _TURN_SLACK]
            return within or [self.base]
        steps = int(self.reach / _TURN_STEP + 1e-6)
        turns = [self.base + step * _TURN_STEP for step in range(-steps, steps + 1)]
        return turns[:-1] if self.reach >= math.pi - 1e-6 else turns


class Layer:
    """The template at one resolution, prepared for refinement.

    Args:
        template: Mean edges ``float32 [h, w]``.
        factor: Its size divided by that at the working scale.
        may_turn: Whether the turn is refined too.
    """

    def __init__(self, template: NDArray[np.float32], factor: float, *, may_turn: bool) -> None:
        centred = template - template.mean()
        self.template = np.ascontiguousarray(centred / max(float(np.linalg.norm(centred)), 1e-6), np.float32)
        self.factor = factor
        self.size = (template.shape[1], template.shape[0])
        self._flat = self.template.reshape(-1)
        self._solver = _solver(self.template, may_turn=may_turn)

    def similarity(self, edges: NDArray[np.uint8], motion: Motion) -> float:
        """Normalised cross-correlation of the template with what the frame sees, -1..1."""
        return _correlation(sample(edges, motion, self.size).astype(np.float32).reshape(-1), self._flat)

    def search(self, edges: NDArray[np.uint8], motion: Motion, margin: int) -> tuple[float, Motion]:
        """The best shift of up to ``margin`` pixels in every direction, and its similarity."""
        wide = (self.size[0] + 2 * margin, self.size[1] + 2 * margin)
        seen = sample(edges, motion, wide).astype(np.float32)
        scores = cv2.matchTemplate(seen, self.template, cv2.TM_CCOEFF_NORMED)
        _, best, _, (right, down) = cv2.minMaxLoc(scores)
        return best, motion.moved(right - margin, down - margin)

    def refine(self, edges: NDArray[np.uint8], motion: Motion) -> tuple[float, Motion]:
        """The nearby motion with the best similarity, to a fraction of a pixel."""
        radius = max(self.size) / 2
        best, best_motion = -1.0, motion
        for _ in range(_ITERATIONS):
            seen = sample(edges, motion, self.size).astype(np.float32).reshape(-1)
            score = _correlation(seen, self._flat)
            if score < best - 1e-3:
                break
            if score > best:
                best, best_motion = score, motion
            gain, right, down, turn = self._solver @ seen
            if gain <= 0:
                break
            right, down, turn = (float(value / gain) for value in (right, down, turn))
            longest = max(abs(right), abs(down), abs(turn) * radius)
            if longest < _SETTLED:
                break
            brake = min(1.0, _STEP_LIMIT / longest)
            motion = motion.moved(-right * brake, -down * brake, -turn * brake)
        return best, best_motion


@dataclass(frozen=True)
class Registrar:
    """Finds the mean good part in a picture.

    Attributes:
        template: Mean edges of the good parts at the working scale, ``float32 [h, w]``.
        orientation: How parts may lie.
        finest: Most pixels of the long side at the finest resolution used; 0 keeps the foreground's own position.
        anchor: Where the frame's centre lies from the foreground's centre of area, along the frame's own axes.
    """

    template: NDArray[np.float32]
    orientation: Orientation
    finest: int
    anchor: tuple[float, float] = (0.0, 0.0)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frame at the working scale."""
        return self.template.shape[1], self.template.shape[0]

    def prepare(self) -> None:
        """Build the resolutions now, so that threads do not each build them."""
        _ = self._layers

    def register(self, edges: NDArray[np.uint8], blob: Blob) -> tuple[float, Motion]:
        """The motion that fits best, and its similarity at the finest resolution used."""
        coarse, *finer = self._layers
        seen = resize(edges, coarse.factor)
        turned = [Motion(blob.x, blob.y, turn) for turn in self.orientation.candidates(blob)]
        starts = [start.moved(*self.anchor).scaled(coarse.factor) for start in turned]
        if not self.finest:
            score, start = max(((coarse.similarity(seen, start), start) for start in starts), key=_score)
            if self.orientation.follows_axis or not self.orientation.reach:
                return score, start.scaled(1 / coarse.factor)
            turn = coarse.refine(seen, start)[1].angle  # the outline alone does not tell it
            motion = Motion(blob.x, blob.y, turn).moved(*self.anchor)
            return coarse.similarity(seen, motion.scaled(coarse.factor)), motion
        if len(starts) > _SHORTLIST:
            starts = _shortlist([(coarse.similarity(seen, start), start) for start in starts])
        margin = math.ceil(_SHIFT * max(coarse.size))
        found = [coarse.refine(seen, coarse.search(seen, start, margin)[1]) for start in starts]
        factor = coarse.factor
        for layer in finer:
            seen = resize(edges, layer.factor)
            found = [layer.refine(seen, motion.scaled(layer.factor / factor)) for _, motion in found]
            found, factor = [max(found, key=_score)], layer.factor
        score, motion = max(found, key=_score)
        return score, motion.scaled(1 / factor)

    @cached_property
    def _layers(self) -> list[Layer]:
        sides = [COARSE, *(side for side in (MIDDLE, FINE) if side <= self.finest)]
        factors = sorted({self._factor(side) for side in sides})
        may_turn = self.orientation.reach > 0
        return [Layer(_shrunk(self.template, factor), factor, may_turn=may_turn) for factor in factors]

    def _factor(self, side: int) -> float:
        """The halvings after which the template is at most ``side`` long."""
        halvings = 0
        while max(self.size) / 2**halvings > side or self.template.size / 4**halvings > _PIXELS:
            halvings += 1
        return 0.5**halvings


def normalised(patch: NDArray[Any]) -> NDArray[np.float32]:
    """A patch freed from gain and offset: mean 0, deviation 1."""
    values = patch.astype(np.float32)
    values -= values.mean()
    return values / np.float32(max(float(values.std()), 1e-6))


def _shrunk(template: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """The template reduced centre on centre, to the nearest whole size."""
    height, width = template.shape
    size = (max(4, round(width * factor)), max(4, round(height * factor)))
    return np.asarray(cv2.resize(template, size, interpolation=cv2.INTER_AREA), np.float32)


def _correlation(seen: NDArray[np.float32], template: NDArray[np.float32]) -> float:
    mean = float(seen.mean())
    energy = float(seen @ seen) - seen.size * mean * mean
    return float(seen @ template) / math.sqrt(energy) if energy > 1e-3 else 0.0


def _solver(template: NDArray[np.float32], *, may_turn: bool) -> NDArray[np.float32]:
    """The matrix ``[4, h * w]`` that reads (gain, right, down, turn), the last three times gain, off a picture."""
    height, width = template.shape
    down, right = np.gradient(template)
    y, x = np.meshgrid(
        np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij"
    )
    turn = down * x - right * y if may_turn else np.zeros_like(template)
    columns = (
        np.stack([np.ones_like(template), template, right, down, turn]).reshape(5, -1).astype(np.float64)
    )
    normal = columns @ columns.T
    ridge = np.array([0.0, 0.0, 1e-3, 1e-3, 1e-3]) * np.diag(normal) + 1e-9  # holds still what cannot be told
    return np.asarray(np.linalg.solve(normal + np.diag(ridge), columns)[1:], np.float32)


def _shortlist(scored: Sequence[tuple[float, Motion]]) -> list[Motion]:
    """The best starts that are not neighbours of a better one."""
    chosen: list[Motion] = []
    for _, start in sorted(scored, key=_score, reverse=True):
        if all(abs(float(wrapped(start.angle - other.angle))) > 1.5 * _TURN_STEP for other in chosen):
            chosen.append(start)
        if len(chosen) == _SHORTLIST:
            break
    return chosen


def _score(found: tuple[float, Motion]) -> float:
    return found[0]
