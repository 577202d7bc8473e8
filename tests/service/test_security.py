"""Each attack that the station is built against, tried."""

from __future__ import annotations

import io
import sqlite3
import struct
import zlib
from typing import TYPE_CHECKING

import httpx
import pytest

from anomaly_spotter.cli.station import _url
from anomaly_spotter.errors import ConfigError
from anomaly_spotter.service import create_app
from anomaly_spotter.service.accounts import Accounts
from anomaly_spotter.service.database import Database
from anomaly_spotter.service.settings import Limits, StationSettings
from anomaly_spotter.service.throttle import Throttle
from tests.service.conftest import Live, png, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "correct horse battery"
PICTURE = {"content-type": "image/png"}
SMALL = Limits(upload_bytes=200_000, picture_pixels=100_000, pictures=3, model_bytes=5_000_000)


@pytest.fixture
def guarded(settings: StationSettings) -> Iterator[tuple[Live, dict[str, str]]]:
    """A station with credentials, and its keys by scope."""
    accounts = Accounts(Database(settings.database_url))
    keys = {scope: accounts.add_key(scope, [scope])[1] for scope in ("inspect", "review", "admin")}
    accounts.add_user("olga", "operator", PASSWORD)
    accounts.add_user("emil", "engineer", PASSWORD)
    with running(settings.model_copy(update={"limits": SMALL})) as live:
        yield live, keys


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def log_in(live: Live, name: str, password: str = PASSWORD) -> tuple[httpx.Client, httpx.Response]:
    client = httpx.Client(base_url=live.url, timeout=60)
    return client, client.post("/api/v1/session", json={"name": name, "password": password})


# --- who may come in --------------------------------------------------------------------------------------------------


def test_no_other_address_than_loopback_without_credentials(settings: StationSettings) -> None:
    exposed = settings.model_copy(update={"host": "0.0.0.0"})
    with pytest.raises(ConfigError, match="nobody has credentials"):
        create_app(exposed)
    Accounts(Database(settings.database_url)).add_key("line", ["inspect"])
    create_app(exposed).state.station.close()


def test_nobody_without_a_key(guarded: tuple[Live, dict[str, str]]) -> None:
    live, keys = guarded
    schema = live.client.get("/api/v1/openapi.json").json()
    for path, methods in schema["paths"].items():
        for method in methods:
            if path in ("/health", "/ready") or (path == "/api/v1/session" and method == "post"):
                continue
            where = (
                path.replace("{identifier}", "0" * 32)
                .replace("{name}", "disc-unet")
                .replace("{view}", "mask")
            )
            answer = live.client.request(method, where, content=png(1), headers=PICTURE)
            assert answer.status_code in (401, 422), (method, path, answer.text)
            if answer.status_code == 422:  # values are checked at the same time; nothing else happens
                assert answer.json()["type"].endswith("validation")
    for wrong in ("", "spot_", keys["admin"][:-1], keys["admin"] + "x", "ü"):
        answer = live.client.get("/api/v1/models", headers=[(b"x-api-key", wrong.encode())])
        assert answer.status_code == 401, wrong
    assert answer.headers["www-authenticate"] == "Bearer"


def test_scopes(guarded: tuple[Live, dict[str, str]]) -> None:
    live, keys = guarded
    may = {scope: [] for scope in keys}
    found = live.client.post(
        "/api/v1/inspections", content=png(1), headers={**PICTURE, **bearer(keys["inspect"])}
    ).json()["inspections"][0]
    assert found["by"] == "inspect"
    tries = {
        "inspect": ("POST", "/api/v1/inspections", {"content": png(1), "headers": PICTURE}),
        "review": ("PUT", f"/api/v1/inspections/{found['id']}/review", {"json": {"verdict": "OK"}}),
        "activate": ("POST", "/api/v1/models/disc-unet/activate", {}),
        "log": ("GET", "/api/v1/audit-log", {}),
        "read": ("GET", "/api/v1/inspections", {}),
    }
    for scope, key in keys.items():
        for what, (method, path, more) in tries.items():
            headers = {**more.get("headers", {}), **bearer(key)}
            answer = live.client.request(method, path, **{**more, "headers": headers})
            assert answer.status_code in (200, 201, 403), answer.text
            if answer.status_code != 403:
                may[scope].append(what)
    assert may == {"inspect": ["inspect", "read"], "review": ["review", "read"], "admin": list(tries)}


def test_a_revoked_key_is_refused(guarded: tuple[Live, dict[str, str]]) -> None:
    live, keys = guarded
    assert live.client.get("/api/v1/models", headers=bearer(keys["inspect"])).status_code == 200
    (key,) = [each for each in live.station.accounts.list_keys() if each.name == "inspect"]
    live.station.accounts.revoke_key(key.id)
    assert live.client.get("/api/v1/models", headers=bearer(keys["inspect"])).status_code == 401


def test_secrets_are_kept_as_hashes_only(
    guarded: tuple[Live, dict[str, str]], settings: StationSettings
) -> None:
    live, keys = guarded
    client, _ = log_in(live, "olga")
    secrets = [*keys.values(), PASSWORD, client.cookies["station_session"]]
    with sqlite3.connect(settings.data / "station.db") as connection:
        stored = "\n".join(connection.iterdump())
        (hashed,) = connection.execute("SELECT password FROM users WHERE name = 'olga'").fetchone()
    assert "olga" in stored
    assert not [secret for secret in secrets if secret in stored]
    assert hashed.startswith("$argon2id$")


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_needs_its_token_for_changes(guarded: tuple[Live, dict[str, str]]) -> None:
    live, _ = guarded
    client, answer = log_in(live, "olga")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert answer.json()["role"] == "operator"
    token = {"X-CSRF-Token": answer.json()["csrf"]}
    assert client.get("/api/v1/session").json()["name"] == "olga"
    for headers in ({}, {"X-CSRF-Token": "wrong"}):
        refused = client.post("/api/v1/inspections", content=png(1), headers={**PICTURE, **headers})
        assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (403, "csrf")
    made = client.post("/api/v1/inspections", content=png(1), headers={**PICTURE, **token})
    assert made.json()["inspections"][0]["by"] == "olga"
    assert client.post("/api/v1/models/disc-unet/activate", headers=token).status_code == 403  # an operator
    stolen = client.cookies["station_session"]
    assert client.delete("/api/v1/session", headers=token).status_code == 204
    again = httpx.get(f"{live.url}/api/v1/session", cookies={"station_session": stolen})
    assert again.status_code == 401


def test_another_password_ends_the_sessions(guarded: tuple[Live, dict[str, str]]) -> None:
    live, _ = guarded
    client, _answer = log_in(live, "emil")
    assert client.get("/api/v1/session").json()["role"] == "engineer"
    live.station.accounts.set_password("emil", "a better one, longer")
    assert client.get("/api/v1/session").status_code == 401
    assert log_in(live, "emil")[1].status_code == 401


def test_guessing_a_password_is_slowed_down(guarded: tuple[Live, dict[str, str]]) -> None:
    live, _ = guarded
    wrong = [log_in(live, name, "wrong password")[1] for name in ("olga", "nobody", "olga", "olga", "olga")]
    assert {answer.status_code for answer in wrong} == {401}
    assert len({answer.json()["detail"] for answer in wrong}) == 1  # does not tell whether the name exists
    stopped = log_in(live, "olga")[1]  # the right password, too early
    assert stopped.status_code == 429
    assert 0 < int(stopped.headers["retry-after"]) <= 900
    failures = [entry for entry in live.station.audit.page() if entry.what == "login"]
    assert [entry.outcome for entry in failures] == ["failed"] * 5


def test_waits_double_and_end() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    for _ in range(4):
        throttle.failed("a")
    assert throttle.wait("a") == 0
    waits = []
    for _ in range(4):
        throttle.failed("a")
        waits.append(throttle.wait("a", "b"))
    assert waits == [2, 4, 8, 16]
    for _ in range(40):
        throttle.failed("a")
    assert throttle.wait("a") == 900
    now[0] += 900
    assert throttle.wait("a") == 0
    throttle.succeeded("a")
    throttle.failed("a")
    assert throttle.wait("a") == 0


# --- browsers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_foreign_page_changes_nothing(live: Live, headers: dict[str, str]) -> None:
    files = [("picture", ("a.png", png(1)))]
    answer = live.client.post("/api/v1/inspections", files=files, headers=headers)
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (403, "origin")
    assert live.client.get("/api/v1/inspections").json()["inspections"] == []


def test_our_own_page_needs_its_token_even_while_the_station_is_open(live: Live) -> None:
    files = [("picture", ("a.png", png(1)))]
    ours = {"Origin": live.url, "Sec-Fetch-Site": "same-origin"}
    assert live.client.post("/api/v1/inspections", files=files, headers=ours).json()["type"].endswith("csrf")
    token = live.client.get("/api/v1/session").json()["csrf"]
    answer = live.client.post("/api/v1/inspections", files=files, headers={**ours, "X-CSRF-Token": token})
    assert answer.status_code == 201


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_a_name_that_was_rebound_is_refused(live: Live, host: str) -> None:
    answer = live.client.get("/api/v1/session", headers={"Host": host})
    assert answer.status_code == 400
    assert "csrf" not in answer.text


def test_security_headers_are_everywhere(live: Live) -> None:
    for path in ("/api/v1/models", "/api/v1/nothing", "/nothing", "/health"):
        headers = live.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


# --- too much ---------------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of a few hundred bytes that unpacks to 900 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_uploads_have_limits(guarded: tuple[Live, dict[str, str]]) -> None:
    live, keys = guarded
    headers = {**PICTURE, **bearer(keys["inspect"])}
    assert live.client.post("/api/v1/inspections", content=bytes(300_000), headers=headers).status_code == 413

    def endless() -> Iterator[bytes]:  # says no length
        for _ in range(1000):
            yield bytes(10_000)

    try:
        answer = live.client.post("/api/v1/inspections", content=endless(), headers=headers)
        assert answer.status_code == 413
        assert answer.json()["type"].endswith("too-large")
    except httpx.WriteError:
        pass  # hung up on while still sending
    refused = live.client.post("/api/v1/inspections", content=bomb(), headers=headers)
    assert (refused.status_code, "900000000" in refused.text or "30000 x 30000" in refused.text) == (
        422,
        True,
    )
    many = [("picture", (f"{number}.png", png(1))) for number in range(4)]
    assert (
        live.client.post("/api/v1/inspections", files=many, headers=bearer(keys["inspect"])).status_code
        == 400
    )
    assert live.client.get("/api/v1/inspections", headers=headers).json()["inspections"] == []


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "%2e%2e%2fdisc-unet",
        "..%2F..%2Fetc%2Fpasswd",
        "%2Fetc%2Fpasswd",
        "a%00b",
        ".hidden",
        "disc-unet.spot%2F..",
    ],
)
def test_no_name_leads_out_of_the_models_folder(live: Live, settings: StationSettings, name: str) -> None:
    (settings.data / "outside.spot").write_bytes((settings.models / "disc-unet.spot").read_bytes())
    for path in (f"/api/v1/models/{name}", f"/api/v1/models/{name}/drift"):
        assert live.client.get(path).status_code in (404, 405)
    assert live.client.delete(f"/api/v1/models/{name}").status_code in (404, 405)
    assert live.client.get("/api/v1/models/..%2Fdata%2Foutside").status_code == 404
    assert (settings.models / "disc-unet.spot").is_file()


@pytest.mark.parametrize("name", ["../evil", "a/b", "a\\b", "", " ", "..", ".x", "x" * 300, "a\nb", "CON:"])
def test_no_model_is_written_under_another_name(live: Live, settings: StationSettings, name: str) -> None:
    before = sorted(settings.models.parent.rglob("*.spot"))
    data = before[0].read_bytes()
    headers = {"content-type": "application/octet-stream"}
    answer = live.client.post("/api/v1/models", params={"name": name}, content=data, headers=headers)
    assert answer.status_code == 422
    assert sorted(settings.models.parent.rglob("*.spot")) == before


def test_a_view_is_named_by_its_inspection_only(live: Live) -> None:
    found = live.inspect(png(1))
    for view in ("..%2F..%2Fstation.db", "picture%2F..", "secret"):
        assert live.client.get(f"/api/v1/inspections/{found['id']}/{view}").status_code in (404, 422)
    for identifier in ("..%2F..", "0" * 31, "G" * 32, found["id"].upper()):
        assert live.client.get(f"/api/v1/inspections/{identifier}/picture").status_code in (404, 422)


# --- secrets on the command line -----------------------------------------------------------------------------------


def test_a_password_in_a_url_comes_by_environment_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="every user of this machine can see"):
        _url("postgresql://me:secret@host/db", None)
    assert _url("postgresql://me@host:5432/db", None) == "postgresql://me@host:5432/db"
    file = tmp_path / "url"
    file.write_text("postgresql://me:secret@host/db\n")
    assert _url(None, file) == "postgresql://me:secret@host/db"
    monkeypatch.setenv("ANOMALY_SPOTTER_DB", "postgresql://me:other@host/db")
    assert _url(None, None) == "postgresql://me:other@host/db"


def test_an_unforeseen_error_tells_nothing(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.station.models, "list", lambda: 1 / 0)
    answer = live.client.get("/api/v1/models")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "ZeroDivision" not in answer.text
    assert "Traceback" not in answer.text


def test_a_bundle_that_is_none_is_refused(live: Live, settings: StationSettings) -> None:
    import pickle
    import zipfile

    stuffed = io.BytesIO()
    with zipfile.ZipFile(stuffed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * 50_000_000)
    for data in (b"", b"no zip", pickle.dumps({"a": 1}), stuffed.getvalue()):
        headers = {"content-type": "application/octet-stream"}
        answer = live.client.post("/api/v1/models?name=evil", content=data, headers=headers)
        assert answer.status_code == 422, answer.text
    assert [path.name for path in settings.models.iterdir()] == ["disc-unet.spot"]
    assert [entry.outcome for entry in live.station.audit.page() if entry.what == "model uploaded"] == [
        "failed"
    ] * 4
