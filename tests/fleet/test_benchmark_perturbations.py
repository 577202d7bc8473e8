"""Perturbations keep shape and type, and do exactly what their name says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomaly_spotter.fleet.perturbations import (
    PERTURBATIONS,
    amplified,
    blurred,
    brightened,
    compressed,
    noisy,
    scaled,
    shifted,
    turned,
)

GREY = np.random.default_rng(3).integers(0, 256, (41, 60), dtype=np.uint8)
RGB = np.random.default_rng(4).integers(0, 256, (41, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize("picture", [GREY, RGB, GREY[:1, :1]], ids=["grey", "rgb", "one pixel"])
@pytest.mark.parametrize("name", list(PERTURBATIONS))
def test_shape_type_and_input_stay_and_a_second_call_agrees(name, picture):
    before = picture.copy()
    once, again = (PERTURBATIONS[name](picture, 5) for _ in range(2))
    assert once.shape == picture.shape
    assert once.dtype == np.uint8
    assert np.array_equal(once, again)
    assert np.array_equal(picture, before)


def test_light_is_clipped_and_never_wraps():
    assert brightened(np.array([[0, 100, 250]], np.uint8), 15).tolist() == [[15, 115, 255]]
    assert brightened(np.array([[0, 100, 250]], np.uint8), -15).tolist() == [[0, 85, 235]]
    assert amplified(np.array([[0, 100, 250]], np.uint8), 1.1).tolist() == [[0, 110, 255]]
    assert amplified(np.array([[0, 100, 250]], np.uint8), 0.9).tolist() == [[0, 90, 225]]


def test_noise_has_the_asked_strength_and_depends_on_the_index_alone():
    flat = np.full((200, 200), 128, np.uint8)
    assert noisy(flat, 5, seed=0).std() == pytest.approx(5, rel=0.03)
    assert not np.array_equal(noisy(flat, 5, seed=0), noisy(flat, 5, seed=1))


def test_blur_spreads_a_point_and_keeps_a_flat_picture():
    point = np.zeros((31, 31), np.uint8)
    point[15, 15] = 255
    y, x = np.mgrid[:31, :31] - 15
    weights = blurred(point, 1.5) / blurred(point, 1.5).sum()
    assert np.sqrt((weights * (x**2 + y**2)).sum() / 2) == pytest.approx(1.5, rel=0.1)
    assert (blurred(np.full((9, 9), 77, np.uint8), 1.5) == 77).all()


def test_jpeg_keeps_the_order_of_the_channels():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 250
    found = compressed(red, 60).reshape(-1, 3).mean(axis=0)
    assert found == pytest.approx([250, 0, 0], abs=6)


def test_a_shift_moves_the_content_and_repeats_the_border():
    moved = shifted(GREY, 5, 5)
    assert np.array_equal(moved[5:, 5:], GREY[:-5, :-5])
    assert (moved[:6, :6] == GREY[0, 0]).all()


def test_a_turn_is_counter_clockwise_about_the_centre():
    square = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (33, 33), dtype=np.uint8), (0, 0), 1)
    assert np.array_equal(turned(square, 90), np.rot90(square))
    assert np.array_equal(turned(square, 0), square)


def test_smaller_content_keeps_its_centre_and_the_size_of_the_picture():
    picture = np.full((101, 101), 30, np.uint8)
    picture[30:71, 30:71] = 220  # 41 x 41 in the middle
    found = scaled(picture, 0.9)
    rows, columns = np.nonzero(found > 125)
    assert (rows.mean(), columns.mean()) == (50, 50)
    assert np.sqrt(rows.size) == pytest.approx(0.9 * 41, abs=1)
    assert (found[:5] == 30).all()
