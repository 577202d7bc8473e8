"""The contract of stage 2: canvas pictures in, raw anomaly maps out. A model knows nothing of thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from anomaly_spotter.config import ModelConfig
    from anomaly_spotter.models.features import PatchFeatures
    from anomaly_spotter.models.grids import GoodGrids

    NormalLook = Callable[[], NDArray[np.uint8] | None]
    """Computes the normal look of a picture, ``uint8 [H, W, C]`` on the canvas, when somebody wants to see it."""

    LeftOut = Callable[[], Iterator[tuple[int, NDArray[np.float32]]]]
    """Gives (picture, raw map ``float32 [H, W]``) of good pictures by models that do not know the picture itself."""


class InspectingModel(Protocol):
    """What inspection needs of a fitted model, whichever engine runs it."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything that was learned, as named arrays."""
        ...

    def anomaly_maps(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[NormalLook]]:
        """Raw anomaly maps of canvas pictures.

        Args:
            pictures: ``uint8 [B, H, W, C]``.

        Returns:
            ``float32 [B, H, W]``, larger is stranger, and for each picture what computes its normal look.
        """
        ...


class AnomalyModel(InspectingModel, Protocol):
    """A fitted detector. New models are one file with this shape plus one line in the registry."""

    name: ClassVar[str]

    @classmethod
    def from_state(cls, config: ModelConfig, channels: int, state: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild a fitted model from the arrays of :meth:`state`.

        Raises:
            BundleError: An array is missing, unexpected, or of another shape.
        """
        ...


class FeatureModel(AnomalyModel, Protocol):
    """A detector that is built from the good pictures' patch features in one pass."""

    @classmethod
    def fit(cls, good: GoodGrids, config: ModelConfig, seed: int) -> tuple[Self, LeftOut]:
        """Build the model; also gives good pictures' maps by models that do not know the picture itself."""
        ...

    def extended(self, good: GoodGrids, config: ModelConfig, seed: int) -> tuple[Self, LeftOut]:
        """A model that also knows ``good``, whose features are this one's; its left-out maps are those of ``good``.

        Raises:
            BundleError: The file was written by a version that stored too little for it.
        """
        ...

    @property
    def features(self) -> PatchFeatures:
        """Canvas to patch features."""
        ...

    def distances(self, grid: Tensor) -> Tensor:
        """How strange each cell of a feature grid ``[h, w, d]`` is, ``[h, w]``."""
        ...
