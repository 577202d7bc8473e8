"""Learning the alignment from good pictures: observe each once, settle the template, set the gates."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.alignment.aligner import Aligner, Gates, Pose, Reason
from anomaly_spotter.inputs.alignment.foreground import (
    Blob,
    Level,
    Observation,
    find_blob,
    observe,
    threshold_of,
)
from anomaly_spotter.inputs.alignment.motion import Motion, sample
from anomaly_spotter.inputs.alignment.orientation import judge
from anomaly_spotter.inputs.alignment.registration import (
    FINE,
    MIDDLE,
    Orientation,
    Registrar,
    normalised,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

WORKING_SIDE = 512
"""Long side of a picture at the working scale, in pixels."""
LEAST_PICTURES = 4
KEPT_PICTURES = 400
"""So many pictures, evenly spread, teach the template; the others are only located."""

_STRICTNESS = (1.0, 0.7, 1.3, 0.5, 0.3)
_ELONGATED = 1.8  # long axis to short axis; below that the axis may err by too much
_MARGIN = 0.06  # of the frame's long side, on every side
_ROUNDS = 3
_LOST_SHARE = 0.02
_THREADS = 2


class AlignmentError(DatasetError):
    """The good pictures show no single part that stands out from its background."""


@dataclass(frozen=True, slots=True)
class _Good:
    """A good picture in which one part was found."""

    edges: NDArray[np.uint8]
    blob: Blob


def fit_aligner(
    method: Literal["foreground", "template"],
    pictures: Sequence[NDArray[np.uint8]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Aligner, list[Pose]]:
    """Learn to find the part; each picture is asked for exactly once.

    Args:
        method: ``foreground`` (outline only) or ``template`` (refined by registration to the mean good part).
        pictures: Good pictures, ``[H, W]`` or RGB ``[H, W, 3]``.
        progress: Called with (pictures done, pictures in all).

    Returns:
        The aligner, and each picture's pose, the same that ``locate`` gives.

    Raises:
        AlignmentError: No part stands out, or not in all but about 2 % of the pictures.
    """
    if len(pictures) < LEAST_PICTURES:
        raise AlignmentError(
            f"alignment needs at least {LEAST_PICTURES} good pictures, found {len(pictures)}"
        )
    with ThreadPoolExecutor(_THREADS) as pool:
        return _Fit(method, pictures, pool, progress).run()


class _Fit:
    """One run of ``fit_aligner``."""

    def __init__(
        self,
        method: Literal["foreground", "template"],
        pictures: Sequence[NDArray[np.uint8]],
        pool: ThreadPoolExecutor,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._finest = FINE if method == "template" else 0
        self._pictures = pictures
        self._pool = pool
        self._progress = progress
        self._done = 1  # the first picture tells the scale

    def run(self) -> tuple[Aligner, list[Pose]]:
        total = len(self._pictures)
        kept = sorted(set(np.linspace(0, total - 1, min(total, KEPT_PICTURES)).round().astype(int).tolist()))
        first = self._pictures[kept[0]]
        scale = min(1.0, WORKING_SIDE / max(first.shape[:2]))
        observations = [observe(first, scale), *self._observed(kept[1:], scale)]
        level = choose_level(observations)
        blobs = list(self._pool.map(lambda o: find_blob(o, level), observations))
        gates = choose_gates(observations, blobs)
        goods = [
            _Good(o.edges, b)
            for o, b in zip(observations, blobs, strict=True)
            if b is not None and gates.refusal(b) is None
        ]
        registrar = self._settle(goods)
        frame = tuple(round(side / scale) for side in registrar.size)
        aligner = Aligner((frame[0], frame[1]), scale, level, gates, registrar)
        aligner = replace(aligner, gates=replace(gates, quality=self._least_quality(goods, registrar)))
        poses: dict[int, Pose] = dict(zip(kept, self._pool.map(aligner.pose, observations), strict=True))
        others = [index for index in range(total) if index not in poses]
        for index, observation in zip(others, self._observed(others, scale), strict=True):
            poses[index] = aligner.pose(observation)
        _check_found(poses.values())
        return aligner, [poses[index] for index in range(total)]

    def _observed(self, indices: Sequence[int], scale: float) -> Iterable[Observation]:
        """Observe pictures a few at a time, so that only those are held in full."""
        total, step = len(self._pictures), 2 * _THREADS
        for start in range(0, len(indices), step):
            block = [self._pictures[index] for index in indices[start : start + step]]
            yield from self._pool.map(lambda pixels: observe(pixels, scale), block)
            self._done += len(block)
            if self._progress is not None:
                self._progress(self._done, total)

    def _settle(self, goods: Sequence[_Good]) -> Registrar:
        """Learn how parts may lie, then the frame, then the template."""
        orientation = self._orientation(goods)
        rough = self._learned(goods, orientation, min(MIDDLE, self._finest))
        found = self._registered(goods, rough)
        registrar = _framed(rough, goods, [motion for _, motion in found], self._finest)
        for _ in range(_ROUNDS if self._finest else 1):
            registrar = self._renewed(goods, registrar)
        return registrar

    def _orientation(self, goods: Sequence[_Good]) -> Orientation:
        elongation = float(np.median([good.blob.elongation for good in goods]))
        widest = Orientation(elongation >= _ELONGATED, 0.0, math.pi)
        turns = []
        for half in (goods[::2], goods[1::2]):
            registrar = self._learned(half, widest, MIDDLE)
            turns.append(np.array([motion.angle for _, motion in self._registered(goods, registrar)]))
        return judge(turns[0], turns[1], follows_axis=widest.follows_axis)[0]

    def _learned(self, goods: Sequence[_Good], orientation: Orientation, finest: int) -> Registrar:
        """A template learned from scratch: one typical part first, then the mean of all."""
        areas = np.array([good.blob.area for good in goods])
        typical = goods[int(np.argsort(areas, kind="stable")[len(areas) // 2])]
        size = _first_size(goods, follows_axis=orientation.follows_axis)
        turn = orientation.candidates(typical.blob)[0] if orientation.follows_axis else orientation.base
        patch = sample(typical.edges, Motion(typical.blob.x, typical.blob.y, turn), size)
        registrar = Registrar(normalised(patch), orientation, finest)
        for _ in range(_ROUNDS):
            registrar = self._renewed(goods, registrar)
        return registrar

    def _registered(self, goods: Sequence[_Good], registrar: Registrar) -> list[tuple[float, Motion]]:
        registrar.prepare()
        return list(self._pool.map(lambda good: registrar.register(good.edges, good.blob), goods))

    def _renewed(self, goods: Sequence[_Good], registrar: Registrar) -> Registrar:
        """The same with the mean of the pictures as it places them."""
        motions = [motion for _, motion in self._registered(goods, registrar)]
        return replace(registrar, template=_mean_patch(goods, motions, registrar.size))

    def _least_quality(self, goods: Sequence[_Good], registrar: Registrar) -> float:
        """Far below every good part's similarity to the mean of the *other* good parts."""
        count = len(goods)
        qualities = []
        for good, (quality, motion) in zip(goods, self._registered(goods, registrar), strict=True):
            patch = normalised(sample(good.edges, motion, registrar.size))
            others = registrar.template * count - patch
            share_of_itself = _similarity(patch, registrar.template) - _similarity(patch, others)
            qualities.append(quality - (share_of_itself if count > 1 else 0.0))
        usual, least = float(np.median(qualities)), float(np.quantile(qualities, 0.005))
        return min(usual - 2.0 * (usual - least), usual - 0.1) - 0.05


def choose_level(observations: Sequence[Observation]) -> Level:
    """The threshold at which the good parts' areas are most alike: it sheds shadows and keeps shaded sides."""
    usual = float(np.median([threshold_of(observation) for observation in observations]))
    best, best_spread = Level(usual, _STRICTNESS[0]), math.inf
    for strictness in _STRICTNESS:
        level = Level(usual, strictness)
        blobs = [find_blob(observation, level) for observation in observations]
        areas = np.array([blob.area if blob else 0.0 for blob in blobs])
        spread = _relative_spread(areas)
        if spread < 0.95 * best_spread:
            best, best_spread = level, spread
    return best


def choose_gates(observations: Sequence[Observation], blobs: Sequence[Blob | None]) -> Gates:
    """Bounds that nearly all good pictures keep, with slack.

    Raises:
        AlignmentError: The foreground is not one part of about the same size in nearly all pictures.
    """
    found = [blob for blob in blobs if blob is not None]
    if len(blobs) - len(found) > max(1, _LOST_SHARE * len(blobs)):
        raise AlignmentError(
            f"no part stands out from the background in {len(blobs) - len(found)} of {len(blobs)} good pictures"
        )
    areas = np.array([blob.area for blob in found])
    low, usual, high = np.quantile(areas, [0.02, 0.5, 0.98])
    rival = float(np.quantile([blob.rival for blob in found], 0.98))
    height, width = observations[0].edges.shape
    if usual < 2e-3 * height * width:
        raise AlignmentError("no part stands out from the background of the good pictures")
    if rival > 0.5 * usual:
        raise AlignmentError("the good pictures show more than one part, or a texture")
    contact = float(np.quantile([blob.contact for blob in found], 0.98))
    if contact > height + width or usual > 0.9 * height * width:
        raise AlignmentError("the part fills the good pictures: there is nothing to align")
    if _relative_spread(areas) > 0.35:
        raise AlignmentError("the foreground of the good pictures differs too much in size to be one part")
    return Gates(
        least_area=float(0.4 * low),
        most_area=float(1.5 * high),
        rival=float(max(0.3 * usual, 1.5 * rival)),
        contact=1.25 * contact + 8.0,
        quality=-1.0,
    )


def _relative_spread(areas: NDArray[np.float64]) -> float:
    low, usual, high = np.quantile(areas, [0.05, 0.5, 0.95])
    return float((high - low) / max(usual, 1e-6))


def _similarity(patch: NDArray[np.float32], template: NDArray[np.float32]) -> float:
    return float((normalised(patch) * normalised(template)).mean())


def _first_size(goods: Sequence[_Good], *, follows_axis: bool) -> tuple[int, int]:
    """A frame around the outlines before the template is known."""
    reaches = []
    for good in goods:
        blob = good.blob
        points = Motion(blob.x, blob.y, blob.angle if follows_axis else 0.0).to_frame(blob.outline)
        reach = np.abs(points).max(axis=0)
        reaches.append(reach if follows_axis else [np.linalg.norm(points, axis=1).max()] * 2)
    width, height = np.quantile(np.array(reaches), 0.9, axis=0)
    margin = _MARGIN * 2 * max(width, height)
    return math.ceil(2 * (width + margin)), math.ceil(2 * (height + margin))


def _framed(rough: Registrar, goods: Sequence[_Good], motions: Sequence[Motion], finest: int) -> Registrar:
    """Centre the frame on the good parts' extent in the aligned pose, and cut it to that plus a margin."""
    points = [motion.to_frame(good.blob.outline) for good, motion in zip(goods, motions, strict=True)]
    low = np.quantile([point.min(axis=0) for point in points], 0.02, axis=0)
    high = np.quantile([point.max(axis=0) for point in points], 0.98, axis=0)
    margin = _MARGIN * float((high - low).max()) + 2
    width, height = (math.ceil(side + 2 * margin) for side in high - low)
    right, down = (float(middle) for middle in (low + high) / 2)
    centred = [motion.moved(right, down) for motion in motions]
    centres = [
        motion.to_frame(np.array([[good.blob.x, good.blob.y]]))[0]
        for good, motion in zip(goods, centred, strict=True)
    ]
    offset = -np.median(centres, axis=0)
    template = _mean_patch(goods, centred, (width, height))
    return Registrar(template, rough.orientation, finest, (float(offset[0]), float(offset[1])))


def _mean_patch(
    goods: Sequence[_Good], motions: Sequence[Motion], size: tuple[int, int]
) -> NDArray[np.float32]:
    total = np.zeros((size[1], size[0]), np.float64)
    for good, motion in zip(goods, motions, strict=True):
        total += normalised(sample(good.edges, motion, size))
    return (total / len(goods)).astype(np.float32)


def _check_found(poses: Iterable[Pose]) -> None:
    reasons = [pose.reason for pose in poses]
    lost = [reason for reason in reasons if reason is not None]
    if len(lost) > max(1, _LOST_SHARE * len(reasons)):
        usual = max(Reason, key=lost.count)
        raise AlignmentError(
            f"{len(lost)} of {len(reasons)} good pictures could not be aligned, mostly: {usual}"
        )
