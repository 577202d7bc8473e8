"""The report: one file, no foreign loads, honest about what is missing, deaf to hostile names."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.views import facts, wording
from anomaly_spotter.views.report import ReportContent, render_report, write_report

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def summary():
    return {
        "bundle": {
            "preset": "default", "model": "unet", "created": "2026-08-01T09:12:44+00:00", "version": "0.1.0", "commit": "abc123", "format": 1,
            "data_sha256": "f" * 64, "train_counts": {"train": 200, "validation": 20, "calibration": 80}, "seed": 0, "epochs": 2, "fit_seconds": 75.0,
            "versions": {"torch": "2.13.0"}, "config": {"training": {"epochs": 2}}, "skipped": ["017.png is empty"],
        },
        "data": {"category": "part", "sha256": "e" * 64, "counts": {"test/good": 40, "test/crack": 30, "test/bent": 20}},
        "image": {"auroc": 0.93, "average_precision": 0.97, "precision": 0.9, "recall": 0.8, "f1": 0.85, "false_reject_rate": 0.02, "threshold": 1.0,
                  "f1_max": 0.917, "baselines": {"mean_grey_auroc": 0.55, "file_size_auroc": 0.1}},
        "pixel": {"auroc": 0.97, "aupro": 0.911, "aupro_05": 0.7, "precision": 0.4, "recall": 0.6, "f1": 0.48, "f1_max": 0.55},
        "per_kind": {"crack": {"count": 30, "auroc": 0.99, "recall": 0.9}, "bent": {"count": 20, "auroc": 0.8, "recall": 0.5}},
        "timing": {"pictures": 90, "seconds": 2.0, "ms_per_picture": 22.2},
    }  # fmt: skip


@pytest.fixture(scope="module")
def content(summary, results, make_inspection):
    return ReportContent(
        title="part",
        summary=summary,
        pictures=results,
        calibration_scores=[0.2, 0.4, 0.5],
        guarantee="At most 5 in 100 good parts will be rejected.",
        history=[{"epoch": 1, "train_loss": 1.0, "val_loss": 1.1, "learning_rate": 1e-4}],
        misses=[make_inspection(64, 300, defect=False)],
        false_rejects=[make_inspection(1, 1, source=None)],
        hits=[make_inspection(colour=True)],
        remarks=["Only 3 good pictures for calibration."],
    )


@pytest.fixture(scope="module")
def page(content):
    return render_report(content)


class Tags(HTMLParser):
    """Collects start tags and checks that they are closed in order."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "use", "path", "circle"})

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_loads_nothing_from_anywhere(page):
    bare = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert not re.search(r"https?://|@import|<script|<link|url\((?!#)", bare)
    tags = Tags(page).found
    assert all(attrs["src"].startswith("data:image/jpeg;base64,") for tag, attrs in tags if tag == "img")
    links = [attrs[key] for _, attrs in tags for key in ("href", "xlink:href") if key in attrs]
    assert links
    assert all(link.startswith("#") for link in links)


def test_inner_links_and_ids_fit(page):
    tags = Tags(page).found
    ids = [attrs["id"] for _, attrs in tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for tag, attrs in tags if tag == "a"} <= set(ids)


def test_tells_the_story(page, results):
    text = page.replace("\u00a0", " ")
    found = sum(row.is_defect and row.verdict == "DEFECT" for row in results)
    for words in (
        f"Found {found} of 50 defective parts", "At most 5 in 100 good parts will be rejected.", "Only 3 good pictures for calibration.",
        "0.917", "0.911", "f" * 64, "e" * 64, "200 good pictures", "1 min 15 s", "22.2 ms", "2026-08-01 09:12:44 UTC", "training.epochs", "017.png is empty",
        "abc123", "crack/000.png", "picture without a file",
    ):  # fmt: skip
        assert words in text
    assert text.index("10 of 20") < text.index("27 of 30")  # the weakest kind comes first


def test_same_content_same_page(content, page):
    assert render_report(content) == page


def test_nothing_at_all_still_renders():
    page = render_report(ReportContent("empty", {}, [], [], "", [], [], [], []))
    Tags(page)
    assert "Nothing was measured" in page
    assert "–" in page
    assert "None" not in page.replace("None to show", "")
    assert "nan" not in page.lower().split("</style>")[1]


def test_none_everywhere_still_renders(content, summary):
    empty = {
        key: None if key == "pixel" else dict.fromkeys(value) if value else value
        for key, value in summary.items()
    }
    page = render_report(replace(content, summary=empty, pictures=[], history=[]))
    Tags(page)
    assert not re.search(r">\s*(None|nan)\s*<", page)
    no_parts = render_report(replace(content, summary=dict.fromkeys(summary)))
    Tags(no_parts)


@pytest.mark.parametrize("is_defect", [True, False])
def test_one_class_only(content, results, is_defect):
    rows = [row for row in results if row.is_defect is is_defect]
    page = render_report(replace(content, pictures=rows, misses=[], false_rejects=[], hits=[]))
    assert ("No good parts were tested" if is_defect else "No defective parts were tested") in page
    assert "None to show" in page


def test_hostile_words_stay_words(content, summary, results, make_inspection):
    hostile = {
        **summary,
        "bundle": {
            **summary["bundle"],
            "commit": HOSTILE,
            "config": {HOSTILE: HOSTILE},
            "skipped": [HOSTILE],
        },
        "data": {"category": HOSTILE, "counts": {HOSTILE: 3}},
        "image": {**summary["image"], "baselines": {HOSTILE: 0.95}},
        "per_kind": {HOSTILE: {"count": 1, "recall": 1.0}, 'a" onload="x': {"recall": 0.5}},
    }
    part = make_inspection(source=Path(f'a" onerror="x/{HOSTILE}\udcff.png'))
    page = render_report(
        ReportContent(
            HOSTILE, hostile, [replace(row, kind=HOSTILE, path=Path(HOSTILE)) for row in results], [], HOSTILE, [], [part], [], [], [HOSTILE]
        )
    )  # fmt: skip
    assert "<script" not in page
    assert not any("onerror" in attrs or "onload" in attrs for _, attrs in Tags(page).found)
    page.encode("utf-8")


def test_a_strong_trivial_baseline_is_called_out(summary, page):
    assert "File size alone separates" in page  # 0.1 is 0.9 the other way round
    assert "Mean grey level alone" not in page
    beaten = {
        "image": {
            "auroc": 0.7,
            "baselines": {"contrast_auroc": 0.69, "sharpness_auroc": 0.75, "x_auroc": None},
        }
    }
    warnings = facts.baseline_warnings(beaten)
    assert len(warnings) == 2
    assert "Sharpness alone" in warnings[0]
    assert "no worse than the detector" in warnings[0]
    assert "almost as well as the detector" in warnings[1]


def test_long_lists_of_wrong_decisions_are_cut(content, results):
    wrong = next(row for row in results if row.is_miss)
    page = render_report(replace(content, pictures=[wrong] * 300))
    assert "The first 200 are listed" in page


def test_write_report_leaves_one_file(content, page, tmp_path):
    path = write_report(content, tmp_path / "reports" / "part.html")
    assert path.read_text(encoding="utf-8") == page
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(SpotterError, match=r"annot write"):
        write_report(content, path / "inside_a_file.html")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (wording.number(None), "–"),
        (wording.number(float("nan")), "–"),
        (wording.number("0.5"), "–"),
        (wording.number(True), "–"),
        (wording.number(0.9999, 2), "1.00"),
        (wording.percent(0.0206), "2.1\u00a0%"),
        (wording.whole(12345), "12,345"),
        (wording.duration(4), "4.0\u00a0s"),
        (wording.duration(59.6), "1\u00a0min 0\u00a0s"),
        (wording.duration(7322), "2\u00a0h 2\u00a0min"),
        (wording.duration(None), "–"),
        (wording.plural(1, "part"), "1\u00a0part"),
        (wording.plural(0, "part"), "0\u00a0parts"),
    ],
)
def test_wording(words, expected):
    assert words == expected


def test_likely_range_against_known_values():
    assert wording.likely_range(0, 0) is None
    assert wording.likely_range(0, 41) == pytest.approx((0.0, 0.0857), abs=1e-4)
    assert wording.likely_range(81, 263) == pytest.approx(
        (0.2553, 0.3662), abs=1e-4
    )  # Newcombe 1998, table I


def test_the_story_tells_held_out_pictures_from_those_left_out_in_turn(summary):
    counts = {"train": 20, "validation": 0, "calibration": 20}
    outcome = facts.Outcome.of([], {})
    alone = summary | {"bundle": {"model": "unet", "train_counts": counts}}
    assert "and 20 more to set the decision limit" in facts.story(alone, outcome)
    memory = summary | {"bundle": {"model": "memory", "train_counts": counts}}
    assert "by the same ones, each left out in turn" in facts.story(memory, outcome)
    assert "more to set" not in facts.story(memory, outcome)
