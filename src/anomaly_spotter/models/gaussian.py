"""PaDiM (Defard et al., ICPR 2021): a multivariate Gaussian of good patches at each place; the Mahalanobis distance is the map.

The full covariance is kept, shrunk towards a multiple of the identity by the amount of Chen et al. (*Shrinkage algorithms for MMSE
covariance estimation*, 2010), the same for all places. One Gaussian serves a whole texture (``global``).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from anomaly_spotter.errors import BundleError
from anomaly_spotter.models.features import PatchFeatures, enlarge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig
    from anomaly_spotter.models.base import LeftOut, NormalLook
    from anomaly_spotter.models.grids import GoodGrids

_ROWS = 256  # places whose covariances are inverted at a time


class GaussianModel:
    """The fitted Gaussians behind the model contract (:class:`~anomaly_spotter.models.base.AnomalyModel`).

    Attributes:
        features: Canvas to patch features.
        mean: ``float32 [P, d]``, P places, 1 for a texture.
        whiten: ``float16 [P, d, d]``: the Mahalanobis distance of x is the norm of ``(x - mean) @ whiten``.
    """

    name: ClassVar[str] = "gaussian"

    def __init__(self, features: PatchFeatures, mean: Tensor, whiten: Tensor) -> None:
        self.features, self.mean, self.whiten = features, mean, whiten
        self._whiten = whiten.float()

    @classmethod
    @torch.inference_mode()
    def fit(
        cls,
        good: GoodGrids,
        config: ModelConfig,
        seed: int,  # noqa: ARG003  same shape for every model
    ) -> tuple[Self, LeftOut]:
        """Fit the Gaussians.

        Returns:
            The model, and what gives for each picture of ``good.scored()`` its raw map by Gaussians without it.
        """
        depth = good.grids.shape[3]
        is_global = config.places == "global"
        grids = good.grids.reshape(1, -1, depth) if is_global else good.grids.flatten(1, 2).transpose(0, 1)
        mean = torch.empty(len(grids), depth)
        scatter = torch.empty(len(grids), depth, depth)
        for start in range(0, len(grids), _ROWS):
            block = grids[start : start + _ROWS].float()  # [p, n, d]
            mean[start : start + _ROWS] = block.mean(dim=1)
            block -= mean[start : start + _ROWS, None]
            scatter[start : start + _ROWS] = block.transpose(1, 2) @ block / block.shape[1]
        samples = grids.shape[1]
        shrinkage = _shrinkage(scatter, samples)
        ridge = shrinkage * scatter.diagonal(dim1=1, dim2=2).mean(dim=1)  # [P]
        scatter.mul_(1 - shrinkage).diagonal(dim1=1, dim2=2).add_(ridge[:, None] + 1e-6)
        for start in range(0, len(scatter), _ROWS):
            factor = torch.linalg.cholesky(scatter[start : start + _ROWS])
            identity = torch.eye(depth).expand_as(factor)
            # A = L L^T, so x^T A^-1 x = |L^-1 x|^2, and L^-T maps a row vector to L^-1 x.
            inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
            scatter[start : start + _ROWS] = inverse.transpose(1, 2)
        model = cls(good.features, mean, scatter.half())
        share = (1 - shrinkage) / samples

        def left_out(grid: Tensor, member: int | None) -> NDArray[np.float32]:
            squares = model._squares(grid)
            if (
                member is None or is_global
            ):  # one picture of many thousand patches hardly moves a global Gaussian
                return enlarge(squares.sqrt().numpy())
            return enlarge(_without_own(squares, samples, share).sqrt().numpy())

        return model, partial(good.left_out, left_out)

    @classmethod
    def from_state(cls, config: ModelConfig, channels: int, state: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild from named arrays.

        Raises:
            BundleError: An array is missing, or of another shape.
        """
        features = PatchFeatures.from_state(config.features, channels, state)
        try:
            mean, whiten = (torch.from_numpy(np.array(state[key])) for key in ("gaussian_mean", "whiten"))
        except KeyError as error:
            raise BundleError(f"the Gaussians lack {error}; use the original file") from None
        depth = features.components.shape[1]
        if mean.ndim != 2 or mean.shape[1] != depth or whiten.shape != (len(mean), depth, depth):
            raise BundleError("the Gaussians' arrays do not fit together; use the original file")
        return cls(features, mean, whiten)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays."""
        return {**self.features.state(), "gaussian_mean": self.mean.numpy(), "whiten": self.whiten.numpy()}

    @torch.inference_mode()
    def anomaly_maps(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[NormalLook]]:
        """Mahalanobis distances ``float32 [B, H, W]``; a Gaussian has no normal look to show."""
        maps = [enlarge(self.distances(self.features.of(picture)).numpy()) for picture in pictures]
        return np.stack(maps), [lambda: None] * len(maps)

    @torch.inference_mode()
    def distances(self, grid: Tensor) -> Tensor:
        """Mahalanobis distance of each cell, ``[h, w, d] -> [h, w]``."""
        return self._squares(grid).sqrt_()

    def _squares(self, grid: Tensor) -> Tensor:
        """Squared Mahalanobis distance of each cell, ``[h, w, d] -> [h, w]``."""
        cells = grid.flatten(0, 1)
        if len(self.mean) == 1:
            white = (cells - self.mean) @ self._whiten[0]
        else:
            white = torch.bmm((cells - self.mean)[:, None], self._whiten)[:, 0]
        return white.square().sum(dim=1).reshape(grid.shape[:2])


def _shrinkage(covariances: Tensor, samples: int) -> float:
    """Oracle approximating shrinkage (Chen et al. 2010, eq. 23), pooled over the places."""
    depth = covariances.shape[1]
    trace = covariances.diagonal(dim1=1, dim2=2).sum(dim=1)
    of_square = float(covariances.square().sum(dim=(1, 2)).mean())
    square_of = float(trace.square().mean())
    numerator = (1 - 2 / depth) * of_square + square_of
    denominator = (samples + 1 - 2 / depth) * (of_square - square_of / depth)
    return min(1.0, numerator / denominator) if denominator > 0 else 1.0


def _without_own(squares: Tensor, samples: int, share: float) -> Tensor:
    """Squared distances to Gaussians fitted without the picture itself, never too small.

    With v = x - mean of all n, the mean of the others is farther by n / (n - 1), and their scatter is smaller by
    n / (n - 1) * v v^T: the inverse follows by Sherman & Morrison (1950). The ridge weighs a little more without the
    picture, which is left out of account: the result is larger than the exact one by at most n / (n - 1).
    """
    own = share * samples / (samples - 1)
    stretched = (samples / (samples - 1)) ** 2
    return stretched * squares / (1 - own * squares).clamp_(min=1e-3)
