"""Inspection to overlay: the heat map blended over the picture, with the contours of the regions on top."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.inputs.preprocess import to_rgb
from anomaly_spotter.views.heatmap import heatmap, unit_scale

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from anomaly_spotter.scoring.inspection import Inspection, Region

_LINE = (64, 224, 255)  # a cyan that inferno does not have
_HALO = (16, 20, 26)
_CALM = 0.25  # share of the way to the limit up to which the picture stays untouched
_SHIFT = 4  # cv2 takes fixed-point coordinates: 4 bits after the point


def overlay(inspection: Inspection, opacity: float = 0.45, *, banner: bool = False) -> NDArray[np.uint8]:
    """Blend the heat map over the picture and draw the contours of the regions.

    The weight of the heat grows with the score and reaches ``opacity`` in the middle of the display range (the
    decision limit, unless the settings ask for a range per picture). It is nothing up to a quarter of that, so calm
    areas keep the look of the picture.

    Args:
        inspection: What was found on the picture; its ``display_range`` sets the colours.
        opacity: Largest weight of the heat, in [0, 1].
        banner: Whether to write the verdict in the upper left corner, as a shape and, where there is room, a word.

    Returns:
        ``uint8 [H, W, 3]`` RGB, the size of the picture.

    Raises:
        ValueError: ``opacity`` is outside [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in [0, 1], found {opacity}")
    picture = to_rgb(inspection.picture)
    unit = unit_scale(inspection.anomaly_map, *inspection.display_range)
    ramp = np.clip((2 * unit - _CALM) / (1 - _CALM), 0, 1)
    weight = np.float32(opacity) * ramp * ramp * (3 - 2 * ramp)  # [H, W], smooth at both ends
    heat = heatmap(inspection.anomaly_map, *inspection.display_range)
    blended = cv2.blendLinear(picture, heat, 1 - weight, weight).astype(np.uint8, copy=False)
    drawn = draw_regions(blended, inspection.regions)
    return _with_banner(drawn, inspection) if banner else drawn


def mask_picture(inspection: Inspection) -> NDArray[np.uint8]:
    """The defect mask as a picture: ``uint8 [H, W]``, 255 where a defect is, 0 elsewhere."""
    return np.where(inspection.mask, np.uint8(255), np.uint8(0))


def draw_regions(picture: NDArray[np.uint8], regions: Iterable[Region]) -> NDArray[np.uint8]:
    """Draw the contours of regions on a copy of ``uint8 [H, W, 3]``, line width scaled to the picture.

    A region too small to be seen at this size is ringed instead, so that a defect of three pixels in a picture of
    twelve million still catches the eye.
    """
    canvas = np.array(picture, copy=True, order="C")
    short = min(canvas.shape[:2])
    width = max(1, round(short / 260))
    halo = width + max(1, width // 2) if short >= 96 else 0
    smallest_ring = max(3.0, 0.014 * short)
    outlines = [_outline(region, smallest_ring) for region in regions]
    for thickness, colour in ((halo, _HALO), (width, _LINE)):
        if thickness and outlines:
            cv2.polylines(canvas, outlines, True, colour, thickness, cv2.LINE_AA, _SHIFT)
    return canvas


def resized(inspection: Inspection, width: int, height: int) -> Inspection:
    """The same inspection for a picture of another size, so that contours stay crisp in a small tile.

    Pictures are enlarged by repeating pixels (what was inspected is what is seen) and shrunk by averaging; maps are
    interpolated when enlarged. Areas and scores of the regions stay those of the original.

    Args:
        inspection: What was found on the picture.
        width: New width in pixels, at least 1.
        height: New height in pixels, at least 1.
    """
    rows, columns = inspection.picture.shape[:2]
    if (width, height) == (columns, rows):
        return inspection
    size, grows = (width, height), width > columns
    for_picture = cv2.INTER_NEAREST if grows else cv2.INTER_AREA
    for_map = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    factor = np.array([width / columns, height / rows])
    mask = cv2.resize(inspection.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    normal = inspection.normal
    return replace(
        inspection,
        picture=_resize(inspection.picture, size, for_picture),
        normal=None if normal is None else _resize(normal, size, for_picture),
        anomaly_map=cv2.resize(inspection.anomaly_map, size, interpolation=for_map).astype(np.float32),
        mask=mask.astype(bool),
        regions=tuple(_moved(region, factor) for region in inspection.regions),
    )


def _resize(picture: NDArray[np.uint8], size: tuple[int, int], how: int) -> NDArray[np.uint8]:
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=how).astype(np.uint8, copy=False)


def _moved(region: Region, factor: NDArray[np.float64]) -> Region:
    """A region after scaling by ``factor`` (x, y); pixel centres lie at whole numbers."""

    def place(point: object) -> NDArray[np.float64]:
        return (np.asarray(point, np.float64) + 0.5) * factor - 0.5

    left, top, width, height = np.array(region.box, np.float64)
    corner, size = np.array([left, top]) * factor, np.maximum(np.array([width, height]) * factor, 1)
    centre_x, centre_y = place(region.centroid)
    peak_x, peak_y = np.rint(place(region.peak_position)).astype(int)
    x, y, across, down = (int(value) for value in np.rint([*corner, *size]))
    return replace(
        region,
        box=(x, y, across, down),
        centroid=(float(centre_x), float(centre_y)),
        peak_position=(int(peak_x), int(peak_y)),
        contour=np.rint(place(region.contour)).astype(np.int32),
    )


def _outline(region: Region, smallest_ring: float) -> NDArray[np.int32]:
    """The closed line to draw, ``int32 [N, 2]`` in fixed point: the contour, or a ring around a speck."""
    if max(region.box[2:]) < 2 * smallest_ring or len(region.contour) < 3:
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radius = max(smallest_ring, max(region.box[2:]) / 2 + 1)
        line = np.array(region.centroid) + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    else:
        line = region.contour.reshape(-1, 2).astype(np.float64)
    return np.rint(line * (1 << _SHIFT)).astype(np.int32)


def _with_banner(picture: NDArray[np.uint8], inspection: Inspection) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    from anomaly_spotter.views import lettering

    rows, columns = picture.shape[:2]
    mark = max(1, min(round(max(14, 0.055 * min(rows, columns))), rows, columns))
    pad = mark // 4
    face = lettering.font(max(1, round(mark * 0.8)), bold=True)
    word = f"{inspection.verdict}  {inspection.reason or format(inspection.score, '.2f')}"
    length = round(face.getlength(word))
    canvas = Image.fromarray(picture)
    if mark + length + 5 * pad <= columns and mark + 4 * pad <= rows:
        draw = ImageDraw.Draw(canvas)
        plate = (pad, pad, mark + length + 5 * pad, mark + 3 * pad)
        draw.rounded_rectangle(plate, radius=pad, fill=lettering.PAPER)
        ink = lettering.verdict_colour(inspection.verdict)
        draw.text((mark + 3 * pad, 2 * pad + mark / 2), word, fill=ink, font=face, anchor="lm")
        lettering.put_mark(canvas, inspection.verdict, 2 * pad, 2 * pad, mark)
    else:
        lettering.put_mark(canvas, inspection.verdict, 0, 0, mark)
    return np.array(canvas)
