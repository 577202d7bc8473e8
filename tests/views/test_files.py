"""Writing pictures: what is read back, what is refused, and that nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.views.files import encode_picture, output_names, write_picture


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1)])
def test_png_round_trip_under_a_unicode_name(tmp_path, shape):
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    path = write_picture(tmp_path / "új mappa" / "größe 部品.PNG", picture)
    read = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read if picture.ndim == 2 else read[..., ::-1], picture)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_jpeg_quality_and_colour_order():
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    read = cv2.imdecode(np.frombuffer(encode_picture(red, ".jpg"), np.uint8), cv2.IMREAD_COLOR)
    assert read[32, 32, 2] > 240
    assert read[32, 32, 0] < 20
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert len(encode_picture(noise, ".jpeg", 50)) < len(encode_picture(noise, ".jpeg", 95))


def test_refusals_are_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    picture = np.zeros((2, 2), np.uint8)
    cases = [
        (tmp_path / "a.bmp", picture, "use .png or .jpg"),
        (tmp_path / "a", picture, "use .png or .jpg"),
        (tmp_path / "a.png", np.zeros((2, 2), np.float32), "found float32"),
        (tmp_path / "a.png", np.zeros((0, 2), np.uint8), r"found uint8 \[0, 2\]"),
        (tmp_path / "a.png", np.zeros((2, 2, 4), np.uint8), r"\[2, 2, 4\]"),
        (tmp_path / "a.jpg", np.zeros((1, 70_000), np.uint8), "70000 x 1 pixels"),
        (blocked / "a.png", picture, "annot write"),
        (tmp_path / ("n" * 300 + ".png"), picture, "annot write"),
    ]
    for path, array, words in cases:
        with pytest.raises(SpotterError, match=words) as caught:
            write_picture(path, array)
        assert "\n" not in str(caught.value)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_picture(tmp_path, monkeypatch):
    path = write_picture(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SpotterError, match="No space left on device"):
        write_picture(path, np.ones((2, 2), np.uint8))
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["a.png"]


def test_output_names_are_short_and_never_alike():
    paths = [
        Path(name)
        for name in (
            "t/good/000.png",
            "t/crack/000.png",
            "t/crack/001.png",
            "t/crack/001.jpg",
            "x/A.png",
            "y/a.png",
        )
    ]
    names = output_names([*paths, paths[0]])
    assert names[paths[0]] == "good_000"
    assert names[paths[1]] == "crack_000"
    assert list(names) == paths
    assert len({name.casefold() for name in names.values()}) == len(paths)
    assert not any("/" in name for name in names.values())
    assert output_names([]) == {}
    assert output_names([Path("only.png")]) == {Path("only.png"): "only"}
    absolute = output_names([Path("/000.png"), Path("/a/000.png")])
    assert len(set(absolute.values())) == 2
    assert not any("/" in name for name in absolute.values())
