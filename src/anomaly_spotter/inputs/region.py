"""Region of interest: where defects count, drawn on one picture or learned as where good parts lie.

The alignment carries it to every other picture.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.decode import read_mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.inputs.preprocess import Preprocessor

_COVERED = 0.05  # of the good parts reach to a place that belongs to the part
_MARGIN = 16  # canvas pixels around it: burrs and chips stick out, and features look that far
_NEARLY_ALL = 0.95  # of the canvas: then a region brings nothing


def part_region(
    pictures: Iterable[NDArray[np.uint8]], preprocessor: Preprocessor
) -> NDArray[np.bool_] | None:
    """Where aligned good parts lie on the canvas, with a margin: what is beside them is background.

    Args:
        pictures: Good pictures, ``uint8 [H, W]`` or ``[H, W, 3]``.
        preprocessor: Brings them onto the canvas.

    Returns:
        ``bool [height, width]`` of the canvas; ``None`` without alignment, or when the parts fill it anyway.
    """
    if preprocessor.aligner is None:
        return None
    size = (preprocessor.width, preprocessor.height)
    covered, count = np.zeros(size[::-1]), 0
    for pixels in pictures:
        outline, place = preprocessor.aligner.outline(pixels), preprocessor.place(pixels)
        if outline is None or place.reason is not None:
            continue
        inside = np.zeros(pixels.shape[:2], np.uint8)
        cv2.fillPoly(inside, [np.rint(outline).astype(np.int32)], 1)
        covered += cv2.warpAffine(inside, place.matrix, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
        count += 1
    if not count:
        return None
    belongs = (covered >= max(1.0, _COVERED * count)).astype(np.uint8)
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _MARGIN + 1, 2 * _MARGIN + 1))
    region = cv2.dilate(belongs, around).astype(bool)
    return np.asarray(region) if 0 < region.mean() < _NEARLY_ALL else None


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
