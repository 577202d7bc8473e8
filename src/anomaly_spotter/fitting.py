"""Good pictures -> fitted detector: decode once, split, train, calibrate. Nothing of a test split is ever read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_spotter import provenance
from anomaly_spotter.errors import ConfigError, DatasetError, MissingExtraError
from anomaly_spotter.files import write_json
from anomaly_spotter.inputs.store import load_store
from anomaly_spotter.scoring import conformal
from anomaly_spotter.scoring.calibration import Calibration
from anomaly_spotter.scoring.decision import placed_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.config import CalibrationConfig, SpotterConfig
    from anomaly_spotter.inputs.layouts import Dataset
    from anomaly_spotter.inputs.preprocess import Preprocessor
    from anomaly_spotter.inputs.store import PictureStore
    from anomaly_spotter.models.base import AnomalyModel

FEWEST_PICTURES = 4  # two to learn from, one to stop by, one to calibrate on
BATCH = 8
_RUN_FILES = ("last.ckpt", "best.ckpt", "history.jsonl", "pictures.u8")


@dataclass(frozen=True, slots=True)
class Split:
    """Disjoint index arrays ``int64`` into the good pictures."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    calibration: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What fitting leaves: the parts of a Spotter."""

    preprocessor: Preprocessor
    model: AnomalyModel
    calibration: Calibration
    provenance: dict[str, Any]


def fit(
    dataset: Dataset,
    config: SpotterConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    skip_bad: bool = False,
    show_progress: bool = False,
    decode_progress: Callable[[int, int], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> Fitted:
    """Fit a detector on the good training pictures of ``dataset``.

    Args:
        dataset: Only its training samples are read.
        config: All settings.
        run_dir: Checkpoints and the history: a new folder, or that of an earlier run, which is then replaced unless
            ``resume``.
        resume: Continue an interrupted run with the same settings and pictures to the same result.
        skip_bad: Leave unusable pictures out instead of stopping.
        show_progress: Draw a progress bar for training on the terminal.
        decode_progress: Called with (done, total) while pictures are read.
        announce: Told in one line each what the user should know before training starts.

    Raises:
        DatasetError: Unusable or too few pictures.
        ConfigError: ``resume`` with other settings or pictures than the run began with, or ``run_dir`` is a folder
            with something else in it.
        MissingExtraError: PyTorch or Lightning is not installed.
        Interrupted: Ctrl-C before anything worth keeping existed.
    """
    if not dataset.train:
        raise DatasetError(
            f"{dataset.root}: no good training pictures with layout {dataset.layout}; add some or name another layout"
        )
    train_unet = _import_training()
    started = time.perf_counter()
    digest = dataclasses.replace(
        dataset, samples=dataset.train
    ).digest()  # what training depends on, nothing else
    _open_run(run_dir, {"config": config.to_dict(), "data_sha256": digest}, resume)
    spill = run_dir / "pictures.u8"
    try:
        store = load_store(
            [sample.path for sample in dataset.train],
            config.preprocessing,
            spill,
            skip_bad=skip_bad,
            progress=decode_progress,
        )
        split = split_good(len(store.pictures), config)
        if announce is not None:
            for remark in _remarks(store, split, config):
                announce(remark)
        result = train_unet(
            store.pictures,
            split.train,
            split.validation,
            config,
            run_dir,
            resume=resume,
            show_progress=show_progress,
        )
        calibration = Calibration.fit(
            good_maps(result.model, store, split.calibration, config), config.scoring, config.calibration
        )
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a mapped file; the next run replaces it
            spill.unlink(missing_ok=True)
    return Fitted(
        store.preprocessor,
        result.model,
        calibration,
        {
            **provenance.stamp(),
            "category": dataset.category,
            "layout": dataset.layout,
            "data_sha256": digest,
            "preset": config.preset,
            "model": config.model.name,
            "seed": config.training.seed,
            "train_counts": {
                "train": len(split.train),
                "validation": len(split.validation),
                "calibration": len(split.calibration),
            },
            "epochs": len(result.history),
            "interrupted": result.interrupted,
            "fit_seconds": round(time.perf_counter() - started, 2),
            "train_pictures_per_second": round(result.pictures_per_second, 2),
            "skipped": [reason for _, reason in store.skipped],
            "notes": store.notes,
            "history": result.history,
        },
    )


def split_good(count: int, config: SpotterConfig) -> Split:
    """Split good pictures by the seed: calibration first, then validation, the rest trains.

    Calibration takes as many as the asked rate needs, within ``calibration.min_fraction`` and ``max_fraction`` of all.

    Raises:
        DatasetError: Fewer than :data:`FEWEST_PICTURES`.
    """
    if count < FEWEST_PICTURES:
        raise DatasetError(
            f"found {count} good training picture{'' if count == 1 else 's'}; "
            f"at least {FEWEST_PICTURES} are needed, a few dozen make sense"
        )
    calibration = _calibration_count(count, config.calibration)
    validation = max(1, round(config.training.validation_fraction * (count - calibration)))
    order = np.random.default_rng(config.training.seed).permutation(count)
    parts = np.split(order, [calibration, calibration + validation])
    return Split(train=np.sort(parts[2]), validation=np.sort(parts[1]), calibration=np.sort(parts[0]))


def good_maps(
    model: AnomalyModel, store: PictureStore, indices: NDArray[np.int64], config: SpotterConfig
) -> Iterator[NDArray[np.float32]]:
    """Smoothed raw maps of stored good pictures, as scoring sees them, one by one."""
    for start in range(0, len(indices), BATCH):
        chosen = indices[start : start + BATCH]
        maps, _ = model.anomaly_maps(np.asarray(store.pictures[chosen]))
        for index, canvas_map in zip(chosen.tolist(), maps, strict=True):
            yield placed_map(canvas_map, store.shapes[index], store.preprocessor, config.scoring)


def _calibration_count(count: int, config: CalibrationConfig) -> int:
    needed = conformal.pictures_needed(config.false_reject_rate, config.confidence)
    wanted = max(needed, math.floor(count * config.min_fraction))
    return max(1, min(wanted, math.floor(count * config.max_fraction)))


def _remarks(store: PictureStore, split: Split, config: SpotterConfig) -> Iterator[str]:
    yield from (f"left out: {reason}" for _, reason in store.skipped)
    yield from (f"{count} pictures: {note}" for note, count in store.notes.items())
    wanted = config.calibration
    promise = conformal.promise(len(split.calibration), wanted.false_reject_rate, wanted.confidence)
    if not promise.is_kept:
        yield f"warning: {promise.words(wanted.max_fraction)}"


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
        return
    if run_dir.is_dir() and any(run_dir.iterdir()) and not record.is_file():
        raise ConfigError(f"{run_dir} holds something else than an earlier run; choose a new folder")
    for name in _RUN_FILES:
        (run_dir / name).unlink(missing_ok=True)
    write_json(record, identity)


def _import_training() -> Callable[..., Any]:
    try:
        from anomaly_spotter.training import train_unet
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "lightning"):
            raise
        raise MissingExtraError(
            "training needs PyTorch and Lightning: pip install 'anomaly-spotter[train]'"
        ) from None
    return train_unet
