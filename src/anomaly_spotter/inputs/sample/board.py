"""A populated circuit board in colour, in large pictures and always in the same pose; its defects are tiny.

One layout, made once, serves every picture; each board is painted from it part by part, with the tolerances of real
placement and soldering. Flaws leave out, add or damage single strokes of that painting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.inputs.sample.board_layout import CHIPS, HEIGHT, WIDTH, layout
from anomaly_spotter.inputs.sample.camera import Camera
from anomaly_spotter.inputs.sample.lettering import lettering
from anomaly_spotter.inputs.sample.surface import (
    SUBPIXEL_BITS,
    Map,
    affine,
    blurred,
    fractal,
    halo,
    stream,
    wander,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.inputs.sample.board_layout import Layout, Pad, Part, Point

KINDS = ("missing_component", "missing_solder", "scratched_trace", "solder_bridge", "speck")
EXPOSURE = 0.10  # half range; makes brightness useless for telling good from bad
BLUR = (0.0005, 0.0008)  # of the lens, fractions of the height: sharper than for the small pictures

_NOMINAL = 320
_SHIFT, _TURN = 3.0, math.radians(0.12)  # greatest jitter of the pose: units, and angle
_MARGIN = 26  # of the ground around the board

# Colours in RGB, 0..255 before the light.
_GROUND = (52, 54, 58)
_MASK = (22, 84, 52)
_TRACE = (40, 116, 70)
_COPPER = (196, 122, 84)
_GOLD = (206, 170, 92)
_SOLDER = (158, 160, 160)
_GLINT = (236, 238, 238)
_SILK = (214, 218, 210)
_HOLE = (18, 20, 20)
_CHIP = (40, 41, 44)
_PRINT = (150, 152, 152)
_RESISTOR = (34, 32, 36)
_CAPACITOR = (150, 118, 84)
_SPECKS = ((232, 230, 222), (20, 18, 16), (120, 84, 44), (170, 172, 176), (58, 112, 80))

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Flaw:
    """What goes wrong on one board."""

    without: int | None = None  # index of a part that is missing
    dry: int | None = None  # index, among all parts' pads, of one that got no solder
    bridge: int | None = None  # index of a pad soldered together with the one after it
    marks: tuple[_Mark, ...] = ()


@dataclass(frozen=True)
class _Mark:
    """A stroke or a spot drawn over the board: points in units."""

    path: tuple[Point, ...]
    width: float
    colour: Colour
    closed: bool = False


@dataclass
class _Canvas:
    """The painting of one board: layout units in, pixels out."""

    pixels: NDArray[np.uint8]
    place: NDArray[np.float64]  # layout units to pixels
    scale: float  # pixels per unit
    shadow: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        self.shadow = np.zeros(self.pixels.shape[:2], np.uint8)
        self._fine = self.place * 2**SUBPIXEL_BITS

    def fixed(self, points: NDArray[np.float64]) -> NDArray[np.int32]:
        """Return layout points ``[..., 2]`` as OpenCV's fixed-point pixels."""
        placed = points @ self._fine[:, :2].T + self._fine[:, 2]
        return np.asarray(np.rint(placed).astype(np.int32))

    def shape(self, points: NDArray[np.float64], colour: Colour) -> None:
        """Fill a convex polygon, ``[K, 2]``."""
        self.shapes(points[None], [colour])

    def shapes(self, points: NDArray[np.float64], colours: Sequence[Colour]) -> None:
        """Fill many convex polygons, ``[N, K, 2]``, in their order."""
        for fixed, colour in zip(self.fixed(points), colours, strict=True):
            cv2.fillConvexPoly(self.pixels, fixed, colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def line(self, points: NDArray[np.float64], width: float, colour: Colour) -> None:
        """Draw a line of at least one pixel's width."""
        thick = max(1, round(width * self.scale))
        cv2.polylines(self.pixels, [self.fixed(points)], False, colour, thick, cv2.LINE_AA, SUBPIXEL_BITS)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        centre = self.fixed(np.array([[x, y]]))[0].tolist()
        size = round(radius * self.scale * 2**SUBPIXEL_BITS)
        cv2.circle(self.pixels, centre, size, colour, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)

    def cast(self, points: NDArray[np.float64], height: float) -> None:
        """Let a body of the given height (units) shade what lies to its lower right."""
        fallen = points + np.array([0.55, 0.75]) * height
        cv2.fillConvexPoly(self.shadow, self.fixed(fallen), 255, cv2.LINE_AA, SUBPIXEL_BITS)
        # The body itself stands above its shadow.
        cv2.fillConvexPoly(self.shadow, self.fixed(points), 0, cv2.LINE_AA, SUBPIXEL_BITS)

    def text(self, text: str, x: float, y: float, height: float, colour: Colour) -> None:
        """Write a line of lettering centred on a place."""
        label, size = _label(text, height * self.scale)
        target = self.place[:, :2] @ np.array([x, y]) + self.place[:, 2]
        left, top = (np.floor(target - np.array(label.shape[::-1]) * size / 2).astype(int) - 1).tolist()
        box = (math.ceil(label.shape[1] * size) + 3, math.ceil(label.shape[0] * size) + 3)
        turn = math.atan2(self.place[1, 0], self.place[0, 0])
        middle = (float(target[0]) - left, float(target[1]) - top)
        place = affine(turn, (label.shape[1] / 2, label.shape[0] / 2), middle, size)
        ink = cv2.warpAffine(label, place, box)[..., None]
        window = self.pixels[max(top, 0) : top + box[1], max(left, 0) : left + box[0]]
        ink = ink[: window.shape[0], : window.shape[1]]
        window[:] = np.rint(window + ink * (np.array(colour, np.float32) - window)).astype(np.uint8)


@lru_cache(maxsize=512)
def _label(text: str, height: float) -> tuple[Map, float]:
    """Return a text, blurred as it must be before it is shrunk to ``height`` pixels, and by how much to shrink it."""
    label, full = lettering(text, 0.15)
    return blurred(label, 0.45 * full / height), height / full


_CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def _box(x: float, y: float, half_x: float, half_y: float) -> NDArray[np.float64]:
    """Return the corners of one box, ``[4, 2]``."""
    return _CORNERS * (half_x, half_y) + (x, y)


def _boxes(centres: NDArray[np.float64], halves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners ``[N, 4, 2]`` of boxes given by centres and half sides, each ``[N, 2]``."""
    return np.asarray(_CORNERS * halves[:, None] + centres[:, None])


def _missing_component(rng: np.random.Generator) -> _Flaw:
    small = range(len(CHIPS), len(layout().parts))
    return _Flaw(without=int(rng.choice(small)))


def _missing_solder(rng: np.random.Generator) -> _Flaw:
    of_chips, of_all = (sum(len(part.pads) for part in parts) for parts in (CHIPS, layout().parts))
    return _Flaw(dry=int(rng.integers(of_chips if rng.random() < 0.6 else of_all)))


def _solder_bridge(rng: np.random.Generator) -> _Flaw:
    pads = [pad for chip in CHIPS for pad in chip.pads]
    close = [index for index, (a, b) in enumerate(pairwise(pads)) if math.dist(_at(a), _at(b)) < 24]
    return _Flaw(bridge=int(rng.choice(close)))


def _at(pad: Pad) -> Point:
    return pad.x, pad.y


def _scratched_trace(rng: np.random.Generator) -> _Flaw:
    """A slip of a tool has bared the copper of a trace and torn the mask beside it."""
    traces = layout().traces
    trace = np.array(traces[int(rng.integers(len(traces)))])
    index, share = int(rng.integers(1, len(trace) - 1)), rng.uniform(0.2, 0.8)
    middle = trace[index] + share * (trace[index + 1] - trace[index])
    heading = math.atan2(*(trace[index + 1] - trace[index])[::-1]) + rng.choice([-1, 1]) * rng.uniform(
        0.4, 1.6
    )
    length = rng.uniform(10, 22)
    start = (middle[0] - math.cos(heading) * length / 2, middle[1] - math.sin(heading) * length / 2)
    path = tuple(map(tuple, wander(rng, start, heading, length, 0.06, 8)))
    bright = _toned(_COPPER, rng.uniform(0.75, 1.0))
    torn = _Mark(path, rng.uniform(3.0, 4.5), (16, 52, 34))
    return _Flaw(marks=(torn, _Mark(path, rng.uniform(1.4, 2.6), bright)))


def _speck(rng: np.random.Generator) -> _Flaw:
    """A crumb, a splash of solder or a fibre lies on the board."""
    x, y = rng.uniform(70, WIDTH - 70), rng.uniform(70, HEIGHT - 70)
    colour = _SPECKS[int(rng.integers(len(_SPECKS)))]
    if rng.random() < 0.3:
        path = wander(rng, (x, y), rng.uniform(0, 2 * math.pi), rng.uniform(14, 30), 0.5, 10)
        return _Flaw(marks=(_Mark(tuple(map(tuple, path)), rng.uniform(1.2, 2.0), colour),))
    angles = np.sort(rng.uniform(0, 2 * math.pi, 9))
    away = rng.uniform(2.5, 6.5) * rng.uniform(0.7, 1.2, 9)
    outline = zip(x + np.cos(angles) * away, y + np.sin(angles) * away, strict=True)
    return _Flaw(marks=(_Mark(tuple(outline), 0, colour, closed=True),))


_FLAWS: dict[str, Callable[[np.random.Generator], _Flaw]] = {
    "missing_component": _missing_component,
    "missing_solder": _missing_solder,
    "scratched_trace": _scratched_trace,
    "solder_bridge": _solder_bridge,
    "speck": _speck,
}


def _toned(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue


def _base(canvas: _Canvas, design: Layout) -> None:
    """Paint the bare board: mask, traces, vias, mounting holes."""
    canvas.shape(_box(WIDTH / 2, HEIGHT / 2, WIDTH / 2 - _MARGIN, HEIGHT / 2 - _MARGIN), _MASK)
    for trace in design.traces:
        canvas.line(np.array(trace), 4, _TRACE)
    for x, y in design.vias:
        canvas.disc(x, y, 7, _TRACE)
        canvas.disc(x, y, 5, _GOLD)
        canvas.disc(x, y, 2.4, _HOLE)
    for x in (58.0, WIDTH - 58.0):
        for y in (58.0, HEIGHT - 58.0):
            canvas.disc(x, y, 24, _GOLD)
            canvas.disc(x, y, 15, _GROUND)


def _soldered(canvas: _Canvas, pads: Sequence[Pad], looks: NDArray[np.float64], dry: int | None) -> None:
    """Paint all pads and the solder on them.

    Args:
        canvas: what to paint on.
        pads: where they are.
        looks: tone, glint's tone and glint's place (x, y) in half sides, drawn for each pad, ``[N, 4]``.
        dry: which pad got no solder and shows its copper.
    """
    centres = np.array([(pad.x, pad.y) for pad in pads])
    halves = np.array([(pad.half_x, pad.half_y) for pad in pads])
    lands = [_toned(_SOLDER, tone) for tone in looks[:, 0]]
    wet = np.arange(len(pads)) != dry
    if dry is not None:
        lands[dry] = _toned(_COPPER, 0.9 * looks[dry, 0])
    canvas.shapes(_boxes(centres, halves + 1), [_toned(_MASK, 0.72)] * len(pads))
    canvas.shapes(_boxes(centres, halves), lands)
    centres, halves, looks = centres[wet], halves[wet], looks[wet]
    low, glint = centres + halves * (0, 0.55), centres + halves * (looks[:, 2:] - (0, 0.25))
    canvas.shapes(_boxes(low, halves * (0.9, 0.4)), [_toned(_SOLDER, 0.66 * tone) for tone in looks[:, 0]])
    canvas.shapes(_boxes(glint, halves * (0.55, 0.28)), [_toned(_GLINT, tone) for tone in looks[:, 1]])


def _bridged(canvas: _Canvas, first: Pad, second: Pad, tone: float) -> None:
    """Paint solder that runs from one pad to its neighbour."""
    x, y = (first.x + second.x) / 2, (first.y + second.y) / 2
    across = abs(second.x - first.x) / 2 or min(first.half_x * 0.45, 5.0)
    along = abs(second.y - first.y) / 2 or min(first.half_y * 0.45, 5.0)
    canvas.shape(_box(x, y, across, along), _toned(_SOLDER, tone))
    canvas.shape(_box(x, y - along * 0.3, across * 0.5, along * 0.3), _toned(_GLINT, 0.9))


def _leads(canvas: _Canvas, part: Part, tone: float) -> None:
    """Paint a chip's leads, from its body to the middle of its pads."""
    middle, pads = np.array([part.x, part.y]), part.pads
    places = np.array([(pad.x, pad.y) for pad in pads])
    sideways = np.array([pad.half_x >= pad.half_y for pad in pads])[:, None]
    width = np.array([min(pad.half_x, pad.half_y) for pad in pads])[:, None] * 0.8
    along = np.where(sideways, (True, False), (False, True))
    centres = np.where(along, (places + middle) / 2, places)
    halves = np.where(along, np.abs(places - middle) / 2 - 2, width)
    canvas.shapes(_boxes(centres, halves), [_toned(_SOLDER, 1.16 * tone)] * len(pads))


def _body(canvas: _Canvas, part: Part, tone: float) -> None:
    """Paint a component's body, with bevel, ends and print, and let it cast its shadow."""
    x, y, half_x, half_y = part.x, part.y, part.half_x, part.half_y
    if part.look == "chip":
        _leads(canvas, part, tone)
        canvas.shape(_box(x, y, half_x, half_y), _toned(_CHIP, 1.45 * tone))
        canvas.shape(_box(x + 1.5, y + 1.5, half_x - 1.5, half_y - 1.5), _toned(_CHIP, 0.70 * tone))
        canvas.shape(_box(x, y, half_x - 3.5, half_y - 3.5), _toned(_CHIP, tone))
        canvas.disc(x - half_x + 12, y - half_y + 12, 4.5, _toned(_CHIP, 0.6 * tone))
        canvas.text(part.name, x, y - 8, min(20.0, half_x * 0.45), _PRINT)
        canvas.text("13K" + part.name[-1], x, y + 18, min(13.0, half_x * 0.3), _PRINT)
        canvas.cast(_box(x, y, half_x, half_y), 9)
        return
    colour = _RESISTOR if part.look == "resistor" else _CAPACITOR
    canvas.shape(_box(x, y, half_x, half_y), _toned(_SOLDER, 1.22 * tone))
    inner = (half_x * 0.62, half_y) if half_x > half_y else (half_x, half_y * 0.62)
    canvas.shape(_box(x, y, *inner), _toned(colour, tone))
    canvas.shape(_box(x, y - inner[1] * 0.75, inner[0], inner[1] * 0.2), _toned(colour, 1.35 * tone))
    canvas.cast(_box(x, y, half_x, half_y), 5)


def _populated(canvas: _Canvas, design: Layout, flaw: _Flaw, seed: int) -> None:
    """Solder and place all parts. Each gets its own random looks, also a part that is then left out."""
    rng, pads = stream(seed, "parts"), [pad for part in design.parts for pad in part.pads]
    looks = rng.normal([1.0, 0.95, 0.0, 0.0], [0.05, 0.07, 0.10, 0.10], (len(pads), 4))
    slips = rng.normal(0, 0.45, (len(design.parts), 2)).clip(-1, 1)
    tones = rng.normal(1, 0.04, len(design.parts)).tolist()
    _soldered(canvas, pads, looks, flaw.dry)
    if flaw.bridge is not None:
        _bridged(canvas, pads[flaw.bridge], pads[flaw.bridge + 1], float(looks[flaw.bridge, 0]))
    for index, part in enumerate(design.parts):
        if part.look == "chip":
            frame = _box(part.x, part.y, part.half_x + 26, part.half_y + 26)
            canvas.line(frame[[0, 1, 2, 3, 0]], 2, _SILK)
        else:
            canvas.text(part.name, part.x, part.y - part.half_y - 13, 11, _SILK)
        if flaw.without != index:
            slip_x, slip_y = slips[index].tolist()
            _body(canvas, replace(part, x=part.x + slip_x, y=part.y + slip_y), tones[index])


def _painted(seed: int, size: int, flaw: _Flaw) -> _Canvas:
    """Return the painting of one board."""
    pose, unit = stream(seed, "pose"), size / _NOMINAL
    shape = (round(HEIGHT * unit), round(WIDTH * unit))
    shift = pose.uniform(-_SHIFT, _SHIFT, 2) * unit
    target = (shape[1] / 2 - 0.5 + shift[0], shape[0] / 2 - 0.5 + shift[1])
    place = affine(pose.uniform(-_TURN, _TURN), (WIDTH / 2, HEIGHT / 2), target, unit)
    pixels = np.empty((*shape, 3), np.uint8)
    pixels[:] = _GROUND
    canvas, design = _Canvas(pixels, place, unit), layout()
    _base(canvas, design)
    canvas.text("MK2", 640, 965, 26, _SILK)
    _populated(canvas, design, flaw, seed)
    for mark in flaw.marks:
        if mark.closed:
            canvas.shape(np.array(mark.path), mark.colour)
        else:
            canvas.line(np.array(mark.path), mark.width, mark.colour)
    return canvas


def scene(kind: str, seed: int, size: int, attempt: int) -> Map:
    """Return one board as the camera sees it, without noise.

    Args:
        kind: "good" or one of `KINDS`.
        seed: the board, its pose, its light and the shot.
        size: nominal size; the picture is 3.2 times as high and 4.8 times as wide.
        attempt: another value draws another flaw on the same board.

    Returns:
        RGB ``float32 [H, W, 3]`` in grey levels.
    """
    flaw = _Flaw() if kind == "good" else _FLAWS[kind](stream(seed, "flaw", attempt))
    canvas = _painted(seed, size, flaw)
    rng, shape = stream(seed, "part"), canvas.shadow.shape
    weave = np.float32(0.025) * fractal(rng, shape, (4, 4), 1)
    tint = np.float32(0.04) * halo(fractal(rng, shape, (size, size), 1), size * 0.1)
    shadow = halo(canvas.shadow.astype(np.float32), size / 160)
    light = (1 + weave + tint) * (np.float32(1 / 235) - np.float32(0.42 / 255 / 235) * shadow)
    picture = canvas.pixels.astype(np.float32)
    picture *= light[..., None]
    return Camera.draw(stream(seed, "camera"), EXPOSURE, BLUR).expose(picture)
