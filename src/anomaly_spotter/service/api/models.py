"""Models: list, look at, upload, activate, delete, watch for drift, recalibrate."""

import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from anomaly_spotter.bundle import SUFFIX
from anomaly_spotter.service.api.answers import TheStation
from anomaly_spotter.service.api.uploads import MODEL, save_file
from anomaly_spotter.service.drifting import DriftStatus
from anomaly_spotter.service.jobs import JobInfo
from anomaly_spotter.service.registry import ModelInfo
from anomaly_spotter.service.security import Administers, Principal, Reader
from anomaly_spotter.service.station import Station

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", summary="List the models")
def list_models(station: TheStation, _: Reader) -> list[ModelInfo]:
    """All model files, by name; one that cannot be read says why."""
    return station.models.list()


@router.post("", status_code=201, summary="Upload a model", openapi_extra={"requestBody": MODEL})
async def upload(
    request: Request,
    station: TheStation,
    who: Administers,
    name: Annotated[
        str | None, Query(max_length=200, description="Its name; that of the file if not given.")
    ] = None,
) -> ModelInfo:
    """Send a model file as the body (`application/octet-stream`) or as the file of a form.

    It is loaded before it is taken. Where the name is taken, it becomes the next version.
    """
    with tempfile.TemporaryDirectory(dir=station.settings.data, prefix=".upload-") as folder:
        path = Path(folder) / f"model{SUFFIX}"
        sent = await save_file(request, path)
        chosen = name or (sent or "").removesuffix(SUFFIX)
        return await run_in_threadpool(_take, station, who, path, chosen)


def _take(station: Station, who: Principal, path: Path, name: str) -> ModelInfo:
    with station.audit.change(who.name, "model uploaded", name) as detail:
        made = station.models.add(path, name)
        detail.update(model=made.name, identity=made.identity)
    return made


@router.get("/{name}", summary="One model")
def get_model(name: str, station: TheStation, _: Reader) -> ModelInfo:
    """What the model is, what it was trained on, and what it promises."""
    return station.models.info(name)


@router.post("/{name}/activate", summary="Let a model inspect")
def activate(name: str, station: TheStation, who: Administers) -> ModelInfo:
    """From now on it inspects when no model is named. It is loaded first: a broken one never becomes active."""
    station.models.path(name)
    with station.audit.change(who.name, "model activated", name, before=station.models.active):
        return station.models.activate(name)


@router.delete("/{name}", status_code=204, summary="Delete a model")
def delete(name: str, station: TheStation, who: Administers) -> None:
    """The inspections it made stay. The active model cannot be deleted while there are others."""
    info = station.models.info(name)
    with station.audit.change(who.name, "model deleted", name, identity=info.identity):
        station.models.remove(name)


@router.get("/{name}/drift", summary="Does its calibration still hold")
def drift(name: str, station: TheStation, _: Reader, product: str | None = None) -> DriftStatus:
    """In plain words: what has changed, since when, how sure that is, and what to do about it."""
    return station.drift.status(name, product)


@router.post("/{name}/recalibrate", status_code=202, summary="Recalibrate on confirmed good parts")
def recalibrate(name: str, station: TheStation, who: Administers, product: str | None = None) -> JobInfo:
    """A job that fixes the decision limit anew from the parts that a person has confirmed as good.

    The result is a new version of the model; the old one stays, and stays active until the new one is activated.
    """
    station.models.path(name)
    with station.audit.change(who.name, "recalibration asked for", name, product=product) as detail:
        job = station.jobs.recalibrate(name, product, who.name)
        detail["job"] = job.id
    return job
