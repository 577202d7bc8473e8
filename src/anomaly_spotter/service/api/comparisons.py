"""Compare models on the same pictures; nothing is kept."""

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from anomaly_spotter.scoring.inspection import Inspection, finite
from anomaly_spotter.service.api.answers import ID_PATTERN, TheStation
from anomaly_spotter.service.inspecting import Refused
from anomaly_spotter.service.security import Inspects

router = APIRouter(prefix="/comparisons", tags=["models"])


class ComparisonAsked(BaseModel):
    """Which models on which pictures."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "models": ["screw", "screw.v2"],
                "inspections": ["0193a1b2c3d47e5f8a6b7c8d9e0f1a2b"],
            }
        },
    )

    models: list[Annotated[str, StringConstraints(max_length=255)]] = Field(min_length=1, max_length=4)
    inspections: list[Annotated[str, StringConstraints(pattern=ID_PATTERN)]] = Field(
        min_length=1, max_length=64
    )


class Judgement(BaseModel):
    """What a model says about a picture; `error` where it cannot."""

    model: str
    verdict: Literal["OK", "DEFECT"] | None
    score: float | None
    threshold: float | None
    p_value: float | None
    reason: str | None
    error: str | None


class ComparedPicture(BaseModel):
    """A kept picture, as every model sees it."""

    inspection: str
    file: str | None
    judgements: list[Judgement]


class Comparison(BaseModel):
    """The pictures in the order asked for."""

    pictures: list[ComparedPicture]


@router.post("", summary="Compare models on kept pictures")
def compare(asked: ComparisonAsked, station: TheStation, _: Inspects) -> Comparison:
    """Every model inspects the pictures of the inspections anew."""
    records = [station.history.get(identifier) for identifier in asked.inspections]
    found = {name: station.inspector.again(records, name) for name in asked.models}
    return Comparison(
        pictures=[
            ComparedPicture(
                inspection=record.id,
                file=record.file,
                judgements=[_judgement(name, each[index]) for name, each in found.items()],
            )
            for index, record in enumerate(records)
        ]
    )


def _judgement(model: str, found: Inspection | Refused) -> Judgement:
    if isinstance(found, Refused):
        return Judgement(
            model=model,
            verdict=None,
            score=None,
            threshold=None,
            p_value=None,
            reason=None,
            error=found.error,
        )
    return Judgement(
        model=model,
        verdict=found.verdict.value,
        score=finite(found.score),
        threshold=found.threshold,
        p_value=found.p_value,
        reason=found.reason,
        error=None,
    )
