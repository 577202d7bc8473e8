"""U-Net-like autoencoder: the picture is reconstructed, the reconstruction error is the anomaly map.

Encoder of three down-sampling levels, symmetric decoder with bilinear up-sampling, skip connections, ReLU for
features and Tanh at the output (after Ronneberger et al., *U-Net*, MICCAI 2015). Skip connections can be left out per
level, because a network that can copy its input copies defects too. The network may see the mean good picture beside
its input, and may have two more outputs: what does not belong (after Zavrtanik et al., *DRAEM*, ICCV 2021), and the
features that a pretrained backbone would see in the good picture (after Batzner et al., *EfficientAD*, WACV 2024),
which are compared with those it does see: unlike a restored picture, they do not suffer from blur.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anomaly_spotter.errors import BundleError
from anomaly_spotter.inputs.preprocess import from_network, to_network
from anomaly_spotter.models.cells import STRIDE
from anomaly_spotter.models.features import PatchFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig
    from anomaly_spotter.models.base import NormalLook

_NETWORK = "network."
_LEAST_SPREAD = 1e-6
_RARE = -4.0  # log odds of a defect before anything is learned


class Restored(NamedTuple):
    """Outputs of the network.

    Attributes:
        picture: The good picture, ``[B, C, H, W]`` in [-1, 1].
        marked: Log odds of a defect, ``[B, 1, H, W]``, or ``None``.
        features: The good picture's patch features, ``[B, d, H/8, W/8]``, or ``None``.
    """

    picture: Tensor
    marked: Tensor | None
    features: Tensor | None


class UNet(nn.Module):
    """``float32 [B, C, H, W]`` in [-1, 1] -> :class:`Restored`; H and W are multiples of 8 times the stem.

    ``reference`` is the mean good picture, ``float32 [1, C, H, W]``, where the settings ask for it.
    """

    def __init__(self, channels: int, config: ModelConfig, reference: Tensor | None = None) -> None:
        super().__init__()
        w0, w1, w2, w3 = config.widths
        s0, s1, s2 = config.skips
        norm = config.batch_norm
        folded = channels * config.stem**2
        self.reference: Tensor | None
        self.register_buffer("reference", reference if config.reference else None)
        self.encode0 = _double_conv(folded * (1 + config.reference), w0, norm)
        self.encode1 = _double_conv(w0, w1, norm)
        self.encode2 = _double_conv(w1, w2, norm)
        self.bottom = _double_conv(w2, w3, norm)
        self.decode2 = _double_conv(w3 + s2 * w2, w2, norm)
        self.decode1 = _double_conv(w2 + s1 * w1, w1, norm)
        self.decode0 = _double_conv(w1 + s0 * w0, w0, norm)
        self.output = nn.Conv2d(w0, folded, kernel_size=1)
        self.segment = self.expect = None
        if "segmentation" in config.evidence:
            self.segment = _head(2 * w0, w0, config.stem**2, norm)
            nn.init.constant_(self.segment[-1].bias, _RARE)  # type: ignore[arg-type]
        if "features" in config.evidence:
            self.expect = _head(w2, w3, config.dimensions, norm)
        self.skips, self.stem = config.skips, config.stem

    def forward(self, pictures: Tensor) -> Restored:
        """Restore a batch."""
        seen = pictures
        if self.reference is not None:
            seen = torch.cat([pictures, self.reference.expand_as(pictures)], dim=1)
        folded = functional.pixel_unshuffle(seen, self.stem)  # stem 1: unchanged; 2: [B, 4C, H/2, W/2]
        x0 = self.encode0(folded)  # [B, w0, H, W], H and W from here on those of the folded picture
        x1 = self.encode1(functional.max_pool2d(x0, 2))  # [B, w1, H/2, W/2]
        x2 = self.encode2(functional.max_pool2d(x1, 2))  # [B, w2, H/4, W/4]
        x = self.bottom(functional.max_pool2d(x2, 2))  # [B, w3, H/8, W/8]
        x = self.decode2(self._join(x, x2, level=2))  # [B, w2, H/4, W/4]
        features = None if self.expect is None else self.expect(_to_grid(x, pictures))
        x = self.decode1(self._join(x, x1, level=1))  # [B, w1, H/2, W/2]
        x = self.decode0(self._join(x, x0, level=0))  # [B, w0, H, W]
        picture = functional.pixel_shuffle(torch.tanh(self.output(x)), self.stem)
        if self.segment is None:
            return Restored(picture, None, features)
        marked = functional.pixel_shuffle(self.segment(torch.cat([x, x0], dim=1)), self.stem)
        return Restored(picture, marked, features)

    def _join(self, below: Tensor, skip: Tensor, level: int) -> Tensor:
        up = functional.interpolate(below, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.cat([up, skip], dim=1) if self.skips[level] else up


class UNetModel:
    """The fitted autoencoder behind the model contract (:class:`~anomaly_spotter.models.base.AnomalyModel`).

    Attributes:
        network: The trained network.
        config: Its settings.
        spread: ``float32 [E]``, how much each kind of evidence varies on good pictures; its unit in the sum.
        features: What the network's expected features are compared with, where the settings ask for it.
    """

    name: ClassVar[str] = "unet"

    def __init__(
        self, network: UNet, config: ModelConfig, spread: Tensor, features: PatchFeatures | None = None
    ) -> None:
        self.network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config, self.spread, self.features = config, spread, features

    @classmethod
    @torch.inference_mode()
    def fit(
        cls,
        network: UNet,
        config: ModelConfig,
        features: PatchFeatures | None,
        good: Sequence[NDArray[np.uint8]],
    ) -> Self:
        """Learn how much each kind of evidence varies on good canvases ``uint8 [H, W, C]`` it was not trained on."""
        model = cls(network, config, torch.ones(len(config.evidence)), features)
        if len(config.evidence) > 1:
            kinds = zip(*(model._evidence(picture[None])[0] for picture in good), strict=True)
            model.spread = torch.stack([torch.cat(kind).std() for kind in kinds]).clamp_(min=_LEAST_SPREAD)
        return model

    @classmethod
    def from_state(cls, config: ModelConfig, channels: int, state: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild from named arrays.

        Raises:
            BundleError: An array is missing, unexpected, or of another shape.
        """
        reference = torch.zeros(np.shape(state.get(f"{_NETWORK}reference", 0))) if config.reference else None
        network = UNet(channels, config, reference)
        weights = {
            name.removeprefix(_NETWORK): torch.from_numpy(np.array(value))
            for name, value in state.items()
            if name.startswith(_NETWORK)
        }
        try:
            network.load_state_dict(weights)
            spread = torch.from_numpy(np.array(state["spread"]))
        except (RuntimeError, KeyError) as error:
            raise BundleError(f"the weights do not fit the model: {' '.join(str(error).split())}") from None
        features = None
        if "features" in config.evidence:
            features = PatchFeatures.from_state(config.features, channels, state)
        return cls(network, config, spread, features)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Weights, buffers and all that was learned, by name."""
        return {
            **{
                f"{_NETWORK}{name}": value.detach().contiguous().numpy()
                for name, value in self.network.state_dict().items()
            },
            **({} if self.features is None else self.features.state()),
            "spread": self.spread.numpy(),
        }

    @torch.inference_mode()
    def anomaly_maps(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[NormalLook]]:
        """Evidence of defects ``float32 [B, H, W]``; the normal look of a picture is its reconstruction."""
        kinds, restored = self._evidence(pictures)
        looks: list[NormalLook] = [partial(np.asarray, look) for look in from_network(restored.numpy())]
        total = torch.stack(kinds, dim=-1) @ (1 / self.spread)
        return total.numpy(), looks

    def _evidence(self, pictures: NDArray[np.uint8]) -> tuple[list[Tensor], Tensor]:
        """Each kind of evidence that the settings name, ``[B, H, W]``, and the restored pictures."""
        batch = torch.from_numpy(to_network(pictures)).to(memory_format=torch.channels_last)
        restored = self.network(batch)
        difference = batch - restored.picture
        kinds = []
        for kind in self.config.evidence:
            if kind == "grey":
                error = difference.square() if self.config.error == "squared" else difference.abs()
                kinds.append(error.mean(dim=1))
            elif kind == "gradient":
                kinds.append(_slope(difference))
            elif kind == "segmentation" and restored.marked is not None:
                kinds.append(functional.softplus(restored.marked[:, 0]))
            elif self.features is not None and restored.features is not None:
                seen = torch.stack([self.features.of(picture) for picture in pictures]).permute(0, 3, 1, 2)
                kinds.append(_distance(seen, restored.features, batch))
        return kinds, restored.picture


def _to_grid(x: Tensor, pictures: Tensor) -> Tensor:
    """Brought to the cells of the patch features."""
    return functional.adaptive_avg_pool2d(x, (pictures.shape[2] // STRIDE, pictures.shape[3] // STRIDE))


def _distance(seen: Tensor, expected: Tensor, pictures: Tensor) -> Tensor:
    """Distance of features ``[B, d, h, w]``, enlarged to the pictures, ``[B, H, W]``."""
    distance = torch.linalg.vector_norm(seen - expected, dim=1, keepdim=True)
    size = (pictures.shape[2], pictures.shape[3])
    return functional.interpolate(distance, size=size, mode="bilinear", align_corners=False)[:, 0]


def _slope(difference: Tensor) -> Tensor:
    """Length of the gradient of ``[B, C, H, W]``, the mean over channels, ``[B, H, W]``."""
    padded = functional.pad(difference, [1, 1, 1, 1], mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    return torch.sqrt(across.square() + down.square()).mean(dim=1)


def _head(channels_in: int, width: int, channels_out: int, batch_norm: bool) -> nn.Sequential:
    hidden = nn.Conv2d(channels_in, width, kernel_size=3, padding=1, bias=not batch_norm)
    norm = [nn.BatchNorm2d(width)] if batch_norm else []
    return nn.Sequential(hidden, *norm, nn.ReLU(inplace=True), nn.Conv2d(width, channels_out, kernel_size=1))


def _double_conv(channels_in: int, channels_out: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in in (channels_in, channels_out):
        layers.append(nn.Conv2d(width_in, channels_out, kernel_size=3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(channels_out))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
