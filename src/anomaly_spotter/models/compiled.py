"""A fitted model as an inference engine runs it: no PyTorch, the same maps."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_spotter.errors import BundleError
from anomaly_spotter.inputs.preprocess import from_network
from anomaly_spotter.models.cells import enlarge, nearest
from anomaly_spotter.models.engines import Session, open_session
from anomaly_spotter.models.exemplars import Exemplars
from anomaly_spotter.models.graph import features_stage, nearest_stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig
    from anomaly_spotter.models.base import NormalLook

    Arrays = Mapping[str, NDArray[np.generic]]


class CompiledModel:
    """Behind the model contract (:class:`~anomaly_spotter.models.base.AnomalyModel`), for inspection only.

    Attributes:
        name: Of the model in the registry.
    """

    def __init__(
        self,
        config: ModelConfig,
        canvas: tuple[int, int, int],
        arrays: Arrays,
        sessions: Mapping[str, Session],
    ) -> None:
        self.name = config.name
        self._canvas, self._arrays, self._sessions = canvas, arrays, sessions

    def state(self) -> dict[str, NDArray[np.generic]]:
        """The arrays it was compiled from."""
        return dict(self._arrays)

    def anomaly_maps(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[NormalLook]]:
        """Raw anomaly maps ``float32 [B, H, W]`` of ``uint8 [B, H, W, C]``, and what computes the normal looks."""
        found = [self._inspected(np.ascontiguousarray(picture)) for picture in pictures]
        return np.stack([anomaly_map for anomaly_map, _ in found]), [look for _, look in found]

    def _inspected(self, canvas: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NormalLook]:
        if self.name == "unet":
            anomaly_map, restored = self._sessions["network"](canvas)
            return anomaly_map.copy(), partial(_shown, restored.copy())
        grid = self._sessions["features"](canvas)[0].copy()
        distances = self._sessions["distances"](grid)[0]
        look = partial(self._nearest_normal, grid) if self.name == "memory" else lambda: None
        return enlarge(distances), look

    def _nearest_normal(self, grid: NDArray[np.float32]) -> NDArray[np.uint8]:
        squares, patches = self._nearest(grid)
        found = nearest(squares, patches, (grid.shape[0], grid.shape[1]))
        if "origins" not in self._arrays:
            raise BundleError("the memory lacks 'origins'; use the original file")
        return self._exemplars.shown(*found, np.asarray(self._arrays["origins"], np.int64))

    @cached_property
    def _nearest(self) -> Session:
        return open_session(
            nearest_stage(self._canvas, self._arrays).model.SerializeToString(), "onnxruntime"
        )

    @cached_property
    def _exemplars(self) -> Exemplars:
        return Exemplars.from_state(self._arrays)


class CompiledFeatures:
    """Patch features of small pictures, as the recogniser of products takes them."""

    def __init__(self, name: str, canvas: tuple[int, int, int], arrays: Arrays) -> None:
        self._arrays = arrays
        self._session = open_session(
            features_stage(name, canvas, arrays).model.SerializeToString(), "onnxruntime"
        )

    def cells(self, canvas: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``uint8 [H, W, C] -> float32 [h * w, D]``."""
        (grid,) = self._session(np.ascontiguousarray(canvas))
        return np.asarray(grid.reshape(-1, grid.shape[2]), np.float32)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """The backbone's weights."""
        return dict(self._arrays)


def _shown(restored: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(from_network(restored)[0])
