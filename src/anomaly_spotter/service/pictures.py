"""The pictures of a station on disk: what was inspected and what was found on it, each file named by its SHA-256.

Of every inspection the original file, the heat as grey levels and the mask are kept; heat map, overlay and thumbnail
are drawn from them when somebody looks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import cv2
import numpy as np

from anomaly_spotter.errors import PictureError, SpotterError
from anomaly_spotter.files import write_atomic
from anomaly_spotter.inputs.decode import decode_bytes
from anomaly_spotter.inputs.preprocess import to_rgb
from anomaly_spotter.scoring.inspection import Inspection, Region, Verdict
from anomaly_spotter.service.disk import StorageError
from anomaly_spotter.views.files import encode_picture
from anomaly_spotter.views.heatmap import colour, unit_scale
from anomaly_spotter.views.overlay import mask_picture, overlay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.service.disk import Disk
    from anomaly_spotter.service.records import Record

View = Literal["picture", "heatmap", "overlay", "mask", "normal", "thumbnail"]
VIEWS: tuple[View, ...] = get_args(View)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_THUMBNAIL = 256  # pixels of the longer side


class PictureGoneError(SpotterError):
    """A picture is no longer kept."""


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file of the store.

    Attributes:
        digest: Its name, the SHA-256 of its content.
        at: When it was last put there, in seconds since 1970 (UTC).
        bytes: How large it is.
    """

    digest: str
    at: float
    bytes: int


class PictureStore:
    """Files by content below one folder.

    Args:
        folder: Where they are; made if it is missing.
        disk: Where that is.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder, self._disk = folder, disk
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Keep a file; returns its SHA-256 (hex). The same content is kept once, and as long as if it were new.

        Raises:
            StorageError: It cannot be written, or the disk is nearly full.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        with self._lock, contextlib.suppress(OSError):
            os.utime(path)
            return digest
        self.require_room()
        try:
            write_atomic(path, data)
        except SpotterError as error:
            raise StorageError(str(error)) from None
        return digest

    def require_room(self) -> None:
        """See that another picture can be kept.

        Raises:
            StorageError: The disk is nearly full.
        """
        self._disk.require(
            0,
            "nothing more is inspected; free some space, or let old pictures go by 'serve --keep-pictures DAYS'",
        )

    def get(self, digest: str) -> bytes:
        """A kept file.

        Raises:
            PictureGoneError: It is not there.
        """
        try:
            return self._path(digest).read_bytes()
        except OSError:
            raise PictureGoneError("the picture is no longer kept; only what was found on it is") from None

    def keeps(self, *digests: str | None) -> bool:
        """Whether these files are there; ``None`` stands for one that there never was."""
        return all(self._path(digest).is_file() for digest in digests if digest is not None)

    def files(self) -> Iterator[KeptFile]:
        """All files, in no order."""
        for folder in self.folder.iterdir():
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if _DIGEST.fullmatch(entry.name):
                        status = entry.stat()
                        yield KeptFile(entry.name, status.st_mtime, status.st_size)

    def remove(self, file: KeptFile) -> bool:
        """Remove a file, unless the same content was put there again meanwhile; returns whether it is gone now."""
        path = self._path(file.digest)
        with self._lock, contextlib.suppress(OSError):
            if path.stat().st_mtime == file.at:
                path.unlink()
                return True
        return False

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise SpotterError("a picture is named by its SHA-256, 64 hexadecimal digits")
        return self.folder / digest[:2] / digest


def is_kept(record: Record, store: PictureStore) -> bool:
    """Whether every view of an inspection can be drawn."""
    return store.keeps(record.picture, record.heat, record.mask, record.normal)


def heat_file(inspection: Inspection) -> bytes:
    """The anomaly map on its display range as a grey PNG; 256 levels are what the heat map shows."""
    index = np.rint(unit_scale(inspection.anomaly_map, *inspection.display_range) * 255).astype(np.uint8)
    return encode_picture(index)


def mask_file(inspection: Inspection) -> bytes | None:
    """The defect mask as PNG, ``None`` where there is none."""
    return encode_picture(mask_picture(inspection)) if inspection.mask.any() else None


def drawn(record: Record, store: PictureStore, view: View) -> bytes | None:
    """A view of a kept inspection as a picture file: JPEG for the thumbnail, the original for ``picture``, else PNG.

    ``None`` where the inspection has no such view: no normal look was asked for.

    Raises:
        PictureGoneError: The files are no longer kept.
    """
    if view == "picture":
        return store.get(record.picture)
    if view == "normal":
        return None if record.normal is None else store.get(record.normal)
    if view == "mask":
        return encode_picture(_mask(record, store).astype(np.uint8) * 255)
    if view == "heatmap":
        return encode_picture(colour(_grey(store.get(record.heat))))
    found = _restored(record, store)
    if view == "overlay":
        return encode_picture(overlay(found))
    return _thumbnail(overlay(found) if found.regions else to_rgb(found.picture))


def view_of(inspection: Inspection, view: View) -> bytes | None:
    """The same views as PNG for an inspection that was just made."""
    pictures: dict[str, NDArray[np.uint8] | None] = {
        "picture": inspection.picture,
        "mask": mask_picture(inspection),
        "normal": inspection.normal,
    }
    if view in pictures:
        picture = pictures[view]
        return None if picture is None else encode_picture(picture)
    if view == "heatmap":
        return encode_picture(colour(_grey(heat_file(inspection))))
    return encode_picture(overlay(inspection)) if view == "overlay" else _thumbnail(overlay(inspection))


def media_type(data: bytes) -> str:
    """The media type of a picture file, by its first bytes."""
    kinds = {
        b"\x89PNG": "image/png",
        b"\xff\xd8": "image/jpeg",
        b"BM": "image/bmp",
        b"II": "image/tiff",
        b"MM": "image/tiff",
        b"RIFF": "image/webp",
    }
    return next((kind for start, kind in kinds.items() if data.startswith(start)), "application/octet-stream")


def _restored(record: Record, store: PictureStore) -> Inspection:
    """The inspection as it was, the map to 1/255 of its display range."""
    picture = decode_bytes(store.get(record.picture), name=record.file or record.id).pixels
    index = _grey(store.get(record.heat))
    if picture.shape[:2] != index.shape:
        raise PictureError(f"{record.file or record.id}: the kept picture and its heat map differ in size")
    span = np.float32((record.high - record.low) / 255)
    regions = tuple(
        Region(
            area=region["area"],
            box=tuple(region["box"]),
            centroid=tuple(region["centroid"]),
            peak=region["peak"],
            peak_position=tuple(region["peak_position"]),
            mean_score=region["mean_score"],
            contour=np.array(region["contour"], np.int32).reshape(-1, 2),
        )
        for region in record.regions
    )
    return Inspection(
        verdict=Verdict(record.verdict),
        score=np.inf if record.score is None else record.score,
        threshold=record.threshold,
        p_value=record.p_value,
        anomaly_map=(np.float32(record.low) + index * span).astype(np.float32),
        mask=_mask(record, store),
        regions=regions,
        picture=picture,
        display_range=(record.low, record.high),
        reason=record.reason,
        product=record.product,
    )


def _mask(record: Record, store: PictureStore) -> NDArray[np.bool_]:
    if record.mask is None:
        return np.zeros((record.height, record.width), np.bool_)
    return _grey(store.get(record.mask)) > 0


def _grey(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE), np.uint8)


def _thumbnail(picture: NDArray[np.uint8]) -> bytes:
    factor = min(1.0, _THUMBNAIL / max(picture.shape[:2]))
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return encode_picture(small, ".jpg", 85)
