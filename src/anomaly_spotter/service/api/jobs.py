"""Jobs: train a model, see how far it is, cancel it, resume it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Path
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from starlette.concurrency import run_in_threadpool

from anomaly_spotter.service.api.answers import ID_PATTERN, TheStation
from anomaly_spotter.service.jobs import ENDED, JobInfo, TrainingOrder
from anomaly_spotter.service.security import Administers, Reader
from anomaly_spotter.service.station import Station

router = APIRouter(prefix="/jobs", tags=["training"])
Identifier = Annotated[str, Path(pattern=ID_PATTERN)]
Setting = str | bool | int | FiniteFloat
_POLL = 0.25  # seconds between two looks into the diary
_SILENCE = 15.0  # seconds after which a comment keeps the connection open


class TrainingAsked(BaseModel):
    """What is to be trained: `dataset` is an uploaded one, `folder` lies on the server; give one of them."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "name": "screw",
                "dataset": "0193a1b2c3d47e5f8a6b7c8d9e0f1a2b",
                "categories": ["screw"],
                "preset": "memory",
                "settings": {"calibration.false_reject_rate": 0.02},
            }
        },
    )

    name: str = Field(max_length=200, description="Of the new model; if it is taken, the next version of it.")
    dataset: str | None = Field(default=None, pattern=ID_PATTERN)
    folder: str | None = Field(default=None, max_length=500)
    categories: list[str] = Field(default=[], max_length=100)
    preset: str = "default"
    settings: dict[str, Setting | list[Setting]] = Field(default={}, max_length=100)
    skip_bad: bool = Field(default=False, description="Leave unusable pictures out instead of stopping.")


@router.post("", status_code=202, summary="Train a model")
def train(asked: TrainingAsked, station: TheStation, who: Administers) -> JobInfo:
    """Runs in a process of its own, whoever watches; the result is a new model, which is not active yet."""
    order = TrainingOrder(**{**asked.model_dump(), "categories": tuple(asked.categories)})
    with station.audit.change(who.name, "training asked for", asked.name) as detail:
        job = station.jobs.train(order, who.name)
        detail["job"] = job.id
    return job


@router.get("", summary="List the jobs")
def list_jobs(station: TheStation, _: Reader) -> list[JobInfo]:
    """Newest first."""
    return list(station.jobs.list())


@router.get("/{identifier}", summary="One job")
def get(identifier: Identifier, station: TheStation, _: Reader) -> JobInfo:
    """How far it is, and what it made."""
    return station.jobs.get(identifier)


@router.post("/{identifier}/cancel", summary="Cancel a job")
def cancel(identifier: Identifier, station: TheStation, who: Administers) -> JobInfo:
    """Stops its process; it can be resumed."""
    station.jobs.get(identifier)
    with station.audit.change(who.name, "job cancelled", identifier):
        return station.jobs.cancel(identifier)


@router.post("/{identifier}/resume", status_code=202, summary="Resume a job")
def resume(identifier: Identifier, station: TheStation, who: Administers) -> JobInfo:
    """One that was interrupted or cancelled, or has failed, goes on where it stopped."""
    station.jobs.get(identifier)
    with station.audit.change(who.name, "job resumed", identifier):
        return station.jobs.resume(identifier)


@router.get(
    "/{identifier}/events",
    summary="Watch a job",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events until the job has ended"}},
)
async def events(
    identifier: Identifier,
    station: TheStation,
    _: Reader,
    last_event_id: Annotated[int, Header(ge=0, description="Leave out what was seen before.")] = 0,
) -> StreamingResponse:
    """Server-sent events: `progress`, `remark`, `epoch`, `failed`, `made`, and at last `end` with the job."""
    await run_in_threadpool(station.jobs.get, identifier)
    return StreamingResponse(_stream(station, identifier, last_event_id), media_type="text/event-stream")


async def _stream(station: Station, identifier: str, seen: int) -> AsyncIterator[str]:
    silent = 0.0
    while not station.is_closing:
        job = await run_in_threadpool(
            station.jobs.get, identifier
        )  # before the events: none is missed at the end
        fresh = await run_in_threadpool(station.jobs.events, identifier, seen)
        for event in fresh:
            seen += 1
            yield f"id: {seen}\nevent: {event['event']}\ndata: {json.dumps(event)}\n\n"
        if job.state in ENDED:
            shown = {name: getattr(job, name) for name in JobInfo.__slots__}
            yield f"event: end\ndata: {json.dumps(shown)}\n\n"
            return
        silent = 0.0 if fresh else silent + _POLL
        if silent >= _SILENCE:
            silent = 0.0
            yield ": still there\n\n"
        await asyncio.sleep(_POLL)
