"""Patch features of the good pictures that a model is built from, in bounded memory however many pictures there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from anomaly_spotter.models.cells import STRIDE
from anomaly_spotter.models.features import PatchFeatures, extractor, levels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig

_LARGEST = 256 * 2**20  # values in half precision
_PROJECTION_PICTURES = 48  # pictures that the principal components are learned from
_MOST_SCORES = (
    2000  # good pictures whose left-out maps calibrate; more would only sharpen rates below 1 in 2000
)


@dataclass(frozen=True, slots=True)
class GoodGrids:
    """Projected features of good pictures.

    Attributes:
        features: Canvas to patch features.
        canvases: All good pictures, ``uint8 [H, W, C]`` each.
        members: ``int64 [K]``, ascending: the pictures a model may be built from; all, unless they are too many.
        grids: ``float16 [K, h, w, d]``, their features.
    """

    features: PatchFeatures
    canvases: Sequence[NDArray[np.uint8]]
    members: NDArray[np.int64]
    grids: Tensor

    @classmethod
    @torch.inference_mode()
    def fit(
        cls,
        canvases: Sequence[NDArray[np.uint8]],
        config: ModelConfig,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Learn the projection and compute the features, deterministic by ``seed``.

        Args:
            canvases: Good pictures, ``uint8 [H, W, C]`` each, all of one shape.
            config: ``features``, ``weights`` and ``dimensions`` are used.
            seed: Chooses the members where there are too many pictures.
            progress: Called with (done, total).
        """
        extract = extractor(config.features, canvases[0].shape[2], weights=config.weights)
        first = np.unique(np.linspace(0, len(canvases) - 1, _PROJECTION_PICTURES).astype(int)).tolist()
        features = PatchFeatures.fit(
            extract, [extract(levels(canvases[index])) for index in first], config.dimensions, seed
        )
        return cls.of(features, canvases, seed, progress)

    @classmethod
    @torch.inference_mode()
    def of(
        cls,
        features: PatchFeatures,
        canvases: Sequence[NDArray[np.uint8]],
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Compute the features by a projection that was learned before; otherwise as :meth:`fit`."""
        rng = np.random.default_rng(seed)
        height, width = canvases[0].shape[0] // STRIDE, canvases[0].shape[1] // STRIDE
        depth = features.components.shape[1]
        most = max(2, _LARGEST // (height * width * depth))
        members = np.sort(rng.permutation(len(canvases))[:most])
        grids = torch.empty(len(members), height, width, depth, dtype=torch.float16)
        for done, index in enumerate(members.tolist(), start=1):
            grids[done - 1] = features.of(canvases[index])
            if progress is not None:
                progress(done, len(members))
        return cls(features, canvases, members, grids)

    def scored(self) -> list[tuple[int, int | None]]:
        """Pictures whose left-out maps calibrate, as (picture, its place among the members or ``None``)."""
        place = {picture: number for number, picture in enumerate(self.members.tolist())}
        chosen = np.unique(np.linspace(0, len(self.canvases) - 1, _MOST_SCORES).astype(int))
        return [(picture, place.get(picture)) for picture in chosen.tolist()]

    @torch.inference_mode()
    def left_out(
        self, score: Callable[[Tensor, int | None], NDArray[np.float32]]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(Picture, map) of the pictures of :meth:`scored`, each by a model that does not know the picture itself.

        Args:
            score: Takes a picture's grid ``[h, w, d]`` and its place among the members, gives its map.
        """
        for picture, member in self.scored():
            grid = self.features.of(self.canvases[picture]) if member is None else self.grids[member].float()
            yield picture, score(grid, member)
