"""The fitted alignment: a picture in, the pose of its part out, or why it has none."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from anomaly_spotter.inputs.alignment.foreground import Blob, Level, Observation, find_blob, observe
from anomaly_spotter.inputs.alignment.motion import Motion
from anomaly_spotter.inputs.alignment.registration import Orientation, Registrar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Reason(StrEnum):
    """Why a picture cannot be judged."""

    NO_PART = "no part found"
    SEVERAL = "more than one part, or a larger one"
    CUT = "the part is cut by the border"
    MISFIT = "the part does not fit the good ones"


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the part lies.

    Attributes:
        matrix: ``float64 [2, 3]``, aligned frame (x, y) -> picture (x, y); pixel centres at whole numbers; rotation
            and translation only.
        quality: Normalised cross-correlation of the part's edges with the mean good part's, -1..1. For ``foreground``
            it is taken at a coarse resolution (long side up to 70 pixels), where the outline counts more than the detail.
        reason: Why the picture cannot be judged, None when it can.
    """

    matrix: NDArray[np.float64]
    quality: float
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class Gates:
    """What a picture must keep to be judged; lengths in pixels of the working scale.

    Attributes:
        least_area: Of the part.
        most_area: Of the part.
        rival: Largest area of a second thing.
        contact: Longest outline on the picture's border.
        quality: Least quality.
    """

    least_area: float
    most_area: float
    rival: float
    contact: float
    quality: float

    def refusal(self, blob: Blob | None) -> Reason | None:
        """Why the foreground alone cannot be a good part."""
        if blob is None:
            return Reason.NO_PART
        if blob.area > self.most_area or blob.rival > self.rival:
            return Reason.SEVERAL
        if blob.contact > self.contact and blob.area > self.least_area / 4:
            return Reason.CUT
        return Reason.NO_PART if blob.area < self.least_area else None


@dataclass(frozen=True)
class Aligner:
    """Finds the part in a picture; learned from good pictures by ``fit_aligner``.

    Attributes:
        frame: Width and height of the aligned frame in picture pixels.
        scale: Working scale, at most 1.
        level: What counts as foreground.
        gates: What a picture must keep to be judged.
        registrar: The mean good part and how it may lie.
    """

    frame: tuple[int, int]
    scale: float
    level: Level
    gates: Gates
    registrar: Registrar

    def locate(self, pixels: NDArray[np.uint8]) -> Pose:
        """Find the part in a picture ``[H, W]`` or RGB ``[H, W, 3]`` of any size."""
        return self.pose(observe(pixels, self.scale))

    def outline(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """The part's outline as points (x, y) in the picture's pixels, ``float64 [N, 2]``; ``None`` without a part."""
        blob = find_blob(observe(pixels, self.scale), self.level)
        return None if blob is None else (blob.outline + 0.5) / self.scale - 0.5

    def pose(self, observation: Observation) -> Pose:
        """The same for a picture already observed at this aligner's scale."""
        blob = find_blob(observation, self.level)
        reason = self.gates.refusal(blob)
        if blob is None:
            height, width = observation.edges.shape
            return self._pose(Motion((width - 1) / 2, (height - 1) / 2, 0.0), 0.0, reason)
        quality, motion = self.registrar.register(observation.edges, blob)
        if reason is None and quality < self.gates.quality:
            reason = Reason.MISFIT
        return self._pose(motion, quality, reason)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-able values."""
        return {
            "frame": list(self.frame),
            "scale": self.scale,
            "finest": self.registrar.finest,
            "anchor": list(self.registrar.anchor),
            "level": asdict(self.level),
            "gates": asdict(self.gates),
            "orientation": asdict(self.registrar.orientation),
        }

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The learned arrays: ``template`` ``float32 [h, w]``."""
        return {"template": self.registrar.template}

    @classmethod
    def from_parts(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Inverse of :meth:`to_dict` and :meth:`arrays`.

        Raises:
            ValueError: Something is missing or has the wrong shape.
        """
        try:
            template = np.array(arrays["template"], np.float32)
            width, height = (int(side) for side in values["frame"])
            right, down = (float(offset) for offset in values["anchor"])
            orientation, finest = Orientation(**values["orientation"]), int(values["finest"])
            registrar = Registrar(template, orientation, finest, (right, down))
            level, gates = Level(**values["level"]), Gates(**values["gates"])
            aligner = cls((width, height), float(values["scale"]), level, gates, registrar)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the alignment's settings are incomplete: {error}") from error
        if template.ndim != 2 or registrar.size != reduced_size(aligner.frame, aligner.scale):
            raise ValueError(
                f"the alignment's template {template.shape} does not fit its frame {aligner.frame}"
            )
        return aligner

    def _pose(self, motion: Motion, quality: float, reason: Reason | None) -> Pose:
        return Pose(motion.scaled(1 / self.scale).matrix(self.frame), quality, reason)


def reduced_size(frame: tuple[int, int], scale: float) -> tuple[int, int]:
    """Width and height of the frame at the working scale."""
    return max(1, round(frame[0] * scale)), max(1, round(frame[1] * scale))
