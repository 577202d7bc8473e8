"""Pictures to train from: upload them, look at what is wrong with them, or name a folder on the server."""

import shutil
import tempfile
from pathlib import Path as FilePath
from typing import IO, Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from anomaly_spotter.service.api.answers import ID_PATTERN, TheStation
from anomaly_spotter.service.api.uploads import DATASET, content_type, read_files, save_file
from anomaly_spotter.service.datasets import DatasetInfo
from anomaly_spotter.service.security import Administers, Principal, Reader
from anomaly_spotter.service.station import Station

router = APIRouter(tags=["training"])
Identifier = Annotated[str, Path(pattern=ID_PATTERN)]


@router.get("/datasets", summary="List the uploaded data sets")
def list_datasets(station: TheStation, _: Reader) -> list[DatasetInfo]:
    """Oldest first."""
    return list(station.datasets.list())


@router.post("/datasets", status_code=201, summary="Upload pictures", openapi_extra={"requestBody": DATASET})
async def upload(
    request: Request,
    station: TheStation,
    who: Administers,
    name: Annotated[str, Query(min_length=1, max_length=200, description="What to call it.")] = "pictures",
) -> DatasetInfo:
    """Send a zip file as the body (`application/zip`) or as `archive` of a form, or good pictures as `picture`."""
    with tempfile.TemporaryDirectory(dir=station.settings.data, prefix=".upload-") as folder:
        archive = FilePath(folder) / "archive.zip"
        if content_type(request) == "application/zip":
            await save_file(request, archive)
            return await run_in_threadpool(_unpack, station, who, archive, name)
        async with read_files(request, station.settings.limits.dataset_parts) as files:
            packed = next((part for field, part in files if field == "archive"), None)
            if packed is not None:
                await run_in_threadpool(_copy, packed.file, archive)
                return await run_in_threadpool(_unpack, station, who, archive, name)
            return await run_in_threadpool(_keep, station, who, [part for _, part in files], name)


@router.get("/datasets/{identifier}", summary="One data set")
def get(identifier: Identifier, station: TheStation, _: Reader) -> DatasetInfo:
    """What was uploaded, when and by whom."""
    return station.datasets.get(identifier)


@router.delete("/datasets/{identifier}", status_code=204, summary="Delete a data set")
def delete(identifier: Identifier, station: TheStation, who: Administers) -> None:
    """Models that were trained from it stay."""
    name = station.datasets.get(identifier).name
    with station.audit.change(who.name, "data set deleted", identifier, name=name):
        station.datasets.delete(identifier)


@router.get("/datasets/{identifier}/audit", summary="What is wrong with uploaded pictures")
def audit(
    identifier: Identifier, station: TheStation, _: Reader, category: str | None = None
) -> dict[str, Any]:
    """Broken files, duplicates, odd sizes and shortcuts; `warnings` says it in words."""
    return station.datasets.audit(station.datasets.files(identifier), category)


@router.get("/folders", summary="List the folders on the server")
def folders(station: TheStation, _: Administers) -> list[str]:
    """Those that training may read."""
    return list(station.datasets.folders())


@router.get("/folders/audit", summary="What is wrong with the pictures of a folder")
def audit_folder(
    folder: str, station: TheStation, _: Administers, category: str | None = None
) -> dict[str, Any]:
    """As for an uploaded data set."""
    return station.datasets.audit(station.datasets.folder(folder), category)


def _unpack(station: Station, who: Principal, archive: FilePath, name: str) -> DatasetInfo:
    with station.audit.change(who.name, "data set uploaded", name) as detail:
        made = station.datasets.add_archive(archive, name, who.name)
        detail["id"] = made.id
    return made


def _keep(station: Station, who: Principal, files: list[UploadFile], name: str) -> DatasetInfo:
    with station.audit.change(who.name, "data set uploaded", name) as detail:
        made = station.datasets.add_pictures([(file.filename, file.file) for file in files], name, who.name)
        detail["id"] = made.id
    return made


def _copy(source: IO[bytes], target: FilePath) -> None:
    with target.open("wb") as file:
        shutil.copyfileobj(source, file)
