"""The recogniser: it tells products apart, knows what it does not know, and comes back from its parts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import shrunk_covariance

from anomaly_spotter.recognition import Recogniser, _learned
from tests.conftest import draw_part, draw_plate

DISC, PLATE = 0, 1


def draw_fan(rng: np.random.Generator) -> np.ndarray:
    """Something else: light spokes on black."""
    picture = np.zeros((72, 96), np.uint8)
    for angle in np.linspace(0, np.pi, 9):
        end = (int(48 + 46 * np.cos(angle)), int(36 + 34 * np.sin(angle)))
        cv2.line(picture, (48, 36), end, 255, 2)
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def seen(recogniser: Recogniser, picture: np.ndarray) -> int | None:
    return recogniser.recognise(np.stack([recogniser.describe(picture)] * 2)).product


@pytest.fixture(scope="module")
def good() -> list[list[np.ndarray]]:
    rng = np.random.default_rng(2)
    return [[draw_part(rng)[0] for _ in range(16)], [draw_plate(rng) for _ in range(12)]]


@pytest.fixture(scope="module", params=["gradients", "lite0"])
def recogniser(request, good) -> Recogniser:
    return Recogniser.fit(good, request.param, 1)


def test_good_and_defective_parts_are_recognised(recogniser):
    rng = np.random.default_rng(3)
    for defect in (False, True):
        for _ in range(8):
            assert seen(recogniser, draw_part(rng, defect=defect)[0]) == DISC
            assert seen(recogniser, draw_plate(rng, defect=defect)) == PLATE
    assert recogniser.mistaken == (0, 0)


def test_a_part_with_a_third_missing_is_still_that_part(recogniser):
    picture, _ = draw_part(np.random.default_rng(4))
    picture[:, :40] = np.tile(picture[:, :10], 4)
    assert seen(recogniser, picture) == DISC


def test_something_else_is_none_of_them(recogniser):
    rng = np.random.default_rng(5)
    for other in (draw_fan(rng), rng.integers(0, 256, (72, 96), dtype=np.uint8)):
        found = recogniser.recognise(np.stack([recogniser.describe(other)] * 2))
        assert found.product is None
        assert found.p_value in (1 / 17, 1 / 13)  # farther than every good picture of the nearest product


def test_size_and_colour_of_a_picture_do_not_matter(recogniser):
    picture, _ = draw_part(np.random.default_rng(6))
    large = cv2.resize(picture, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    assert seen(recogniser, large) == seen(recogniser, np.dstack([picture] * 3)) == DISC


def test_distances_are_those_of_scipy():
    rng = np.random.default_rng(7)
    mixing = rng.normal(size=(6, 6))
    groups = [
        (rng.normal(size=(count, 3, 6)) @ mixing + shift).astype(np.float32)
        for count, shift in ((9, 0), (14, 5))
    ]
    means, whitening = _learned(groups)
    residuals = np.concatenate([(group - group[:, 0].mean(axis=0)).reshape(-1, 6) for group in groups])
    inverse = np.linalg.inv(shrunk_covariance(residuals.T @ residuals / len(residuals), 0.1))
    for group, mean in zip(groups, means, strict=True):
        np.testing.assert_allclose(mean, group[:, 0].mean(axis=0), rtol=1e-5)
        point = rng.normal(size=6)
        expected = mahalanobis(point, mean, inverse)
        assert np.linalg.norm((point - mean) @ whitening) == pytest.approx(expected, rel=1e-4)


def test_equal_products_are_mistaken_for_each_other():
    rng = np.random.default_rng(9)
    twins = [[draw_part(rng)[0] for _ in range(20)] for _ in range(2)]
    assert min(Recogniser.fit(twins, "gradients", 1).mistaken) > 2


def test_it_comes_back_from_its_parts(recogniser):
    again = Recogniser.from_parts(2, recogniser.to_dict(), recogniser.arrays())
    rng = np.random.default_rng(10)
    for picture in (draw_part(rng)[0], draw_plate(rng), draw_fan(rng)):
        np.testing.assert_array_equal(again.describe(picture), recogniser.describe(picture))
        assert seen(again, picture) == seen(recogniser, picture)
    assert again.to_dict() == recogniser.to_dict()


@pytest.mark.parametrize(
    ("values", "arrays", "error"),
    [
        ({"limits": [1.0]}, {}, ValueError),
        ({"left_out": None}, {}, TypeError),
        ({}, {"means": np.zeros((3, 38), np.float32)}, ValueError),
        ({}, {"whitening": np.zeros((2, 2), np.float32)}, ValueError),
    ],
)
def test_parts_that_do_not_fit_are_refused(good, values, arrays, error):
    recogniser = Recogniser.fit(good, "gradients", 1)
    with pytest.raises(error):
        Recogniser.from_parts(2, recogniser.to_dict() | values, recogniser.arrays() | arrays)
