"""Page *Inspect*: a picture goes in, a verdict comes out; and what another limit would change on the recent pictures."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse

from anomaly_spotter.service.history import Query
from anomaly_spotter.service.inspecting import Order, Refused, Upload
from anomaly_spotter.service.pages.pictures import Shown as ShownView
from anomaly_spotter.service.pages.pictures import displayed
from anomaly_spotter.service.pages.rendering import PageRoute, render, station, words
from anomaly_spotter.service.pages.scores import calibration_scores, limit_of
from anomaly_spotter.service.pages.shown import Shown, Tile
from anomaly_spotter.service.pictures import is_kept, media_type
from anomaly_spotter.service.security import Inspects, Reader

router = APIRouter(route_class=PageRoute)

SOURCE_WORDS = {
    "none": "There is no picture in that.",
    "progress": "Picture {i} of {n}",
    "finished": "{n} pictures inspected: {ok} OK, {defect} DEFECT",
}
LIMIT_WORDS = {
    "OK": "OK",
    "DEFECT": "DEFECT",
    "becomes": "becomes {verdict}",
    "empty": "Inspect some pictures first; then this shows what another limit would change.",
    "same": "Nothing would change on the last {n} pictures.",
    "change": "{total} of the last {n} pictures would change: {ok} to OK, {defect} to DEFECT.",
    "cost": "Of the {n} good parts of the calibration, this limit rejects {above} ({share} %).",
}
RECENT = 24


@router.get("/")
def start(_: Reader) -> Response:
    """To the first page."""
    return RedirectResponse("/inspect", 303)


@router.get("/inspect")
def page(request: Request, _: Reader, model: str | None = None) -> HTMLResponse:
    """Where pictures are dropped."""
    models = [each for each in station(request).models.list() if each.error is None]
    chosen = model or station(request).models.active
    texts = words(request).for_script(SOURCE_WORDS)
    return render(request, "inspect.html", models=models, chosen=chosen, script_words=texts)


@router.post("/inspect")
def inspect(
    request: Request, who: Inspects, picture: UploadFile, model: Annotated[str, Form()]
) -> HTMLResponse:
    """Inspect one picture; the verdict with its evidence as a part of the page."""
    upload = Upload(picture.filename, picture.file.read())
    (answer,) = station(request).inspector.inspect([upload], Order(who.name, model))
    if isinstance(answer, Refused):
        return render(request, "refusal.html", 422, name=answer.file or "", text=answer.error)
    return render(request, "result.html", shown=Shown.of(answer, words(request)))


@router.get("/inspect/recent")
def recent(request: Request, _: Reader, model: str) -> HTMLResponse:
    """The last pictures of a model, and the slider for its limit."""
    here = station(request)
    manifest = here.models.manifest(model)
    records = here.history.page(Query(model=model), RECENT).records
    scores = calibration_scores(manifest)
    limit = limit_of(manifest)
    highest = max([2 * limit, *(each.score for each in records if each.score is not None)])
    return render(
        request,
        "recent.html",
        recent=[Tile.of(record, is_kept=is_kept(record, here.pictures)) for record in records],
        calibration=scores,
        limit=limit,
        low=round(min([0.0, *scores]), 2),
        high=round(min(highest, 4 * limit) + 0.05, 2),
        script_words=words(request).for_script(LIMIT_WORDS),
    )


@router.get("/pictures/{identifier}/{view}")
def picture(request: Request, _: Reader, identifier: str, view: ShownView) -> Response:
    """A picture of an inspection, as a browser can show it; it never changes."""
    record = station(request).history.get(identifier)
    data = displayed(record, station(request).pictures, view)
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    return Response(data, media_type=media_type(data), headers=headers)
