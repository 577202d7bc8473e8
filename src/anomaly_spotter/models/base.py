"""The contract of stage 2: canvas pictures in, raw anomaly maps out. A model knows nothing of thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig


class AnomalyModel(Protocol):
    """A fitted detector. New models are one file with this shape plus one line in the registry."""

    name: ClassVar[str]

    @classmethod
    def from_state(cls, config: ModelConfig, channels: int, state: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild a fitted model from the arrays of :meth:`state`.

        Raises:
            BundleError: An array is missing, unexpected, or of another shape.
        """
        ...

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything that was learned, as named arrays."""
        ...

    def anomaly_maps(
        self, pictures: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
        """Raw anomaly maps of canvas pictures.

        Args:
            pictures: ``uint8 [B, H, W, C]``.

        Returns:
            ``float32 [B, H, W]``, larger is stranger, and the normal look of each picture, ``uint8 [B, H, W, C]``
            (``None`` if the model has none).
        """
        ...
