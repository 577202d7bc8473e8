"""How far marks reach."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomaly_spotter.scoring.extent import SHARES, best_share, mask_limit


def _spread(radius: int, sigma: float, peak: float) -> tuple[np.ndarray, np.ndarray]:
    """A disc and its blurred signal."""
    truth = np.zeros((96, 96), np.uint8)
    cv2.circle(truth, (48, 48), radius, 1, -1)
    blurred = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), sigma)
    return (blurred / blurred.max() * peak).astype(np.float32), truth.astype(bool)


def test_a_blurred_disc_is_drawn_from_half_its_height() -> None:
    discs = [_spread(20, 3, peak) for peak in (2.0, 5.0, 20.0, 50.0, 80.0)]
    share = best_share(discs, pixel_threshold=0.3)
    assert share == pytest.approx(0.5, abs=0.051)
    for scores, truth in discs:
        mask = scores >= mask_limit(float(scores.max()), 0.3, share)
        assert mask.sum() == pytest.approx(truth.sum(), rel=0.1)


def test_the_share_has_the_largest_mean_f1_of_all() -> None:
    rng = np.random.default_rng(1)
    marked = [_spread(int(rng.integers(4, 25)), float(rng.uniform(1, 9)), 4.0) for _ in range(8)]

    def mean_f1(share: float) -> float:
        found = []
        for scores, truth in marked:
            mask = scores >= max(0.2, share * scores.max())
            found.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
        return float(np.mean(found))

    assert mean_f1(best_share(marked, 0.2)) == pytest.approx(max(map(mean_f1, SHARES)))


def test_too_few_defects_leave_the_pixel_limit_alone() -> None:
    assert best_share([_spread(10, 3, 5.0)] * 4, 0.3) == 0
    assert best_share([], 0.3) == 0


@pytest.mark.parametrize(
    ("peak", "pixel_threshold", "share", "limit"),
    [(10.0, 0.8, 0.0, 0.8), (10.0, 0.8, 0.5, 5.0), (1.0, 0.8, 0.5, 0.8), (0.6, 0.8, 0.5, 0.6)],
)
def test_the_limit_never_lies_above_the_strongest_pixel(
    peak: float, pixel_threshold: float, share: float, limit: float
) -> None:
    assert mask_limit(peak, pixel_threshold, share) == limit
