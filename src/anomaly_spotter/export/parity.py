"""Does an export decide as the detector it comes from? Measured on canvases out of the bundle, and on the user's pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from anomaly_spotter.errors import PictureError
from anomaly_spotter.exported import ExportedNetwork
from anomaly_spotter.inputs.preprocess import Placement
from anomaly_spotter.runtime import Parts
from anomaly_spotter.scoring.decision import placed_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.exported import ExportedModel
    from anomaly_spotter.models.base import InspectingModel
    from anomaly_spotter.spotter import Spotter


@dataclass(frozen=True, slots=True)
class Parity:
    """The largest differences between a detector in PyTorch and its export.

    Attributes:
        canvases: Good canvases out of the bundle and copies with synthetic defects that were compared.
        pictures: Pictures of the user that were compared, from file to verdict.
        score: Largest difference of image scores, 1 being the distance from the typical good pixel to the limit.
        anomaly_map: Largest difference of pixel scores, same unit.
        other_verdicts: What is decided differently, by name.
    """

    canvases: int
    pictures: int
    score: float
    anomaly_map: float
    other_verdicts: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {**asdict(self), "other_verdicts": list(self.other_verdicts)}

    def words(self) -> str:
        """In one line."""
        compared = f"{self.canvases} canvases" + (f" and {self.pictures} pictures" if self.pictures else "")
        verdicts = (
            "verdicts identical"
            if not self.other_verdicts
            else f"{len(self.other_verdicts)} verdicts differ ({', '.join(self.other_verdicts[:3])})"
        )
        return (
            f"parity with PyTorch on {compared}: {verdicts}, largest difference of scores {self.score:.2g}, "
            f"of maps {self.anomaly_map:.2g}"
        )


class _Pair(NamedTuple):
    name: str
    score: float
    other_score: float
    apart: float


def probes(spotter: Spotter) -> list[NDArray[np.uint8]]:
    """Good canvases ``uint8 [H, W, C]`` out of the bundle, then copies with synthetic defects."""
    return _parts(spotter).probes()


def measure(
    spotter: Spotter,
    model: ExportedModel | ExportedNetwork,
    pictures: Sequence[Path],
    exported: Spotter | None,
) -> Parity:
    """Compare on canvases, and on pictures where ``exported`` is the export as a detector.

    Raises:
        PictureError: A picture cannot be read.
    """
    canvases = probes(spotter)
    pairs = [_on_probe(spotter, model, canvas, f"canvas {number}") for number, canvas in enumerate(canvases)]
    if exported is not None:
        pairs += _on_files(spotter, exported, pictures)
    limit = spotter.calibration.threshold
    return Parity(
        len(canvases),
        len(pictures),
        max(abs(pair.score - pair.other_score) for pair in pairs),
        max(pair.apart for pair in pairs),
        tuple(pair.name for pair in pairs if (pair.score > limit) != (pair.other_score > limit)),
    )


def _on_picture(spotter: Spotter, model: ExportedModel, picture: NDArray[np.uint8], name: str) -> _Pair:
    expected = spotter.inspect(picture)
    found = model.outputs(picture)
    apart = np.abs(found["anomaly_map"] - expected.anomaly_map).max()
    return _Pair(name, expected.score, float(found["score"][0]), float(apart))


def _on_probe(
    spotter: Spotter, model: ExportedModel | ExportedNetwork, canvas: NDArray[np.uint8], name: str
) -> _Pair:
    if isinstance(model, ExportedNetwork):
        placed = _placed(spotter, canvas, model)
        found_score = spotter.calibration.score(placed, spotter.config.scoring)
        return _on_canvas(spotter, canvas, name, found_score, spotter.calibration.normalise(placed))
    if spotter.preprocessor.aligner is None:
        return _on_picture(spotter, model, canvas, name)
    found = model.outputs(canvas, spotter.preprocessor.region)
    return _on_canvas(spotter, canvas, name, float(found["score"][0]), found["anomaly_map"])


def _on_canvas(
    spotter: Spotter, canvas: NDArray[np.uint8], name: str, score: float, pixels: NDArray[np.float32]
) -> _Pair:
    placed = _placed(spotter, canvas, spotter.model)
    apart = np.abs(pixels - spotter.calibration.normalise(placed)).max()
    return _Pair(name, spotter.calibration.score(placed, spotter.config.scoring), score, float(apart))


def _placed(spotter: Spotter, canvas: NDArray[np.uint8], model: InspectingModel) -> NDArray[np.float32]:
    """A model's map of a canvas, as scoring sees it."""
    light, region = spotter.preprocessor.illumination, spotter.preprocessor.region
    lit = canvas if light is None else light.apply(canvas)
    raw, _ = model.anomaly_maps(lit[None])
    height, width = canvas.shape[:2]
    place = Placement(np.eye(2, 3), 0, 0, width, height, outside=None if region is None else ~region)
    return placed_map(raw[0], place, spotter.config.scoring, spotter.location)


def _on_files(spotter: Spotter, exported: Spotter, pictures: Iterable[Path]) -> list[_Pair]:
    paths = list(pictures)
    pairs = []
    streams = (each.inspect_stream(paths, explain=False) for each in (spotter, exported))
    for (path, expected), (_, found) in zip(*streams, strict=True):
        for result in (expected, found):
            if isinstance(result, PictureError):
                raise result
        if expected.reason is not None:
            continue  # refused before any model sees it
        apart = float(np.abs(found.anomaly_map - expected.anomaly_map).max())
        pairs.append(_Pair(str(path), expected.score, found.score, apart))
    return pairs


def _parts(spotter: Spotter) -> Parts:
    return Parts(
        spotter.config, spotter.preprocessor, spotter.calibration, spotter.location, spotter.known, {}
    )
