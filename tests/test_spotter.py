"""The public API on a tiny data set: it separates, it is deterministic, and it takes what users give it."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_spotter import Inspection, Spotter, Verdict
from anomaly_spotter.errors import DatasetError, PictureError, SpotterError
from anomaly_spotter.fitting import split_good
from tests.conftest import draw_part, write_png


def test_defects_score_above_good_parts(spotter, data_root):
    summary = spotter.evaluate(data_root, "disc").summary
    assert summary["image"]["auroc"] == 1.0
    assert summary["image"]["recall"] == 1.0
    assert summary["pixel"]["auroc"] > 0.9
    assert summary["per_kind"]["bar"] == {"count": 6, "auroc": 1.0, "recall": 1.0}


def test_the_evaluation_follows_the_contract(spotter, data_root):
    found = spotter.evaluate(data_root, "disc").to_dict()
    assert {"bundle", "data", "image", "pixel", "per_kind", "timing"} <= set(found)
    assert {
        "auroc", "average_precision", "precision", "recall", "f1", "false_reject_rate", "threshold", "f1_max", "baselines",
    } <= set(found["image"])  # fmt: skip
    assert set(found["image"]["baselines"]) == {
        "mean_grey_auroc", "contrast_auroc", "sharpness_auroc", "file_size_auroc",
    }  # fmt: skip
    assert {"auroc", "aupro", "f1", "f1_max"} <= set(found["pixel"])
    assert found["data"]["counts"] == {"test/bar": 6, "test/good": 6}
    assert len(found["data"]["sha256"]) == 64
    assert found["bundle"]["config"]["preset"] == "unet"
    assert len(found["pictures"]) == 12


def test_without_masks_there_are_no_pixel_metrics(spotter, data_root, tmp_path):
    for kind in ("train/good", "test/good", "test/bar"):
        for path in (data_root / "disc" / kind).iterdir():
            target = tmp_path / "disc" / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert spotter.evaluate(tmp_path, "disc").summary["pixel"] is None


def test_unreadable_test_pictures_are_listed_and_the_rest_is_measured(spotter, data_root, tmp_path):
    import shutil

    shutil.copytree(data_root / "disc", tmp_path / "disc")
    (tmp_path / "disc/test/good/000.png").write_bytes(b"")
    found = spotter.evaluate(tmp_path, "disc")
    assert len(found.pictures) == 11
    assert "000.png" in found.unreadable[0]


def test_same_seed_same_weights_and_scores(spotter, data_root, tiny_config):
    again = Spotter.fit(data_root, "disc", config=tiny_config)
    for name, value in spotter.model.state().items():
        np.testing.assert_array_equal(again.model.state()[name], value)
    assert again.calibration == spotter.calibration


def test_inspect_takes_files_arrays_and_batches(spotter, tmp_path):
    picture, _ = draw_part(np.random.default_rng(11), defect=True)
    path = write_png(tmp_path / "a b.png", picture)
    from_file = spotter.inspect(path)
    assert isinstance(from_file, Inspection)
    assert from_file.source == path
    from_array = spotter.inspect(picture)
    assert from_array.source is None
    assert from_array.score == from_file.score
    assert from_array.verdict is Verdict.DEFECT
    batch = spotter.inspect([str(path), picture, np.dstack([picture] * 3)])
    # A batch may pick another convolution kernel than a single picture, so rounding may differ.
    assert [found.score for found in batch] == pytest.approx([from_file.score] * 3, rel=1e-4)
    assert batch[2].picture.shape == (72, 96, 3)
    assert batch[2].normal.shape == (72, 96, 3)
    assert spotter.inspect([]) == []
    stacked = spotter.inspect(np.stack([picture[..., None]] * 2))
    assert [found.score for found in stacked] == pytest.approx([from_file.score] * 2, rel=1e-4)


@pytest.mark.parametrize("shape", [(30, 200), (200, 30), (1, 1), (512, 522)])
def test_maps_come_back_in_the_pictures_own_pixels(spotter, shape):
    found = spotter.inspect(np.full(shape, 120, np.uint8))
    assert found.anomaly_map.shape == found.mask.shape == shape
    assert found.anomaly_map.dtype == np.float32
    assert found.normal.shape == shape


def test_threshold_can_be_moved_without_changing_the_score(spotter):
    picture, _ = draw_part(np.random.default_rng(12), defect=True)
    normal, lenient = spotter.inspect(picture), spotter.inspect(picture, threshold=1e6)
    assert (normal.verdict, lenient.verdict) == (Verdict.DEFECT, Verdict.OK)
    assert lenient.score == normal.score
    assert not lenient.mask.any()
    with pytest.raises(SpotterError, match="must be a number"):
        spotter.inspect(picture, threshold=float("nan"))


def test_errors_name_the_picture(spotter, tmp_path):
    with pytest.raises(PictureError, match=r"none\.png"):
        spotter.inspect(tmp_path / "none.png")
    with pytest.raises(PictureError, match="float64"):
        spotter.inspect(np.zeros((5, 5)))
    stream = list(spotter.inspect_stream([tmp_path / "none.png", np.zeros((9, 9), np.uint8)]))
    assert isinstance(stream[0][1], PictureError)
    assert isinstance(stream[1][1], Inspection)


def test_a_plain_folder_of_good_pictures_is_enough(data_root, tiny_config):
    fitted = Spotter.fit(data_root / "disc/train/good", config=tiny_config)
    assert fitted.provenance["layout"] == "folder"


def test_a_test_set_alone_can_be_evaluated_but_not_trained_on(spotter, data_root, tmp_path, tiny_config):
    lines = [f"{path},test,{path.parent.name}" for path in sorted((data_root / "disc/test").glob("*/*.png"))]
    manifest = tmp_path / "line.csv"
    manifest.write_text("path,split,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    assert spotter.evaluate(manifest).summary["image"]["auroc"] == 1.0
    with pytest.raises(DatasetError, match="no good training pictures"):
        Spotter.fit(manifest, config=tiny_config)


def test_too_few_pictures_are_refused_and_few_are_told(tmp_path, tiny_config):
    rng = np.random.default_rng(0)
    for index in range(3):
        write_png(tmp_path / "few" / f"{index}.png", draw_part(rng)[0])
    with pytest.raises(DatasetError, match="found 3 good training pictures; at least 4"):
        Spotter.fit(tmp_path / "few", config=tiny_config)


@pytest.mark.parametrize("count", [4, 5, 12, 28, 100, 320, 5000])
def test_the_split_is_disjoint_complete_and_large_enough(count, tiny_config):
    split = split_good(count, tiny_config)
    everything = np.concatenate([split.train, split.validation, split.calibration])
    assert sorted(everything.tolist()) == list(range(count))
    assert min(map(len, (split.train, split.validation, split.calibration))) >= 1
    # A rate of 10 % needs nine; a fifth of the pictures is taken anyhow, and never more than a third.
    assert len(split.calibration) == max(1, min(max(9, count // 5), count // 3))


def test_calibration_pictures_never_reach_training(data_root, tiny_config, monkeypatch):
    """Blackening the calibration pictures must leave the weights untouched."""
    from anomaly_spotter.inputs.store import Canvases

    fitted = Spotter.fit(data_root, "disc", config=tiny_config)
    stacked = Canvases.stacked

    def blackened(self, spill):
        pictures = stacked(self, spill)
        pictures[split_good(len(pictures), tiny_config).calibration] = 0
        return pictures

    monkeypatch.setattr(Canvases, "stacked", blackened)
    other = Spotter.fit(data_root, "disc", config=tiny_config)
    for name, value in fitted.model.state().items():
        np.testing.assert_array_equal(other.model.state()[name], value)
    assert other.calibration != fitted.calibration
