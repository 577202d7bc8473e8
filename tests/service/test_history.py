"""What was inspected is found again, page by page, reviewed, exported, and counted."""

from __future__ import annotations

import csv
import io

import pytest

from tests.service.conftest import Live, png


@pytest.fixture
def filled(live: Live) -> Live:
    for seed in range(6):
        live.inspect(png(seed, defect=seed % 2 == 0))
    return live


def ids(live: Live, **query: object) -> list[str]:
    answer = live.client.get("/api/v1/inspections", params=query)
    assert answer.status_code == 200, answer.text
    return [each["id"] for each in answer.json()["inspections"]]


def test_filters(filled: Live) -> None:
    everything = filled.client.get("/api/v1/inspections").json()["inspections"]
    assert [each["id"] for each in everything] == sorted((each["id"] for each in everything), reverse=True)
    defects = [each["id"] for each in everything if each["verdict"] == "DEFECT"]
    assert ids(filled, verdict="DEFECT") == defects
    middle = sorted(each["score"] for each in everything)[3]
    assert ids(filled, min_score=middle) == [each["id"] for each in everything if each["score"] >= middle]
    assert ids(filled, max_score=middle) == [each["id"] for each in everything if each["score"] <= middle]
    assert ids(filled, since=everything[2]["at"]) == [each["id"] for each in everything[:3]]
    assert ids(filled, until=everything[2]["at"]) == [each["id"] for each in everything[3:]]
    assert ids(filled, model="another") == []
    assert ids(filled, model="disc-unet", verdict="DEFECT", min_score=middle) == [
        each["id"] for each in everything if each["verdict"] == "DEFECT" and each["score"] >= middle
    ]


def test_pages_do_not_shift_when_new_ones_arrive(filled: Live) -> None:
    everything = ids(filled)
    first = filled.client.get("/api/v1/inspections?limit=4").json()
    filled.inspect(png(99))
    second = filled.client.get(f"/api/v1/inspections?limit=4&cursor={first['cursor']}").json()
    assert [each["id"] for each in first["inspections"] + second["inspections"]] == everything
    assert second["cursor"] is None
    assert filled.client.get("/api/v1/inspections?cursor=%3D%3D").status_code == 422


def test_a_review_is_kept_counted_and_logged(filled: Live) -> None:
    defect = ids(filled, verdict="DEFECT")[0]
    where = f"/api/v1/inspections/{defect}/review"
    answer = filled.client.put(where, json={"verdict": "OK", "note": "=only dust"})
    assert answer.status_code == 200
    review = answer.json()["review"]
    assert (review["verdict"], review["note"], review["by"]) == ("OK", "=only dust", "local")
    assert ids(filled, review="corrected") == ids(filled, review="any") == [defect]
    assert len(ids(filled, review="none")) == 5
    stats = filled.client.get("/api/v1/stats").json()
    assert (stats["total"], stats["reviewed"], stats["false_rejects"], stats["missed"]) == (6, 1, 1, 0)
    assert stats["reject_rate"] == pytest.approx(stats["defects"] / 6)
    assert len(stats["recent"]) == 6
    assert stats["calibration_scores"]["disc"]
    entry = filled.client.get("/api/v1/audit-log").json()[0]
    assert (entry["who"], entry["what"], entry["target"], entry["outcome"]) == (
        "local",
        "review",
        defect,
        "done",
    )
    assert entry["detail"] == {"verdict": "OK", "before": None}

    assert filled.client.put(where, json={"verdict": None}).json()["review"] is None
    assert ids(filled, review="any") == []
    assert filled.client.put(where, json={"verdict": "MAYBE"}).status_code == 422
    nobody = "0" * 32
    assert (
        filled.client.put(f"/api/v1/inspections/{nobody}/review", json={"verdict": "OK"}).status_code == 404
    )


def test_csv_holds_everything_and_no_formula(filled: Live) -> None:
    evil = filled.client.post("/api/v1/inspections", files=[("picture", ("=cmd|' !A0.png", png(3)))]).json()[
        "inspections"
    ][0]
    filled.client.put(
        f"/api/v1/inspections/{evil['id']}/review", json={"verdict": "OK", "note": "@SUM(A1)\nline 2"}
    )
    answer = filled.client.get("/api/v1/inspections.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == ids(filled)
    assert rows[0]["file"] == "'=cmd|' !A0.png"
    assert rows[0]["review_note"] == "'@SUM(A1)\nline 2"
    assert float(rows[0]["score"]) == evil["score"]
    only = list(csv.DictReader(io.StringIO(filled.client.get("/api/v1/inspections.csv?verdict=OK").text)))
    assert {row["verdict"] for row in only} == {"OK"}


def test_metrics(filled: Live) -> None:
    text = filled.client.get("/metrics").text
    counted = [line for line in text.splitlines() if line.startswith("anomaly_spotter_inspections_total")]
    assert sum(float(line.rpartition(" ")[2]) for line in counted) == 6
    assert 'anomaly_spotter_inspection_seconds_count{model="disc-unet"} 6.0' in text
    assert 'anomaly_spotter_calibration_holds{model="disc-unet",product=""} 1.0' in text
    assert filled.client.get("/health").json() == {"status": "ok"}
    ready = filled.client.get("/ready").json()
    assert (ready["ready"], ready["database"], ready["model"]) == (True, "reachable", "disc-unet")
