"""Summary, Markdown and plots from made-up cells; the published numbers that stand beside ours."""

from __future__ import annotations

import re
import statistics

import cv2
import numpy as np
import pytest

from anomaly_spotter.fleet.benchmark import load_peers
from anomaly_spotter.fleet.benchmark_summary import spread, summarise
from anomaly_spotter.views.benchmark_pages import benchmark_page
from anomaly_spotter.views.benchmark_plots import write_benchmark_plots

SCREW = {"train": 320, "counts": {"test/good": 41, "test/scratch": 119}}


def make_cell(category="screw", model="unet", seed=0, auroc=0.9, *, data=None, robustness=True, masks=True):
    def row(change=0.0):
        return {"auroc": auroc - change, "recall": 0.8 - change, "false_reject_rate": 0.05 + change}

    image = {
        **dict.fromkeys(("average_precision", "precision", "recall", "f1", "f1_max"), 0.8),
        "auroc": auroc,
        "false_reject_rate": 0.05,
        "baselines": {"mean_grey_auroc": 0.97, "contrast_auroc": 0.6},
    }
    pixel = dict.fromkeys(("auroc", "aupro", "aupro_05", "f1", "f1_max"), 0.7) if masks else None
    at_rate = {"promised_rate": 0.05, "precision": 0.9, "recall": 0.8, "f1": 0.85, "false_reject_rate": 0.04}
    return {
        "cell": {"category": category, "model": model, "seed": seed},
        "image": image,
        "pixel": pixel,
        "per_kind": {"scratch": {"count": 12, "auroc": auroc, "recall": 0.75}},
        "promise": {"rate": 0.05, "pictures": 64},
        "at_rate": {"0.05": at_rate, "0.01": at_rate},
        "robustness": {"as it is": row(), "blur": row(0.03), "noise": row(0.01)} if robustness else None,
        "cost": {
            **dict.fromkeys(("fit_seconds", "fit_peak_mb", "peak_mb", "bundle_mb"), 12.5),
            **dict.fromkeys(("ms_per_picture", "ms_single"), 8.0),
        },
        "data": {"category": category, "sha256": "0" * 64, **(data or SCREW)},
        "evaluated": {"commit": "abc", "machine": "Linux"},
        "processors": {"count": 2, "threads": "1"},
    }


def make_page(cells, failed=None, complete=True):
    head = {"machine": "Linux", "data": "/data", "settings": [], "version": "1", "commit": None}
    head |= {"versions": {"python": "3.11"}, "created": "2026-01-01", "complete": complete}
    tree = {"benchmark": head, "summary": summarise(cells), "failed": failed or {}, "peers": load_peers()}
    return benchmark_page({**tree, "cells": cells}, {})


def test_means_and_deviations_are_over_the_seeds():
    values = [0.9, 0.96, 0.93]
    (row,) = summarise([make_cell(seed=seed, auroc=value) for seed, value in enumerate(values)])
    assert row["seeds"] == [0, 1, 2]
    found = row["image"]["auroc"]
    assert found["mean"] == pytest.approx(statistics.fmean(values))
    assert found["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert row["pixel"]["aupro"]["count"] == 3


def test_what_is_not_defined_stays_none():
    assert spread([None, None]) is None
    assert spread([{"a": None}, {"a": 0.5}])["a"] == {"mean": 0.5, "deviation": None, "count": 1}
    (row,) = summarise([make_cell(masks=False, robustness=False)])
    assert row["pixel"] is None
    assert row["robustness"] is row["largest_change"] is None


def test_the_largest_change_is_named():
    (row,) = summarise([make_cell()])
    worst = row["largest_change"]
    assert worst["auroc"] == {"perturbation": "blur", "change": pytest.approx(-0.03)}
    assert worst["false_reject_rate"] == {"perturbation": "blur", "change": pytest.approx(0.03)}


def test_the_page_shows_the_numbers_and_marks_what_used_the_labels():
    cells = [
        make_cell(seed=0, auroc=0.9),
        make_cell(seed=1, auroc=0.92),
        make_cell(model="other", auroc=0.85),
    ]
    page = make_page(cells)
    assert "| screw | 0.910 ± 0.014 | 0.850 | 0.970 (mean grey) |" in page
    assert "| scratch | 12 | 0.750 ± 0.000 (0.910) | 0.750 (0.850) |" in page
    assert "| blur | 0.880 ± 0.014 | 0.770 ± 0.000 | 8.0 % ± 0.0 |" in page
    assert "**-0.030** (blur)" in page
    for line in page.splitlines():  # nothing named _max goes unmarked
        if line.startswith("| category"):
            assert len(re.findall("_max", line)) == len(re.findall("_max †", line))


def test_a_broken_promise_is_marked():
    kept, broken = make_cell(), make_cell("nut")
    broken["image"]["false_reject_rate"] = 0.2  # 8 of 41, promised were 2
    page = make_page([kept, broken])
    assert "20.0 % ‡ | 5.0 % |" in page
    assert page.count("‡ |") == 1


def test_every_table_has_as_many_cells_in_each_line():
    page = make_page([make_cell(), make_cell("a|b\nc", "other", masks=False, robustness=False)], {"x": "y"})
    for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_failures_and_interruptions_are_told():
    page = make_page([make_cell()], {"bottle, unet, seed 0": "out of memory?"}, complete=False)
    assert "| bottle, unet, seed 0 | out of memory? |" in page
    assert "interrupted" in page
    assert "0\xa0cells measured, 1 failed" in make_page([], {"screw, unet, seed 0": "broken"})


def test_a_mean_over_fewer_categories_says_so():
    page = make_page([make_cell(), make_cell("nut"), make_cell(model="other")])
    assert "| **mean** | **0.900** | **0.900** (1 of 2) |" in page


def test_peers_stand_beside_data_of_the_published_size_only():
    page = make_page([make_cell(auroc=0.9)])
    assert "| **unet** | measured here | 0.900 | – |" in page
    assert re.search(
        r"\| PatchCore, 10 % coreset \(2022\) \| published, not measured \| 0\.988 \| 0\.992 \|", page
    )
    other = make_page([make_cell(data={"train": 200, "counts": {"test/good": 40, "test/scratch": 60}})])
    assert "measured here" not in other
    assert "nothing here compares" in other


def test_every_published_number_has_its_source():
    peers = load_peers()
    assert peers["status"] == "published, not measured"
    assert sum(good for good, _, _ in peers["sizes"].values()) == 3629  # MVTec AD's own totals
    assert sum(good + bad for _, good, bad in peers["sizes"].values()) == 1725
    for peer in peers["peers"]:
        assert all(peer[key] for key in ("method", "year", "paper", "source", "backbone", "hardware"))
        assert "arXiv" in peer["paper"]
        values = peer.get("values", {})
        assert set(values) <= set(peers["sizes"])
        assert all(0.5 < value <= 1 for value in [peer["mean"], *values.values()])
        if len(values) == len(peers["sizes"]):
            assert statistics.fmean(values.values()) == pytest.approx(peer["mean"], abs=0.0011)


@pytest.mark.parametrize("models", [1, 9])
def test_plots_are_drawn_for_any_number_of_models(tmp_path, models):
    cells = [
        make_cell(category, f"model {number}", seed, 0.8 + 0.02 * number)
        for category in ("screw", "nut $x$")
        for number in range(models)
        for seed in (0, 1)
    ]
    files = write_benchmark_plots(summarise(cells), tmp_path)
    assert set(files) == {"auroc", "cost", "robustness"}
    for file in files.values():
        picture = cv2.imread(str(file))
        assert picture.shape[1] > 1000
        assert picture.std() > 5


def test_plots_that_have_nothing_to_show_are_left_out(tmp_path):
    assert write_benchmark_plots([], tmp_path) == {}
    one_class = summarise([make_cell(robustness=False) | {"image": make_cell()["image"] | {"auroc": None}}])
    assert write_benchmark_plots(one_class, tmp_path) == {}
