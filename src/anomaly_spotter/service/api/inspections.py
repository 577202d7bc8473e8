"""Inspections: make them, look them up, see their pictures, review them."""

import base64
from datetime import datetime
from itertools import chain
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from anomaly_spotter.service import history
from anomaly_spotter.service.api.answers import (
    ID_PATTERN,
    InspectionAnswer,
    TheStation,
    UnreadableAnswer,
    inspection_answer,
)
from anomaly_spotter.service.api.uploads import PICTURES, read_pictures
from anomaly_spotter.service.inspecting import Order, Refused
from anomaly_spotter.service.pictures import View, drawn, media_type
from anomaly_spotter.service.problems import ProblemError, not_found
from anomaly_spotter.service.records import Record
from anomaly_spotter.service.security import Inspects, Reader, Reviews
from anomaly_spotter.service.station import Station

_KINDS = ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/tiff", "application/octet-stream")
router = APIRouter(prefix="/inspections", tags=["inspections"])
exports = APIRouter(tags=["inspections"])
Identifier = Annotated[str, Path(pattern=ID_PATTERN)]
Number = Annotated[float | None, Query(allow_inf_nan=False)]
Inline = Literal["heatmap", "overlay", "mask", "normal", "thumbnail"]


class Inspected(BaseModel):
    """The answers, one for each picture, in the order sent."""

    inspections: list[InspectionAnswer | UnreadableAnswer]


class PageAnswer(BaseModel):
    """Inspections, newest first."""

    inspections: list[InspectionAnswer]
    cursor: str | None


@router.post("", status_code=201, summary="Inspect pictures", openapi_extra={"requestBody": PICTURES})
async def inspect(
    request: Request,
    station: TheStation,
    who: Inspects,
    model: Annotated[str | None, Query(description="Name of a model; the active one if not given.")] = None,
    product: Annotated[
        str | None, Query(description="What the pictures show, where the model holds several products.")
    ] = None,
    threshold: Number = None,
    explain: Annotated[bool, Query(description="Also keep the normal look of the part.")] = False,
    inline: Annotated[list[Inline], Query(description="Pictures to send along, as base64 PNG.")] = [],  # noqa: B006  FastAPI copies it
    idempotency_key: Annotated[
        str | None,
        Header(max_length=255, description="Repeat a request safely: the same key gives the same answers."),
    ] = None,
) -> Inspected:
    """Send one picture as the body (`image/png`, `image/jpeg`, ...) or any number as `multipart/form-data`."""
    uploads = await read_pictures(request, station.settings.limits)
    order = Order(who.name, model, product, threshold, explain, idempotency_key)
    answers = await run_in_threadpool(station.inspector.inspect, uploads, order)
    if len(answers) == 1 and isinstance(answers[0], Refused):
        raise ProblemError(422, "unreadable-picture", answers[0].error)
    return Inspected(inspections=await run_in_threadpool(_shown, station, answers, inline))


class ReviewAsked(BaseModel):
    """What a person says."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"verdict": "OK", "note": "only dust"}}
    )

    verdict: Literal["OK", "DEFECT"] | None
    note: str | None = Field(default=None, max_length=2000)


def _query(
    model: str | None = None,
    product: str | None = None,
    verdict: Literal["OK", "DEFECT"] | None = None,
    review: Literal["OK", "DEFECT", "none", "any", "corrected"] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    min_score: Number = None,
    max_score: Number = None,
) -> history.Query:
    return history.Query(
        model, product, verdict, review, _seconds(since), _seconds(until), min_score, max_score
    )


TheQuery = Annotated[history.Query, Depends(_query)]


@router.get("", summary="Look inspections up")
def find(
    station: TheStation,
    _: Reader,
    query: TheQuery,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
) -> PageAnswer:
    """Newest first. Give `cursor` back, with the same filters, to get the next page."""
    page = station.history.page(query, limit, cursor)
    return PageAnswer(inspections=[inspection_answer(record) for record in page.records], cursor=page.cursor)


@exports.get(
    "/inspections.csv",
    summary="Export inspections",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}}, "description": "One line per inspection"}},
)
def export(station: TheStation, _: Reader, query: TheQuery) -> StreamingResponse:
    """As a CSV file, newest first; the same filters as for looking them up."""
    lines = station.history.csv(query)
    first = next(lines)
    second = next(lines, "")  # an error comes before the answer has begun
    headers = {"Content-Disposition": 'attachment; filename="inspections.csv"'}
    return StreamingResponse(
        chain([first, second], lines), media_type="text/csv; charset=utf-8", headers=headers
    )


@router.put("/{identifier}/review", summary="Confirm or correct a verdict")
def review(identifier: Identifier, asked: ReviewAsked, station: TheStation, who: Reviews) -> InspectionAnswer:
    """What a person says about the part. A verdict of null takes an earlier review back."""
    before = station.history.get(identifier)
    with station.audit.change(who.name, "review", identifier, verdict=asked.verdict, before=before.review):
        return inspection_answer(station.history.review(identifier, asked.verdict, asked.note, who.name))


@router.get("/{identifier}", summary="One inspection")
def get(identifier: Identifier, station: TheStation, _: Reader) -> InspectionAnswer:
    """The inspection as it was made, with what a person said about it."""
    return inspection_answer(station.history.get(identifier))


@router.get(
    "/{identifier}/{view}",
    summary="A picture of an inspection",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in _KINDS}, "description": "The picture"}},
)
def view(identifier: Identifier, view: View, station: TheStation, _: Reader) -> Response:
    """The picture as it was sent, the heat map, the overlay, the defect mask, the normal look, or a thumbnail."""
    data = drawn(station.history.get(identifier), station.pictures, view)
    if data is None:
        raise not_found("view of this inspection", view)
    return Response(
        data, media_type=media_type(data), headers={"Cache-Control": "private, max-age=31536000, immutable"}
    )


def _shown(
    station: Station, answers: list[Record | Refused], inline: list[Inline]
) -> list[InspectionAnswer | UnreadableAnswer]:
    shown: list[InspectionAnswer | UnreadableAnswer] = []
    for answer in answers:
        if isinstance(answer, Refused):
            shown.append(UnreadableAnswer(file=answer.file, error=answer.error))
            continue
        files: dict[str, Any] = {each: drawn(answer, station.pictures, each) for each in inline}
        pictures = {each: base64.b64encode(data).decode() for each, data in files.items() if data is not None}
        shown.append(inspection_answer(answer, pictures))
    return shown


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()
