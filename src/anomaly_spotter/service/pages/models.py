"""Page *Models*: what the station can inspect with; add, activate, delete."""

import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, UploadFile
from fastapi.responses import FileResponse, HTMLResponse

from anomaly_spotter.bundle import SUFFIX
from anomaly_spotter.errors import SpotterError
from anomaly_spotter.service.api.uploads import file_name
from anomaly_spotter.service.pages.rendering import PageRoute, render, station, words
from anomaly_spotter.service.pages.scores import detectors, promise_of, promise_words
from anomaly_spotter.service.registry import ModelInfo
from anomaly_spotter.service.security import Administers, Reader

router = APIRouter(route_class=PageRoute)


@router.get("/models")
def page(request: Request, _: Reader) -> HTMLResponse:
    """All models."""
    return _shown(request)


@router.post("/models")
def upload(request: Request, who: Administers, file: UploadFile) -> HTMLResponse:
    """Take a model file over; where its name is taken, it becomes the next version."""
    here = station(request)
    name = (file_name(file.filename) or "").removesuffix(SUFFIX)
    try:
        with tempfile.TemporaryDirectory(dir=here.settings.data, prefix=".upload-") as folder:
            path = Path(folder) / f"model{SUFFIX}"
            with path.open("wb") as copy:
                shutil.copyfileobj(file.file, copy)
            with here.audit.change(who.name, "model uploaded", name) as detail:
                made = here.models.add(path, name)
                detail.update(model=made.name, identity=made.identity)
    except SpotterError as error:
        return _shown(request, error=str(error))
    return _shown(request, said=words(request)("{name} is added.", name=made.name))


@router.get("/models/{name}/file")
def download(request: Request, _: Administers, name: str) -> FileResponse:
    """The model file itself."""
    path = station(request).models.path(name)
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


@router.post("/models/{name}/activate")
def activate(request: Request, who: Administers, name: str) -> HTMLResponse:
    """Let a model inspect when none is named."""
    here = station(request)
    try:
        here.models.path(name)
        with here.audit.change(who.name, "model activated", name, before=here.models.active):
            here.models.activate(name)
    except SpotterError as error:
        return _shown(request, error=str(error))
    return _shown(request, said=words(request)("{name} is active now.", name=name))


@router.post("/models/{name}/delete")
def delete(request: Request, who: Administers, name: str) -> HTMLResponse:
    """Delete a model."""
    here = station(request)
    try:
        info = here.models.info(name)
        with here.audit.change(who.name, "model deleted", name, identity=info.identity):
            here.models.remove(name)
    except SpotterError as error:
        return _shown(request, error=str(error))
    return _shown(request, said=words(request)("{name} is deleted.", name=name))


def _shown(request: Request, **values: Any) -> HTMLResponse:
    models = station(request).models.list()
    rows = [_row(request, model) for model in models]
    usable = sorted((model for model in models if model.error is None), key=lambda model: not model.is_active)
    return render(
        request, "models.html", **{"models": rows, "usable": usable, "error": None, "said": None, **values}
    )


def _row(request: Request, model: ModelInfo) -> dict[str, Any]:
    text = words(request)
    promises = []
    if model.error is None:
        manifest = station(request).models.manifest(model.name)
        promises = [
            {
                "product": product.name,
                "is_kept": product.is_kept,
                "text": promise_words(promise_of(each), text),
            }
            for product, each in zip(model.products, detectors(manifest), strict=True)
        ]
    kinds = ", ".join(dict.fromkeys(product.kind for product in model.products))
    made = next((product.created for product in model.products if product.created), None)
    pictures = sum(product.good_pictures.get("train", 0) for product in model.products)
    parts = [
        kinds,
        text.count(pictures, "{n} good picture", "{n} good pictures"),
        (made or "")[:10],
        text.size(model.bytes),
    ]
    return {
        "name": model.name,
        "is_active": model.is_active,
        "error": model.error,
        "promises": promises,
        "summary": " · ".join(part for part in parts if part),
        "file": f"/models/{quote(model.name)}/file",
    }
