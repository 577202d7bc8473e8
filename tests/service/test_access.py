"""The verb ``access``: users and keys from the command line, secrets by environment or file only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from anomaly_spotter.cli import app
from anomaly_spotter.errors import SpotterError
from anomaly_spotter.service.accounts import Accounts
from anomaly_spotter.service.audit import AuditLog
from anomaly_spotter.service.database import Database

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def access(data: Path, *arguments: str, password: str | None = None) -> Result:
    environment = {"ANOMALY_SPOTTER_PASSWORD": password, "ANOMALY_SPOTTER_DB": None}
    return CliRunner().invoke(app, ["access", *arguments, "--data", str(data)], env=environment)


def accounts(data: Path) -> Accounts:
    return Accounts(Database(f"sqlite:///{data / 'station.db'}"))


def test_keys(tmp_path: Path) -> None:
    made = access(tmp_path, "add-key", "line-3", "--scope", "inspect", "--scope", "review")
    key = made.stdout.strip()
    assert key.startswith("spot_")
    assert "inspect, review" in made.stderr
    assert accounts(tmp_path).of_key(key) == ("line-3", frozenset({"inspect", "review"}))
    listed = access(tmp_path, "list").stdout
    assert "line-3  inspect,review" in listed
    assert key not in listed
    access(tmp_path, "revoke-key", listed.split()[1])
    assert accounts(tmp_path).of_key(key) is None
    assert "revoked" in access(tmp_path, "list").stdout
    for wrong in (
        ["add-key", "x", "--scope", "root"],
        ["add-key", "a b", "--scope", "inspect"],
        ["revoke-key", "x"],
    ):
        assert isinstance(access(tmp_path, *wrong).exception, SpotterError)


def test_users(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from a file, long\n")
    assert (
        access(tmp_path, "add-user", "olga", password="from the environment").stdout == "olga is operator\n"
    )
    access(tmp_path, "add-user", "emil", "--role", "engineer", "--password-file", str(file))
    known = accounts(tmp_path)
    assert known.log_in("olga", "from the environment", "here", 1)[1].role == "operator"
    token, session = known.log_in("emil", "from a file, long", "here", 1)
    assert session.role == "engineer"
    access(tmp_path, "set-password", "emil", password="another password")
    assert accounts(tmp_path).session(token) is None
    access(tmp_path, "remove-user", "olga")
    assert [user.name for user in accounts(tmp_path).list_users()] == ["emil"]
    log = [(entry.what, entry.target) for entry in AuditLog(known.database).page()][::-1]
    assert log == [
        ("user added", "olga"),
        ("user added", "emil"),
        ("password set", "emil"),
        ("user removed", "olga"),
    ]


@pytest.mark.parametrize(
    ("arguments", "password", "words"),
    [
        (["add-user", "olga"], "short", "10 to 1024"),
        (["add-user", "olga", "--role", "boss"], "long enough, surely", "no role"),
        (["add-user", "olga"], None, "no password"),
        (["remove-user", "nobody"], None, "no user"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], password: str | None, words: str) -> None:
    found = access(tmp_path, *arguments, password=password)
    assert isinstance(found.exception, SpotterError)
    assert words in str(found.exception)
    assert accounts(tmp_path).list_users() == []
