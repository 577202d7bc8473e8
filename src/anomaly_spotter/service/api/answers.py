"""What the REST API answers with, in types that OpenAPI shows, with examples."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Depends
from pydantic import BaseModel, ConfigDict, Field

from anomaly_spotter.service.pictures import VIEWS
from anomaly_spotter.service.problems import MEDIA_TYPE
from anomaly_spotter.service.records import Record
from anomaly_spotter.service.security import station_of
from anomaly_spotter.service.station import Station

ID_PATTERN = r"^[0-9a-f]{32}$"
_ID = "0193a1b2c3d47e5f8a6b7c8d9e0f1a2b"


class Problem(BaseModel):
    """A problem detail (RFC 9457)."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "type": "urn:anomaly-spotter:problem:not-found",
                "title": "Not Found",
                "status": 404,
                "detail": "there is no model 'screw'",
                "instance": "/api/v1/models/screw",
            }
        },
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: _problem("The request cannot be read"),
    401: {**_problem("Nobody that the station knows"), "model": Problem},
    403: _problem("Not allowed"),
    404: _problem("There is no such thing"),
    409: _problem("It does not fit what is there"),
    410: _problem("The picture is no longer kept"),
    413: _problem("Too large"),
    415: _problem("Another content type is expected"),
    422: _problem("The values do not fit"),
    429: _problem("Too often; `Retry-After` says when to come back"),
    507: _problem("The disk does not take it"),
    503: _problem("Too busy, or a part is away; `Retry-After` says when to come back"),
}


class Region(BaseModel):
    """A defect region, in the picture's own pixels."""

    area: int
    box: tuple[int, int, int, int] = Field(description="left, top, width, height")
    centroid: tuple[float, float]
    peak: float
    peak_position: tuple[int, int]
    mean_score: float
    contour: list[tuple[int, int]]


class Review(BaseModel):
    """What a person says."""

    verdict: Literal["OK", "DEFECT"]
    note: str | None
    by: str
    at: datetime


class InspectionAnswer(BaseModel):
    """An inspection. `score` is on the calibrated scale: 0 is the typical pixel of a good part, 1 the decision limit."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": _ID,
                "at": "2026-05-04T09:30:00.120000Z",
                "model": "screw-memory",
                "bundle": "9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c5b4a39281706f5e4d3c2b1a0",
                "product": None,
                "verdict": "DEFECT",
                "score": 1.83,
                "threshold": 1.0,
                "p_value": 0.0031,
                "reason": None,
                "regions": [
                    {
                        "area": 214,
                        "box": [401, 118, 22, 14],
                        "centroid": [411.6, 124.8],
                        "peak": 2.4,
                        "peak_position": [412, 125],
                        "mean_score": 1.6,
                        "contour": [[401, 118], [422, 118], [422, 131], [401, 131]],
                    }
                ],
                "notes": [],
                "file": "part_0815.png",
                "width": 1024,
                "height": 1024,
                "milliseconds": 24.1,
                "by": "line-3",
                "review": None,
                "links": {"heatmap": f"/api/v1/inspections/{_ID}/heatmap"},
                "pictures": {},
            }
        }
    )

    id: str
    at: datetime
    model: str
    bundle: str
    product: str | None
    verdict: Literal["OK", "DEFECT"]
    score: float | None = Field(description="null where the part could not be judged; `reason` says why")
    threshold: float
    p_value: float = Field(description="How often a good part scores at least this high.")
    reason: str | None
    regions: list[Region]
    notes: list[str]
    file: str | None
    width: int
    height: int
    milliseconds: float
    by: str
    review: Review | None
    links: dict[str, str] = Field(description="Where its pictures are.")
    pictures: dict[str, str] = Field(description="Those that were asked for by `inline`, as base64.")


class UnreadableAnswer(BaseModel):
    """A picture that could not be inspected, among others that could."""

    file: str | None
    error: str


def inspection_answer(record: Record, pictures: dict[str, str] | None = None) -> InspectionAnswer:
    """A record as the API shows it."""
    shown = [view for view in VIEWS if view != "normal" or record.normal]
    review = None
    if record.review is not None and record.review_at is not None:
        review = Review(
            verdict=record.review,  # type: ignore[arg-type]
            note=record.review_note,
            by=record.review_by or "",
            at=moment(record.review_at),
        )
    return InspectionAnswer(
        id=record.id,
        at=moment(record.at),
        model=record.model,
        bundle=record.bundle,
        product=record.product,
        verdict=record.verdict,  # type: ignore[arg-type]
        score=record.score,
        threshold=record.threshold,
        p_value=record.p_value,
        reason=record.reason,
        regions=[Region(**region) for region in record.regions],
        notes=record.notes,
        file=record.file,
        width=record.width,
        height=record.height,
        milliseconds=record.milliseconds,
        by=record.by,
        review=review,
        links={view: f"/api/v1/inspections/{record.id}/{view}" for view in shown},
        pictures=pictures or {},
    )


def moment(seconds: float) -> datetime:
    """Seconds since 1970 as a time with its zone."""
    return datetime.fromtimestamp(seconds, UTC)


TheStation = Annotated[Station, Depends(station_of)]
