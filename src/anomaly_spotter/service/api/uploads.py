"""Files out of a request, within the limits: one as the body, or several as ``multipart/form-data``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from anyio import open_file
from fastapi import Request
from starlette.datastructures import UploadFile

from anomaly_spotter.service.inspecting import Upload
from anomaly_spotter.service.problems import ProblemError
from anomaly_spotter.service.settings import Limits

_FILE: dict[str, Any] = {"type": "string", "format": "binary"}
_FORM = "multipart/form-data"
_CHUNK = 2**20


def _body(types: tuple[str, ...], fields: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """How OpenAPI describes a file as the body, or a form with files."""
    form = {"type": "object", "properties": fields, "required": required}
    content: dict[str, Any] = {kind: {"schema": _FILE} for kind in types}
    return {"required": True, "content": {**content, _FORM: {"schema": form}}}


PICTURES = _body(
    ("image/png", "image/jpeg", "application/octet-stream"),
    {"picture": {"type": "array", "items": _FILE, "minItems": 1}},
    ["picture"],
)
MODEL = _body(("application/octet-stream",), {"model": _FILE}, ["model"])
DATASET = _body(("application/zip",), {"archive": _FILE, "picture": {"type": "array", "items": _FILE}}, [])


async def read_pictures(request: Request, limits: Limits) -> list[Upload]:
    """The pictures of a request, at least one.

    Raises:
        ProblemError: 400 none, 415 another content type.
    """
    kind = content_type(request)
    if kind.startswith("image/") or kind == "application/octet-stream":
        data = await request.body()
        if not data:
            raise ProblemError(400, "no-picture", "the body is empty; send a picture")
        return [Upload(file_name(request.headers.get("x-file-name")), data)]
    async with read_files(request, limits.pictures) as files:
        return [Upload(file_name(part.filename), await part.read()) for _, part in files]


@asynccontextmanager
async def read_files(request: Request, most: int) -> AsyncIterator[list[tuple[str, UploadFile]]]:
    """The files of a form, with the names of their fields; at least one.

    Raises:
        ProblemError: 400 none, or too many; 415 another content type.
    """
    if content_type(request) != _FORM:
        raise ProblemError(415, "content-type", f"send the file as the body, or several as {_FORM}")
    async with request.form(max_files=most, max_fields=16) as form:
        files = [(name, part) for name, part in form.multi_items() if isinstance(part, UploadFile)]
        if not files:
            raise ProblemError(400, "no-file", "the form holds no file; send at least one")
        yield files


async def save_file(request: Request, path: Path) -> str | None:
    """Write the one file of a request to ``path`` without holding it in memory; returns the name it was sent with.

    Raises:
        ProblemError: 400 none, 415 another content type.
    """
    if content_type(request) == _FORM:
        async with read_files(request, 1) as ((_, part),), await open_file(path, "wb") as file:
            while chunk := await part.read(_CHUNK):
                await file.write(chunk)
            return file_name(part.filename)
    if content_type(request) not in ("application/octet-stream", "application/zip"):
        raise ProblemError(415, "content-type", f"send the file as application/octet-stream or {_FORM}")
    async with await open_file(path, "wb") as file:
        async for chunk in request.stream():
            await file.write(chunk)
    return file_name(request.headers.get("x-file-name"))


def content_type(request: Request) -> str:
    """The media type of the body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def file_name(sent: str | None) -> str | None:
    """The last part of a file name that was sent, without anything that could harm; it never becomes a path."""
    if not sent:
        return None
    last = sent.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:200] or None
