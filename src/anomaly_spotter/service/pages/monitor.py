"""Page *Monitor*: rejects, scores, throughput and latency of a model, and whether its calibration still holds."""

import time
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.service.jobs import FEWEST_REVIEWED
from anomaly_spotter.service.monitoring import Scored, Stats
from anomaly_spotter.service.pages.charts import Line, lines, score_histogram
from anomaly_spotter.service.pages.drifting import shown_drift
from anomaly_spotter.service.pages.rendering import PageRoute, redirect, render, station, words
from anomaly_spotter.service.pages.words import Words
from anomaly_spotter.service.security import Administers, Reader

router = APIRouter(route_class=PageRoute)

PERIOD_WORDS = {
    1: "the last hour",
    8: "the last 8 hours",
    24: "the last 24 hours",
    168: "the last 7 days",
}
_MOST_BINS, _PARTS_PER_BIN = 24, 8  # fewer parts in a span would make a rate jump


@router.get("/monitor")
def page(
    request: Request,
    _: Reader,
    model: str | None = None,
    product: str | None = None,
    hours: Annotated[int, Query(ge=1, le=8760)] = 24,
) -> HTMLResponse:
    """How the line runs."""
    text, here = words(request), station(request)
    names = [each.name for each in here.models.list() if each.error is None]
    chosen = model if model in names else here.models.active or (names[0] if names else None)
    if chosen is None:
        return render(request, "nothing.html")
    stats = here.monitor.stats(chosen, time.time() - 3600 * hours)
    products = list(stats.calibration_scores)
    watched = product if product in products else products[0]
    return render(
        request,
        "monitor.html",
        model_names=names,
        model=chosen,
        products=products if len(products) > 1 else [],
        product=watched,
        hours=hours,
        periods=[(each, text(name)) for each, name in PERIOD_WORDS.items()],
        again=f"/monitor?{request.url.query}",
        figures=_figures(
            stats, here.models.info(chosen).products[products.index(watched)].false_reject_rate, text
        ),
        rejects=_rejects(stats, text),
        throughput=_throughput(stats, text),
        scores=score_histogram(
            stats.calibration_scores[watched],
            [each.score for each in stats.recent if each.score is not None],
            stats.thresholds[watched],
            text,
        ),
        nothing=Markup('<p class="muted">{}</p>').format(text("Nothing has been inspected in this time.")),
        drift=shown_drift(here, chosen, watched if len(products) > 1 else None, text),
        fewest=FEWEST_REVIEWED,
    )


@router.post("/monitor/recalibrate")
def recalibrate(
    request: Request,
    who: Administers,
    model: Annotated[str, Form()],
    product: Annotated[str | None, Form()] = None,
) -> Response:
    """Let a job fix the decision limit anew from reviewed good parts, and go to its page."""
    here = station(request)
    try:
        with here.audit.change(who.name, "recalibration asked for", model, product=product) as detail:
            job = here.jobs.recalibrate(model, product or None, who.name)
            detail["job"] = job.id
    except SpotterError as error:
        return render(request, "refusal.html", 422, name=model, text=str(error))
    return redirect(request, f"/train/{job.id}")


def _figures(stats: Stats, promised: float, text: Words) -> list[dict[str, str]]:
    return [
        {
            "name": text("Inspected"),
            "value": text.number(stats.total),
            "note": text.count(stats.reviewed, "{n} reviewed", "{n} reviewed"),
        },
        {
            "name": text("Rejected"),
            "value": text.percent(stats.reject_rate),
            "note": text("at most {share} of good parts promised", share=text.percent(promised)),
        },
        {
            "name": text("Throughput"),
            "value": f"{text.number(stats.per_hour)} / h"
            if stats.per_hour is not None
            else text.number(None),
            "note": text.count(stats.false_rejects, "{n} good part rejected", "{n} good parts rejected")
            + ", "
            + text.count(stats.missed, "{n} defect missed", "{n} defects missed"),
        },
        {
            "name": text("Latency"),
            "value": f"{text.number(stats.p50_ms)} ms" if stats.p50_ms is not None else text.number(None),
            "note": text("95 % below {time}", time=f"{text.number(stats.p95_ms)} ms"),
        },
    ]


def _rejects(stats: Stats, text: Words) -> Markup | None:
    slots = _slots(stats.recent)
    if not slots:
        return None
    points = [
        (at, sum(each.verdict == "DEFECT" for each in some) / len(some) if some else None)
        for at, some in slots
    ]
    return lines(
        [Line(text("Rate of rejects"), points)],
        text,
        label=text("Rate of rejects over time"),
        x_labels=_times(stats.recent),
        percent=True,
    )


def _throughput(stats: Stats, text: Words) -> Markup | None:
    slots = _slots(stats.recent)
    if not slots:
        return None
    length = (slots[1][0] - slots[0][0]) / 3600
    points: list[tuple[float, float | None]] = [(at, len(some) / length) for at, some in slots]
    return lines(
        [Line(text("Throughput"), points)],
        text,
        label=text("Parts per hour over time"),
        x_labels=_times(stats.recent),
    )


def _slots(recent: tuple[Scored, ...]) -> list[tuple[float, list[Scored]]]:
    """The newest inspections in spans of the same length: middle of each, and what was inspected in it."""
    if len(recent) < 2:
        return []
    start, end = recent[0].at, recent[-1].at
    count = min(_MOST_BINS, max(2, len(recent) // _PARTS_PER_BIN))
    length = max((end - start) / count, 1e-3)
    slots: list[list[Scored]] = [[] for _ in range(count)]
    for each in recent:
        slots[min(count - 1, int((each.at - start) / length))].append(each)
    return [(start + (index + 0.5) * length, slot) for index, slot in enumerate(slots)]


def _times(recent: tuple[Scored, ...]) -> list[tuple[float, str]]:
    """Four marks, as the clock of the station shows them."""
    start, end = recent[0].at, recent[-1].at
    form = "%H:%M:%S" if end - start < 600 else "%H:%M" if end - start < 86_400 else "%d/%m"
    marks = [start + share * (end - start) for share in (0.06, 0.35, 0.65, 0.94)]
    return [(mark, format(datetime.fromtimestamp(mark, UTC).astimezone(), form)) for mark in marks]
