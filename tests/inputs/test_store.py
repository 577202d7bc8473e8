from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomaly_spotter.config import PreprocessingConfig
from anomaly_spotter.errors import DatasetError, PictureError
from anomaly_spotter.fitting import fit_preprocessor
from anomaly_spotter.inputs import store
from tests.conftest import write_png


def pictures(folder, count, colour=False):
    rng = np.random.default_rng(0)
    shape = (48, 64, 3) if colour else (48, 64)
    return [
        write_png(folder / f"{i:02}.png", rng.integers(0, 256, shape, dtype=np.uint8)) for i in range(count)
    ]


def canvases(good: store.GoodPictures) -> store.Canvases:
    return store.Canvases(good, fit_preprocessor(good, PreprocessingConfig(long_side=64)))


def test_pictures_come_prepared_in_order(tmp_path):
    paths = pictures(tmp_path, 20)
    seen = []
    good = store.read_good(paths, progress=lambda *step: seen.append(step))
    found = canvases(good).stacked(tmp_path / "spill")
    assert found.shape == (20, 48, 64, 1)
    assert good.paths == paths
    for path, decoded, prepared in zip(paths, good, found, strict=True):
        expected = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(decoded, expected)
        np.testing.assert_array_equal(prepared[..., 0], expected)
    assert seen[-1] == (20, 20)
    assert not (tmp_path / "spill").exists()


def test_more_than_memory_goes_to_a_map_on_disk_with_equal_pixels(tmp_path, monkeypatch):
    paths = pictures(tmp_path, 9)
    in_memory = canvases(store.read_good(paths)).stacked(tmp_path / "spill")
    monkeypatch.setattr(store, "MEMORY_LIMIT", 1000)
    mapped = canvases(store.read_good(paths)).stacked(tmp_path / "deep" / "spill")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, in_memory)


def test_pictures_beyond_the_memory_limit_are_decoded_again_to_equal_pixels(tmp_path, monkeypatch):
    paths = pictures(tmp_path, 9)
    kept = list(store.read_good(paths))
    monkeypatch.setattr(store, "MEMORY_LIMIT", 4 * 48 * 64)
    again = store.read_good(paths)
    read = []
    decode = store.read_picture
    monkeypatch.setattr(store, "read_picture", lambda path, **more: read.append(path) or decode(path, **more))
    for before, after in zip(kept, again, strict=True):
        np.testing.assert_array_equal(before, after)
    assert read == paths[4:]  # four fit
    np.testing.assert_array_equal(again[-1], kept[8])
    assert [one.tolist() for one in again[2:7:2]] == [one.tolist() for one in kept[2:7:2]]


def test_canvases_can_leave_some_out_without_locating_a_part_twice(tmp_path):
    good = store.read_good(pictures(tmp_path, 6))
    everything = canvases(good)
    located = []
    place = type(everything.preprocessor).place

    class Counting(type(everything.preprocessor)):
        def place(self, pixels):
            located.append(1)
            return place(self, pixels)

    fitted = everything.preprocessor
    counting = Counting(fitted.height, fitted.width, fitted.channels, fitted.aspect)
    counted = store.Canvases(good, counting)
    before = [counted[index].tolist() for index in range(6)]
    fewer = counted.without({1, 4})
    assert len(fewer) == 4
    assert [one.tolist() for one in fewer] == [before[index] for index in (0, 2, 3, 5)]
    assert [fewer.name(index) for index in range(4)] == [str(good.paths[index]) for index in (0, 2, 3, 5)]
    assert fewer.place(1) == counted.place(2)
    assert len(located) == 6


def test_all_bad_pictures_are_named_at_once_and_can_be_skipped(tmp_path):
    paths = pictures(tmp_path, 6)
    paths[1].write_bytes(b"")
    paths[4].write_bytes(paths[4].read_bytes()[:-300])
    with pytest.raises(DatasetError, match=r"2 of 6 good pictures") as caught:
        store.read_good(paths)
    message = str(caught.value)
    assert "01.png" in message
    assert "04.png" in message
    assert "--skip-bad" in message
    found = store.read_good(paths, skip_bad=True)
    assert len(found) == len(list(found)) == 4
    assert [path.name for path, _ in found.skipped] == ["01.png", "04.png"]


def test_equal_pictures_count_once_and_are_named(tmp_path):
    paths = pictures(tmp_path, 5)
    paths.append(tmp_path / "copy.bmp")
    paths[-1].write_bytes(cv2.imencode(".bmp", cv2.imread(str(paths[2]), cv2.IMREAD_GRAYSCALE))[1].tobytes())
    found = store.read_good(paths)
    assert found.paths == paths[:5]
    assert found.skipped[0][0] == paths[-1]
    assert "the same picture as" in found.skipped[0][1]


def test_what_decoding_did_is_counted(tmp_path):
    rng = np.random.default_rng(1)
    paths = [
        write_png(tmp_path / f"{i}.png", rng.integers(0, 4096, (40, 40), dtype=np.uint16)) for i in range(3)
    ]
    found = store.read_good(paths)
    assert list(found.notes.values()) == [3]
    assert found.white_level == 4095
    assert canvases(found).preprocessor.white_level == 4095
    assert max(int(one.max()) for one in found) > 200


def test_a_full_disk_is_noticed_before_the_map_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MEMORY_LIMIT", 1000)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(DatasetError, match="free some space"):
        canvases(store.read_good(pictures(tmp_path, 4))).stacked(tmp_path / "spill")


def test_colour_decides_the_channels(tmp_path):
    coloured = store.read_good(pictures(tmp_path / "c", 4, colour=True))
    assert canvases(coloured).preprocessor.channels == 3
    grey_as_rgb = [write_png(tmp_path / f"g{i}.png", np.full((20, 20, 3), 9 * i, np.uint8)) for i in range(4)]
    assert canvases(store.read_good(grey_as_rgb)).preprocessor.channels == 1


def test_read_ahead_keeps_the_order_and_gives_errors_as_values(tmp_path):
    sources = [*pictures(tmp_path, 40), tmp_path / "missing.png", np.zeros((5, 5), np.uint8)]
    found = list(store.read_ahead(sources, 65535))
    assert [source for source, _ in found[:41]] == sources[:41]
    assert isinstance(found[40][1], PictureError)
    assert found[41][1].pixels.shape == (5, 5)


def test_read_ahead_reads_only_a_few_ahead(tmp_path):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield np.zeros((4, 4), np.uint8)

    stream = store.read_ahead(endless(), 65535)
    for _ in range(5):
        next(stream)
    stream.close()
    assert len(asked) < 40
