"""SQLite and PostgreSQL: the same answers, upgrades, and inspections while the database is away."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from anomaly_spotter.errors import ConfigError
from anomaly_spotter.service.database import Database, new_id, plain_url
from tests.service.conftest import Live, Postgres, png, running, until

if TYPE_CHECKING:
    from pathlib import Path

    from anomaly_spotter.service.settings import StationSettings


def test_identifiers_sort_by_time() -> None:
    made = [new_id() for _ in range(2000)]
    assert len(set(made)) == 2000
    assert made == sorted(made) or min(made)[:12] == made[0][:12]
    assert all(len(each) == 32 and each[12] == "7" and each[16] in "89ab" for each in made)


def test_an_older_database_is_upgraded_and_a_newer_one_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'station.db'}"
    Database(url).close()
    with sqlite3.connect(tmp_path / "station.db") as connection:
        connection.execute("ALTER TABLE inspections DROP COLUMN condition")
        connection.execute("DROP TABLE audit_log")
        connection.execute("UPDATE station_schema SET version = 0")
    database = Database(url)
    with database.read() as connection:
        connection.execute(text("SELECT condition FROM inspections"))
        connection.execute(text("SELECT who FROM audit_log"))
    database.close()
    with sqlite3.connect(tmp_path / "station.db") as connection:
        assert connection.execute("SELECT version FROM station_schema").fetchall() == [(1,)]
        connection.execute("UPDATE station_schema SET version = 99")
    with pytest.raises(ConfigError, match="schema 99"):
        Database(url)


def test_what_cannot_be_a_database() -> None:
    for url in ("nonsense", "mysql://me@host/db"):
        with pytest.raises(ConfigError, match="postgresql://"):
            Database(url)
    assert "secret" not in plain_url("postgresql://me:secret@host/db")


def everything(live: Live) -> list[dict]:
    return live.client.get("/api/v1/inspections").json()["inspections"]


def test_postgresql_away_and_back(settings: StationSettings, postgres: Postgres) -> None:
    with running(settings.model_copy(update={"database": postgres.url})) as live:
        before = [live.inspect(png(seed, defect=seed == 1)) for seed in range(3)]
        assert [each["id"] for each in everything(live)] == [each["id"] for each in before[::-1]]
        live.client.put(f"/api/v1/inspections/{before[1]['id']}/review", json={"verdict": "OK"})
        assert [
            each["id"]
            for each in live.client.get("/api/v1/inspections?review=corrected").json()["inspections"]
        ]
        key = {"content-type": "image/png", "Idempotency-Key": "while away"}
        live.client.get("/api/v1/stats").raise_for_status()

        postgres.stop()
        away = [live.inspect(png(seed)) for seed in range(10, 14)]
        twice = [live.client.post("/api/v1/inspections", content=png(20), headers=key) for _ in range(2)]
        assert [answer.status_code for answer in twice] == [201, 201]
        assert twice[0].json() == twice[1].json()
        assert live.client.get("/api/v1/inspections").status_code == 503
        assert live.client.get(f"/api/v1/inspections/{away[0]['id']}").json() == away[0]
        assert live.client.get(away[0]["links"]["overlay"]).status_code == 200
        ready = live.client.get("/ready").json()
        assert (ready["ready"], ready["database"], ready["waiting"]) == (True, "away", 5)
        assert len(list((settings.data / "spool").glob("*.json"))) == 5
        refused = live.client.post("/api/v1/models/disc-unet/activate")  # it could not be logged
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0

        postgres.start()
        until(lambda: len(live.station.spool) == 0, "everything is written")
        expected = [*before, *away, twice[0].json()["inspections"][0]]
        assert [each["id"] for each in everything(live)] == [each["id"] for each in expected[::-1]]
        again = live.client.post("/api/v1/inspections", content=png(20), headers=key).json()
        assert again == twice[0].json()
        assert not list((settings.data / "spool").glob("*.json"))


def test_two_stations_on_one_database_answer_a_key_once(
    settings: StationSettings, postgres: Postgres, tmp_path: Path
) -> None:
    shared = settings.model_copy(update={"database": postgres.url})
    with running(shared) as one, running(shared.model_copy(update={"data": tmp_path / "other"})) as two:
        key = {"content-type": "image/png", "Idempotency-Key": "k"}
        first = one.client.post("/api/v1/inspections", content=png(1), headers=key).json()
        second = two.client.post("/api/v1/inspections", content=png(1), headers=key).json()
        assert first == second
        assert len(everything(two)) == 1


def test_what_waits_on_disk_survives_a_restart_and_is_written_once(settings: StationSettings) -> None:
    with running(settings) as live:
        found = live.inspect(png(1))
        record = live.station.history.get(found["id"])
    from dataclasses import asdict, replace

    spool = settings.data / "spool"
    other = replace(record, id=new_id(), file="waited.png")
    for each in (record, other):  # one of them was written just before the crash
        (spool / f"{each.id}.json").write_text(json.dumps(asdict(each)))
    with running(settings) as live:
        until(lambda: len(live.station.spool) == 0, "everything is written")
        assert [(each["id"], each["file"]) for each in everything(live)] == [
            (other.id, "waited.png"),
            (record.id, None),
        ]
