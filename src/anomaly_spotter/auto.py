"""The choice of alignment, resolution, model and scoring from good pictures alone.

Some good pictures are held out, synthetic defects are painted on copies of them, some strong, some faint, and other
copies are shown in lighter or darker light, which is no defect. A candidate is worth how well it tells the defects
from all that is good; defects that every candidate finds, or none, tell nothing and weigh nothing. No real defect and
no test picture is ever looked at. Light normalisation is tried where the best candidate without it stands. What is
tried depends on the budget by a fixed cost model, not by the clock, so that the choice can be repeated.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.alignment import AlignmentError, fit_aligner
from anomaly_spotter.inputs.illumination import Illumination
from anomaly_spotter.inputs.painted import DEFECTS, paint, relit
from anomaly_spotter.inputs.preprocess import MULTIPLE, Preprocessor
from anomaly_spotter.inputs.region import part_region
from anomaly_spotter.inputs.synthetic import SMALLEST_SIDE
from anomaly_spotter.models import feature_model
from anomaly_spotter.scoring.location import CELL, LocationScale
from anomaly_spotter.scoring.maps import image_score, smooth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.config import ScoringConfig, SpotterConfig
    from anomaly_spotter.inputs.alignment import Aligner
    from anomaly_spotter.inputs.store import GoodPictures

    _Pictures = Sequence[NDArray[np.uint8]]

FEWEST = 8  # good pictures from which a choice can be made
_SIDES = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
_APART = 1.2  # resolutions closer than this are not worth two tries
_LEARN, _HOLD = 160, 40  # pictures at most, to learn candidates from and to test them on
_SHRINKS = (
    1.0,
    0.7,
    0.5,
    0.35,
    0.25,
)  # of those numbers, so that large pictures are tried in more than thumbnails
_SEEN_WELL = 1024  # canvas pixels of the long side: resolutions up to here are worth smaller numbers
_LIGHTS: tuple[Literal["robust", "background"], ...] = ("robust", "background")
_MOST_FACTORS = 2**27  # values of local Gaussians; larger canvases would make bundles of gigabytes
_LIGHT = ((0.95, -6.0), (1.05, 6.0))  # gain and offset in grey levels of a drifting lamp
_OUTLINES = 32  # good pictures that tell where aligned parts lie
_SMOOTHING = (4.0, 8.0, 16.0)  # canvas pixels
_FRACTIONS = (0.0, 0.003, 0.01, 0.02)  # of the map's highest pixels; 0 is the maximum
_SHARE = 0.6  # of the budget for choosing; the rest fits the chosen one
_SECONDS_PER_MEGAPIXEL = 0.45  # features and distances on two cores, measured
_TIE = 0.002  # resolutions that differ by less are one as good as the other
_LEAST_WEIGHT = 1e-3  # of a defect that all candidates see alike


@dataclass(frozen=True, slots=True)
class Geometry:
    """How pictures come onto the canvas."""

    aligner: Aligner | None
    long_side: int
    preprocessor: Preprocessor

    @property
    def light(self) -> str:
        """Name of the light normalisation."""
        return "none" if self.preprocessor.illumination is None else self.preprocessor.illumination.method

    @property
    def megapixels(self) -> float:
        """Of one canvas."""
        return self.preprocessor.height * self.preprocessor.width / 1e6


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to detect, and how it fared.

    Attributes:
        geometry: Alignment and resolution.
        model: ``memory`` or ``gaussian``.
        places: ``local`` or ``global``.
        scoring: Smoothing, normalisation and pooling.
        found: ``float64 [D]``, for each synthetic defect the share of good pictures it scores above, those in other
            light included.
    """

    geometry: Geometry
    model: Literal["memory", "gaussian"]
    places: Literal["local", "global"]
    scoring: ScoringConfig
    found: NDArray[np.float64]

    def settings(self) -> dict[str, Any]:
        """What was tried, as JSON-able values."""
        return {
            "alignment": "none" if self.geometry.aligner is None else "template",
            "illumination": self.geometry.light,
            "long_side": self.geometry.long_side,
            "model": self.model,
            "places": self.places,
            "smoothing_sigma": self.scoring.smoothing_sigma,
            "pooling": self.scoring.pooling,
            "top_fraction": self.scoring.top_fraction,
            "normalise": self.scoring.normalise,
        }

    def words(self) -> str:
        """What was tried, in one line."""
        height, width = self.geometry.preprocessor.height, self.geometry.preprocessor.width
        pose = "as taken" if self.geometry.aligner is None else "aligned"
        pose += {"none": "", "robust": ", light levelled", "background": ", background levelled"}[
            self.geometry.light
        ]
        where = "" if self.places == "local" else " (global)"
        pooling = "maximum" if self.scoring.pooling == "max" else f"top {self.scoring.top_fraction * 100:g} %"
        scale = " per location" if self.scoring.normalise == "location" else ""
        return f"{pose}, {width} x {height}, {self.model}{where}, {pooling}{scale}"


@dataclass(frozen=True, slots=True)
class _Trial:
    """What every candidate is tried on.

    Attributes:
        good: The good pictures.
        learn: Those that candidates learn from.
        hold: Those that they are tested on.
        defects: Copies of these with synthetic defects.
        config: What is asked for.
    """

    good: _Pictures
    learn: Sequence[int]
    hold: Sequence[int]
    defects: _Pictures
    config: SpotterConfig

    @property
    def pictures(self) -> int:
        """How many canvases are computed for each geometry."""
        return len(self.learn) + 2 * len(self.hold) + len(self.defects)


def choose(
    good: GoodPictures,
    config: SpotterConfig,
    announce: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> tuple[SpotterConfig, dict[str, Any]]:
    """Choose for these good pictures.

    Args:
        good: The good pictures.
        config: ``auto.budget`` bounds the effort; ``preprocessing.long_side``, and ``alignment`` and ``illumination``
            where they are ``auto``, are free, all else is kept.
        announce: Told in one line each what was tried, how it fared, and what was chosen.
        progress: Called with (done, total).

    Returns:
        The settings with model, alignment, resolution and scoring filled in, and the record of the choice.

    Raises:
        DatasetError: Fewer than :data:`FEWEST` good pictures, or pictures too small for synthetic defects.
    """
    started = time.perf_counter()
    _check(good)
    found = list(_geometries(good, config, announce))
    hold, learn = _samples(len(good), found, config)
    defects = paint(good, hold, config.training.seed)
    if not defects:
        raise DatasetError(
            "the good pictures are too flat to choose a model by synthetic defects; name one by --model memory"
        )
    trial = _Trial(good, learn, hold, defects, config)
    lights = _LIGHTS if config.preprocessing.illumination == "auto" else ()
    room = _room(trial.pictures, config.auto.budget)
    geometries = _affordable(found, room, tries_of_last=1 + bool(lights))
    steps = len(geometries) + len(lights)
    candidates: list[Candidate] = []
    for done, geometry in enumerate(geometries):
        progress(done, steps)
        candidates += _tried(geometry, trial, announce)
    best = _chosen(_ranked(candidates))[1].geometry
    spent = sum(geometry.megapixels for geometry in geometries)
    for done, method in enumerate(lights, start=len(geometries)):
        progress(done, steps)
        spent += best.megapixels
        if spent <= room:
            candidates += _tried(_levelled(best, method, good, learn), trial, announce)
    progress(steps, steps)
    ranking = _ranked(candidates)
    worth, chosen = _chosen(ranking)
    announce(
        f"chosen: {chosen.words()}; it separates {100 * worth:.1f} % of the telling synthetic defects from held-out "
        f"good pictures, the best of {len(candidates)} candidates {100 * ranking[0][0]:.1f} %"
    )
    record = {
        "chosen": chosen.settings(),
        "worth": worth,
        "seconds": round(time.perf_counter() - started, 2),
        "learned_from": len(trial.learn),
        "held_out": len(trial.hold),
        "synthetic_defects": len(trial.defects),
        "ranking": [
            {**one.settings(), "worth": round(value, 5), "all_defects": round(float(one.found.mean()), 5)}
            for value, one in ranking[:40]
        ],
    }
    return _filled_in(config, chosen), record


def _check(good: GoodPictures) -> None:
    if len(good) < FEWEST:
        raise DatasetError(
            f"found {len(good)} good training pictures; to choose a model at least {FEWEST} are needed: "
            "add pictures or name one by --model memory"
        )
    smallest = min(min(shape) for shape in good.shapes)
    if smallest < SMALLEST_SIDE:
        raise DatasetError(
            f"pictures of {smallest} pixels are too small to choose a model by; name one by --model memory"
        )


def _geometries(
    good: GoodPictures, config: SpotterConfig, announce: Callable[[str], None]
) -> Iterator[Geometry]:
    """Alignments and resolutions, cheapest first."""
    aligners: list[Aligner | None] = [None]
    if config.preprocessing.alignment != "none":
        try:
            aligners.append(fit_aligner("template", good)[0])
        except AlignmentError as error:
            announce(f"not aligned: {error}")
    shown = np.unique(np.linspace(0, len(good) - 1, _OUTLINES).astype(int)).tolist()
    found = []
    for aligner in aligners:
        frame = max(max(shape) for shape in good.shapes) if aligner is None else max(aligner.frame)
        native = -(-frame // MULTIPLE) * MULTIPLE
        sides = [side for side in _SIDES if side * _APART <= native]
        for side in [*sides, native] if native <= _SIDES[-1] else sides:
            settings = config.preprocessing.model_copy(update={"long_side": side})
            sizes = [(width, height) for height, width in good.shapes]
            preprocessor = Preprocessor.fit(
                settings, sizes, is_grey=good.is_grey, white_level=good.white_level, aligner=aligner
            )
            if config.preprocessing.background == "ignore":
                region = part_region((good[index] for index in shown), preprocessor)
                preprocessor = dataclasses.replace(preprocessor, region=region)
            found.append(Geometry(aligner, side, preprocessor))
    yield from sorted(found, key=lambda geometry: geometry.megapixels)


def _room(pictures: int, budget: float) -> float:
    """Megapixels of canvas that can be tried with so many pictures."""
    return _SHARE * budget / (pictures * _SECONDS_PER_MEGAPIXEL)


def _samples(
    count: int, geometries: Sequence[Geometry], config: SpotterConfig
) -> tuple[list[int], list[int]]:
    """Pictures to test on and to learn from: as many as let all resolutions up to a good one be tried."""
    order = np.random.default_rng(config.training.seed).permutation(count)
    wanted = sum(geometry.megapixels for geometry in geometries if geometry.long_side <= _SEEN_WELL)
    for shrink in _SHRINKS:
        held = min(round(shrink * _HOLD), round(0.4 * count))
        learned = min(round(shrink * _LEARN), count - held)
        if wanted <= _room(learned + (2 + DEFECTS) * held, config.auto.budget):
            break
    return order[:held].tolist(), order[held : held + learned].tolist()


def _affordable(geometries: Sequence[Geometry], room: float, tries_of_last: int = 1) -> list[Geometry]:
    """The cheapest ones within the room, at least one; the last one is tried so often."""
    chosen: list[Geometry] = []
    spent = 0.0
    for geometry in geometries:
        if chosen and spent + tries_of_last * geometry.megapixels > room:
            break
        chosen.append(geometry)
        spent += geometry.megapixels
    return chosen


def _levelled(
    geometry: Geometry, method: Literal["robust", "background"], good: _Pictures, learn: Sequence[int]
) -> Geometry:
    """The same with light normalisation."""
    preprocessor = geometry.preprocessor
    canvases = (preprocessor.prepare(good[index], preprocessor.place(good[index])) for index in learn)
    light = Illumination.fit(method, canvases)
    return dataclasses.replace(geometry, preprocessor=dataclasses.replace(preprocessor, illumination=light))


def _tried(geometry: Geometry, trial: _Trial, announce: Callable[[str], None]) -> list[Candidate]:
    """All models and scorings at one geometry, the best of them announced."""
    candidates = list(_candidates(geometry, trial))
    if candidates:
        best = _ranked(candidates)[0][1]
        announce(f"tried {best.words()}: finds {100 * float(best.found.mean()):.1f} % of synthetic defects")
    return candidates


def _candidates(geometry: Geometry, trial: _Trial) -> Iterator[Candidate]:
    from anomaly_spotter.models.grids import GoodGrids

    good, hold, config = trial.good, trial.hold, trial.config

    def canvas(pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        place = geometry.preprocessor.place(pixels)
        return None if place.reason is not None else geometry.preprocessor.prepare(pixels, place)

    learned = [found for index in trial.learn if (found := canvas(good[index])) is not None]
    if len(learned) < 2:
        return
    grids = GoodGrids.fit(learned, config.model, config.training.seed)
    kinds = list(_models(geometry, config.model.dimensions))
    models = []
    for name, places in kinds:
        settings = config.model.model_copy(update={"name": name, "places": places})
        models.append(feature_model(name).fit(grids, settings, config.training.seed)[0])
    features = grids.features
    del grids, learned  # as large as all that is computed below together
    maps: list[list[NDArray[np.float32] | None]] = [[] for _ in models]
    lit = (relit(good[index], *_LIGHT[number % 2]) for number, index in enumerate(hold))
    for pixels in chain((good[index] for index in hold), lit, trial.defects):
        one = canvas(pixels)
        grid = None if one is None else features.of(one)
        for model, own in zip(models, maps, strict=True):
            own.append(None if grid is None else model.distances(grid).numpy())
    counts = _counting_cells(geometry.preprocessor)
    for (name, places), own in zip(kinds, maps, strict=True):
        for scoring in _scorings(config.scoring):
            scores = _scores(own, len(hold), scoring, counts)
            shares = _found(scores[: 2 * len(hold)], scores[2 * len(hold) :])
            yield Candidate(geometry, name, places, scoring, shares)


def _models(
    geometry: Geometry, dimensions: int
) -> Iterator[tuple[Literal["memory", "gaussian"], Literal["local", "global"]]]:
    """Places mean something on aligned parts; pictures as taken may also be textures."""
    yield "memory", "local"
    if geometry.megapixels * 1e6 / CELL**2 * dimensions**2 <= _MOST_FACTORS:
        yield "gaussian", "local"
    if geometry.aligner is None:
        yield "memory", "global"
        yield "gaussian", "global"


def _scorings(base: ScoringConfig) -> Iterator[ScoringConfig]:
    for sigma in _SMOOTHING:
        for fraction in _FRACTIONS:
            for normalise in ("none", "location"):
                pooling = (
                    {"pooling": "top_mean", "top_fraction": fraction} if fraction else {"pooling": "max"}
                )
                yield base.model_copy(update={"smoothing_sigma": sigma, "normalise": normalise, **pooling})


def _counting_cells(preprocessor: Preprocessor) -> NDArray[np.bool_]:
    """``bool [h, w]``, where defects count."""
    shape = (preprocessor.height // CELL, preprocessor.width // CELL)
    if preprocessor.region is None:
        return np.ones(shape, np.bool_)
    region = preprocessor.region.astype(np.float32)
    return np.asarray(cv2.resize(region, shape[::-1], interpolation=cv2.INTER_AREA) > 0.5)


def _scores(
    maps: Sequence[NDArray[np.float32] | None],
    held: int,
    scoring: ScoringConfig,
    counts: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Image scores of maps ``[h, w]``, the first ``held`` of good pictures; a refused part scores infinitely.

    Cells that do not count, ``bool [h, w]``, are as calm as the calmest one that does.
    """
    smoothed = [None if one is None else smooth(one, scoring.smoothing_sigma / CELL) for one in maps]
    location = None
    if scoring.normalise == "location":
        location = LocationScale.fit((one for one in smoothed[:held] if one is not None), cell=1)
    scores = []
    for position, one in enumerate(smoothed):
        if one is None:
            scores.append(np.inf)
            continue
        if location is not None:  # a held-out picture must not be measured against itself
            own = location.without(one) if position < held else location
            one = own.apply(one)
        scores.append(image_score(np.where(counts, one, one[counts].min()), scoring))
    return np.array(scores)


def _found(good: NDArray[np.float64], defects: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each defect the share of good pictures it scores above, ties half: their mean is the AUROC."""
    ordered = np.sort(good)
    below = np.searchsorted(ordered, defects, side="left")
    upto = np.searchsorted(ordered, defects, side="right")
    return (below + upto) / 2 / len(ordered)


def _weights(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """Of the defects: how much candidates differ on them."""
    return np.asarray(np.stack([one.found for one in candidates]).std(axis=0) + _LEAST_WEIGHT, np.float64)


def _ranked(candidates: Sequence[Candidate]) -> list[tuple[float, Candidate]]:
    """Candidates with their worth, best first."""
    weights = _weights(candidates)
    worth = np.array([one.found @ weights / weights.sum() for one in candidates])
    order = np.argsort(-worth, kind="stable")
    return [(float(worth[index]), candidates[index]) for index in order]


def _chosen(ranking: Sequence[tuple[float, Candidate]]) -> tuple[float, Candidate]:
    """The cheapest resolution that ties with the best, and there the simplest candidate not noticeably worse.

    Not noticeably worse is within one standard error of the difference over the defects (Breiman et al., *Classification
    and regression trees*, 1984). Simpler assumes less: the light as it is, no statistics of each place, no distribution.
    """
    tied = [one for worth, one in ranking if worth >= ranking[0][0] - _TIE]
    geometry = min(tied, key=lambda one: one.geometry.megapixels).geometry
    rivals = [
        (worth, one)
        for worth, one in ranking
        if one.geometry.aligner is geometry.aligner and one.geometry.long_side == geometry.long_side
    ]
    weights = _weights([one for _, one in ranking])
    best = rivals[0][1]

    def is_noticeably_worse(one: Candidate) -> bool:
        lost = (best.found - one.found) * weights
        return float(lost.sum()) > float(np.sqrt(((lost - lost.mean()) ** 2).sum()))

    return min(
        (entry for entry in rivals if not is_noticeably_worse(entry[1])),
        key=lambda entry: (
            entry[1].geometry.light != "none",
            entry[1].scoring.normalise != "none",
            entry[1].model != "memory",
            -entry[0],
        ),
    )


def _filled_in(config: SpotterConfig, chosen: Candidate) -> SpotterConfig:
    alignment = "none" if chosen.geometry.aligner is None else "template"
    return config.model_copy(
        update={
            "preprocessing": config.preprocessing.model_copy(
                update={
                    "alignment": alignment,
                    "illumination": chosen.geometry.light,
                    "long_side": chosen.geometry.long_side,
                }
            ),
            "model": config.model.model_copy(update={"name": chosen.model, "places": chosen.places}),
            "scoring": chosen.scoring,
        }
    )
