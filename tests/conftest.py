"""Shared data: a tiny MVTec-like data set drawn on the fly, a detector fitted on it, and the real pictures' place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.spotter import Spotter

if TYPE_CHECKING:
    from collections.abc import Generator

REPOSITORY = Path(__file__).parents[1]
TINY = {  # a plain autoencoder that learns in seconds
    "preprocessing": {"long_side": 64, "alignment": "none", "illumination": "none"},
    "model": {"widths": [8, 16, 16, 16], "stem": 2, "reference": False, "evidence": ["grey"]},
    "training": {"epochs": 3, "batch_size": 8, "pictures_per_epoch": 32},
    "scoring": {"smoothing_sigma": 3.0, "pooling": "max"},
    "calibration": {"false_reject_rate": 0.1},
}


def draw_part(rng: np.random.Generator, *, defect: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A light disc on grey with noise, ``uint8 [72, 96]``; a defect is a black bar across it. Returns its mask too."""
    picture = np.full((72, 96), 90, np.uint8)
    centre = (int(48 + rng.integers(-3, 4)), int(36 + rng.integers(-3, 4)))
    cv2.circle(picture, centre, 24, 190, -1, cv2.LINE_AA)
    mask = np.zeros_like(picture)
    if defect:
        left, top = centre[0] - 12, centre[1] + int(rng.integers(-10, 4))
        cv2.rectangle(mask, (left, top), (left + 24, top + 6), 255, -1)
        picture[mask > 0] = 5
    noise = rng.normal(0, 3, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), mask


def write_png(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return path


def write_dataset(root: Path, *, train: int = 30, test: int = 6) -> Path:
    rng = np.random.default_rng(7)
    for index in range(train):
        write_png(root / "disc/train/good" / f"{index:03}.png", draw_part(rng)[0])
    for index in range(test):
        write_png(root / "disc/test/good" / f"{index:03}.png", draw_part(rng)[0])
        picture, mask = draw_part(rng, defect=True)
        write_png(root / "disc/test/bar" / f"{index:03}.png", picture)
        write_png(root / "disc/ground_truth/bar" / f"{index:03}_mask.png", mask)
    return root


def draw_plate(rng: np.random.Generator, *, defect: bool = False) -> np.ndarray:
    """A dark striped square on grey with noise, ``uint8 [72, 96]``; a defect is a white blot on it."""
    picture = np.full((72, 96), 90, np.uint8)
    left, top = (int(value + rng.integers(-3, 4)) for value in (28, 16))
    picture[top : top + 40, left : left + 40] = 40
    picture[top : top + 40, left + 2 : left + 40 : 6] = 150
    if defect:
        cv2.circle(picture, (left + 20, top + int(rng.integers(12, 28))), 6, 255, -1)
    noise = rng.normal(0, 3, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def write_products(root: Path, *, train: int = 20, test: int = 4) -> Path:
    """Two categories: ``disc`` as :func:`write_dataset` writes it, and ``plate``."""
    write_dataset(root, train=train, test=test)
    rng = np.random.default_rng(8)
    for index in range(train):
        write_png(root / "plate/train/good" / f"{index:03}.png", draw_plate(rng))
    for index in range(test):
        write_png(root / "plate/test/good" / f"{index:03}.png", draw_plate(rng))
        write_png(root / "plate/test/blot" / f"{index:03}.png", draw_plate(rng, defect=True))
    return root


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def tiny_config() -> SpotterConfig:
    return SpotterConfig.load("unet", overrides=TINY, environment={})


@pytest.fixture(scope="session")
def spotter(data_root: Path, tiny_config: SpotterConfig) -> Spotter:
    return Spotter.fit(data_root, "disc", config=tiny_config)


@pytest.fixture(scope="session")
def bundle(spotter: Spotter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spotter.save(tmp_path_factory.mktemp("bundle") / "disc-unet.spot")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real pictures; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("ANOMALY_SPOTTER_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "mvtec_ad" / "screw").is_dir():
        pytest.skip(f"no real pictures in {folder} (set ANOMALY_SPOTTER_DATA)")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI ``make system-deps`` has run: a test that misses a system part has failed."""
    report = yield
    if os.environ.get("CI") and report.skipped and "system-deps" in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
