"""Sheets: every shape fits, the picture is really in there, long names and missing panels do no harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomaly_spotter.inputs.preprocess import to_rgb
from anomaly_spotter.views import lettering
from anomaly_spotter.views.heatmap import heatmap
from anomaly_spotter.views.sheets import contact_sheet, four_panel


def holds(sheet: np.ndarray, picture: np.ndarray) -> bool:
    """Whether ``picture`` lies somewhere in ``sheet``, pixel by pixel."""
    rows, columns = picture.shape[:2]
    corner = (sheet[: -rows + 1, : -columns + 1] == picture[0, 0]).all(axis=2)
    return any(np.array_equal(sheet[y : y + rows, x : x + columns], picture) for y, x in np.argwhere(corner))


@pytest.mark.parametrize("shape", [(1, 1), (32, 32), (16, 600), (300, 280), (200, 1600), (1600, 200)])
@pytest.mark.parametrize("colour", [False, True])
def test_four_panel_takes_any_shape(make_inspection, shape, colour):
    sheet = four_panel(make_inspection(*shape, colour=colour, normal=colour))
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    assert max(sheet.shape) < 5500


def test_four_panel_shows_picture_normal_and_heat_map(make_inspection):
    inspection = make_inspection(256, 300, colour=True, normal=True)
    sheet = four_panel(inspection)
    assert holds(sheet, inspection.picture)
    assert holds(sheet, inspection.normal)
    assert holds(sheet, heatmap(inspection.anomaly_map))


def test_small_pictures_are_enlarged_by_whole_factors(make_inspection):
    inspection = make_inspection(32, 32)
    assert holds(four_panel(inspection), np.kron(to_rgb(inspection.picture), np.ones((8, 8, 1), np.uint8)))


def test_placeholder_without_normal_look(make_inspection):
    with_normal = four_panel(make_inspection(256, 256, normal=True))
    without = four_panel(make_inspection(256, 256))
    assert with_normal.shape == without.shape
    assert (with_normal != without).any()


@pytest.mark.parametrize(
    "name", ["a" * 240 + ".png", "line\nbreak\x07.png", "части/деталь.png", "bad\udcff.png"]
)
def test_any_file_name_can_be_written(make_inspection, name):
    assert four_panel(make_inspection(source=Path(name), notes=(name, name))).any()


def test_a_range_per_picture_has_its_own_scale(make_inspection):
    flat = np.full((96, 128), 0.3, np.float32)
    assert four_panel(make_inspection(defect=False, anomaly_map=flat, display_range=(0.3, 0.3))).any()


def test_contact_sheet_grid(make_inspection):
    items = [
        (make_inspection(*shape), f"part {shape}")
        for shape in ((32, 32), (20, 400), (400, 20), (96, 128), (1, 1))
    ]
    one_row, two_rows = contact_sheet(items, columns=5, tile=64), contact_sheet(items, columns=3, tile=64)
    assert one_row.shape[1] > two_rows.shape[1]
    assert one_row.shape[0] < two_rows.shape[0]


def test_contact_sheet_of_nothing_says_so():
    sheet = contact_sheet([])
    assert sheet.shape[2] == 3
    assert sheet.min() < 255


@pytest.mark.parametrize("wrong", [{"columns": 0}, {"tile": 5}])
def test_contact_sheet_refuses_nonsense(wrong):
    with pytest.raises(ValueError, match="expected columns >= 1 and tile >= 32"):
        contact_sheet([], **wrong)


def test_fit_keeps_both_ends_of_a_name():
    face = lettering.font(14)
    short = lettering.fit("camera_3/2026-08-01/part_000123.png", face, 150)
    assert face.getlength(short) <= 150
    assert short.startswith("camera")
    assert short.endswith(".png")
    assert lettering.fit("anything", face, 1) == ""


def test_marks_differ_in_shape_not_only_in_colour():
    from anomaly_spotter.scoring.inspection import Verdict

    ok, defect = (np.array(lettering.verdict_mark(verdict, 32).convert("LA")) for verdict in Verdict)
    assert (ok[..., 1] != defect[..., 1]).any()
