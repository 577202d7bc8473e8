"""What the autoencoder learns from, whichever framework trains it: corrupted pictures, in an order that can be repeated.

Every random draw is a function of (seed, epoch, picture); processes that train together take turns at the same draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from anomaly_spotter.errors import ConfigError
from anomaly_spotter.inputs.augment import augment
from anomaly_spotter.inputs.preprocess import to_network
from anomaly_spotter.inputs.synthetic import corrupt
from anomaly_spotter.models.features import PatchFeatures, extractor, levels
from anomaly_spotter.processes import Member, member

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from anomaly_spotter.config import SpotterConfig, TrainingConfig

    _Triple = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]
    _Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_CLEAN_SHARE = 0.2  # of the pictures a segmentation learns from; it must also see parts without a defect
_HALF_WHITE = 127.5
_PROJECTION_PICTURES = 48  # pictures that the principal components of the features are learned from
_VALIDATION_EPOCH = 2**31  # a draw of its own, the same in every epoch, so that validation losses compare


@dataclass(frozen=True, slots=True)
class Material:
    """What the autoencoder learns from, whichever framework trains it.

    Attributes:
        batches: (corrupted, good, mask) of an epoch, which ``batches.sampler.set_epoch`` names.
        validation: Those of the held-out pictures, the same in every epoch.
        reference: The mean good picture, ``float32 [1, C, H, W]`` in [-1, 1].
        features: What it learns to expect, where the settings ask for it.
        is_marking: Whether it learns to mark what was corrupted.
    """

    batches: DataLoader[Any]
    validation: DataLoader[Any]
    reference: torch.Tensor
    features: PatchFeatures | None
    is_marking: bool

    def seen(self, good: torch.Tensor) -> torch.Tensor | None:
        """Features of good pictures ``[B, C, H, W]`` in [-1, 1], ``[B, d, H/8, W/8]``."""
        return None if self.features is None else seen_features(good, self.features)


def material(
    pictures: NDArray[np.uint8],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    config: SpotterConfig,
) -> Material:
    """What :func:`train_unet` with these arguments learns from."""
    return Material(
        loader(Corrupted(pictures, train, config), config.training, training=True),
        loader(Corrupted(pictures, validation, config, fixed=True), config.training, training=False),
        mean_picture(pictures, train),
        learned_features(pictures, train, config),
        "segmentation" in config.model.evidence,
    )


class Corrupted(Dataset[Any]):
    """(corrupted, good, mask) triples, addressed by ``(epoch, index)`` so that each draw can be repeated."""

    def __init__(
        self,
        pictures: NDArray[np.uint8],
        indices: NDArray[np.int64],
        config: SpotterConfig,
        *,
        fixed: bool = False,
    ) -> None:
        self.pictures, self.indices, self.config, self.fixed = pictures, indices, config, fixed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int]) -> _Triple:
        epoch, index = key
        strength, seed = self.config.training.corruption, self.config.training.seed
        rng = np.random.default_rng([seed, _VALIDATION_EPOCH if self.fixed else epoch, index])
        good = self._picture(index)
        if not self.fixed:
            good = augment(good, self.config.augmentation, rng)
        if not strength or ("segmentation" in self.config.model.evidence and rng.random() < _CLEAN_SHARE):
            return good, good, np.zeros(good.shape[:2], dtype=bool)
        donor = self._picture(int(rng.integers(len(self))))
        corrupted, mask = corrupt(good, donor, rng, strength)
        return corrupted, good, mask

    def _picture(self, index: int) -> NDArray[np.uint8]:
        return np.asarray(self.pictures[self.indices[index]])


class EpochSampler(Sampler[tuple[int, int]]):
    """This process's share of the ``(epoch, index)`` keys; their order depends only on the seed and the epoch.

    Processes take turns, so that their batches together are the pictures that one process would take with a batch of
    that size.
    """

    def __init__(self, count: int, settings: TrainingConfig, *, training: bool) -> None:
        self.count, self.seed, self.training = count, settings.seed, training
        self.draws = whole_draws(count, settings) if training else count
        self.here = member()
        if not training and count < self.here.count:
            self.here = Member()  # too few to share: all measure all of them
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.here.rank, self.draws, self.here.count))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return islice(self._keys(), self.here.rank, None, self.here.count)

    def _keys(self) -> Iterator[tuple[int, int]]:
        if not self.training:
            yield from ((self.epoch, index) for index in range(self.count))
            return
        rng = np.random.default_rng([self.seed, self.epoch])
        rounds = -(-self.draws // self.count)
        order = np.concatenate([rng.permutation(self.count) for _ in range(rounds)])[: self.draws]
        # A picture shown twice in an epoch must not be drawn the same way twice.
        for position, index in enumerate(order.tolist()):
            yield self.epoch * rounds + position // self.count, index


def whole_draws(count: int, settings: TrainingConfig) -> int:
    """Pictures per epoch, all processes together: whole batches, or one as large as all can share evenly.

    Raises:
        ConfigError: There are more processes than pictures.
    """
    draws = count if settings.pictures_per_epoch is None else settings.pictures_per_epoch
    processes = settings.devices * settings.nodes
    if draws < processes:
        raise ConfigError(
            f"{processes} processes cannot share {draws} pictures per epoch; use fewer training.devices"
        )
    batch = processes * settings.batch_size
    return draws - draws % (batch if draws >= batch else processes)


def loader(pictures: Corrupted, settings: TrainingConfig, *, training: bool) -> DataLoader[Any]:
    """Batches of this process's share, shuffled for training."""
    sampler = EpochSampler(len(pictures), settings, training=training)
    return DataLoader(pictures, batch_size=settings.batch_size, sampler=sampler, collate_fn=_collate)


def _collate(triples: list[_Triple]) -> _Batch:
    """Two ``float32 [B, C, H, W]`` in [-1, 1] and the mask ``float32 [B, 1, H, W]``."""
    corrupted, good, masks = (np.stack(side) for side in zip(*triples, strict=True))
    mask = torch.from_numpy(masks[:, None].astype(np.float32))
    return torch.from_numpy(to_network(corrupted)), torch.from_numpy(to_network(good)), mask


@torch.inference_mode()
def learned_features(
    pictures: NDArray[np.uint8], train: NDArray[np.int64], config: SpotterConfig
) -> PatchFeatures | None:
    """The features that the network learns to expect, projected on the good pictures' principal components."""
    if "features" not in config.model.evidence:
        return None
    extract = extractor(config.model.features, pictures.shape[3], weights=config.model.weights)
    chosen = train[np.unique(np.linspace(0, len(train) - 1, _PROJECTION_PICTURES).astype(int))]
    grids = [extract(levels(np.asarray(pictures[index]))) for index in chosen]
    return PatchFeatures.fit(extract, grids, config.model.dimensions, config.training.seed)


def mean_picture(pictures: NDArray[np.uint8], train: NDArray[np.int64]) -> torch.Tensor:
    """The mean good picture, ``float32 [1, C, H, W]`` in [-1, 1]."""
    total = np.zeros(pictures.shape[1:], dtype=np.int64)
    for index in train:
        total += pictures[index]
    mean = np.rint(total / len(train)).astype(np.uint8)
    return torch.from_numpy(to_network(mean[None]))


@torch.no_grad()
def seen_features(good: torch.Tensor, features: PatchFeatures) -> torch.Tensor:
    """Features of pictures in [-1, 1], ``[B, d, h, w]``."""
    grids = [features.project(features.extract(one[None])) for one in (good.float() + 1) * _HALF_WHITE]
    return torch.stack(grids).permute(0, 3, 1, 2)
