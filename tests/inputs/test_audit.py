"""Faults planted one by one in a data set that is clean without them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from anomaly_spotter.inputs.audit import SHORTCUT_AUROC, Audit, audit, trivial_statistics
from anomaly_spotter.inputs.decode import Picture
from anomaly_spotter.inputs.duplicates import find_near_duplicates, thumbnail
from anomaly_spotter.inputs.findings import is_beyond_chance
from anomaly_spotter.inputs.layouts import load_dataset

DATA = Path(os.environ.get("ANOMALY_SPOTTER_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
SIDE = 96


def part(seed: int, grey: float = 120.0) -> np.ndarray:
    """A part in a fixed pose: a disc that all have, grain and marks of its own, and a light of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    disc = 60.0 * (np.hypot(x, y) < 30) + 30.0 * (np.abs(np.hypot(x, y) - 20) < 2)
    marks = ndimage.gaussian_filter(rng.normal(0, 80, (SIDE, SIDE)), 1.5)
    picture = grey + disc + marks + rng.normal(0, 1, (SIDE, SIDE)) + rng.normal(0, 4)
    return np.clip(picture, 0, 255).astype(np.uint8)


def write(path: Path, array: np.ndarray, quality: int = 95) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, array, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A category with 20 + 10 good parts and 10 stained ones with masks."""
    root = tmp_path / "disc"
    for seed in range(20):
        write(root / f"train/good/{seed:03}.png", part(seed))
    for seed in range(10):
        write(root / f"test/good/{seed:03}.png", part(100 + seed))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[40:52, 30:45] = 255
        stain = 30 * ndimage.gaussian_filter((mask > 0).astype(float), 3)
        stained = np.clip(part(200 + seed) - stain, 0, 255).astype(np.uint8)
        write(root / f"test/stain/{seed:03}.png", stained)
        write(root / f"ground_truth/stain/{seed:03}_mask.png", mask)
    return root


def look(root: Path) -> Audit:
    found = audit(load_dataset(root))
    json.dumps(found.to_json())
    for warning in found.warnings:
        assert "\n" not in warning
        assert warning.endswith(".")
    return found


def test_a_clean_data_set_has_no_warnings(clean: Path) -> None:
    calls: list[tuple[int, int]] = []
    found = audit(load_dataset(clean), progress=lambda done, total: calls.append((done, total)))
    assert found.warnings == ()
    assert found.counts == {"train": {"good": 20}, "test": {"good": 10, "stain": 10}}
    assert found.sizes == {f"{SIDE}x{SIDE}": 40}
    assert found.modes == {"L": 40}
    assert not (found.broken or found.exact_duplicates or found.near_duplicates or found.missing_masks)
    assert calls == [(done, 40) for done in range(1, 41)]


def test_broken_files(clean: Path) -> None:
    (clean / "train/good/003.png").write_bytes((clean / "train/good/003.png").read_bytes()[:300])
    (clean / "test/good/003.png").write_bytes(b"")
    found = look(clean)
    assert [fault.path.name for fault in found.broken] == ["003.png", "003.png"]
    assert sum(found.sizes.values()) == 38
    assert "2 pictures cannot be read" in found.warnings[0]
    assert found.to_json()["broken"][0]["path"] == "train/good/003.png"


def test_sizes_modes_and_notes(clean: Path) -> None:
    write(clean / "train/good/000.png", np.dstack([part(0)] * 3)[:90])
    write(clean / "train/good/001.png", np.dstack([part(1)] * 3 + [part(2)]))
    found = look(clean)
    assert found.sizes == {"96x96": 39, "96x90": 1}
    assert found.modes == {"L": 38, "RGB": 1, "RGBA": 1}
    assert found.notes == {"alpha channel composited on black": 1}
    assert any("2 sizes: 96x96 (39), 96x90 (1)" in warning for warning in found.warnings)
    assert any("Grey and colour" in warning for warning in found.warnings)


def test_exact_duplicates(clean: Path) -> None:
    shutil.copy(clean / "train/good/004.png", clean / "train/good/copy.png")
    shutil.copy(clean / "train/good/004.png", clean / "test/good/000.png")
    shutil.copy(clean / "test/good/001.png", clean / "test/good/002.png")  # harmless, inside the test
    found = look(clean)
    pairs = {(pair.first.name, pair.second.name, pair.is_across) for pair in found.exact_duplicates}
    assert pairs == {("004.png", "copy.png", False), ("004.png", "000.png", True)}
    assert found.near_duplicates == ()
    assert any("1 exact duplicate between training and test" in warning for warning in found.warnings)
    assert any("1 exact duplicate inside training" in warning for warning in found.warnings)


def test_near_duplicates(clean: Path) -> None:
    rng = np.random.default_rng(0)
    write(clean / "test/good/000.jpg", part(5), quality=75)  # saved again
    write(
        clean / "test/good/001.png", cv2.resize(part(6), None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    )
    brighter = part(7) * 1.1 + 5 + rng.normal(0, 1, (SIDE, SIDE))  # taken again in other light
    write(clean / "train/good/900.png", np.clip(brighter, 0, 255).astype(np.uint8))
    found = look(clean)
    pairs = {(pair.first.name, pair.second.name, pair.is_across) for pair in found.near_duplicates}
    assert pairs == {
        ("005.png", "000.jpg", True),
        ("006.png", "001.png", True),
        ("007.png", "900.png", False),
    }
    assert any("2 near duplicates between training and test" in warning for warning in found.warnings)


def test_near_duplicates_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_spotter.inputs.duplicates._BLOCK", 7)
    thumbnails = [thumbnail(part(seed)) for seed in range(20)] + [thumbnail(part(2)), thumbnail(part(18))]
    assert sorted((i, j) for i, j, _ in find_near_duplicates(thumbnails)) == [(2, 20), (18, 21)]
    flat = [np.full((64, 64), 7, np.uint8)] * 10
    assert list(find_near_duplicates(flat)) == []
    assert list(find_near_duplicates(thumbnails[:3])) == []
    assert list(find_near_duplicates([])) == []


def test_masks(clean: Path) -> None:
    masks = clean / "ground_truth/stain"
    (masks / "000_mask.png").unlink()
    write(masks / "001_mask.png", np.full((SIDE, SIDE + 1), 255, np.uint8))
    write(masks / "002_mask.png", np.zeros((SIDE, SIDE), np.uint8))
    (masks / "003_mask.png").write_bytes(b"nothing")
    write(clean / "ground_truth/good/004_mask.png", np.full((SIDE, SIDE), 255, np.uint8))
    write(clean / "ground_truth/good/005_mask.png", np.zeros((SIDE, SIDE), np.uint8))  # nothing wrong
    found = look(clean)
    assert [path.name for path in found.missing_masks] == ["000.png"]
    assert [fault.path.name for fault in found.misfitting_masks] == ["001.png", "003.png"]
    assert [path.name for path in found.empty_masks] == ["002.png"]
    assert [path.name for path in found.masks_for_good] == ["004.png"]
    assert len(found.warnings) == 4
    assert found.to_json()["missing_masks"] == ["test/stain/000.png"]


def test_no_masks_at_all(clean: Path) -> None:
    shutil.rmtree(clean / "ground_truth")
    assert any("No test defect has a mask" in warning for warning in look(clean).warnings)


@pytest.mark.parametrize("direction", [-25, 25])
def test_brightness_shortcut(clean: Path, direction: int) -> None:
    for seed in range(10):
        write(clean / f"test/good/{seed:03}.png", part(100 + seed, 120.0 + direction))
    found = look(clean)
    shortcut = next(each for each in found.shortcuts if each.statistic == "mean_grey")
    assert shortcut.auroc > 0.95
    assert shortcut.is_second_higher == (direction < 0)
    warning = next(text for text in found.warnings if text.startswith("Mean grey alone separates"))
    word = "darker" if direction < 0 else "brighter"
    assert f"test/good is {word}" in warning
    assert f"and {word} than train/good" in warning
    assert "AUROC" in warning


def test_sharpness_shortcut(clean: Path) -> None:
    for seed in range(10):
        write(clean / f"test/stain/{seed:03}.png", cv2.GaussianBlur(part(200 + seed), (0, 0), 2.0))
    found = look(clean)
    warning = next(text for text in found.warnings if text.startswith("Sharpness alone"))
    assert "test/good is sharper" in warning
    assert "train/good" not in warning


def test_shift_without_a_shortcut(clean: Path) -> None:
    for kind, seed in (("good", 100), ("stain", 200)):
        for index in range(10):
            write(clean / f"test/{kind}/{index:03}.png", part(seed + index, 90.0))
    warnings = look(clean).warnings
    assert any(
        text.startswith("Mean grey tells good test pictures from good training pictures") for text in warnings
    )
    assert not any("alone" in text for text in warnings)
    shutil.rmtree(clean / "test/stain")
    found = look(clean)
    assert found.shortcuts == ()
    assert any(text.startswith("Mean grey tells") and "darker" in text for text in found.warnings)


def test_separation_agrees_with_a_reference(clean: Path) -> None:
    found = look(clean)
    dataset = load_dataset(clean)
    grey = {sample.path: cv2.imread(str(sample.path), 0).mean() for sample in dataset.test}
    labels = [sample.is_defect for sample in dataset.test]
    expected = roc_auc_score(labels, [grey[sample.path] for sample in dataset.test])
    shortcut = found.shortcuts[0]
    assert shortcut.auroc == pytest.approx(max(expected, 1 - expected))
    assert shortcut.first_mean == pytest.approx(
        np.mean([grey[sample.path] for sample in dataset.test if not sample.is_defect])
    )


def test_a_few_pictures_prove_nothing(tmp_path: Path) -> None:
    for seed, name in enumerate(["train/good/0", "train/good/1", "test/good/0", "test/cut/0"]):
        write(tmp_path / f"{name}.png", part(seed, 100.0 + 20 * seed))
    found = look(tmp_path)
    assert found.shortcuts[0].auroc == 1.0
    assert not any("alone" in text or "tells" in text for text in found.warnings)


def test_only_good_pictures(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / f"{seed}.png", part(seed).astype(np.uint16) * 16)
    found = look(tmp_path)
    assert found.counts == {"train": {"good": 3}, "test": {}}
    assert found.modes == {"I;16": 3}
    assert found.shortcuts == found.shifts == ()
    assert found.warnings == ()


@pytest.mark.parametrize("channels", [1, 3])
def test_trivial_statistics(channels: int) -> None:
    grey = part(1)
    pixels = grey if channels == 1 else np.dstack([grey] * 3)
    laplacian = ndimage.laplace(grey.astype(float), mode="mirror")
    expected = {
        "mean_grey": grey.mean(),
        "contrast": grey.std(),
        "sharpness": laplacian.var(),
        "file_size": 1234.0,
    }
    assert trivial_statistics(pixels, 1234) == pytest.approx(expected)
    assert trivial_statistics(Picture(pixels), 1234) == pytest.approx(expected)


@pytest.mark.skipif(not (DATA / "mvtec_ad" / "screw").is_dir(), reason=f"no real data in {DATA}")
def test_the_real_screw_has_a_brightness_shortcut() -> None:
    found = audit(load_dataset(DATA / "mvtec_ad", "screw"))
    shortcut = found.shortcuts[0]
    assert (shortcut.statistic, shortcut.is_second_higher) == ("mean_grey", True)
    assert shortcut.auroc > 0.98 > SHORTCUT_AUROC
    assert any(
        "test/good is darker (170) than the defects (187) and darker than train/good (184)" in text
        for text in found.warnings
    )
    assert [(pair.first.name, pair.second.name) for pair in found.near_duplicates] == [("053.png", "173.png")]


def test_with_three_pictures_every_difference_is_chance():
    assert not is_beyond_chance(1.0, 2, 1)
    assert is_beyond_chance(1.0, 20, 20)
    assert is_beyond_chance(0.1, 20, 20)  # the other way round
    assert not is_beyond_chance(0.6, 20, 20)
