"""U-Net-like autoencoder: the picture is reconstructed, the reconstruction error is the anomaly map.

Encoder of three down-sampling levels, symmetric decoder with bilinear up-sampling, skip connections, ReLU for
features and Tanh at the output (after Ronneberger et al., *U-Net*, MICCAI 2015). Skip connections can be left out per
level, because a network that can copy its input copies defects too.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anomaly_spotter.errors import BundleError
from anomaly_spotter.inputs.preprocess import from_network, to_network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig
    from anomaly_spotter.models.base import NormalLook


class UNet(nn.Module):
    """``float32 [B, C, H, W]`` in [-1, 1] -> same shape and range; H and W are multiples of 8 times the stem."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        w0, w1, w2, w3 = config.widths
        s0, s1, s2 = config.skips
        norm = config.batch_norm
        folded = channels * config.stem**2
        self.encode0 = _double_conv(folded, w0, norm)
        self.encode1 = _double_conv(w0, w1, norm)
        self.encode2 = _double_conv(w1, w2, norm)
        self.bottom = _double_conv(w2, w3, norm)
        self.decode2 = _double_conv(w3 + s2 * w2, w2, norm)
        self.decode1 = _double_conv(w2 + s1 * w1, w1, norm)
        self.decode0 = _double_conv(w1 + s0 * w0, w0, norm)
        self.output = nn.Conv2d(w0, folded, kernel_size=1)
        self.skips, self.stem = config.skips, config.stem

    def forward(self, pictures: Tensor) -> Tensor:
        """Reconstruct a batch."""
        folded = functional.pixel_unshuffle(pictures, self.stem)  # stem 1: unchanged; 2: [B, 4C, H/2, W/2]
        x0 = self.encode0(folded)  # [B, w0, H, W], H and W from here on those of the folded picture
        x1 = self.encode1(functional.max_pool2d(x0, 2))  # [B, w1, H/2, W/2]
        x2 = self.encode2(functional.max_pool2d(x1, 2))  # [B, w2, H/4, W/4]
        x = self.bottom(functional.max_pool2d(x2, 2))  # [B, w3, H/8, W/8]
        x = self.decode2(self._join(x, x2, level=2))  # [B, w2, H/4, W/4]
        x = self.decode1(self._join(x, x1, level=1))  # [B, w1, H/2, W/2]
        x = self.decode0(self._join(x, x0, level=0))  # [B, w0, H, W]
        return functional.pixel_shuffle(torch.tanh(self.output(x)), self.stem)

    def _join(self, below: Tensor, skip: Tensor, level: int) -> Tensor:
        up = functional.interpolate(below, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.cat([up, skip], dim=1) if self.skips[level] else up


class UNetModel:
    """The fitted autoencoder behind the model contract (:class:`~anomaly_spotter.models.base.AnomalyModel`)."""

    name: ClassVar[str] = "unet"

    def __init__(self, network: UNet, config: ModelConfig) -> None:
        self.network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config = config

    @classmethod
    def from_state(cls, config: ModelConfig, channels: int, state: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild from named arrays.

        Raises:
            BundleError: An array is missing, unexpected, or of another shape.
        """
        network = UNet(channels, config)
        try:
            network.load_state_dict(
                {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
            )
        except RuntimeError as error:
            raise BundleError(f"the weights do not fit the model: {' '.join(str(error).split())}") from None
        return cls(network, config)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Weights and buffers by name."""
        return {
            name: value.detach().contiguous().numpy() for name, value in self.network.state_dict().items()
        }

    @torch.inference_mode()
    def anomaly_maps(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[NormalLook]]:
        """Reconstruction errors ``float32 [B, H, W]``; the normal look of a picture is its reconstruction."""
        batch = torch.from_numpy(to_network(pictures)).to(memory_format=torch.channels_last)
        reconstruction = self.network(batch)
        difference = batch - reconstruction
        error = difference.square() if self.config.error == "squared" else difference.abs()
        looks: list[NormalLook] = [partial(np.asarray, look) for look in from_network(reconstruction.numpy())]
        return error.mean(dim=1).numpy(), looks


def _double_conv(channels_in: int, channels_out: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in in (channels_in, channels_out):
        layers.append(nn.Conv2d(width_in, channels_out, kernel_size=3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(channels_out))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
