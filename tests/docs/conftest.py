"""A reader's folder: the pictures and models that the pages speak of, tiny, and settings that make training short."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import anomaly_spotter
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.spotter import Spotter
from tests.conftest import draw_part, write_png

UNET = "screw-unet.spot"
REDUCED = {
    # The pages' commands stay as they are; these settings of the environment make them affordable in a test.
    "ANOMALY_SPOTTER__AUTO__BUDGET": "1",
    "ANOMALY_SPOTTER__PREPROCESSING__LONG_SIDE": "64",
    "ANOMALY_SPOTTER__PREPROCESSING__ALIGNMENT": "none",
    "ANOMALY_SPOTTER__PREPROCESSING__ILLUMINATION": "none",
    "ANOMALY_SPOTTER__MODEL__DIMENSIONS": "16",
    "ANOMALY_SPOTTER__TRAINING__EPOCHS": "1",
    "ANOMALY_SPOTTER__TRAINING__PICTURES_PER_EPOCH": "16",
}


def _pictures(folder: Path, count: int, seed: int, *, defect: bool = False) -> None:
    rng = np.random.default_rng(seed)
    for index in range(count):
        write_png(folder / f"{index:03}.png", draw_part(rng, defect=defect)[0])


def _dataset(folder: Path) -> None:
    """The pages' example of a real data set, with other parts in it."""
    rng = np.random.default_rng(6)
    for split, count in (("train/good", 20), ("test/good", 3)):
        for index in range(count):
            write_png(folder / split / f"{index:03}.png", draw_part(rng)[0])
    for index in range(3):
        picture, mask = draw_part(rng, defect=True)
        write_png(folder / "test/bar" / f"{index:03}.png", picture)
        write_png(folder / "ground_truth/bar" / f"{index:03}_mask.png", mask)


@pytest.fixture(scope="session")
def readers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every page may take for granted; each page works in a copy of its own."""
    folder = tmp_path_factory.mktemp("reader")
    _pictures(folder / "good_pictures", 24, 1)
    _pictures(folder / "more_good", 10, 2)
    _pictures(folder / "recent_pictures", 24, 5)
    _pictures(folder / "new_pictures", 3, 3)
    _pictures(folder / "known_defects", 3, 4, defect=True)
    shutil.copy(folder / "known_defects/000.png", folder / "new_pictures/009.png")
    shutil.copy(folder / "new_pictures/000.png", folder / "new_part.png")
    config = SpotterConfig.load(
        "memory", overrides=["preprocessing.long_side=64", "model.dimensions=16"], environment={}
    )
    Spotter.fit(folder / "good_pictures", config=config).save(folder / "part.spot")
    _dataset(folder / "data/mvtec_ad/screw")
    (folder / "path").mkdir()
    for name in ("good_pictures", "new_pictures"):
        shutil.copytree(folder / name, folder / "path/to" / name)
    return folder


@pytest.fixture
def page_folder(page: Path, readers_folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the reader's folder for one page, with ``.venv`` where the README has it."""
    folder = tmp_path / "work"
    shutil.copytree(readers_folder, folder)
    if UNET in page.read_text(encoding="utf-8"):
        shutil.copy(request.getfixturevalue("bundle"), folder / UNET)
    (folder / ".venv").mkdir()
    (folder / ".venv/bin").symlink_to(Path(sys.executable).parent, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of every command: reduced settings, programs of this environment, and a cache of its own."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sources = str(Path(anomaly_spotter.__file__).parents[1])
    return {
        **os.environ,
        **REDUCED,
        "PATH": programs,
        "PYTHONPATH": sources,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
    }
