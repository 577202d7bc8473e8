"""Living with a detector: more good pictures, another promise, a few known defects. The old detector stays as it is.

Every change returns a new detector, and its provenance tells under ``changes`` which detector it came from, what was
added and when.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from anomaly_spotter import provenance
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import ConfigError, DatasetError, PictureError, SpotterError
from anomaly_spotter.extras import require
from anomaly_spotter.fitting import BATCH, judged
from anomaly_spotter.inputs.condition import conditions_of
from anomaly_spotter.inputs.layouts import Dataset, load_dataset
from anomaly_spotter.inputs.store import Canvases, read_good
from anomaly_spotter.known import Known
from anomaly_spotter.metrics import auroc
from anomaly_spotter.scoring.binomial import chances_of_at_most
from anomaly_spotter.scoring.calibration import Calibration
from anomaly_spotter.scoring.decision import placed_map
from anomaly_spotter.scoring.maps import image_score
from anomaly_spotter.scoring.rates import RATES, RateRow, rate_table
from anomaly_spotter.spotter import Spotter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.fitting import Progress
    from anomaly_spotter.inputs.store import GoodPictures
    from anomaly_spotter.models.base import FeatureModel, InspectingModel, LeftOut

_SURPRISING = 1e-3  # chance below which the number of rejected pictures is worth a warning
_APART = 3.3  # deviations of the rank sum from which old and new scores are called different


@dataclass(frozen=True, slots=True)
class KnownDefects:
    """What a detector makes of known defects.

    Attributes:
        rows: One per false reject rate, highest first.
        pictures: Each picture with its score; the decision limit in force is ``threshold``.
        threshold: The decision limit in force, which was not moved.
        unreadable: One line for every picture that could not be used.
    """

    rows: tuple[RateRow, ...]
    pictures: tuple[tuple[Path, float], ...]
    threshold: float
    unreadable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Fresh:
    """Good pictures that a detector does not know yet.

    Attributes:
        good: All pictures in the folder.
        canvases: Those that are new and whose part can be judged.
        refused: Why the part on others cannot be judged, by index.
        fingerprints: Of all that are new.
        known: How many are not new.
        digest: SHA-256 of the folder's pictures.
    """

    good: GoodPictures
    canvases: Canvases
    refused: dict[int, str]
    fingerprints: frozenset[int]
    known: int
    digest: str

    def scored(self, calibrated: Collection[int]) -> set[int]:
        """Canvases that do not stand behind a calibration score yet."""
        return {
            index
            for index, number in enumerate(self.canvases.chosen)
            if self.good.fingerprints[number] not in calibrated
        }


def extend(
    spotter: Spotter,
    good: str | Path | Dataset,
    *,
    skip_bad: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> Spotter:
    """Teach a detector more good pictures, and let them take part in its calibration.

    A memory grows, Gaussians are updated; the weights of a network stay, so there the pictures only calibrate. Pose,
    canvas, light and what is usual at each place stay too. A picture that the detector rejects is taken nevertheless:
    corrected false alarms are what this is for.

    The calibration scores of the new pictures come from models that do not know the picture itself, but all other new
    and old ones. The old scores stay. They were measured against a smaller memory, where the nearest neighbour can
    only be farther, so they are at most too high and the promise stays valid; for Gaussians, and for a memory that is
    full, this holds approximately. It needs pictures that were not picked by their scores: give all good parts of a
    shift. Only the rejected ones make the limit higher than it need be; only the accepted ones make it too low.

    Args:
        spotter: The detector; it stays as it is.
        good: A folder of good pictures, or a data set whose good training pictures are taken.
        skip_bad: Leave unusable pictures out instead of raising.
        progress: Called with (stage, done, total).
        announce: Told in one line each what the user should know about the pictures.

    Raises:
        DatasetError: Unusable pictures, or none that is new and shows a part that can be judged.
        BundleError: The detector's file was written by a version that stored too little.
        MissingExtraError: PyTorch is not installed, and the model learns.
        ConfigError: PyTorch does not run the model, and the model learns.
    """
    tell, report = announce or (lambda _: None), progress or (lambda *_: None)
    learns = spotter.config.model.name != "unet"
    if learns and not hasattr(spotter.model, "extended"):
        require("train", "teaching a model needs PyTorch", "torch")
        raise ConfigError("only PyTorch can teach a model; load it with engine='torch'")
    known = spotter.known.learned if learns else spotter.known.learned | spotter.known.calibrated
    fresh = _read(spotter, good, known, tell, report, skip_bad=skip_bad)
    rejected = _rejected(spotter, fresh, tell)
    model, left_out = _taught(spotter, fresh.canvases, report)
    scored = fresh.scored(spotter.known.calibrated)
    maps = (
        placed_map(canvas_map, fresh.canvases.place(index), spotter.config.scoring, spotter.location)
        for index, canvas_map in left_out()
        if index in scored
    )
    refused = sum(fresh.good.fingerprints[index] not in spotter.known.calibrated for index in fresh.refused)
    calibration = spotter.calibration.with_more(
        maps, spotter.config.scoring, spotter.config.calibration, refused
    )
    counts = spotter.provenance.get("train_counts", {})
    return Spotter(
        spotter.config,
        spotter.preprocessor,
        model,
        calibration,
        {
            **_changed(spotter, "extend", fresh, rejected=rejected),
            "train_counts": {
                **counts,
                "train": counts.get("train", 0) + (len(fresh.canvases) if learns else 0),
                "calibration": len(calibration.scores),
            },
        },
        spotter.location,
        Known(
            spotter.known.learned | (fresh.fingerprints if learns else frozenset()),
            spotter.known.calibrated | fresh.fingerprints,
            spotter.known.examples,
            spotter.known.with_conditions_of(fresh.canvases),
        ),
    )


def recalibrate(
    spotter: Spotter,
    good: str | Path | Dataset | None = None,
    *,
    false_reject_rate: float | None = None,
    confidence: float | None = None,
    on_average: bool = False,
    skip_bad: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> Spotter:
    """Fix the decision limit anew; what the detector has learned stays.

    Args:
        spotter: The detector; it stays as it is.
        good: Good pictures that alone calibrate. The detector must not have learned from them, since pictures it
            knows look better to it than new parts will; equal ones are left out. Without them, the stored calibration
            scores are used, and only the rate or the confidence changes.
        false_reject_rate: Share of good parts that may be rejected; as before if not given.
        confidence: Promise the rate with this confidence; as before if not given.
        on_average: Promise the rate on average over calibrations, without a confidence.
        skip_bad: Leave unusable pictures out instead of raising.
        progress: Called with (stage, done, total).
        announce: Told in one line each what the user should know about the pictures.

    Raises:
        ConfigError: A rate or confidence out of range.
        DatasetError: Unusable pictures, or none that is new and shows a part that can be judged.
        SpotterError: Nothing to change, or both a confidence and ``on_average``.
    """
    tell, report = announce or (lambda _: None), progress or (lambda *_: None)
    config = _promising(spotter.config, false_reject_rate, confidence, on_average=on_average)
    if good is None:
        if config == spotter.config:
            raise SpotterError("nothing to change; give good pictures, a false reject rate or a confidence")
        calibration = spotter.calibration.promising(config.calibration)
        story = _changed(spotter, "recalibrate", None)
        return Spotter(
            config, spotter.preprocessor, spotter.model, calibration, story, spotter.location, spotter.known
        )
    fresh = _read(spotter, good, spotter.known.learned, tell, report, skip_bad=skip_bad)
    calibration = Calibration.fit(
        _maps(spotter, fresh.canvases, partial(report, "scoring")),
        config.scoring,
        config.calibration,
        len(fresh.refused),
    )
    for remark in _shifted(spotter.calibration.raw_scores, calibration.raw_scores):
        tell(remark)
    story = _changed(spotter, "recalibrate", fresh)
    story["train_counts"] = {**story.get("train_counts", {}), "calibration": len(calibration.scores)}
    known = Known(
        spotter.known.learned, fresh.fingerprints, spotter.known.examples, conditions_of(fresh.canvases)
    )
    return Spotter(config, spotter.preprocessor, spotter.model, calibration, story, spotter.location, known)


def recall_at_rates(
    spotter: Spotter, defects: Iterable[str | Path], rates: Sequence[float] = RATES
) -> KnownDefects:
    """Score known defects, and tell what share of them each false reject rate would find.

    The limits come from the good calibration scores alone. Whoever chooses a rate by this table keeps the promise of
    that rate, but the recall of the chosen row is then a little too good to be true.

    Raises:
        DatasetError: No picture, or none that can be read.
    """
    pictures: list[tuple[Path, float]] = []
    unreadable: list[str] = []
    for _, found in spotter.inspect_stream(defects, explain=False):
        if isinstance(found, PictureError):
            unreadable.append(str(found))
        else:
            pictures.append((cast("Path", found.source), found.score))
    if not pictures:
        raise DatasetError(f"no readable picture of a defect{f': {unreadable[0]}' if unreadable else ''}")
    rows = rate_table(spotter.calibration, [score for _, score in pictures], rates)
    return KnownDefects(rows, tuple(pictures), spotter.calibration.threshold, tuple(unreadable))


def _read(
    spotter: Spotter,
    good: str | Path | Dataset,
    known: Collection[int],
    tell: Callable[[str], None],
    report: Progress,
    *,
    skip_bad: bool,
) -> _Fresh:
    """The good pictures that are not known, as the detector sees them."""
    dataset = good if isinstance(good, Dataset) else load_dataset(good)
    if not dataset.train:
        raise DatasetError(
            f"{dataset.root}: no good pictures with layout {dataset.layout}; name their folder"
        )
    pictures = read_good(
        [sample.path for sample in dataset.train],
        skip_bad=skip_bad,
        white=spotter.preprocessor.white_level,
        progress=partial(report, "reading"),
    )
    new = [index for index, number in enumerate(pictures.fingerprints) if number not in known]
    for _, reason in pictures.skipped:
        tell(f"left out: {reason}")
    if len(new) < len(pictures):
        tell(f"left out: {len(pictures) - len(new)} pictures that the detector knows already")
    if not new:
        raise DatasetError(
            f"{dataset.root}: the detector knows all {len(pictures)} good pictures already; add new ones"
        )
    everything = Canvases(pictures, spotter.preprocessor, new)
    canvases, refused = judged(everything)
    for reason in refused.values():
        tell(f"counts as rejected: {reason}")
    if not len(canvases):
        raise DatasetError(
            f"{dataset.root}: no new good picture shows a part that can be judged: {next(iter(refused.values()))}"
        )
    return _Fresh(
        pictures,
        canvases,
        {new[index]: reason for index, reason in refused.items()},
        frozenset(pictures.fingerprints[index] for index in new),
        len(pictures) - len(new),
        dataclasses.replace(dataset, samples=dataset.train).digest(),
    )


def _maps(
    spotter: Spotter, canvases: Canvases, report: Callable[[int, int], None]
) -> Iterator[NDArray[np.float32]]:
    """Smoothed maps of good pictures by the detector as it is, as scoring sees them."""
    for index, canvas_map in _raw_maps(spotter.model, canvases):
        yield placed_map(canvas_map, canvases.place(index), spotter.config.scoring, spotter.location)
        report(index + 1, len(canvases))


def _raw_maps(model: InspectingModel, canvases: Canvases) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for start in range(0, len(canvases), BATCH):
        maps, _ = model.anomaly_maps(np.stack(canvases[start : start + BATCH]))
        yield from enumerate(maps, start)


def _rejected(spotter: Spotter, fresh: _Fresh, tell: Callable[[str], None]) -> list[str]:
    """New good pictures that the detector rejects as it is, each told; and a warning if they are surprisingly many."""
    calibration, scoring = spotter.calibration, spotter.config.scoring
    rejected: list[str] = []
    for index, raw_map in enumerate(_maps(spotter, fresh.canvases, lambda *_: None)):
        score = (image_score(raw_map, scoring) - calibration.centre) / calibration.scale
        if score > calibration.threshold:
            rejected.append(fresh.canvases.name(index))
            tell(f"rejected until now, taken as good: {rejected[-1]} (score {score:.3f})")
    count, new = len(rejected) + len(fresh.refused), len(fresh.fingerprints)
    if count and 1 - chances_of_at_most(count - 1, new, calibration.promise.rate)[-1] < _SURPRISING:
        tell(
            f"warning: {count} of {new} new good pictures were rejected until now, more than the promise allows. "
            "If they were picked because they were rejected, the new limit is higher than it need be: add the accepted "
            "ones of the same days too. If not, parts, camera or light have changed: recalibrate on pictures of now"
        )
    return [*rejected, *(fresh.refused.values())]


def _taught(spotter: Spotter, canvases: Canvases, report: Progress) -> tuple[InspectingModel, LeftOut]:
    """The model with the new pictures, and their raw maps by models that do not know the picture itself."""
    if spotter.config.model.name == "unet":
        return spotter.model, partial(_raw_maps, spotter.model, canvases)
    from anomaly_spotter.models.grids import GoodGrids

    old, seed = cast("FeatureModel", spotter.model), spotter.config.training.seed
    grids = GoodGrids.of(old.features, canvases, seed, partial(report, "learning"))
    return old.extended(grids, spotter.config.model, seed)


def _promising(
    config: SpotterConfig, rate: float | None, confidence: float | None, *, on_average: bool
) -> SpotterConfig:
    if on_average and confidence is not None:
        raise SpotterError("a promise is either on average or with a confidence; give one of them")
    tree = config.to_dict()
    if rate is not None:
        tree["calibration"]["false_reject_rate"] = rate
    if on_average or confidence is not None:
        tree["calibration"]["confidence"] = confidence
    return SpotterConfig.parse(tree)


def _changed(
    spotter: Spotter, how: str, fresh: _Fresh | None, *, rejected: Sequence[str] = ()
) -> dict[str, Any]:
    """The provenance of the new detector: the old one's, and what was done to it."""
    stamp = provenance.stamp()
    change: dict[str, Any] = {
        "how": how,
        "when": stamp["created"],
        "version": stamp["version"],
        "commit": stamp["commit"],
        "parent": spotter.identity,
        "promise_before": dataclasses.asdict(spotter.calibration.promise),
    }
    if fresh is not None:
        change |= {
            "pictures": len(fresh.fingerprints),
            "refused": len(fresh.refused),
            "known_before": fresh.known,
            "rejected_before": list(rejected),
            "data_sha256": fresh.digest,
        }
    return {**spotter.provenance, "changes": [*spotter.provenance.get("changes", []), change]}


def _shifted(old: NDArray[np.float64], new: NDArray[np.float64]) -> Iterator[str]:
    """A remark when the new good scores lie clearly lower or higher than the old ones (Mann & Whitney 1947)."""
    higher = auroc(np.concatenate([old, new]), np.arange(len(old) + len(new)) >= len(old))
    if higher is None:
        return
    apart = (higher - 0.5) * np.sqrt(12 * len(old) * len(new) / (len(old) + len(new) + 1))
    if apart < -_APART:
        yield (
            "warning: these pictures look much better to the detector than those it was calibrated on before; "
            "if it has learned from the same parts, the promise does not hold: give pictures of new parts"
        )
    elif apart > _APART:
        yield (
            "warning: these pictures look much stranger to the detector than those it was calibrated on before; "
            "the limit rises and misses more defects: check camera and light, extend with them, or train again"
        )
