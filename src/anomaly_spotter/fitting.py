"""Good pictures -> fitted detector: decode once, split, train, calibrate. Nothing of a test split is ever read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tempfile
import time
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from anomaly_spotter import provenance
from anomaly_spotter.errors import ConfigError, DatasetError
from anomaly_spotter.extras import needed, require
from anomaly_spotter.files import clear_parts, write_json
from anomaly_spotter.inputs.alignment import AlignmentError, fit_aligner
from anomaly_spotter.inputs.decode import read_picture
from anomaly_spotter.inputs.illumination import Illumination
from anomaly_spotter.inputs.preprocess import Preprocessor
from anomaly_spotter.inputs.region import part_region, region_on_canvas
from anomaly_spotter.inputs.store import Canvases, read_good
from anomaly_spotter.inputs.synthetic import SMALLEST_SIDE, SYNTHETIC_KINDS, corrupt
from anomaly_spotter.known import Known
from anomaly_spotter.models import feature_model
from anomaly_spotter.models.keras_import import keras_module
from anomaly_spotter.processes import leads
from anomaly_spotter.scoring import conformal
from anomaly_spotter.scoring.calibration import Calibration
from anomaly_spotter.scoring.decision import placed_map
from anomaly_spotter.scoring.extent import best_share
from anomaly_spotter.scoring.location import LocationScale
from anomaly_spotter.scoring.maps import smooth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.config import CalibrationConfig, PreprocessingConfig, SpotterConfig
    from anomaly_spotter.inputs.alignment import Aligner
    from anomaly_spotter.inputs.layouts import Dataset
    from anomaly_spotter.inputs.store import GoodPictures
    from anomaly_spotter.models.base import AnomalyModel, InspectingModel, LeftOut

Progress: TypeAlias = "Callable[[str, int, int], None]"
FEWEST_PICTURES = 4  # two to learn from, one to stop by, one to calibrate on
BATCH = 8
_MARKED = 60  # good pictures that synthetic defects are painted on to learn the extent of marks
_SAMPLE = 64  # good pictures that tell the normal light, and where the part lies
_RUN_FILES = (
    "last.ckpt",
    "best.ckpt",
    "last.safetensors",
    "best.safetensors",
    "history.jsonl",
    "pictures.u8",
)


@dataclass(frozen=True, slots=True)
class Split:
    """Disjoint index arrays ``int64`` into the good pictures."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    calibration: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What fitting leaves: the parts of a Spotter."""

    config: SpotterConfig
    preprocessor: Preprocessor
    model: InspectingModel
    calibration: Calibration
    location: LocationScale | None
    provenance: dict[str, Any]
    known: Known


@dataclass(frozen=True, slots=True)
class _Learned:
    """A fitted model, and how good pictures look to models that do not know them."""

    model: InspectingModel
    left_out: LeftOut
    counts: dict[str, int]
    facts: dict[str, Any]


def fit(
    dataset: Dataset,
    config: SpotterConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    skip_bad: bool = False,
    show_progress: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> Fitted:
    """Fit a detector on the good training pictures of ``dataset``.

    Args:
        dataset: Only its training samples are read.
        config: All settings; the model ``auto`` and the alignment ``auto`` are settled on the way.
        run_dir: Checkpoints and the history: a new folder, or that of an earlier run, which is then replaced unless
            ``resume``.
        resume: Continue an interrupted run with the same settings and pictures to the same result.
        skip_bad: Leave unusable pictures out instead of stopping.
        show_progress: Draw a progress bar for training on the terminal.
        progress: Called with (stage, done, total), for example ("reading", 3, 320).
        announce: Told in one line each what the user should know before training starts.

    Raises:
        DatasetError: Unusable or too few pictures, or no part to align by where alignment was asked for.
        ConfigError: ``resume`` with other settings or pictures than the run began with, or ``run_dir`` is a folder
            with something else in it.
        MissingExtraError: PyTorch or Lightning is not installed.
        Interrupted: Ctrl-C before anything worth keeping existed.
    """
    if not dataset.train:
        raise DatasetError(
            f"{dataset.root}: no good training pictures with layout {dataset.layout}; add some or name another layout"
        )
    require("train", "training needs PyTorch", "torch")
    if config.training.framework == "keras":
        require("keras", "training in Keras needs it", "keras")
    leading = leads(config.training)
    if not leading:
        show_progress, progress, announce = False, None, None
    tell, report = announce or (lambda _: None), progress or (lambda *_: None)
    started = time.perf_counter()
    digest = dataclasses.replace(
        dataset, samples=dataset.train
    ).digest()  # what training depends on, nothing else
    spill = run_dir / "pictures.u8"
    if leading:
        _open_run(run_dir, {"config": config.to_dict(), "data_sha256": digest}, resume)
    else:
        spill = Path(tempfile.gettempdir()) / f"anomaly-spotter-{uuid.uuid4().hex}.u8"
    try:
        good = read_good(
            [sample.path for sample in dataset.train], skip_bad=skip_bad, progress=partial(report, "reading")
        )
        _check_count(len(good))
        chosen, choice = _settled(good, config, tell, report)
        if chosen.model.name != "unet" and chosen.training.devices * chosen.training.nodes > 1:
            tell(
                f"{chosen.model.name} learns in one pass, without gradients: several devices bring nothing to it"
            )
        preprocessor = fit_preprocessor(good, chosen.preprocessing, tell, report)
        canvases, refused = judged(Canvases(good, preprocessor))
        _check_count(len(canvases))
        for remark in _remarks(good, refused, len(canvases), chosen):
            tell(remark)
        learned = _learn(canvases, chosen, run_dir, spill, report, resume=resume, show_progress=show_progress)
        calibration, location = calibrate(canvases, learned.left_out, chosen, len(refused))
        if chosen.scoring.mask == "calibrated":
            share = learn_mask_share(canvases, learned.model, calibration, location, chosen)
            calibration = dataclasses.replace(calibration, mask_share=share)
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a mapped file; the next run replaces it
            spill.unlink(missing_ok=True)
    return Fitted(
        chosen,
        preprocessor,
        learned.model,
        calibration,
        location,
        {
            **provenance.stamp(),
            "category": dataset.category,
            "layout": dataset.layout,
            "data_sha256": digest,
            "preset": config.preset,
            "model": chosen.model.name,
            "asked": config.to_dict(),
            "auto": choice,
            "alignment": "none" if preprocessor.aligner is None else chosen.preprocessing.alignment,
            "seed": config.training.seed,
            "train_counts": learned.counts,
            **learned.facts,
            "fit_seconds": round(time.perf_counter() - started, 2),
            "skipped": [reason for _, reason in good.skipped] + list(refused.values()),
            "notes": dict(good.notes),
        },
        Known.of(good.fingerprints, canvases),
    )


def fit_preprocessor(
    good: GoodPictures,
    config: PreprocessingConfig,
    announce: Callable[[str], None] = lambda _: None,
    report: Progress = lambda *_: None,
) -> Preprocessor:
    """Learn alignment, canvas, light and region of interest.

    Raises:
        AlignmentError: Alignment was asked for and no part stands out.
        DatasetError: The region of interest cannot be used.
    """
    aligner = _fit_aligner(good, config, announce, report)
    preprocessor = Preprocessor.fit(
        config,
        [(width, height) for height, width in good.shapes],
        is_grey=good.is_grey,
        white_level=good.white_level,
        aligner=aligner,
    )
    chosen = np.unique(np.linspace(0, len(good) - 1, _SAMPLE).astype(int)).tolist()
    if config.illumination in ("robust", "background"):
        pictures = (good[index] for index in chosen)
        canvases = (preprocessor.prepare(picture, preprocessor.place(picture)) for picture in pictures)
        light = Illumination.fit(config.illumination, canvases)
        preprocessor = dataclasses.replace(preprocessor, illumination=light)
    if config.region is not None:
        reference = good[0] if config.region_on is None else read_picture(config.region_on).pixels
        drawn = region_on_canvas(config.region, reference, preprocessor)
        preprocessor = dataclasses.replace(preprocessor, region=drawn)
    elif config.background == "ignore":
        learned = part_region((good[index] for index in chosen), preprocessor)
        preprocessor = dataclasses.replace(preprocessor, region=learned)
    return preprocessor


def judged(canvases: Canvases) -> tuple[Canvases, dict[int, str]]:
    """The good pictures whose part can be judged, and why the others cannot, by their index."""
    refused = {
        index: f"{canvases.name(index)}: {reason}"
        for index in range(len(canvases))
        if (reason := canvases.place(index).reason) is not None
    }
    return canvases.without(refused), refused


def calibrate(
    canvases: Canvases, left_out: LeftOut, config: SpotterConfig, refused: int = 0
) -> tuple[Calibration, LocationScale | None]:
    """Fix what scores mean from the maps of good pictures by models that do not know them."""
    sigma = config.scoring.smoothing_sigma
    location = None
    if config.scoring.normalise == "location":
        location = LocationScale.fit(smooth(canvas_map, sigma) for _, canvas_map in left_out())
    return (
        Calibration.fit(
            left_out_maps(canvases, left_out, config, location), config.scoring, config.calibration, refused
        ),
        location,
    )


def learn_mask_share(
    canvases: Canvases,
    model: InspectingModel,
    calibration: Calibration,
    location: LocationScale | None,
    config: SpotterConfig,
) -> float:
    """From synthetic defects on good pictures, how far marks should reach; see :mod:`~anomaly_spotter.scoring.extent`."""
    chosen = np.unique(np.linspace(0, len(canvases) - 1, _MARKED).astype(int)).tolist()
    return best_share(
        _marked(canvases, chosen, model, calibration, location, config), calibration.pixel_threshold
    )


def _marked(
    canvases: Canvases,
    chosen: Sequence[int],
    model: InspectingModel,
    calibration: Calibration,
    location: LocationScale | None,
    config: SpotterConfig,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Pixel scores and true extents of the synthetic defects that are found."""
    for number, index in enumerate(chosen):
        good, place = canvases[index], canvases.place(index)
        if min(good.shape[:2]) < SMALLEST_SIDE:
            continue
        rng = np.random.default_rng([config.training.seed, index])
        kind = SYNTHETIC_KINDS[number % len(SYNTHETIC_KINDS)]
        corrupted, truth = corrupt(good, canvases[chosen[number - 1]], rng, kinds=[kind])
        maps, _ = model.anomaly_maps(corrupted[None])
        raw = placed_map(maps[0], place, config.scoring, location)
        if truth.any() and calibration.score(raw, config.scoring) > calibration.threshold:
            yield calibration.normalise(raw), place.crop(truth)


def left_out_maps(
    canvases: Canvases, left_out: LeftOut, config: SpotterConfig, location: LocationScale | None
) -> Iterator[NDArray[np.float32]]:
    """Smoothed maps of good pictures, as scoring sees them, one by one."""
    for index, canvas_map in left_out():
        own = (
            None if location is None else location.without(smooth(canvas_map, config.scoring.smoothing_sigma))
        )
        yield placed_map(canvas_map, canvases.place(index), config.scoring, own)


def fit_model(
    canvases: Sequence[NDArray[np.uint8]],
    config: SpotterConfig,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[AnomalyModel, LeftOut]:
    """Build a memory or Gaussian model of all good canvases."""
    from anomaly_spotter.models.grids import GoodGrids

    good = GoodGrids.fit(canvases, config.model, config.training.seed, progress)
    return feature_model(config.model.name).fit(good, config.model, config.training.seed)


def _learn(
    canvases: Canvases,
    config: SpotterConfig,
    run_dir: Path,
    spill: Path,
    report: Progress,
    *,
    resume: bool,
    show_progress: bool,
) -> _Learned:
    if config.model.name != "unet":
        model, left_out = fit_model(canvases, config, partial(report, "learning"))
        counts = {"train": len(canvases), "validation": 0, "calibration": len(canvases)}
        return _Learned(model, left_out, counts, {"epochs": 0, "interrupted": False, "history": []})
    train_unet = _import_training(config.training.framework)
    split = split_good(len(canvases), config)
    pictures = canvases.stacked(spill)
    result = train_unet(
        pictures,
        split.train,
        split.validation,
        config,
        run_dir,
        resume=resume,
        show_progress=show_progress,
        spill=spill,
    )
    return _Learned(
        result.model,
        partial(_held_out_maps, result.model, pictures, split.calibration),
        {
            "train": len(split.train),
            "validation": len(split.validation),
            "calibration": len(split.calibration),
        },
        {
            "epochs": len(result.history),
            "interrupted": result.interrupted,
            "history": result.history,
            "train_pictures_per_second": round(result.pictures_per_second, 2),
            "framework": result.framework,
        },
    )


def split_good(count: int, config: SpotterConfig) -> Split:
    """Split good pictures by the seed: calibration first, then validation, the rest trains.

    Calibration takes as many as the asked rate needs, within ``calibration.min_fraction`` and ``max_fraction`` of all.

    Raises:
        DatasetError: Fewer than :data:`FEWEST_PICTURES`.
    """
    _check_count(count)
    calibration = _calibration_count(count, config.calibration)
    validation = max(1, round(config.training.validation_fraction * (count - calibration)))
    order = np.random.default_rng(config.training.seed).permutation(count)
    parts = np.split(order, [calibration, calibration + validation])
    return Split(train=np.sort(parts[2]), validation=np.sort(parts[1]), calibration=np.sort(parts[0]))


def _held_out_maps(
    model: InspectingModel, pictures: NDArray[np.uint8], indices: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for start in range(0, len(indices), BATCH):
        chosen = indices[start : start + BATCH]
        maps, _ = model.anomaly_maps(np.asarray(pictures[chosen]))
        yield from zip(chosen.tolist(), maps, strict=True)


def _settled(
    good: GoodPictures, config: SpotterConfig, announce: Callable[[str], None], report: Progress
) -> tuple[SpotterConfig, dict[str, Any] | None]:
    """The settings with every ``auto`` of the model resolved, and the record of how."""
    if config.model.name != "auto":
        return config, None
    from anomaly_spotter.auto import choose

    return choose(good, config, announce, partial(report, "choosing"))


def _fit_aligner(
    good: GoodPictures, config: PreprocessingConfig, announce: Callable[[str], None], report: Progress
) -> Aligner | None:
    if config.alignment == "none":
        return None
    try:
        method: Literal["foreground", "template"] = (
            "template" if config.alignment == "auto" else config.alignment
        )
        return fit_aligner(method, good, progress=partial(report, "aligning"))[0]
    except AlignmentError as error:
        if config.alignment != "auto":
            raise
        announce(f"not aligned: {error}")
        return None


def _check_count(count: int) -> None:
    if count < FEWEST_PICTURES:
        raise DatasetError(
            f"found {count} good training picture{'' if count == 1 else 's'}; "
            f"at least {FEWEST_PICTURES} are needed, a few dozen make sense"
        )


def _calibration_count(count: int, config: CalibrationConfig) -> int:
    needed = conformal.pictures_needed(config.false_reject_rate, config.confidence)
    wanted = max(needed, math.floor(count * config.min_fraction))
    return max(1, min(wanted, math.floor(count * config.max_fraction)))


def _remarks(
    good: GoodPictures, refused: Mapping[int, str], count: int, config: SpotterConfig
) -> Iterator[str]:
    yield from (f"left out: {reason}" for _, reason in good.skipped)
    yield from (f"left out: {reason}" for reason in refused.values())
    yield from (f"{number} pictures: {note}" for note, number in good.notes.items())
    wanted = config.calibration
    scores = _calibration_count(count, wanted) if config.model.name == "unet" else count
    promise = conformal.promise(
        scores + len(refused), wanted.false_reject_rate, wanted.confidence, len(refused)
    )
    if not promise.is_kept:
        yield f"warning: {promise.words(conformal.held_out_share(config))}"


def _open_run(run_dir: Path, identity: dict[str, Any], resume: bool) -> None:
    """Bind the run folder to its settings and pictures, so that a resume cannot mix two runs."""
    record = run_dir / "run.json"
    if resume and record.is_file():
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:
            raise ConfigError(f"{record} is damaged; leave --resume out to start over") from None
        changed = [key for key in identity if before.get(key) != identity[key]]
        if changed:
            what = "settings" if "config" in changed else "good pictures"
            raise ConfigError(
                f"cannot resume the run in {run_dir}: its {what} differ; repeat the first call's settings and "
                "pictures, or leave --resume out to start over"
            )
        clear_parts(run_dir)
        return
    if run_dir.is_dir() and any(run_dir.iterdir()) and not record.is_file():
        raise ConfigError(f"{run_dir} holds something else than an earlier run; choose a new folder")
    for name in _RUN_FILES:
        (run_dir / name).unlink(missing_ok=True)
    clear_parts(run_dir)
    write_json(record, identity)


def _import_training(framework: str) -> Callable[..., Any]:
    with needed("train", "training needs PyTorch and Lightning", "torch", "lightning"):
        from anomaly_spotter.training import train_unet
    if framework == "torch":
        return train_unet
    train_in_keras: Callable[..., Any] = keras_module("keras_training").train_unet
    return train_in_keras
