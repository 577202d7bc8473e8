"""Every metric against an independent implementation: scikit-learn, or brute force written here."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from anomaly_spotter.metrics import (
    PixelMetrics,
    PixelResult,
    auroc,
    image_metrics,
    precision_recall_points,
    roc_curve_points,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Picture = tuple[NDArray[np.float32], NDArray[np.bool_]]

LABELLED = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        npst.arrays(np.float64, n, elements=st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float)),
        npst.arrays(np.bool_, n),
    )
)


def both(labels: NDArray[np.bool_]) -> bool:
    return bool(labels.any() and not labels.all())


def brute_f1_max(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    def f1(limit: float) -> float:
        flagged = scores >= limit
        return 2 * int((flagged & labels).sum()) / int(flagged.sum() + labels.sum())

    return max(f1(limit) for limit in np.unique(scores))


def brute_aupro(pictures: Sequence[Picture], limit: float) -> float:
    """The definition, threshold by threshold and region by region."""
    good = np.concatenate([m[~truth] for m, truth in pictures])
    regions = []
    for m, truth in pictures:
        labels, count = ndimage.label(truth, structure=np.ones((3, 3)))
        regions += [m[labels == index] for index in range(1, count + 1)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([m.ravel() for m, _ in pictures]))[::-1]:
        overlap = float(np.mean([(region >= threshold).mean() for region in regions]))
        points.append((float((good >= threshold).mean()), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < limit:
            at_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + at_limit) / 2
    return area / limit


def measure(pictures: Sequence[Picture], limit: float = 0.0) -> PixelResult:
    metrics = PixelMetrics()
    for anomaly_map, truth in pictures:
        metrics.update(anomaly_map, truth, anomaly_map > limit)
    return metrics.compute()


def random_pictures(seed: int, *, tied: bool = False, count: int = 4) -> list[Picture]:
    rng = np.random.default_rng(seed)
    pictures: list[Picture] = []
    for index in range(count):
        shape = (int(rng.integers(5, 24)), int(rng.integers(5, 24)))
        truth = ndimage.gaussian_filter(rng.standard_normal(shape), 1.2) > (0.15 if index else 9)
        anomaly_map = rng.standard_normal(shape) + truth
        pictures.append((np.round(anomaly_map, 0 if tied else 9).astype(np.float32), truth))
    return pictures


def pooled(pictures: Sequence[Picture]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return np.concatenate([m.ravel() for m, _ in pictures]), np.concatenate([t.ravel() for _, t in pictures])


# --- image metrics -------------------------------------------------------------------------------------------------


@given(LABELLED, st.floats(-10, 10))
def test_image_metrics_agree_with_scikit_learn(
    case: tuple[NDArray[np.float64], NDArray[np.bool_]], limit: float
):
    scores, labels = case
    found = image_metrics(scores, labels, limit)
    flagged = scores > limit
    if flagged.any() and labels.any():
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels, flagged, average="binary", zero_division=0
        )
        assert (found.precision, found.recall, found.f1) == pytest.approx((precision, recall, f1))
    if not labels.all():
        assert found.false_reject_rate == pytest.approx(flagged[~labels].mean())
    if both(labels):
        assert found.auroc == auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
        assert found.average_precision == pytest.approx(average_precision_score(labels, scores))
        assert found.f1_max == pytest.approx(brute_f1_max(scores, labels))
        assert found.f1_max_threshold is not None
        assert image_metrics(scores, labels, found.f1_max_threshold).f1 == pytest.approx(found.f1_max)


def test_perfect_and_inverted_scores():
    perfect = image_metrics([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], threshold=0.5)
    assert (perfect.auroc, perfect.average_precision, perfect.f1, perfect.f1_max) == (1, 1, 1, 1)
    assert (perfect.false_reject_rate, perfect.f1_max_threshold, perfect.threshold) == (0, 0.2, 0.5)
    inverted = image_metrics([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], threshold=0.5)
    assert (inverted.auroc, inverted.recall, inverted.f1, inverted.false_reject_rate) == (0, 0, 0, 1)
    assert inverted.f1_max == pytest.approx(2 / 3)
    assert inverted.f1_max_threshold is not None
    assert inverted.f1_max_threshold < 0.1


def test_decision_is_strictly_above_the_threshold():
    assert image_metrics([1.0, 1.0], [False, True], threshold=1.0).recall == 0


def test_nothing_flagged_has_no_precision():
    found = image_metrics([0.1, 0.2], [False, True], threshold=float("inf"))
    assert (found.precision, found.recall, found.f1) == (None, 0, 0)


@pytest.mark.parametrize("label", [False, True])
def test_one_class_of_pictures_has_no_ranking(label: bool):
    found = image_metrics([0.1, 0.9], [label, label], threshold=0.5)
    assert (found.auroc, found.average_precision, found.f1_max, found.f1_max_threshold) == (None,) * 4
    assert (found.recall, found.false_reject_rate) == ((0.5, None) if label else (None, 0.5))
    assert roc_curve_points([0.1, 0.9], [label, label]) is None
    assert precision_recall_points([0.1, 0.9], [label, label]) is None


def test_no_picture_at_all():
    found = image_metrics([], [], threshold=0.5)
    assert (found.auroc, found.precision, found.recall, found.f1, found.false_reject_rate) == (None,) * 5


@pytest.mark.parametrize(
    ("scores", "labels", "threshold", "message"),
    [
        ([0.1, float("nan")], [0, 1], 0.5, "finite"),
        ([0.1, float("inf")], [0, 1], 0.5, "finite"),
        ([0.1], [0, 1], 0.5, "equally long"),
        ([[0.1]], [[0]], 0.5, "one-dimensional"),
        ([0.1, 0.2], [0, 2], 0.5, "labels"),
        ([0.1, 0.2], [0, 1], float("nan"), "threshold"),
    ],
)
def test_bad_scores_are_refused(scores: list[float], labels: list[int], threshold: float, message: str):
    with pytest.raises(ValueError, match=message):
        image_metrics(scores, labels, threshold)


def test_curve_points_enclose_the_area():
    rng = np.random.default_rng(3)
    labels = rng.random(50) > 0.6
    scores = rng.standard_normal(50) + labels
    roc, pr = roc_curve_points(scores, labels), precision_recall_points(scores, labels)
    assert roc is not None
    assert pr is not None
    assert np.trapezoid(roc.true_positive_rate, roc.false_positive_rate) == pytest.approx(
        auroc(scores, labels)
    )
    assert (roc.true_positive_rate[0], roc.true_positive_rate[-1]) == (0, 1)
    assert (pr.precision[-1], pr.recall[-1], pr.precision.size) == (1, 0, pr.thresholds.size + 1)


def test_importing_metrics_does_not_import_scikit_learn():
    code = "import sys, anomaly_spotter.metrics; sys.exit('sklearn' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- pixel metrics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_pixel_metrics_agree_with_the_definitions(seed: int, tied: bool):
    pictures = random_pictures(seed, tied=tied)
    scores, labels = pooled(pictures)
    found = measure(pictures, limit=0.5)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, scores > 0.5, average="binary")
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert found.f1_max == pytest.approx(brute_f1_max(scores, labels), abs=1e-9)
    assert found.aupro == pytest.approx(brute_aupro(pictures, 0.3), abs=1e-9)
    assert found.aupro_05 == pytest.approx(brute_aupro(pictures, 0.05), abs=1e-9)
    assert (found.precision, found.recall, found.f1) == pytest.approx((precision, recall, f1))


FLOATS = st.floats(-(2.0**100), 2.0**100, width=32) | st.integers(-2, 2).map(float)


@settings(max_examples=60)
@given(
    st.integers(1, 8).flatmap(
        lambda n: st.tuples(npst.arrays(np.float32, (n, 7), elements=FLOATS), npst.arrays(np.bool_, (n, 7)))
    )
)
def test_pixel_ranking_on_any_floats(picture: Picture):
    found = measure([picture])
    scores, labels = pooled([picture])
    if not both(labels):
        assert (found.auroc, found.aupro, found.aupro_05, found.f1_max) == (None,) * 4
        return
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert found.aupro == pytest.approx(brute_aupro([picture], 0.3), abs=1e-9)
    assert found.f1_max == pytest.approx(brute_f1_max(scores, labels), abs=1e-9)


def spread(rng: np.random.Generator, kind: str, size: int) -> NDArray[np.float64]:
    """Continuous maps made to defeat fixed bins."""
    noise = rng.standard_normal(size)
    return {
        "normal": noise,
        "offset with far outliers": np.where(rng.random(size) < 1e-4, -1e3 * noise, 1000 + noise),
        "sixty octaves": np.exp2(30 * np.tanh(noise)),
        "both signs, sixty octaves": np.sign(noise) * np.exp2(rng.uniform(-30, 30, size)),
        "tiny steps on one": 1 + 1e-6 * noise,
        "half zeros": np.maximum(noise, 0),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "normal",
        "offset with far outliers",
        "sixty octaves",
        "both signs, sixty octaves",
        "tiny steps on one",
        "half zeros",
    ],
)
def test_binning_error_is_negligible_on_adversarial_maps(kind: str):
    rng = np.random.default_rng(1)
    pictures: list[Picture] = []
    for _ in range(6):
        truth = ndimage.gaussian_filter(rng.standard_normal((256, 256)), 8) > 0.06
        first, second = (spread(rng, kind, truth.size).reshape(truth.shape) for _ in range(2))
        values = np.where(truth, np.maximum(first, second), first)
        pictures.append((values.astype(np.float32), truth))
    scores, labels = pooled(pictures)
    found = measure(pictures)
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    last = np.append(np.diff(scores[order]) != 0, True)
    f1 = (2 * hits / (np.arange(1, hits.size + 1) + hits[-1]))[last]
    assert found.f1_max == pytest.approx(f1.max(), abs=1e-4)


def test_result_does_not_depend_on_the_order():
    rng = np.random.default_rng(5)
    pictures: list[Picture] = []
    for scale in (1e-30, 1e-3, 1.0, 50.0, 1e4, 1e30):  # forces the histogram to coarsen on the way
        truth = ndimage.gaussian_filter(rng.standard_normal((90, 110)), 3) > 0.08
        pictures.append(
            (
                (
                    scale * np.exp(3 * rng.standard_normal(truth.shape)) * rng.choice([-1, 1], truth.shape)
                ).astype(np.float32),
                truth,
            )
        )
    results = {measure([pictures[i] for i in rng.permutation(len(pictures))]) for _ in range(6)}
    assert len(results) == 1


def test_perfect_and_inverted_maps():
    truth = np.zeros((20, 30), dtype=bool)
    truth[2:6, 3:9] = truth[12:15, 20:21] = True
    perfect, inverted = (
        measure([(truth.astype(np.float32), truth)]),
        measure([(1 - truth.astype(np.float32), truth)]),
    )
    assert perfect == PixelResult(1, 1, 1, 1, 1, 1, 1)
    assert (inverted.auroc, inverted.aupro, inverted.recall, inverted.f1) == (0, 0, 0, 0)


def test_a_constant_map_is_chance():
    truth = np.zeros((10, 10), dtype=bool)
    truth[:5] = True
    found = measure([(np.full((10, 10), -3.5, dtype=np.float32), truth)])
    assert found.auroc == 0.5
    assert found.aupro == pytest.approx(0.15)  # the diagonal, up to 30 %
    assert found.aupro_05 == pytest.approx(0.025)
    assert found.f1_max == pytest.approx(2 / 3)
    assert (found.precision, found.recall, found.f1) == (None, 0, 0)


def test_small_and_large_regions_weigh_the_same():
    truth = np.zeros((40, 40), dtype=bool)
    truth[:20, :20] = truth[30, 30] = True
    large_only = truth.copy()
    large_only[30, 30] = False
    assert measure([(large_only.astype(np.float32), truth)]).aupro == pytest.approx(
        brute_aupro([(large_only.astype(np.float32), truth)], 0.3)
    )
    assert measure([(large_only.astype(np.float32), truth)]).aupro == pytest.approx(
        0.5 + 0.5 * 0.15, abs=0.01
    )


def test_regions_touching_at_a_corner_are_one():
    truth = np.eye(6, dtype=bool)
    anomaly_map = np.random.default_rng(0).random((6, 6), dtype=np.float32)
    assert measure([(anomaly_map, truth)]).aupro == pytest.approx(brute_aupro([(anomaly_map, truth)], 0.3))


def test_negative_zero_ties_with_zero():
    truth = np.array([[True, False]])
    assert measure([(np.array([[0.0, -0.0]], dtype=np.float32), truth)]).auroc == 0.5


@pytest.mark.parametrize("defective", [False, True])
def test_one_class_of_pixels_has_no_ranking(defective: bool):
    found = measure([(np.ones((4, 5), dtype=np.float32), np.full((4, 5), defective))])
    assert (found.auroc, found.aupro, found.aupro_05, found.f1_max) == (None,) * 4
    assert (found.precision, found.recall, found.f1) == ((1, 1, 1) if defective else (0, None, None))


def test_nothing_counted():
    assert PixelMetrics().compute() == PixelResult(None, None, None, None, None, None, None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_maps_that_are_not_finite_are_refused_and_not_counted(bad: float):
    metrics = PixelMetrics()
    anomaly_map, truth = np.array([[0.0, 1.0]], dtype=np.float32), np.array([[False, True]])
    metrics.update(anomaly_map, truth, truth)
    before = metrics.compute()
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 2 pixels"):
        metrics.update(np.array([[0.0, bad]], dtype=np.float32), truth, truth)
    assert metrics.compute() == before


@pytest.mark.parametrize(
    "shapes", [((2, 3), (3, 2), (2, 3)), ((2, 3), (2, 3), (2, 2)), ((6,), (6,), (6,)), ((1, 2, 3),) * 3]
)
def test_shapes_that_differ_are_refused(shapes: tuple[tuple[int, ...], ...]):
    with pytest.raises(ValueError, match="one shape"):
        PixelMetrics().update(
            np.zeros(shapes[0], dtype=np.float32), np.zeros(shapes[1], bool), np.zeros(shapes[2], bool)
        )
