"""A memory of good parts: the distance of each patch to its nearest neighbour among the good ones is the anomaly map.

PatchCore (Roth et al., CVPR 2022) made position-aware: a patch is compared with what good parts show at its own place
and one cell around it. For textures, where place means nothing, one memory serves the whole picture (``global``).
Patches are rounded to whole numbers in 8 bits, remembered ones and new ones alike, so that squared distances are whole
numbers too: the same on any processor and in any inference engine.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anomaly_spotter.errors import BundleError
from anomaly_spotter.models.cells import RANGE, beyond_range, enlarge, nearest
from anomaly_spotter.models.exemplars import Exemplars
from anomaly_spotter.models.features import PatchFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig
    from anomaly_spotter.models.base import LeftOut, NormalLook
    from anomaly_spotter.models.grids import GoodGrids

_LARGEST = 64 * 2**20  # values of the memory: a byte each on disk, four in use
_GLOBAL_PATCHES = 8192  # of a memory without places
_CLIPPED = 1e-5  # share of values that the range may cut
_OLD = -2  # owner of patches of pictures that are not at hand
_SAMPLE = 2**22  # values that share is estimated from


class MemoryModel:
    """The fitted memory behind the model contract (:class:`~anomaly_spotter.models.base.AnomalyModel`).

    Attributes:
        features: Canvas to patch features.
        bank: ``int8 [P, K, d]`` within :data:`~anomaly_spotter.models.cells.RANGE`: K good patches at each of P places; P = 1 when places do not count.
        centre: ``float32 [P, d]``, the mean good patch of each place, to whole steps.
        step: ``float32 [1]``, feature units per count of ``bank``.
        origins: ``int64 [K, 2]``, the exemplar each patch came from, and its cell there (-1: the place itself).
        exemplars: Reduced good pictures that nearest patches are shown from.
    """

    name: ClassVar[str] = "memory"

    def __init__(
        self,
        features: PatchFeatures,
        bank: Tensor,
        centre: Tensor,
        step: Tensor,
        origins: NDArray[np.int64],
        exemplars: Exemplars,
    ) -> None:
        self.features, self.origins, self.exemplars = features, origins, exemplars
        self.bank, self.centre, self.step = bank, centre, step
        self._middle = _whole(centre, step)  # [P, d]
        # Whole numbers below 2^24 throughout, so float32 is exact.
        patches = bank.float()
        self._half_norms = (patches.square().sum(dim=2) / 2).ceil()  # [P, K]
        self._columns = patches.transpose(1, 2).contiguous()  # [P, d, K]: products run along it twice as fast

    @classmethod
    @torch.inference_mode()
    def fit(cls, good: GoodGrids, config: ModelConfig, seed: int) -> tuple[Self, LeftOut]:
        """Remember the good pictures; where they are too many, a random part of them, chosen by ``seed``.

        Returns:
            The model, and what gives for each picture of ``good.scored()`` its raw map by the memory without that
            picture's own patches.
        """
        rng = np.random.default_rng(seed)
        count, height, width, depth = good.grids.shape
        if config.places == "global":
            chosen = np.sort(rng.permutation(count * height * width)[:_GLOBAL_PATCHES])
            owners, cells = np.divmod(chosen, height * width)
            patches = good.grids.reshape(-1, depth)[torch.from_numpy(chosen)][None].float()
        else:
            most = min(config.prototypes, max(2, _LARGEST // (height * width * depth)))
            owners = np.sort(rng.permutation(count)[:most])
            cells = np.full(len(owners), -1)
            patches = good.grids[torch.from_numpy(owners)].flatten(1, 2).transpose(0, 1).float()
        centre = patches.mean(dim=1)
        step = _step(patches - centre[:, None], rng)
        middle = _whole(centre, step)
        bank = _counts(patches, middle, step)
        used, exemplar = np.unique(owners, return_inverse=True)
        exemplars = Exemplars.collect((good.canvases[index] for index in good.members[used]), len(used))
        origins = np.stack([exemplar, cells], axis=1)
        model = cls(good.features, bank, middle * step, step, origins, exemplars)
        return model, partial(good.left_out, partial(model._left_out_map, owners))

    @torch.inference_mode()
    def extended(self, good: GoodGrids, config: ModelConfig, seed: int) -> tuple[Self, LeftOut]:
        """Remember more good pictures, in the same scale.

        With places, each new picture joins; once the memory is full, random old ones, chosen by ``seed``, make room.
        Without places, the new pictures' share of the patches goes to those that are strangest to the old memory.

        Returns:
            The model, and what gives the new pictures' raw maps by the memory without the picture itself.
        """
        rng = np.random.default_rng(seed)
        if self._is_global:
            fresh, owners, cells, kept = self._stranger_patches(good, rng)
        else:
            room = min(config.prototypes, max(2, _LARGEST // self.bank[:, 0].numel()))
            taken, kept = _shares(len(good.grids), self.bank.shape[1], max(room, self.bank.shape[1]), rng)
            owners, cells = taken, np.full(len(taken), -1)
            fresh = good.grids[torch.from_numpy(taken)].flatten(1, 2).transpose(0, 1).float()
        joining = _counts(fresh, self._middle, self.step)
        bank = torch.cat([self.bank[:, torch.from_numpy(kept)], joining], dim=1)
        used_old, old = np.unique(self.origins[kept, 0], return_inverse=True)
        used_new, new = np.unique(owners, return_inverse=True)
        exemplars = self.exemplars.extended(
            used_old.tolist(),
            (good.canvases[index] for index in good.members[used_new]),
            len(used_old) + len(used_new),
        )
        origins = np.concatenate(
            [
                np.stack([old, self.origins[kept, 1]], axis=1),
                np.stack([len(used_old) + new, cells], axis=1),
            ]
        )
        model = type(self)(self.features, bank, self.centre, self.step, origins, exemplars)
        all_owners = np.concatenate([np.full(len(kept), _OLD), owners])
        return model, partial(good.left_out, partial(model._left_out_map, all_owners))

    def _stranger_patches(
        self, good: GoodGrids, rng: np.random.Generator
    ) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """New patches ``[1, k, d]``, their pictures and cells, and the old patches that stay."""
        count, height, width, depth = good.grids.shape
        old = self.bank.shape[1]
        fair = max(count, round(old * count / len(np.unique(self.origins[:, 0]))))
        taken, kept = _shares(min(fair, count * height * width), old, max(_GLOBAL_PATCHES, old), rng)
        strangeness = torch.cat([self.distances(grid.float()).flatten() for grid in good.grids])
        chosen = np.sort(strangeness.argsort(descending=True, stable=True)[: len(taken)].numpy())
        owners, cells = np.divmod(chosen, height * width)
        return good.grids.reshape(-1, depth)[torch.from_numpy(chosen)][None].float(), owners, cells, kept

    @classmethod
    def from_state(cls, config: ModelConfig, channels: int, state: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild from named arrays.

        Raises:
            BundleError: An array is missing, or of another shape.
        """
        features = PatchFeatures.from_state(config.features, channels, state)
        try:
            bank, centre, step = (
                torch.from_numpy(np.array(state[key])) for key in ("bank", "centre", "step")
            )
            origins = np.array(state["origins"], np.int64)
        except KeyError as error:
            raise BundleError(f"the memory lacks {error}; use the original file") from None
        depth = features.components.shape[1]
        if (
            bank.ndim != 3
            or bank.shape[2] != depth
            or centre.shape != (len(bank), depth)
            or step.shape != (1,)
            or origins.shape != (bank.shape[1], 2)
            or beyond_range(bank.numpy())
        ):
            raise BundleError("the memory's arrays do not fit together; use the original file")
        return cls(features, bank, centre, step, origins, Exemplars.from_state(state))

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays."""
        return {
            **self.features.state(),
            **self.exemplars.state(),
            "bank": self.bank.numpy(),
            "centre": self.centre.numpy(),
            "step": self.step.numpy(),
            "origins": self.origins,
        }

    @torch.inference_mode()
    def anomaly_maps(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[NormalLook]]:
        """Distance maps ``float32 [B, H, W]``, and for each picture one assembled from its nearest good patches."""
        grids = [
            self.features.of(picture) for picture in pictures
        ]  # one by one: a batch would leave the cache
        maps = [enlarge(self.distances(grid).numpy()) for grid in grids]
        return np.stack(maps), [partial(self._nearest_normal, grid) for grid in grids]

    @property
    def _is_global(self) -> bool:
        return len(self.bank) == 1

    def _left_out_map(
        self, owners: NDArray[np.int64], grid: Tensor, member: int | None
    ) -> NDArray[np.float32]:
        own = torch.from_numpy(owners == (-1 if member is None else member))
        return enlarge(self.distances(grid, own).numpy())

    @torch.inference_mode()
    def distances(self, grid: Tensor, ignored: Tensor | None = None) -> Tensor:
        """Distance of each cell of ``[h, w, d]`` to its nearest patch, ``[h, w]``; ``bool [K]`` patches are ignored.

        What of a cell lies beyond the range counts as a distance of its own, at a right angle to the rest.
        """
        queries, squares = self._queries(grid)
        distances = squares - 2 * self._closeness(queries, ignored).amax(dim=2)
        nearest = distances[0] if self._is_global else _to_cells(distances, grid.shape[:2]).amin(dim=0)
        return nearest.sqrt_().mul_(self.step).reshape(grid.shape[:2])

    def _queries(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Each place's cells to compare, in counts from its centre, cut to the range, ``[P, Q, d]``, and their squared norms ``[P, Q]``.

        The norms include what was cut off.

        Raises:
            BundleError: There are not as many places as cells.
        """
        if not self._is_global and len(self.bank) != grid.shape[0] * grid.shape[1]:
            raise BundleError("the memory is of a canvas of another size; use the original file")
        cells = _whole(grid, self.step)
        cells = cells[None].flatten(1, 2) if self._is_global else _around(cells)
        counts = cells - self._middle[:, None]
        queries = counts.clamp(-RANGE, RANGE)
        beyond = (counts - queries).square_().sum(dim=2)
        return queries, queries.square().sum(dim=2).add_(beyond)

    def _closeness(self, queries: Tensor, ignored: Tensor | None = None) -> Tensor:
        """``q . b - |b|^2 / 2``, the latter rounded up, for every query and patch, ``[P, Q, K]``: the largest is nearest."""
        bias = self._half_norms
        if ignored is not None:
            bias = bias.masked_fill(ignored, torch.inf)
        return torch.bmm(queries, self._columns).sub_(bias[:, None])

    @torch.inference_mode()
    def _nearest_normal(self, grid: Tensor) -> NDArray[np.uint8]:
        queries, squares = self._queries(grid)
        closest, patch = self._closeness(queries).max(dim=2)
        found = (squares - 2 * closest).numpy(), patch.numpy()
        return self.exemplars.shown(*nearest(*found, (grid.shape[0], grid.shape[1])), self.origins)


def _around(grid: Tensor) -> Tensor:
    """The nine cells around each place, ``[h, w, d] -> [h * w, 9, d]``; beyond the border the border repeats."""
    padded = functional.pad(grid.permute(2, 0, 1)[None], [1, 1, 1, 1], mode="replicate")[0].permute(1, 2, 0)
    height, width, depth = grid.shape
    windows = padded.unfold(0, 3, 1).unfold(1, 3, 1)  # [h, w, d, 3, 3]
    return windows.permute(0, 1, 3, 4, 2).reshape(height * width, 9, depth)


def _to_cells(by_place: Tensor, size: tuple[int, ...]) -> Tensor:
    """From values per place and query, ``[h * w, 9]``, to values per cell and the place it was compared at, ``[9, h, w]``.

    The cell at (y, x) is query (dy, dx) of the place (y - dy, x - dx); places outside hold infinity.
    """
    height, width = size
    grid = functional.pad(by_place.T.reshape(9, height, width), [1, 1, 1, 1], value=torch.inf)
    rows = [
        grid[3 * (dy + 1) + dx + 1, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    return torch.stack(rows)


def _shares(
    new: int, old: int, room: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of ``new`` come in and which of ``old`` stay where there is ``room``: new ones go before old ones.

    They never take more than half of the room, or than their share of all if that is more.
    """
    taken = min(new, max(room - old, room // 2, round(room * new / (new + old))))
    kept = min(old, room - taken)
    return np.sort(rng.permutation(new)[:taken]), np.sort(rng.permutation(old)[:kept])


def _whole(values: Tensor, step: Tensor) -> Tensor:
    """Values in whole steps."""
    return (values / step).round_()


def _counts(patches: Tensor, middle: Tensor, step: Tensor) -> Tensor:
    """``[P, K, d]`` from the middle of each place, which is in steps, as whole numbers in the range."""
    return _whole(patches, step).sub_(middle[:, None]).clamp_(-RANGE, RANGE).to(torch.int8)


def _step(centred: Tensor, rng: np.random.Generator) -> Tensor:
    """The size of a count, ``[1]``, so that nearly all values of ``[P, K, d]`` fit into the range."""
    flat = centred.reshape(-1, centred.shape[2])
    rows = max(1, _SAMPLE // centred.shape[2])
    sample = flat[torch.from_numpy(rng.integers(len(flat), size=rows))] if len(flat) > rows else flat
    reach = float(np.quantile(sample.abs().numpy(), 1 - _CLIPPED))
    return torch.tensor([max(reach / RANGE, 1e-6)])
