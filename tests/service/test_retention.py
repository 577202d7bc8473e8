"""Old pictures go, verdicts stay; what is reviewed, young or in use is spared; a disk is not filled to its end."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from anomaly_spotter.service import disk
from anomaly_spotter.service.settings import Limits
from tests.service.conftest import PATIENCE, Live, png, process, running, until

if TYPE_CHECKING:
    from pathlib import Path

    from anomaly_spotter.service.settings import StationSettings

DAY = 86_400


def files(settings: StationSettings) -> list[Path]:
    return [path for path in (settings.data / "pictures").rglob("*") if path.is_file()]


def age(settings: StationSettings, days: float, but: frozenset[Path] = frozenset()) -> set[Path]:
    """As if the pictures had been inspected so long ago."""
    chosen = set(files(settings)) - but
    for path in chosen:
        os.utime(path, (time.time() - days * DAY,) * 2)
    return chosen


def kept(settings: StationSettings, **how: object) -> StationSettings:
    return settings.model_copy(update=how)


def removals(live: Live) -> list[dict]:
    log = live.client.get("/api/v1/audit-log").json()
    return [entry for entry in log if entry["what"] == "pictures removed"]


def test_old_pictures_go_and_their_verdicts_stay(settings: StationSettings) -> None:
    with running(kept(settings, pages=True)) as live:
        old = live.inspect(png(1, defect=True))
        aged = frozenset(age(settings, 31))
        young = live.inspect(png(2, defect=True))
        assert live.station.retention.sweep() == 0  # nobody has asked for it
    with running(kept(settings, pages=True, keep_days=30)) as live:
        (entry,) = until(lambda: removals(live), "the old pictures are removed")
        until(lambda: removals(live)[0]["outcome"] == "done", "it is written down")
        (entry,) = removals(live)
        assert (entry["who"], entry["detail"]["days"], entry["detail"]["files"]) == ("station", 30, len(aged))
        assert not aged & set(files(settings))
        again = live.client.get(f"/api/v1/inspections/{old['id']}").json()
        assert (again["verdict"], again["score"], again["regions"]) == (
            old["verdict"],
            old["score"],
            old["regions"],
        )
        for view in ("picture", "heatmap", "overlay", "thumbnail"):
            gone = live.client.get(f"/api/v1/inspections/{old['id']}/{view}")
            assert gone.status_code == 410
            assert "no longer kept" in gone.json()["detail"]
            assert live.client.get(f"/api/v1/inspections/{young['id']}/{view}").status_code == 200
        history = live.client.get("/history").text
        assert history.count("Picture no longer kept") == 1
        assert f"/pictures/{young['id']}/thumbnail" in history
        assert "no longer kept" in live.client.get(f"/history/{old['id']}").text
        assert "<picture-viewer" in live.client.get(f"/history/{young['id']}").text
        assert live.station.retention.sweep() == 0
        assert len(removals(live)) == 1  # nothing more to say
        compared = live.client.post(
            "/api/v1/comparisons", json={"models": ["disc-unet"], "inspections": [old["id"]]}
        )
        assert compared.status_code == 410


@pytest.mark.parametrize("keep_reviewed", [True, False])
def test_reviewed_pictures_are_spared_where_asked(settings: StationSettings, keep_reviewed: bool) -> None:
    with running(settings) as live:
        found = [live.inspect(png(seed)) for seed in (1, 2)]
        where = f"/api/v1/inspections/{found[0]['id']}/review"
        live.client.put(where, json={"verdict": "OK"}).raise_for_status()
        age(settings, 31)
    asked = [
        "--keep-pictures",
        "30",
        "--keep-gigabytes",
        "1000",
        *([] if keep_reviewed else ["--remove-reviewed"]),
    ]
    folders = ["--models", str(settings.models), "--data", str(settings.data)]
    with process(*folders, *asked) as (_, url), httpx.Client(base_url=url, timeout=PATIENCE) as client:
        wheres = [f"/api/v1/inspections/{each['id']}/picture" for each in found]
        until(lambda: client.get(wheres[1]).status_code == 410, "the picture is removed")
        (entry,) = until(
            lambda: [each for each in client.get("/api/v1/audit-log").json() if each["outcome"] == "done"][
                :1
            ],
            "it is written down",
        )
        assert entry["what"] == "pictures removed"
        assert client.get(wheres[0]).status_code == (200 if keep_reviewed else 410)
    with running(settings) as live:
        assert len(live.station.jobs.reviewed_good("disc-unet")) == keep_reviewed


def test_the_oldest_go_where_all_are_too_large(settings: StationSettings) -> None:
    with running(settings) as live:
        for days, seed in ((3, 1), (2, 2), (1, 3)):
            before = frozenset(files(settings))
            live.inspect(png(seed))
            aged = age(settings, days, before)
            assert len(aged) >= 2
        room = sum(path.stat().st_size for path in files(settings)) - 1
        oldest = {path for path in files(settings) if path.stat().st_mtime < time.time() - 2.5 * DAY}
    with running(kept(settings, keep_bytes=room)) as live:
        until(lambda: removals(live) and removals(live)[0]["outcome"] == "done", "the oldest are removed")
        assert not oldest & set(files(settings))
        assert 0 < sum(path.stat().st_size for path in files(settings)) <= room
        live.inspect(png(4))
        live.station.retention._bytes = 1
        live.station.retention.sweep()
        assert live.inspect(png(4))  # what has just been inspected is spared, however little may stay
        assert files(settings)


def test_a_picture_that_comes_again_counts_from_then(settings: StationSettings) -> None:
    with running(kept(settings, keep_days=30)) as live:
        live.inspect(png(1))
        age(settings, 31)
        found = live.inspect(png(1))
        assert live.station.retention.sweep() == 0
        assert live.client.get(f"/api/v1/inspections/{found['id']}/overlay").status_code == 200
        (first, *_) = live.station.pictures.files()
        os.utime(
            settings.data / "pictures" / first.digest[:2] / first.digest
        )  # between being seen and removed
        assert not live.station.pictures.remove(first)


def test_a_disk_is_not_filled_to_its_end(settings: StationSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(kept(settings, limits=Limits(free_bytes=1000))) as live:
        live.inspect(png(1))
        usage = type("Usage", (), {"total": 100_000, "used": 99_001, "free": 999})
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
        before = files(settings)
        answer = live.client.post(
            "/api/v1/inspections", content=png(2), headers={"content-type": "image/png"}
        )
        assert answer.status_code == 507
        assert "--keep-pictures" in answer.json()["detail"]
        assert files(settings) == before
        ready = live.client.get("/ready")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "nearly full" in ready.json()["reason"]
        assert "anomaly_spotter_picture_room_bytes -1.0" in live.client.get("/metrics").text
        usage.total = 10_000  # a small disk: 5 % of it are enough
        live.inspect(png(2))
        assert live.client.get("/ready").json()["ready"]
