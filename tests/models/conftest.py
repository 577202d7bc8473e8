"""Small good pictures and their feature grids, cheap enough to fit models on by the hundred."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anomaly_spotter.config import ModelConfig
from anomaly_spotter.models.features import PatchFeatures
from anomaly_spotter.models.grids import GoodGrids


def config(**model: Any) -> ModelConfig:
    return ModelConfig.model_validate({"name": "memory", "features": "gradients", "dimensions": 12} | model)


def draw(rng: np.random.Generator, height: int = 48, width: int = 64, channels: int = 1) -> np.ndarray:
    """A light bar and a dark disc that jitter a little, with noise: ``uint8 [H, W, C]``."""
    picture = np.full((height, width), 110, np.uint8)
    x, y = int(width // 4 + rng.integers(-2, 3)), int(height // 2 + rng.integers(-2, 3))
    cv2.circle(picture, (x, y), height // 6, int(40 + rng.integers(-8, 9)), -1, cv2.LINE_AA)
    left = int(width // 2 + rng.integers(-1, 2))
    cv2.rectangle(picture, (left, 8), (left + width // 4, 20), int(200 + rng.integers(-8, 9)), -1)
    noisy = picture[..., None] + rng.normal(0, 4, (height, width, channels))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def drawn(count: int, seed: int = 0, **size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [draw(rng, **size) for _ in range(count)]


class Pixels:
    """The simplest extractor: the 64 pixels of a cell are its features."""

    def __call__(self, levels: Tensor) -> Tensor:
        return functional.pixel_unshuffle(levels, 8)[0].permute(1, 2, 0)

    def state(self) -> dict[str, np.ndarray]:
        return {}


def synthetic(grids: np.ndarray) -> GoodGrids:
    """Good pictures given by their feature grids ``[N, h, w, d]`` alone; their canvases are blank."""
    count, height, width, depth = grids.shape
    features = PatchFeatures(Pixels(), torch.zeros(64), torch.eye(64)[:, :depth].contiguous())
    canvases = [np.zeros((8 * height, 8 * width, 1), np.uint8)] * count
    return GoodGrids(features, canvases, np.arange(count), torch.from_numpy(grids).half())


def without(good: GoodGrids, left_out: int) -> GoodGrids:
    """The same good pictures, seen through the same features, without one of them."""
    kept = [index for index in range(len(good.canvases)) if index != left_out]
    return GoodGrids(
        good.features, [good.canvases[index] for index in kept], np.arange(len(kept)), good.grids[kept]
    )
