"""The pictures of an inspection as browsers can show them, and so that a slider from one to the other shows the heat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from anomaly_spotter.inputs.decode import decode_bytes
from anomaly_spotter.service.pictures import drawn, media_type
from anomaly_spotter.views.files import encode_picture

if TYPE_CHECKING:
    from anomaly_spotter.service.pictures import PictureStore
    from anomaly_spotter.service.records import Record

Shown = Literal["picture", "overlay", "thumbnail"]
_SHOWN = ("image/png", "image/jpeg", "image/webp", "image/bmp")


def displayed(record: Record, store: PictureStore, view: Shown) -> bytes:
    """A view of an inspection.

    Args:
        record: The inspection.
        store: Where its files are.
        view: ``picture`` (as it was inspected), ``overlay``, or ``thumbnail``.

    Raises:
        PictureGoneError: The files are no longer kept.
    """
    data = drawn(record, store, view)
    assert data is not None  # noqa: S101  only the normal look may be missing
    if view == "picture" and media_type(data) not in _SHOWN:
        return encode_picture(decode_bytes(data, name=record.file or record.id).pixels)
    return data
