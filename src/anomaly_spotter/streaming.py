"""Pictures through a detector, whatever kind of one: a few at a time, one answer each, in the order given."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_spotter.errors import PictureError, SpotterError
from anomaly_spotter.inputs.decode import Picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.scoring.inspection import Inspection

    Source = str | Path | NDArray[Any]
    Decoded = tuple[Source, Picture | PictureError]

_BATCH = 8  # pictures per forward pass; more gains nothing on a CPU and costs memory
_BATCH_PIXELS = 2**25  # decoded values after which a batch is closed early


def one_or_all(
    picture: Source | Sequence[Source],
    stream: Callable[[Iterable[Source]], Iterator[tuple[Source, Inspection | PictureError]]],
) -> Inspection | list[Inspection]:
    """One inspection for one picture, a list for a sequence of them or a batch ``[B, H, W, C]``.

    Raises:
        PictureError: A picture cannot be read.
    """
    if isinstance(picture, np.ndarray) and picture.ndim == 4:
        picture = list(picture)
    if isinstance(picture, str | Path | np.ndarray):
        return _readable(stream([picture]))[0]
    return _readable(stream(picture))


def require_number(threshold: float | None) -> None:
    """Refuse a decision limit that no score can exceed.

    Raises:
        SpotterError: It is NaN.
    """
    if threshold is not None and math.isnan(threshold):
        raise SpotterError("the threshold must be a number, found NaN; 1.0 is the limit as calibrated")


def batches(decoded: Iterator[Decoded]) -> Iterator[list[Decoded]]:
    """Groups of a few pictures; huge ones come in smaller groups, so that memory stays bounded."""
    batch: list[Decoded] = []
    pixels = 0
    for source, picture in decoded:
        batch.append((source, picture))
        pixels += picture.pixels.size if isinstance(picture, Picture) else 0
        if len(batch) == _BATCH or pixels >= _BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _readable(stream: Iterator[tuple[Source, Inspection | PictureError]]) -> list[Inspection]:
    results = []
    for _, found in stream:
        if isinstance(found, PictureError):
            raise found
        results.append(found)
    return results
