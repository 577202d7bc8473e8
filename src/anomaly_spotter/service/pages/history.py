"""Page *History*: every inspection, filtered and paged; one at full size, and what a person says about it."""

from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse

from anomaly_spotter.service.history import Query
from anomaly_spotter.service.pages.rendering import PageRoute, render, station, words
from anomaly_spotter.service.pages.shown import Shown, Tile
from anomaly_spotter.service.pictures import is_kept
from anomaly_spotter.service.security import Reader, Reviews

router = APIRouter(route_class=PageRoute)

_PAGE = 24


@dataclass(frozen=True, slots=True)
class Asked:
    """The filters as the form has them; empty where nothing is asked.

    Attributes:
        verdict: ``OK`` or ``DEFECT``.
        review: ``none``, ``any`` or ``corrected``.
        model: Name of a model.
        since: First day, ISO 8601.
        until: Last day.
        lowest: Smallest score.
    """

    verdict: Literal["", "OK", "DEFECT"] = ""
    review: Literal["", "none", "any", "corrected"] = ""
    model: str = ""
    since: date | Literal[""] = ""
    until: date | Literal[""] = ""
    lowest: float | Literal[""] = ""

    @property
    def query(self) -> Query:
        """What is asked of the history; days are those of the station's clock."""
        return Query(
            model=self.model or None,
            verdict=self.verdict or None,
            review=self.review or None,
            since=_midnight(self.since) if self.since else None,
            until=_midnight(self.until + timedelta(days=1)) if self.until else None,
            min_score=None if self.lowest == "" else self.lowest,
        )

    @property
    def filters(self) -> dict[str, object]:
        """Those that are set."""
        return {name: value for name, value in asdict(self).items() if value != ""}


@router.get("/history")
def page(
    request: Request, _: Reader, asked: Annotated[Asked, Depends()], cursor: str | None = None
) -> HTMLResponse:
    """The inspections that match, newest first."""
    here = station(request)
    found = here.history.page(asked.query, _PAGE, cursor)
    names = [model.name for model in here.models.list()]
    query = asked.query
    exported = {name: value for name, value in asdict(query).items() if value is not None}
    return render(
        request,
        "history.html",
        asked=asked,
        rows=[Tile.of(record, is_kept=is_kept(record, here.pictures)) for record in found.records],
        is_filtered=bool(asked.filters),
        more=found.cursor and f"/history?{urlencode({**asked.filters, 'cursor': found.cursor})}",
        model_options=[("", words(request)("all")), *((name, name) for name in names)],
        export=f"/api/v1/inspections.csv?{urlencode(exported)}",
    )


@router.get("/history/{identifier}")
def detail(request: Request, _: Reader, identifier: str) -> HTMLResponse:
    """One inspection."""
    here = station(request)
    record = here.history.get(identifier)
    before = here.history.page(Query(until=record.at), 1).records
    return render(
        request,
        "detail.html",
        shown=Shown.of(record, words(request)),
        is_kept=is_kept(record, here.pictures),
        older=before[0].id if before else None,
    )


@router.post("/history/{identifier}/review")
def review(
    request: Request,
    who: Reviews,
    identifier: str,
    verdict: Annotated[Literal["OK", "DEFECT"], Form()],
    note: Annotated[str, Form(max_length=2000)] = "",
) -> HTMLResponse:
    """Confirm or correct the verdict."""
    here = station(request)
    before = here.history.get(identifier).review
    with here.audit.change(who.name, "review", identifier, verdict=verdict, before=before):
        record = here.history.review(identifier, verdict, note.strip() or None, who.name)
    return render(request, "review.html", shown=Shown.of(record, words(request)))


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day).astimezone().timestamp()
