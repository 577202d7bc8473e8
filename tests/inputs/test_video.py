"""Frames of a real video file, through predict too."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from anomaly_spotter.errors import PictureError
from anomaly_spotter.inputs.video import frames
from tests.conftest import draw_part


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 72))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    rng = np.random.default_rng(0)
    for index in range(7):
        writer.write(np.dstack([draw_part(rng, defect=index == 4)[0]] * 3))
    writer.release()
    return path


def test_frames_come_in_order_with_their_numbers(video):
    found = list(frames(video))
    assert [number for number, _ in found] == list(range(7))
    assert found[0][1].shape == (72, 96, 3)
    assert [number for number, _ in frames(video, every=3)] == [0, 3, 6]


def test_what_is_no_video_gets_one_line(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(PictureError, match="holds no frame"):
        list(frames(tmp_path / "a.mp4"))
    with pytest.raises(PictureError, match="camera 93"):
        list(frames(93))


def test_predict_takes_videos(video, bundle, tmp_path):
    command = [sys.executable, "-m", "anomaly_spotter", "predict", "--bundle", bundle, video, "--every", "2"]
    done = subprocess.run(
        [*command, "--json", tmp_path / "r.json", "--out", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    rows = json.loads((tmp_path / "r.json").read_text())["pictures"]
    assert [row["path"] for row in rows] == [f"{video}#{number}" for number in (0, 2, 4, 6)]
    assert rows[2]["verdict"] == "DEFECT"
    assert (tmp_path / "line_000004_overlay.png").exists()
    nothing = subprocess.run(command[:6], capture_output=True, text=True, check=False)
    assert nothing.returncode == 2
    assert "nothing to inspect" in nothing.stderr
