"""Models of a station: upload, activate, delete, versions, files that change under it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.service.conftest import Live, png

if TYPE_CHECKING:
    from anomaly_spotter.service.settings import StationSettings

RAW = {"content-type": "application/octet-stream"}


def names(live: Live) -> list[str]:
    return [model["name"] for model in live.client.get("/api/v1/models").json()]


def test_upload_activate_inspect_delete(live: Live, settings: StationSettings) -> None:
    data = (settings.models / "disc-unet.spot").read_bytes()
    first = live.client.post("/api/v1/models?name=line 3", content=data, headers=RAW)
    assert first.status_code == 201
    assert first.json()["name"] == "line 3"
    assert first.json()["products"][0]["promise"].startswith("At most")
    second = live.client.post("/api/v1/models", files={"model": ("line 3.spot", data)})
    assert second.json()["name"] == "line 3.v2"
    assert names(live) == ["disc-unet", "line 3", "line 3.v2"]

    nobody = live.client.post("/api/v1/inspections", content=png(1), headers={"content-type": "image/png"})
    assert (nobody.status_code, nobody.json()["detail"]) == (
        404,
        "no model is active; activate one, or name the one to inspect with",
    )
    assert live.client.post("/api/v1/models/line 3/activate").json()["is_active"]
    assert live.inspect(png(1))["model"] == "line 3"
    assert live.inspect(png(1), params={"model": "line 3.v2"})["model"] == "line 3.v2"

    conflict = live.client.delete("/api/v1/models/line 3")
    assert (conflict.status_code, conflict.json()["type"].rpartition(":")[2]) == (409, "model-in-use")
    assert live.client.delete("/api/v1/models/line 3.v2").status_code == 204
    assert names(live) == ["disc-unet", "line 3"]
    assert live.client.get("/api/v1/models/line 3.v2").status_code == 404
    assert len(live.client.get("/api/v1/inspections?model=line 3.v2").json()["inspections"]) == 1
    done = [(entry.what, entry.target) for entry in live.station.audit.page() if entry.outcome == "done"]
    assert done[::-1] == [
        ("model uploaded", "line 3"),
        ("model uploaded", "line 3"),
        ("model activated", "line 3"),
        ("model deleted", "line 3.v2"),
    ]


def test_a_file_that_is_copied_in_replaced_or_broken_is_seen(live: Live, settings: StationSettings) -> None:
    own = settings.models / "disc-unet.spot"
    shutil.copy(own, settings.models / "copied.spot")
    assert names(live) == ["copied", "disc-unet"]
    live.inspect(png(1), params={"model": "copied"})
    (settings.models / "copied.spot").write_bytes(own.read_bytes()[:-100])
    broken = live.client.get("/api/v1/models/copied").json()
    assert broken["error"]
    assert broken["identity"] is None
    answer = live.client.post(
        "/api/v1/inspections?model=copied", content=png(1), headers={"content-type": "image/png"}
    )
    assert answer.status_code == 422
    assert live.client.post("/api/v1/models/copied/activate").status_code == 422
    assert live.client.get("/ready").status_code == 503  # two models, none active
    live.client.post("/api/v1/models/disc-unet/activate")
    assert live.client.get("/ready").status_code == 200


def test_two_models_on_the_same_pictures(live: Live, settings: StationSettings) -> None:
    shutil.copy(settings.models / "disc-unet.spot", settings.models / "other.spot")
    made = [live.inspect(png(seed, defect=seed == 1), params={"model": "other"}) for seed in range(2)]
    asked = {"models": ["disc-unet", "other"], "inspections": [each["id"] for each in made]}
    answer = live.client.post("/api/v1/comparisons", json=asked)
    assert answer.status_code == 200
    for picture, expected in zip(answer.json()["pictures"], made, strict=True):
        assert [each["model"] for each in picture["judgements"]] == asked["models"]
        for judgement in picture["judgements"]:
            assert judgement["score"] == pytest.approx(expected["score"], rel=1e-4)
            assert judgement["verdict"] == expected["verdict"]
    assert len(live.client.get("/api/v1/inspections").json()["inspections"]) == 2  # nothing was kept
