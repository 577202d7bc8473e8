"""Is the station well, and are its models: health, readiness, metrics, statistics, audit log."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from anomaly_spotter.service.api.answers import ID_PATTERN, PROBLEMS, TheStation, moment
from anomaly_spotter.service.monitoring import Stats
from anomaly_spotter.service.registry import UnknownModelError
from anomaly_spotter.service.security import Administers, Reader

router = APIRouter(tags=["watching"])
root = APIRouter(tags=["watching"], responses=PROBLEMS)  # where probes and Prometheus look by default


class Health(BaseModel):
    """The process runs and answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether the station can inspect. It can while the database is away: inspections then wait on disk."""

    ready: bool
    database: Literal["reachable", "away"]
    waiting: int
    model: str | None
    reason: str | None


class Change(BaseModel):
    """An entry of the audit log."""

    id: str
    at: datetime
    who: str
    what: str
    target: str
    outcome: str
    detail: dict[str, Any]


@root.get("/health", summary="Does it run")
def health() -> Health:
    """For a liveness probe; needs no credentials."""
    return Health()


@root.get(
    "/ready", summary="Can it inspect", responses={503: {"model": Readiness, "description": "It cannot"}}
)
def ready(station: TheStation, response: Response) -> Readiness:
    """For a readiness probe; needs no credentials. Without any model a station is ready to be set up."""
    reason = None
    try:
        station.pictures.require_room()
        if station.models.list():
            station.models.detector()
    except Exception as error:  # noqa: BLE001  whatever it is, it cannot inspect
        reason = str(error)
    if reason is not None:
        response.status_code = 503
    return Readiness(
        ready=reason is None,
        database="reachable" if station.database.is_reachable() else "away",
        waiting=len(station.spool),
        model=station.models.active,
        reason=reason,
    )


@root.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus's text format"}},
)
def metrics(station: TheStation, _: Reader) -> Response:
    """Counters, latencies, what waits, and whether calibrations hold."""
    return Response(station.monitor.exposition(), media_type="text/plain; version=0.0.4")


@router.get("/stats", summary="What a model did lately")
def stats(
    station: TheStation,
    _: Reader,
    model: Annotated[str | None, Query(description="The active one if not given.")] = None,
    since: datetime | None = None,
) -> Stats:
    """Rejects, reviews, throughput, latency, and the newest scores beside those of the calibration."""
    name = model or station.models.active
    if name is None:
        raise UnknownModelError("no model is active; name one")
    return station.monitor.stats(name, 0.0 if since is None else since.timestamp())


@router.get("/audit-log", summary="Who changed what")
def audit_log(
    station: TheStation,
    _: Administers,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    before: Annotated[
        str | None, Query(pattern=ID_PATTERN, description="The last `id` of the page before.")
    ] = None,
) -> list[Change]:
    """Newest first."""
    return [
        Change(
            id=entry.id,
            at=moment(entry.at),
            who=entry.who,
            what=entry.what,
            target=entry.target,
            outcome=entry.outcome,
            detail=entry.detail,
        )
        for entry in station.audit.page(limit, before)
    ]
