"""Page *Train*: good pictures are sent and checked, a model is trained while one watches, and put to use."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response, UploadFile
from fastapi.responses import HTMLResponse

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.files import safe_name
from anomaly_spotter.service.jobs import TrainingOrder
from anomaly_spotter.service.pages.auditing import facts_of, good_count, warnings_of
from anomaly_spotter.service.pages.rendering import PageRoute, redirect, render, station, words
from anomaly_spotter.service.pages.scores import promise_words
from anomaly_spotter.service.pages.working import curves, report, shown_job
from anomaly_spotter.service.security import Administers, Reader

router = APIRouter(route_class=PageRoute)

SOURCE_WORDS = {
    "none": "There is no picture in that.",
    "reading": "Picture {i} of {n}",
    "checking": "The station looks through the pictures …",
}
PRESET_WORDS = {
    "default": "Automatic: tries several and takes the best",
    "memory": "Memory: compares with every good part",
    "gaussian": "Gaussian: for surfaces and textures",
    "unet": "Network: learns to restore good parts",
    "seed": "Original recipe: an autoencoder",
}
RATES = (0.05, 0.02, 0.01, 0.005, 0.001)
_ASKED_RATE = 0.01
Text = Annotated[str, Form()]


@router.get("/train")
def page(request: Request, _: Reader) -> HTMLResponse:
    """Where good pictures are dropped, and the jobs so far."""
    text, here = words(request), station(request)
    return render(
        request,
        "train.html",
        script_words=text.for_script(SOURCE_WORDS),
        folders=here.datasets.folders(),
        jobs=[shown_job(job, text) for job in here.jobs.list()[:20]],
    )


@router.post("/train/datasets")
def upload(request: Request, who: Administers, archive: UploadFile, name: Text = "") -> HTMLResponse:
    """Keep the pictures of an archive, and look through them."""
    here = station(request)
    with tempfile.TemporaryDirectory(dir=here.settings.data) as folder:
        path = Path(folder) / "pictures.zip"
        with path.open("wb") as file:
            shutil.copyfileobj(archive.file, file)
        with here.audit.change(who.name, "data set uploaded", name) as detail:
            made = here.datasets.add_archive(path, name, who.name)
            detail["id"] = made.id
    return _audited(request, f"dataset:{made.id}", name)


@router.post("/train/folder")
def folder(request: Request, _: Administers, folder: Text) -> HTMLResponse:
    """Look through a folder on the server."""
    return _audited(request, f"folder:{folder}", folder.rpartition("/")[2])


@router.post("/train/start")
def start(
    request: Request,
    who: Administers,
    source: Text,
    name: Text,
    preset: Text,
    rate: Annotated[float, Form(gt=0, lt=1)],
    long_side: Annotated[int | None, Form(ge=64, le=4096)] = None,
    epochs: Annotated[int | None, Form(ge=1, le=10_000)] = None,
) -> Response:
    """Let a job train a model, and go to its page."""
    kind, _, value = source.partition(":")
    settings: dict[str, str | int | float | bool] = {"calibration.false_reject_rate": rate}
    if long_side is not None:
        settings["preprocessing.long_side"] = long_side
    if epochs is not None:
        settings["training.epochs"] = epochs
    order = TrainingOrder(
        name=name.strip(),
        dataset=value if kind == "dataset" else None,
        folder=value if kind == "folder" else None,
        preset=preset,
        settings=settings,
        skip_bad=True,
    )
    here = station(request)
    try:
        with here.audit.change(who.name, "training asked for", order.name) as detail:
            job = here.jobs.train(order, who.name)
            detail["job"] = job.id
    except SpotterError as error:
        return _audited(request, source, name, error=str(error), preset=preset, rate=rate)
    return redirect(request, f"/train/{job.id}")


@router.get("/train/{identifier}")
def job_page(request: Request, _: Reader, identifier: str) -> HTMLResponse:
    """A job: how far it is, and what came of it."""
    return _job(request, identifier)


@router.post("/train/{identifier}/cancel")
def cancel(request: Request, who: Administers, identifier: str) -> HTMLResponse:
    """Stop a job."""
    here = station(request)
    with here.audit.change(who.name, "job cancelled", identifier):
        here.jobs.cancel(identifier)
    return _job(request, identifier)


@router.post("/train/{identifier}/resume")
def resume(request: Request, who: Administers, identifier: str) -> Response:
    """Let a job go on where it stopped."""
    here = station(request)
    with here.audit.change(who.name, "job resumed", identifier):
        here.jobs.resume(identifier)
    return redirect(request, f"/train/{identifier}")


@router.post("/train/{identifier}/activate")
def activate(request: Request, who: Administers, identifier: str) -> HTMLResponse:
    """Put the job's model to use."""
    here = station(request)
    model = here.jobs.get(identifier).model or ""
    with here.audit.change(who.name, "model activated", model):
        here.models.activate(model)
    return _job(request, identifier)


def _job(request: Request, identifier: str) -> HTMLResponse:
    text, here = words(request), station(request)
    job, events = here.jobs.get(identifier), here.jobs.events(identifier)
    return render(
        request,
        "job.html",
        job=shown_job(job, text),
        remarks=list(dict.fromkeys(event["text"] for event in events if event["event"] == "remark")),
        curves=curves(events, text),
        report=report(here, job, text) if job.state == "done" else None,
        events=f"/api/v1/jobs/{job.id}/events",
    )


def _audited(
    request: Request,
    source: str,
    name: str,
    *,
    error: str | None = None,
    preset: str = "default",
    rate: float = _ASKED_RATE,
) -> HTMLResponse:
    from anomaly_spotter.scoring.conformal import promise

    text, here = words(request), station(request)
    kind, _, value = source.partition(":")
    place = here.datasets.place(value if kind == "dataset" else None, value if kind == "folder" else None)
    found: dict[str, Any] = here.datasets.audit(place)
    count = good_count(found)
    return render(
        request,
        "audit.html",
        source=source,
        name=safe_name(name) if name else text("new model"),
        count=count,
        facts=facts_of(found, text),
        warnings=warnings_of(found, text),
        promise=promise_words(promise(count, rate), text) if count else "",
        presets=[(each, text(name)) for each, name in PRESET_WORDS.items()],
        preset=preset,
        rates=[(each, text.percent(each)) for each in RATES],
        rate=rate,
        error=error,
    )
