"""Two models on the same pictures: which verdicts differ, and where each of them looks."""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse

from anomaly_spotter.scoring.inspection import Inspection, finite
from anomaly_spotter.service.history import Query
from anomaly_spotter.service.inspecting import Refused
from anomaly_spotter.service.pages.rendering import PageRoute, render, station, words
from anomaly_spotter.service.pages.shown import Tile
from anomaly_spotter.service.pictures import PictureStore, view_of
from anomaly_spotter.service.records import Record
from anomaly_spotter.service.security import Inspects

router = APIRouter(route_class=PageRoute)


@router.post("/models/compare")
def compare(
    request: Request,
    _: Inspects,
    first: Annotated[str, Form()],
    second: Annotated[str, Form()],
    count: Annotated[int, Form(ge=1, le=48)],
) -> HTMLResponse:
    """Inspect the last pictures with both models; nothing is kept."""
    here, text = station(request), words(request)
    records = _different(here.history.page(Query(), 4 * count).records, here.pictures)[:count]
    found = [here.inspector.again(records, name) for name in (first, second)]
    rows = [_row(record, left, right) for record, left, right in zip(records, *found, strict=True)]
    differing = sum(row["differs"] for row in rows)
    summary = text("Both give the same verdict on all {n} pictures.", n=len(rows)) if not differing else text(
        "They disagree on {differing} of {n} pictures.", differing=differing, n=len(rows)
    )  # fmt: skip
    rows.sort(key=lambda row: not row["differs"])
    return render(request, "comparison.html", rows=rows, summary=summary, first=first, second=second)


def _different(records: tuple[Record, ...], store: PictureStore) -> list[Record]:
    """Each picture that is kept once, newest first."""
    kept = [record for record in reversed(records) if store.keeps(record.picture)]
    return list({record.picture: record for record in kept}.values())[::-1]


def _row(record: Record, left: Inspection | Refused, right: Inspection | Refused) -> dict[str, Any]:
    tile = Tile.of(record, is_kept=True)
    sides = [_side(left), _side(right)]
    return {
        "id": tile.id,
        "name": tile.name,
        "thumbnail": tile.thumbnail,
        "first": sides[0],
        "second": sides[1],
        "differs": sides[0]["verdict"] != sides[1]["verdict"],
    }


def _side(found: Inspection | Refused) -> dict[str, Any]:
    if isinstance(found, Refused):
        return {"verdict": None, "score": None, "overlay": ""}
    small = view_of(found, "thumbnail") or b""
    data = f"data:image/jpeg;base64,{base64.b64encode(small).decode('ascii')}"
    return {"verdict": found.verdict.value, "score": finite(found.score), "overlay": data}
