"""How many good pictures are enough: fits on random subsets of growing size, each measured on pictures it never saw.

Where labelled test pictures exist they measure; else the good pictures that were left out do, and synthetic defects
painted on copies of them. Each (size, repeat) is written as soon as it is there, so that an interrupted run goes on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_spotter import provenance
from anomaly_spotter.errors import ConfigError, DatasetError, PictureError
from anomaly_spotter.extras import require
from anomaly_spotter.files import write_json
from anomaly_spotter.inputs.store import read_ahead
from anomaly_spotter.inputs.synthetic import SMALLEST_SIDE, corrupt
from anomaly_spotter.metrics import image_metrics
from anomaly_spotter.scoring import conformal
from anomaly_spotter.spotter import Spotter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.config import SpotterConfig
    from anomaly_spotter.inputs.layouts import Dataset, Sample

    _Labelled = Iterator[tuple[Path | NDArray[np.uint8], bool]]

SIZES = (5, 10, 20, 50, 100)
"""Numbers of good pictures that a curve has by default."""
MEASURES = ("auroc", "recall", "false_reject_rate", "f1")
"""Keys of a row that are measured, each with ``mean``, ``low`` and ``high`` over the repeats."""
_HELD_OUT = 60  # left-out good pictures that measure at most
_STRENGTHS = (0.35, 0.7, 1.2)  # of the synthetic defects, as the model choice uses them


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """What was measured.

    Attributes:
        summary: The JSON: ``category``, ``config``, ``data_sha256``, ``measured_by`` (``test`` or ``synthetic``),
            ``rows`` (one per size), ``cells`` (one per size and repeat), ``failed`` (reason by cell), ``sentences``.
        file: Where the JSON lies.
        plot: The PNG beside it; ``None`` when nothing could be measured.
    """

    summary: dict[str, Any]
    file: Path
    plot: Path | None


def learning_curve(
    dataset: Dataset,
    config: SpotterConfig,
    out: Path,
    *,
    sizes: Sequence[int] = SIZES,
    repeats: int = 3,
    resume: bool = False,
    announce: Callable[[str], None] = lambda _: None,
) -> LearningCurve:
    """Fit and measure every size ``repeats`` times, and write ``out/learning_curve.json`` and ``.png``.

    Args:
        dataset: Its good training pictures are drawn from; its test pictures measure if both kinds are there.
        config: Settings of every fit.
        out: Folder for the results; ``out/cells`` keeps one file per size and repeat.
        sizes: Numbers of good pictures; those that are not there become all there are.
        repeats: Random subsets per size; larger subsets contain the smaller ones of the same repeat.
        resume: Keep what was measured before with these settings and pictures.
        announce: Told in one line each what happens.

    Raises:
        ConfigError: No size or repeat, or one below 1.
        DatasetError: No good pictures, or no size could be measured.
        MissingExtraError: PyTorch is not installed.
        SpotterError: A file cannot be written.
    """
    if not sizes or min(sizes) < 1 or repeats < 1:
        raise ConfigError(
            f"need sizes and repeats of at least 1; found sizes {list(sizes)}, repeats {repeats}"
        )
    if not dataset.train:
        raise DatasetError(f"{dataset.root}: no good training pictures with layout {dataset.layout}")
    count = len(dataset.train)
    require("train", "a learning curve trains, which needs PyTorch", "torch")
    plan = [
        (size, repeat)
        for size in sorted({min(size, count) for size in sizes})
        for repeat in range(repeats if size < count else 1)
    ]
    if max(sizes) > count:
        announce(f"only {count} good pictures: that is the largest size")
    identity = {"config": config.to_dict(), "data_sha256": dataset.digest()}
    cells: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for number, (size, repeat) in enumerate(plan, start=1):
        name, where = f"{size}-{repeat}", f"[{number}/{len(plan)}] {size} good pictures, draw {repeat + 1}"
        file = out / "cells" / f"{name}.json"
        cell = _finished(file, identity) if resume else None
        try:
            if cell is None:
                announce(where)
                cell = {**identity, **_measure(dataset, config, size, repeat)}
                write_json(file, cell)
            else:
                announce(f"{where}: finished before, kept")
            cells.append({key: value for key, value in cell.items() if key not in identity})
        except DatasetError as error:
            announce(f"{where}: {error}")
            failed[name] = str(error)
    if not cells:
        raise DatasetError(f"no size could be measured: {next(iter(failed.values()))}")
    rows = summarise(cells)
    summary = {
        **provenance.stamp(),
        **identity,
        "category": dataset.category,
        "good_pictures": count,
        "measured_by": "test" if _has_test(dataset) else "synthetic",
        "asked_rate": config.calibration.false_reject_rate,
        "confidence": config.calibration.confidence,
        "sentences": [*trend(rows), missing_pictures(config, count)],
        "rows": rows,
        "cells": cells,
        "failed": failed,
    }
    return _written(summary, out)


def missing_pictures(config: SpotterConfig, count: int) -> str:
    """How many more good pictures the asked rate needs, in one sentence."""
    wanted = config.calibration
    calibration = conformal.pictures_needed(wanted.false_reject_rate, wanted.confidence)
    needed = math.ceil(calibration / conformal.held_out_share(config) - 1e-9)
    trust = "on average" if wanted.confidence is None else f"with {100 * wanted.confidence:.3g} % confidence"
    promise = f"To promise at most {100 * wanted.false_reject_rate:.3g} % false rejects {trust}"
    if count >= needed:
        return f"{promise}, {needed} good pictures are needed; the {count} there are suffice."
    return f"{promise}, {needed} good pictures are needed: {needed - count} more than the {count} there are."


def trend(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the last step of the curve brought, in one sentence; nothing with fewer than two measured sizes."""
    known = [row for row in rows if row["auroc"] is not None]
    if len(known) < 2:
        return []
    *_, (before, last) = pairwise(known)
    gain = last["auroc"]["mean"] - before["auroc"]["mean"]
    spread = max(row["auroc"]["high"] - row["auroc"]["low"] for row in (before, last))
    verdict = (
        "more pictures still help"
        if gain > max(spread / 2, 0.002)
        else "that is within the spread of the draws"
    )
    return [f"From {before['size']} to {last['size']} good pictures AUROC changed by {gain:+.3f}: {verdict}."]


def summarise(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cells to one row per size: the spread of every measure over the repeats, and what was promised."""
    rows = []
    for size in sorted({cell["size"] for cell in cells}):
        chosen = [cell for cell in cells if cell["size"] == size]
        measured = {key: _spread([cell[key] for cell in chosen]) for key in MEASURES}
        rows.append(
            {
                "size": size,
                "repeats": len(chosen),
                **measured,
                "promised_rate": max(cell["promised_rate"] for cell in chosen),
                "is_promised": all(cell["is_promised"] for cell in chosen),
                "fit_seconds": statistics.fmean(cell["fit_seconds"] for cell in chosen),
            }
        )
    return rows


def _measure(dataset: Dataset, config: SpotterConfig, size: int, repeat: int) -> dict[str, Any]:
    """One cell: fit on a random subset, measure on what it never saw."""
    order = np.random.default_rng([config.training.seed, repeat]).permutation(len(dataset.train))
    chosen = tuple(dataset.train[index] for index in sorted(order[:size].tolist()))
    left_out = [dataset.train[index] for index in order[size : size + _HELD_OUT].tolist()]
    started = time.perf_counter()
    spotter = Spotter.fit(dataclasses.replace(dataset, samples=chosen), config=config)
    seconds = time.perf_counter() - started
    labelled = _test(dataset) if _has_test(dataset) else _synthetic(spotter, left_out, config.training.seed)
    scores, labels = _scored(spotter, labelled)
    promise = spotter.calibration.promise
    metrics = image_metrics(scores, labels, spotter.calibration.threshold) if labels else None
    return {
        "size": size,
        "repeat": repeat,
        **{key: None if metrics is None else getattr(metrics, key) for key in MEASURES},
        "good": labels.count(False),
        "defects": labels.count(True),
        "promised_rate": promise.rate,
        "is_promised": promise.is_kept,
        "model": spotter.config.model.name,
        "fit_seconds": round(seconds, 2),
    }


def _has_test(dataset: Dataset) -> bool:
    return {sample.is_defect for sample in dataset.test} == {False, True}


def _test(dataset: Dataset) -> _Labelled:
    yield from ((sample.path, sample.is_defect) for sample in dataset.test)


def _synthetic(spotter: Spotter, left_out: Sequence[Sample], seed: int) -> _Labelled:
    """Left-out good pictures, and copies of each with a synthetic defect, faint to strong."""
    read = read_ahead([sample.path for sample in left_out], spotter.preprocessor.white_level)
    before: NDArray[np.uint8] | None = None
    for number, (_, picture) in enumerate(read):
        if isinstance(picture, PictureError):
            continue
        pixels = picture.pixels
        yield pixels, False
        volume = pixels.reshape(*pixels.shape[:2], -1)
        donor = volume if before is None or before.shape != volume.shape else before
        before = volume
        for strength in _STRENGTHS if min(pixels.shape[:2]) >= SMALLEST_SIDE else ():
            rng = np.random.default_rng([seed, number, round(100 * strength)])
            corrupted, mask = corrupt(volume, donor, rng, strength)
            if mask.any():
                yield corrupted.reshape(pixels.shape), True


def _scored(spotter: Spotter, labelled: _Labelled) -> tuple[list[float], list[bool]]:
    """Finite scores and labels; unreadable pictures are left out."""
    labels: list[bool] = []

    def pictures() -> Iterator[Path | NDArray[np.uint8]]:
        for picture, is_defect in labelled:
            labels.append(is_defect)
            yield picture

    found = [result for _, result in spotter.inspect_stream(pictures(), explain=False)]
    usable = [
        (result.score, is_defect)
        for result, is_defect in zip(found, labels, strict=True)
        if not isinstance(result, PictureError)
    ]
    finite = [score for score, _ in usable if math.isfinite(score)]
    highest = max([*finite, spotter.calibration.threshold])  # a part that cannot be judged is rejected
    ranked = [score if math.isfinite(score) else highest + 1 for score, _ in usable]
    return ranked, [is_defect for _, is_defect in usable]


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": statistics.fmean(known), "low": min(known), "high": max(known)}


def _finished(file: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """A stored cell, if it came from the same settings and pictures."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        same = all(stored[key] == value for key, value in identity.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(stored) if same else None


def _written(summary: dict[str, Any], out: Path) -> LearningCurve:
    from anomaly_spotter.views.learning_plot import learning_plot  # plots are slow to import
    from anomaly_spotter.views.plots import save_figure

    plot: Path | None = None
    if any(row[key] for row in summary["rows"] for key in MEASURES):
        plot = save_figure(learning_plot(summary), out / "learning_curve.png")
    return LearningCurve(summary, write_json(out / "learning_curve.json", summary), plot)
