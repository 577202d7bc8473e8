"""Verbs of the station: ``serve``, and ``access`` for its users and API keys."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomaly_spotter.cli.options import Engine
from anomaly_spotter.errors import ConfigError

if TYPE_CHECKING:
    from anomaly_spotter.service.accounts import Accounts

DATABASE_VARIABLE = "ANOMALY_SPOTTER_DB"
PASSWORD_VARIABLE = "ANOMALY_SPOTTER_PASSWORD"  # noqa: S105  the name of the variable

DataFolder = Annotated[
    Path, typer.Option("--data", help="Folder for inspected pictures, jobs and the SQLite database.")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--db",
        help="Database URL without a password, e.g. postgresql://USER@HOST/NAME; SQLite in --data if not given. With a "
        f"password: by {DATABASE_VARIABLE} or --db-file.",
    ),
]
DatabaseFile = Annotated[Path | None, typer.Option("--db-file", help="File that holds the database URL.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(help=f"File that holds the password; else {PASSWORD_VARIABLE}, else it is asked for."),
]
DATA = Path("outputs/station")
GIGABYTE = 10**9

access = typer.Typer(
    name="access", help="Users and API keys of a station.", no_args_is_help=True, rich_markup_mode=None
)


def serve(
    models: Annotated[Path, typer.Option("--models", help="Folder of model files.")] = Path("outputs/models"),
    data: DataFolder = DATA,
    db: DatabaseUrl = None,
    db_file: DatabaseFile = None,
    datasets: Annotated[
        Path | None,
        typer.Option(
            "--datasets", help="Folder below which training may read pictures that lie on this machine."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than loopback needs credentials, see 'access'.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 lets the system choose.", min=0, max=65535)] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Name that browsers may call it by. Repeatable.")
    ] = None,
    engine: Engine = None,
    keep_pictures: Annotated[
        int | None,
        typer.Option(
            "--keep-pictures",
            metavar="DAYS",
            min=1,
            help="Remove inspected pictures after so many days; the verdicts stay. Kept for good if not given.",
        ),
    ] = None,
    keep_gigabytes: Annotated[
        float | None,
        typer.Option(
            "--keep-gigabytes",
            metavar="GB",
            min=0.001,
            help="Remove the oldest inspected pictures while they are more than this together.",
        ),
    ] = None,
    keep_reviewed: Annotated[
        bool,
        typer.Option(
            "--keep-reviewed/--remove-reviewed",
            help="Whether pictures that a person has reviewed are kept in either case.",
        ),
    ] = True,
    api_only: Annotated[bool, typer.Option("--api-only", help="No web pages.")] = False,
) -> None:
    """Start the station: REST API, web pages, inspection history. Ctrl-C ends it."""
    from anomaly_spotter.service import require_extra

    require_extra()
    from anomaly_spotter.service.serving import run
    from anomaly_spotter.service.settings import StationSettings

    run(
        StationSettings(
            models=models,
            data=data,
            database=_url(db, db_file),
            datasets=datasets,
            host=host,
            port=port,
            hosts=tuple(allow_host or ()),
            engine=engine,
            keep_days=keep_pictures,
            keep_bytes=None if keep_gigabytes is None else int(keep_gigabytes * GIGABYTE),
            keep_reviewed=keep_reviewed,
            pages=not api_only,
        ),
        lambda address: typer.echo(f"station at {address}"),
    )


@access.command()
def add_user(
    name: Annotated[str, typer.Argument(help="To log in with.")],
    role: Annotated[
        str, typer.Option(help="operator (inspect, review) or engineer (everything).")
    ] = "operator",
    password_file: PasswordFile = None,
    data: DataFolder = DATA,
    db: DatabaseUrl = None,
    db_file: DatabaseFile = None,
) -> None:
    """Make a user for the web pages."""
    accounts = _accounts(data, db, db_file)
    made = accounts.add_user(name, role, _password(password_file))
    _note(accounts, "user added", made.name, role=role)
    typer.echo(f"{made.name} is {made.role}")


@access.command()
def set_password(
    name: Annotated[str, typer.Argument(help="The user.")],
    password_file: PasswordFile = None,
    data: DataFolder = DATA,
    db: DatabaseUrl = None,
    db_file: DatabaseFile = None,
) -> None:
    """Give a user another password; ends the sessions."""
    accounts = _accounts(data, db, db_file)
    accounts.set_password(name, _password(password_file))
    _note(accounts, "password set", name)


@access.command()
def remove_user(
    name: Annotated[str, typer.Argument(help="The user.")],
    data: DataFolder = DATA,
    db: DatabaseUrl = None,
    db_file: DatabaseFile = None,
) -> None:
    """Remove a user and end the sessions."""
    accounts = _accounts(data, db, db_file)
    accounts.remove_user(name)
    _note(accounts, "user removed", name)


@access.command()
def add_key(
    name: Annotated[str, typer.Argument(help="What the key is for, e.g. line-3.")],
    scope: Annotated[list[str], typer.Option(help="inspect, review or admin. Repeatable.")],
    data: DataFolder = DATA,
    db: DatabaseUrl = None,
    db_file: DatabaseFile = None,
) -> None:
    """Make an API key for a program; it is printed once, on stdout, and kept nowhere."""
    accounts = _accounts(data, db, db_file)
    made, key = accounts.add_key(name, scope)
    _note(accounts, "key added", made.id, name=name, scopes=list(made.scopes))
    typer.echo(f"key {made.id} may {', '.join(made.scopes)}; it is shown only now:", err=True)
    typer.echo(key)


@access.command()
def revoke_key(
    key: Annotated[str, typer.Argument(help="Its identifier, see 'access list'.")],
    data: DataFolder = DATA,
    db: DatabaseUrl = None,
    db_file: DatabaseFile = None,
) -> None:
    """Accept a key no more; a running station knows within five seconds."""
    accounts = _accounts(data, db, db_file)
    accounts.revoke_key(key)
    _note(accounts, "key revoked", key)


@access.command(name="list")
def list_all(data: DataFolder = DATA, db: DatabaseUrl = None, db_file: DatabaseFile = None) -> None:
    """List users and keys."""
    accounts = _accounts(data, db, db_file)
    for user in accounts.list_users():
        typer.echo(f"user  {user.name}  {user.role}")
    for key in accounts.list_keys():
        typer.echo(
            f"key   {key.id}  {key.name}  {','.join(key.scopes)}{'  revoked' if key.is_revoked else ''}"
        )


def _accounts(data: Path, db: str | None, db_file: Path | None) -> Accounts:
    from anomaly_spotter.service import require_extra

    require_extra()
    from anomaly_spotter.service.accounts import Accounts
    from anomaly_spotter.service.database import Database
    from anomaly_spotter.service.settings import StationSettings

    settings = StationSettings(models=data, data=data, database=_url(db, db_file))
    return Accounts(Database(settings.database_url))


def _note(accounts: Accounts, what: str, target: str, **detail: Any) -> None:
    """A line in the audit log, in the name of whoever sits at this machine."""
    import getpass

    from anomaly_spotter.service.audit import AuditLog

    AuditLog(accounts.database).add(f"{getpass.getuser()} (command line)", what, target, **detail)


def _url(db: str | None, db_file: Path | None) -> str:
    """The database URL; one with a password comes by the environment or a file, where other users do not see it."""
    if db is not None and db_file is not None:
        raise ConfigError("--db and --db-file name the database twice; leave one out")
    if db_file is not None:
        return db_file.read_text(encoding="utf-8").strip()
    if db is None:
        return os.environ.get(DATABASE_VARIABLE, "")
    if "@" in db and ":" in db.partition("://")[2].rpartition("@")[0]:
        raise ConfigError(
            f"--db holds a password, which every user of this machine can see; give the URL by {DATABASE_VARIABLE} or "
            "--db-file"
        )
    return db


def _password(file: Path | None) -> str:
    if file is not None:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    if PASSWORD_VARIABLE in os.environ:
        return os.environ[PASSWORD_VARIABLE]
    if not sys.stdin.isatty():
        raise ConfigError(f"no password; give one by --password-file or {PASSWORD_VARIABLE}")
    return str(typer.prompt("password", hide_input=True, confirmation_prompt=True))
