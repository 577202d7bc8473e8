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
from anomaly_spotter.models.cells import enlarge
from anomaly_spotter.models.features import PatchFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig
    from anomaly_spotter.models.base import LeftOut, NormalLook
    from anomaly_spotter.models.grids import GoodGrids

_ROWS = 256  # places whose covariances are inverted at a time
_FLOOR = 1e-6  # added to every variance
_ONE = 0.999  # from which on a ridge is not noticeably smaller
_ALL = 0.999  # shrinkage from which on nothing but the mean variance can be recovered


class GaussianModel:
    """The fitted Gaussians behind the model contract (:class:`~anomaly_spotter.models.base.AnomalyModel`).

    Attributes:
        features: Canvas to patch features.
        mean: ``float32 [P, d]``, P places, 1 for a texture.
        whiten: ``float16 [P, d, d]``: the Mahalanobis distance of x is the norm of ``(x - mean) @ whiten``.
        samples: Patches behind each Gaussian; 0 where an older file does not tell.
        shrinkage: How far the covariances were shrunk, 0 to 1.
    """

    name: ClassVar[str] = "gaussian"

    def __init__(
        self, features: PatchFeatures, mean: Tensor, whiten: Tensor, samples: int = 0, shrinkage: float = 0.0
    ) -> None:
        self.features, self.mean, self.whiten = features, mean, whiten
        self.samples, self.shrinkage = samples, shrinkage
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
        mean, scatter, samples = _moments(good.grids, is_global=config.places == "global")
        return cls._learned(good, mean, scatter, samples)

    @torch.inference_mode()
    def extended(
        self,
        good: GoodGrids,
        config: ModelConfig,  # noqa: ARG002  same shape for every model
        seed: int,  # noqa: ARG002
    ) -> tuple[Self, LeftOut]:
        """Gaussians of the old and the new pictures together, as if fitted anew but for the rounding of ``whiten``.

        The old moments are recovered from the stored factors and joined with the new ones (Chan, Golub & LeVeque,
        *Updating formulae and a pairwise algorithm for computing sample variances*, 1979).

        Returns:
            The model, and what gives the new pictures' raw maps by Gaussians without the picture itself.

        Raises:
            BundleError: The file was written by a version that did not store how many patches there were.
        """
        if self.samples < 2:
            raise BundleError(
                "this file does not tell how many pictures its Gaussians come from; train again"
            )
        new_mean, scatter, count = _moments(good.grids, is_global=len(self.mean) == 1)
        samples = self.samples + count
        share = count / samples
        apart = new_mean - self.mean
        scatter.mul_(share)
        for start in range(0, len(scatter), _ROWS):
            rows = slice(start, start + _ROWS)
            scatter[rows] += (1 - share) * self._scatter(rows)
            scatter[rows] += share * (1 - share) * apart[rows, :, None] * apart[rows, None]
        return self._learned(good, self.mean + share * apart, scatter, samples)

    @classmethod
    def _learned(cls, good: GoodGrids, mean: Tensor, scatter: Tensor, samples: int) -> tuple[Self, LeftOut]:
        """The model, and maps of pictures that are among its samples by Gaussians without them."""
        variances = scatter.diagonal(dim1=1, dim2=2).mean(dim=1)  # [P]
        whole = scatter.clone() if len(mean) == 1 else scatter
        model = cls._of(good.features, mean, scatter, samples)

        def left_out(grid: Tensor, member: int | None) -> NDArray[np.float32]:
            if member is None:
                return enlarge(model.distances(grid).numpy())
            if len(mean) == 1:
                others = cls._of(good.features, *_without_patches(grid, mean, whole, samples))
                return enlarge(others.distances(grid).numpy())
            return enlarge(model._squares_without_own(grid, variances).sqrt_().numpy())

        return model, partial(good.left_out, left_out)

    @classmethod
    def _of(cls, features: PatchFeatures, mean: Tensor, scatter: Tensor, samples: int) -> Self:
        """From means ``[P, d]`` and covariances ``[P, d, d]``, which are overwritten."""
        depth = mean.shape[1]
        shrinkage = _shrinkage(scatter, samples)
        ridge = shrinkage * scatter.diagonal(dim1=1, dim2=2).mean(dim=1)  # [P]
        scatter.mul_(1 - shrinkage).diagonal(dim1=1, dim2=2).add_(ridge[:, None] + _FLOOR)
        for start in range(0, len(scatter), _ROWS):
            factor = torch.linalg.cholesky(scatter[start : start + _ROWS])
            identity = torch.eye(depth).expand_as(factor)
            # A = L L^T, so x^T A^-1 x = |L^-1 x|^2, and L^-T maps a row vector to L^-1 x.
            inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
            scatter[start : start + _ROWS] = inverse.transpose(1, 2)
        return cls(features, mean, scatter.half(), samples, shrinkage)

    def _scatter(self, rows: slice) -> Tensor:
        """The covariances ``[p, d, d]`` of some places before they were shrunk."""
        whiten = self._whiten[rows]
        depth = whiten.shape[1]
        # whiten is L^-T, upper triangular, of the shrunk covariance L L^T.
        factor = torch.linalg.solve_triangular(whiten, torch.eye(depth).expand_as(whiten), upper=True)
        shrunk = factor.transpose(1, 2) @ factor
        level = shrunk.diagonal(dim1=1, dim2=2).mean(dim=1) - _FLOOR  # shrinking keeps the mean variance
        if self.shrinkage > _ALL:
            return torch.eye(depth).mul(level[:, None, None])
        shrunk.diagonal(dim1=1, dim2=2).sub_(self.shrinkage * level[:, None] + _FLOOR)
        covariances: Tensor = shrunk / (1 - self.shrinkage)
        return covariances

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
        samples, shrinkage = (np.array(state.get(key, [0])) for key in ("samples", "shrinkage"))
        return cls(features, mean, whiten, int(samples[0]), float(shrinkage[0]))

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays."""
        return {
            **self.features.state(),
            "gaussian_mean": self.mean.numpy(),
            "whiten": self.whiten.numpy(),
            "samples": np.array([self.samples]),
            "shrinkage": np.array([self.shrinkage]),
        }

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
        return self._white(grid.flatten(0, 1) - self.mean).square().sum(dim=1).reshape(grid.shape[:2])

    def _white(self, offsets: Tensor) -> Tensor:
        """Distances from the means ``[P, d]`` in units of the deviation in every direction, ``[P, d]``."""
        if len(self.mean) == 1:
            return offsets @ self._whiten[0]
        return torch.bmm(offsets[:, None], self._whiten)[:, 0]

    def _squares_without_own(self, grid: Tensor, variances: Tensor) -> Tensor:
        """Squared distances ``[h, w]`` of one of the pictures to Gaussians fitted without it, never too small.

        With v = x - mean of all n, the mean of the others is farther by n / (n - 1), and their scatter is smaller by
        n / (n - 1) * v v^T: the inverse follows by Sherman & Morrison (1950). Without a picture that is far off, the
        ridge, a share of the mean variance, is smaller too; what that adds is bounded from above by how much of the
        distance lies in directions where there is little but the ridge. The result is larger than the exact one by
        little more than n / (n - 1), and for pictures that are hardly far off not by more.
        """
        others = self.samples - 1
        offsets = grid.flatten(0, 1) - self.mean
        white = self._white(offsets)
        squares = white.square().sum(dim=1)
        kept = (1 - (1 - self.shrinkage) / others * squares).clamp_(min=1e-3)
        found = (self.samples / others) ** 2 * squares / kept
        lengths = offsets.square().mean(dim=1) / variances.clamp(min=1e-12)
        ridge = (self.samples / others * (1 - lengths / others)).clamp_(
            min=1e-3
        )  # without : with the picture
        far = ridge < _ONE
        back = torch.bmm(white[far][:, None], self._whiten[far].transpose(1, 2))[:, 0]
        in_ridge = self.shrinkage * variances[far] * back.square().sum(dim=1) / (squares * kept)[far]
        found[far] *= 1 + in_ridge.clamp_(max=1) * (1 / ridge[far] - 1)
        return found.reshape(grid.shape[:2])


def _moments(grids: Tensor, *, is_global: bool) -> tuple[Tensor, Tensor, int]:
    """Means ``[P, d]`` and covariances ``[P, d, d]`` of ``[n, h, w, d]``, and how many patches each is of."""
    depth = grids.shape[3]
    by_place = grids.reshape(1, -1, depth) if is_global else grids.flatten(1, 2).transpose(0, 1)
    mean = torch.empty(len(by_place), depth)
    scatter = torch.empty(len(by_place), depth, depth)
    for start in range(0, len(by_place), _ROWS):
        block = by_place[start : start + _ROWS].float()  # [p, n, d]
        mean[start : start + _ROWS] = block.mean(dim=1)
        block = block - mean[start : start + _ROWS, None]
        scatter[start : start + _ROWS] = block.transpose(1, 2) @ block / block.shape[1]
    return mean, scatter, by_place.shape[1]


def _shrinkage(covariances: Tensor, samples: int) -> float:
    """Oracle approximating shrinkage (Chen et al. 2010, eq. 23), pooled over the places."""
    depth = covariances.shape[1]
    trace = covariances.diagonal(dim1=1, dim2=2).sum(dim=1)
    of_square = float(covariances.square().sum(dim=(1, 2)).mean())
    square_of = float(trace.square().mean())
    numerator = (1 - 2 / depth) * of_square + square_of
    denominator = (samples + 1 - 2 / depth) * (of_square - square_of / depth)
    return min(1.0, numerator / denominator) if denominator > 0 else 1.0


def _without_patches(
    grid: Tensor, mean: Tensor, covariance: Tensor, samples: int
) -> tuple[Tensor, Tensor, int]:
    """Mean ``[1, d]``, covariance ``[1, d, d]`` and number of the samples but those of ``grid [h, w, d]``."""
    own_mean, own, count = _moments(grid[None], is_global=True)
    share = count / samples
    rest = (mean - share * own_mean) / (1 - share)
    apart = own_mean - rest
    left = (covariance - share * own) / (1 - share) - share * apart[:, :, None] * apart[:, None]
    return rest, left, samples - count
