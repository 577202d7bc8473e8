"""Backbones of timm (Wightman, *PyTorch Image Models*, 2019) by name, with weights from a file on this machine.

Nothing is ever downloaded: timm only builds the untrained network. What no layer up to stride 16 depends on is cut
off, and a bundle carries the rest, so that it needs timm but not the weight file.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import pickle
import zipfile
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from anomaly_spotter.errors import BundleError, ConfigError, MissingExtraError
from anomaly_spotter.models.lite import STRIDES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

PREFIX = "timm:"
_PROBE = (80, 112)  # multiples of 16 as canvases are, not of 32
_COUNTER = "num_batches_tracked"  # of training steps; means nothing here, and older files lack it
_UNFIT = (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, KeyError, IndexError)


class HubBackbone(nn.Module):
    """Grey or RGB levels ``float32 [B, C, H, W]`` in 0..255 -> features at strides 4, 8 and 16.

    Attributes:
        network: timm's features-only network without what strides 4, 8 and 16 do not need.
        taps: Which of its outputs are the last at those strides.
        mean: ``float32 [3, 1, 1]``, of the pixels in 0..1 that the network was trained with.
        std: ``float32 [3, 1, 1]``.
        sha256: ``uint8 [32]``, of the weight file.
    """

    mean: Tensor
    std: Tensor
    sha256: Tensor

    @torch.inference_mode(mode=False)  # models are fitted in inference mode, where nothing could be cut
    def __init__(self, name: str) -> None:
        super().__init__()
        self.network, self.taps = _built(name)
        for key in ("mean", "std"):
            values = torch.tensor(self.network.pretrained_cfg[key], dtype=torch.float32)
            self.register_buffer(key, values.view(-1, 1, 1))
        self.register_buffer("sha256", torch.zeros(32, dtype=torch.uint8))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, levels: Tensor) -> list[Tensor]:
        """``[B, w4, H/4, W/4]``, ``[B, w8, H/8, W/8]``, ``[B, w16, H/16, W/16]``; sides are multiples of 16."""
        # A grey channel becomes three here, as each has its own mean.
        pixels = (levels / 255.0 - self.mean) / self.std
        return _layers(self.network, self.taps, pixels.contiguous(memory_format=torch.channels_last))

    @classmethod
    def pretrained(cls, name: str, path: Path) -> Self:
        """The weights of a file, matrices rounded to half precision so that a bundle that stores them so decides the same.

        Args:
            name: One of timm's model names, for example ``resnet18``.
            path: Its state dictionary, ``.safetensors`` or, read without running code, ``.pth``.

        Raises:
            ConfigError: The file is missing, damaged or another model's, or timm has no such model or none that
                gives the layers.
            MissingExtraError: timm is not installed.
        """
        weights, digest = _read(path)
        backbone = cls(name)
        problem = _take_over(backbone.network.state_dict(), weights, _all_names(name))
        if problem is not None:
            raise ConfigError(
                f"{path} does not hold the weights of timm's '{name}': {problem}; give the file of that model, "
                "or name the file's model in model.features"
            )
        backbone.sha256.copy_(torch.frombuffer(bytearray(digest), dtype=torch.uint8))
        return backbone

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild from :meth:`state`.

        Raises:
            BundleError: The arrays do not fit.
            ConfigError: The installed timm has no such model.
            MissingExtraError: timm is not installed.
        """
        backbone = cls(name)
        try:
            backbone.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
        except RuntimeError as error:
            raise BundleError(
                f"the backbone's weights do not fit the installed timm's '{name}': {_one_line(error)}; "
                "install the version the bundle was trained with"
            ) from None
        return backbone

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays, in half precision where that is exact."""
        return {key: _compact(value).contiguous().numpy() for key, value in self.state_dict().items()}


def _built(name: str) -> tuple[Any, list[int]]:
    """The untrained features-only network, cut, and which of its outputs are at :data:`STRIDES`."""
    timm = _timm(name)
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f"did you mean {PREFIX}{close[0]}?" if close else "timm.list_models() gives all names"
        raise ConfigError(f"timm {timm.__version__} has no model '{name}'; {hint}")
    try:
        network = _untrained(timm, name, features_only=True).eval()
        strides = list(network.feature_info.reduction())
        if not set(STRIDES) <= set(strides):
            raise ValueError(f"its layers are at {', '.join(map(str, strides))}")
        taps = [max(index for index, each in enumerate(strides) if each == stride) for stride in STRIDES]
        _cut_off(network, taps)
    except _UNFIT as error:
        raise ConfigError(
            f"timm's '{name}' cannot give layers at strides 4, 8 and 16 for pictures of any size "
            f"({_one_line(error)}); take another, such as {PREFIX}resnet18"
        ) from None
    return network, taps


def _timm(name: str) -> Any:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the backbone '{PREFIX}{name}' needs {error.name}: pip install 'anomaly-spotter[hub]'"
        ) from None
    except (ImportError, RuntimeError) as error:  # a torchvision that was built for another PyTorch
        raise MissingExtraError(
            f"the backbone '{PREFIX}{name}' needs timm, which cannot be imported here ({_one_line(error)}); install "
            "the torchvision made for this PyTorch, then pip install 'anomaly-spotter[hub]'"
        ) from None


def _untrained(timm: Any, name: str, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):  # first weights would be drawn from the global generator
        return timm.create_model(name, pretrained=False, **options)


def _cut_off(network: Any, taps: list[int]) -> None:
    """Replace all that no tap depends on by nothing, and see that the taps are what they were.

    Raises:
        ValueError: They have other strides than they say.
        AssertionError: They have changed.
    """
    pixels = torch.linspace(-1, 1, 3 * _PROBE[0] * _PROBE[1]).view(1, 3, *_PROBE)
    weights = list(network.requires_grad_(True).parameters())
    with torch.enable_grad():
        layers = _layers(network, taps, pixels)
        gradients = torch.autograd.grad(
            torch.stack([layer.sum() for layer in layers]).sum(), weights, allow_unused=True
        )
    for layer, stride in zip(layers, STRIDES, strict=True):
        if layer.shape[2:] != (_PROBE[0] // stride, _PROBE[1] // stride):
            raise ValueError(f"a layer of {_PROBE[0]} x {_PROBE[1]} pixels is {list(layer.shape)}")
    _prune(
        network,
        {id(weight) for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None},
    )
    with torch.no_grad():
        torch.testing.assert_close(_layers(network, taps, pixels), layers)
    network.train().eval()  # makes networks forget what they computed from these weights


def _prune(module: nn.Module, used: set[int]) -> None:
    for name, child in module.named_children():
        weights = [id(weight) for weight in child.parameters()]
        if weights and used.isdisjoint(weights):
            setattr(module, name, nn.Identity())
        else:
            _prune(child, used)


def _layers(network: Any, taps: list[int], pixels: Tensor) -> list[Tensor]:
    outputs = network(pixels)
    layers = [outputs[tap] for tap in taps]
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        layers = [layer.permute(0, 3, 1, 2) for layer in layers]
    return layers


def _read(path: Path) -> tuple[dict[str, Tensor], bytes]:
    """The weights by name, mapped from disk where the format allows, and the SHA-256 of the file.

    Raises:
        ConfigError: The file is missing, damaged, or would run code.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ConfigError(
            f"cannot read the weight file {path}: {error.strerror}; set model.weights to a .pth or .safetensors file"
        ) from None
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (SafetensorError, pickle.UnpicklingError, EOFError, OSError, *_UNFIT):
        raise ConfigError(
            f"the weight file {path} is truncated, or holds more than plain weights in .pth or .safetensors format; "
            "copy it again, or save the model's state_dict() alone"
        ) from None
    for key in ("state_dict", "model"):  # of a whole training state
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    pairs: Iterable[tuple[Any, Any]] = found.items() if isinstance(found, dict) else ()
    return {
        str(name).removeprefix("module."): value for name, value in pairs if isinstance(value, Tensor)
    }, digest


def _all_names(name: str) -> set[str]:
    """Of the weights of the whole model, plain."""
    return {_plain(key) for key in _untrained(_timm(name), name).state_dict()}


def _take_over(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], names: set[str]) -> str | None:
    """Copy a file's weights into a network's ``own``; ``names`` are those of the whole model.

    Returns:
        Why the file is not that model's, if so.
    """
    found = {_plain(key): value for key, value in weights.items()}
    for key, value in own.items():
        other = found.get(_plain(key))
        if other is None:
            if not key.endswith(_COUNTER):
                return f"it lacks {key}"
        elif other.shape != value.shape:
            return f"{key} is {list(other.shape)} instead of {list(value.shape)}"
        elif not other.isfinite().all():
            return f"{key} is not finite"
        else:
            value.copy_(_rounded(other))
    surplus = sorted(key for key in weights if _plain(key) not in names)
    return f"it has {surplus[0]} besides" if surplus else None


def _plain(key: str) -> str:
    """A weight's name but for how timm wraps the layers of a features-only network."""
    return key.removeprefix("body.").removeprefix("model.").replace(".", "_")


def _rounded(value: Tensor) -> Tensor:
    """Matrices to half precision if they are within its range; vectors are too small to be worth it."""
    half = value.half()
    return half.to(value.dtype) if value.ndim > 1 and bool(half.isfinite().all()) else value


def _compact(value: Tensor) -> Tensor:
    half = value.half()
    return half if value.is_floating_point() and torch.equal(half.to(value.dtype), value) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
