"""Pictures in, verdicts out: every way to send them, what is kept, and what is refused."""

from __future__ import annotations

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.products import ProductSpotter
from anomaly_spotter.service.detectors import Detector, Wish
from anomaly_spotter.service.settings import Limits, StationSettings
from anomaly_spotter.spotter import Spotter
from anomaly_spotter.views.heatmap import heatmap
from tests.conftest import TINY, draw_plate, write_products
from tests.service.conftest import Live, png, running, until

if TYPE_CHECKING:
    from pathlib import Path


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_service_decides_as_the_python_api(live: Live, bundle: Path) -> None:
    spotter = Spotter.load(bundle, engine=None)
    for seed in range(3):
        data = png(seed, defect=seed == 1)
        expected = spotter.inspect(decoded(data))
        found = live.inspect(data)
        assert found["verdict"] == expected.verdict
        assert found["score"] == pytest.approx(expected.score, rel=0.02)
        assert 0 < found["p_value"] <= 1
        assert len(found["regions"]) == len(expected.regions)


def test_one_body_many_files_and_what_cannot_be_read(live: Live) -> None:
    good, bad = png(1), png(2, defect=True)
    files = [
        ("picture", ("a.png", good)),
        ("picture", ("../../b.png", bad)),
        ("picture", ("c.txt", b"no picture")),
    ]
    answer = live.client.post("/api/v1/inspections", files=files)
    assert answer.status_code == 201
    first, second, third = answer.json()["inspections"]
    assert (first["verdict"], second["verdict"]) == ("OK", "DEFECT")
    assert second["file"] == "b.png"
    assert second["regions"][0]["area"] > 0
    assert third == {"file": "c.txt", "error": "c.txt: not a picture; expected PNG, JPEG, BMP, TIFF or WebP"}

    alone = live.client.post("/api/v1/inspections", content=b"nothing", headers={"content-type": "image/png"})
    assert alone.status_code == 422
    assert alone.headers["content-type"] == "application/problem+json"
    assert alone.json()["type"].endswith("unreadable-picture")


def test_pictures_of_an_inspection_by_link_and_inline(live: Live) -> None:
    data = png(5, defect=True)
    found = live.inspect(data, params={"inline": ["overlay", "mask"], "explain": True})
    assert live.client.get(found["links"]["picture"]).content == data
    mask = decoded(live.client.get(found["links"]["mask"]).content)
    assert mask.shape == (72, 96)
    assert (mask > 0).sum() == sum(region["area"] for region in found["regions"])
    assert decoded(base64.b64decode(found["pictures"]["mask"])).tolist() == mask.tolist()
    for view in ("heatmap", "overlay", "normal"):
        shown = live.client.get(found["links"][view])
        assert shown.headers["content-type"] == "image/png"
        assert decoded(shown.content).shape[:2] == (72, 96)
    assert live.client.get(found["links"]["thumbnail"]).headers["content-type"] == "image/jpeg"
    plain = live.inspect(data)
    assert "normal" not in plain["links"]
    assert live.client.get(f"/api/v1/inspections/{plain['id']}/normal").status_code == 404


def test_the_heat_map_is_drawn_as_the_python_api_draws_it(live: Live) -> None:
    data = png(5, defect=True)
    found = live.inspect(data)
    (inspection,) = live.station.models.detector().inspect(
        [live.station.models.detector().decode(data, "a", 10**6)], Wish()
    )
    shown = decoded(live.client.get(found["links"]["heatmap"]).content)[..., ::-1]
    assert np.array_equal(shown, heatmap(inspection.anomaly_map, *inspection.display_range))


def test_a_threshold_of_the_caller(live: Live) -> None:
    data = png(6)
    score = live.inspect(data)["score"]
    assert live.inspect(data, params={"threshold": score - 0.01})["verdict"] == "DEFECT"
    assert live.inspect(data, params={"threshold": score + 0.01})["verdict"] == "OK"
    refused = live.client.post(
        "/api/v1/inspections?threshold=nan", content=data, headers={"content-type": "image/png"}
    )
    assert refused.status_code == 422


def test_an_idempotency_key_counts_once(live: Live) -> None:
    headers = {"Idempotency-Key": "part-815"}
    files = [("picture", ("a.png", png(1))), ("picture", ("x", b"?")), ("picture", ("b.png", png(2)))]
    first = live.client.post("/api/v1/inspections", files=files, headers=headers).json()
    again = live.client.post("/api/v1/inspections", files=files, headers=headers).json()
    assert first == again
    assert len(live.client.get("/api/v1/inspections").json()["inspections"]) == 2
    other = live.client.post("/api/v1/inspections", files=files[::-1], headers=headers)
    assert other.status_code == 422
    assert other.json()["type"].endswith("key-reused")


def test_the_same_key_from_many_threads_counts_once(live: Live) -> None:
    data = png(1)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: _same(live, data), range(16)))
    assert len(set(found)) == 1


def _same(live: Live, data: bytes) -> str:
    headers = {"content-type": "image/png", "Idempotency-Key": "one"}
    answer = live.client.post("/api/v1/inspections", content=data, headers=headers)
    return answer.json()["inspections"][0]["id"]


def test_many_threads_share_a_model_that_is_loaded_once(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    original = Detector.__init__
    monkeypatch.setattr(
        Detector, "__init__", lambda self, *given: (loads.append(given), original(self, *given))[1]
    )
    busy, most = threading.Lock(), []
    decide = Detector._decide

    def alone(self: Detector, looks: list, wish: Wish) -> list:
        assert busy.acquire(blocking=False), "two threads in one model"
        try:
            most.append(len(looks))
            return decide(self, looks, wish)
        finally:
            busy.release()

    monkeypatch.setattr(Detector, "_decide", alone)
    pictures = [png(seed, defect=seed % 3 == 0) for seed in range(24)]
    with ThreadPoolExecutor(12) as pool:
        together = [found["score"] for found in pool.map(live.inspect, pictures)]
    assert sum(most) == 24
    assert together == pytest.approx([live.inspect(picture)["score"] for picture in pictures], rel=1e-4)
    assert len(loads) == 1


def test_more_at_once_than_allowed_are_told_when_to_come_back(settings: StationSettings) -> None:
    with running(settings.model_copy(update={"limits": Limits(waiting=1)})) as live:
        live.inspect(png(1))
        assert live.station.inspector._places.acquire(blocking=False)
        answer = live.client.post(
            "/api/v1/inspections", content=png(2), headers={"content-type": "image/png"}
        )
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        live.station.inspector._places.release()
        live.inspect(png(2))
        assert "anomaly_spotter_refused_total 1.0" in live.client.get("/metrics").text


def test_a_model_of_several_products(settings: StationSettings, tmp_path: Path) -> None:
    data = write_products(tmp_path / "products")
    config = SpotterConfig.load("unet", overrides=TINY, environment={})
    ProductSpotter.fit(data, ["disc", "plate"], config=config).save(settings.models / "both.spot")
    plate = cv2.imencode(".png", draw_plate(np.random.default_rng(3)))[1].tobytes()
    with running(settings) as live:
        found = live.inspect(plate, params={"model": "both"})
        assert found["product"] == "plate"
        assert live.inspect(png(3), params={"model": "both"})["product"] == "disc"
        assert live.inspect(plate, params={"model": "both", "product": "disc"})["product"] == "disc"
        unknown = live.client.post(
            "/api/v1/inspections?model=both&product=nut", content=plate, headers={"content-type": "image/png"}
        )
        assert unknown.status_code == 404
        strange = np.random.default_rng(1).integers(0, 255, (72, 96), dtype=np.uint8)
        none = live.inspect(cv2.imencode(".png", strange)[1].tobytes(), params={"model": "both"})
        assert (none["verdict"], none["score"], none["product"]) == ("DEFECT", None, None)
        assert "not one of the products" in none["reason"]
        assert (
            live.client.get("/api/v1/inspections?min_score=1000").json()["inspections"][0]["id"] == none["id"]
        )
        assert (
            live.client.get("/api/v1/inspections?product=plate").json()["inspections"][0]["id"] == found["id"]
        )


def test_a_disk_that_takes_nothing_is_told_and_leaves_nothing(live: Live, settings: StationSettings) -> None:
    live.inspect(png(1))
    pictures = settings.data / "pictures"
    pictures.rename(settings.data / "elsewhere")
    pictures.write_text("no folder")  # as a full disk: nothing can be written below
    answer = live.client.post("/api/v1/inspections", content=png(2), headers={"content-type": "image/png"})
    assert answer.status_code == 507
    assert "cannot write" in answer.json()["detail"]
    pictures.unlink()
    (settings.data / "elsewhere").rename(pictures)
    assert len(live.client.get("/api/v1/inspections").json()["inspections"]) == 1
    live.inspect(png(2))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (40, 1, 3), (1, 1)])
def test_the_smallest_pictures_get_an_answer(live: Live, shape: tuple[int, ...]) -> None:
    found = live.inspect(cv2.imencode(".png", np.full(shape, 90, np.uint8))[1].tobytes())
    assert (found["height"], found["width"]) == shape[:2]


def test_a_picture_that_fails_does_not_take_others_along(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = live.station.models.detector()
    decide = Detector._decide

    def fails_for_one(self: Detector, looks: list, wish: Wish) -> list:
        if any(next(iter(look.values())).pixels.shape == (10, 10) for look in looks):
            raise RuntimeError("bad luck")
        return decide(self, looks, wish)

    monkeypatch.setattr(Detector, "_decide", fails_for_one)
    looks = [detector.decode(png(seed), "a", 10**6) for seed in range(3)]
    bad = detector.decode(cv2.imencode(".png", np.zeros((10, 10), np.uint8))[1].tobytes(), "bad", 10**6)
    with detector._lock, ThreadPoolExecutor(4) as pool:  # all of them wait together
        tasks = [pool.submit(detector.inspect, [look], Wish()) for look in (looks[0], bad, *looks[1:])]
        until(lambda: len(detector._queue) == 4, "all wait")
        detector._lock.release()
        results = [task.exception(120) for task in tasks]
        detector._lock.acquire()
    assert [type(result) for result in results] == [type(None), RuntimeError, type(None), type(None)]
