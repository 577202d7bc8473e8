"""Region of interest: where defects count, drawn on one picture, carried by the alignment to every other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.decode import read_mask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.inputs.preprocess import Preprocessor


def region_on_canvas(
    file: Path, reference: NDArray[np.uint8], preprocessor: Preprocessor
) -> NDArray[np.bool_]:
    """Read a region and bring it onto the canvas.

    Args:
        file: A picture the size of ``reference`` whose white pixels count, or JSON:
            ``{"include": [[[x, y], ...], ...], "ignore": [...]}``, polygons in the reference's pixels. Without
            ``include`` everything counts but what is ignored.
        reference: The picture it was drawn on.
        preprocessor: Brings that picture onto the canvas.

    Returns:
        ``bool [height, width]`` of the canvas.

    Raises:
        DatasetError: The file cannot be used, the reference shows no part, or nothing is left to inspect.
    """
    shape = (reference.shape[0], reference.shape[1])
    drawn = _polygons(file, shape) if file.suffix.lower() == ".json" else read_mask([file], shape)
    place = preprocessor.place(reference)
    if place.reason is not None:
        raise DatasetError(f"the region {file} was drawn on a picture that cannot be aligned: {place.reason}")
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    size = (preprocessor.width, preprocessor.height)
    region = cv2.warpAffine(
        drawn.astype(np.uint8), place.matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
    ).astype(bool)
    if not region.any():
        raise DatasetError(f"the region {file} leaves nothing to inspect; white pixels and 'include' count")
    return np.asarray(region)


def _polygons(file: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        include, ignore = found.get("include"), found.get("ignore", [])
        if set(found) - {"include", "ignore"} or not (include or ignore):
            raise ValueError("expected the keys 'include' and 'ignore'")
        mask = np.full(shape, 0 if include else 1, np.uint8)
        for polygons, value in ((include or [], 1), (ignore, 0)):
            for polygon in polygons:
                cv2.fillPoly(mask, [_points(polygon)], value)
    except OSError as error:
        raise DatasetError(f"cannot read the region {file}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{file} is not a region ({error}); write "
            '{"include": [[[x, y], [x, y], [x, y]]], "ignore": []} in pixels'
        ) from None
    return mask.astype(bool)


def _points(polygon: Sequence[Any]) -> NDArray[np.int32]:
    points = np.asarray(polygon, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise ValueError("a polygon is a list of at least three [x, y]")
    return np.rint(points).astype(np.int32)
