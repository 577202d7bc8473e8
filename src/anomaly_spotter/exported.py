"""Running an export folder in Python: the same preprocessing and decision, the map from the exported model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from anomaly_spotter.bundle import Bundle, under
from anomaly_spotter.errors import BundleError, SpotterError
from anomaly_spotter.inputs.preprocess import Preprocessor
from anomaly_spotter.models.engines import open_session

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.models.base import NormalLook

FORMAT = "anomaly-spotter-export"
FORMAT_VERSION = 1
DESCRIPTION, ARRAYS = "detector.json", "detector.safetensors"
OUTPUTS = ("score", "p_value", "anomaly_map", "mask", "canvas_map")
_LARGEST = 8 * 2**30


class ExportedModel:
    """Behind the model contract (:class:`~anomaly_spotter.models.base.InspectingModel`), for inspection only."""

    def __init__(
        self,
        graph: bytes,
        engine: str,
        canvas: tuple[int, int, int],
        *,
        aligned: bool,
        weights: bytes | None = None,
    ) -> None:
        self._session = open_session(graph, engine, weights)
        self._counts = np.ones(canvas[:2], np.bool_) if aligned else None

    def outputs(
        self, picture: NDArray[np.uint8], counts: NDArray[np.bool_] | None = None
    ) -> dict[str, NDArray[Any]]:
        """All outputs of the graph by name; ``counts`` for aligned detectors."""
        values: list[NDArray[Any]] = [np.ascontiguousarray(picture)]
        if self._counts is not None:
            values.append(self._counts if counts is None else counts)
        return dict(zip(OUTPUTS, (each.copy() for each in self._session(*values)), strict=True))

    def anomaly_maps(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[NormalLook]]:
        """Raw maps ``float32 [B, H, W]`` of canvases before light normalisation, which is in the graph; no normal looks."""
        maps = [self.outputs(picture)["canvas_map"] for picture in pictures]
        return np.stack(maps), [lambda: None] * len(maps)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Nothing that could be taken out again.

        Raises:
            SpotterError: Always.
        """
        raise SpotterError("an export cannot be saved or changed; work on the .spot file it came from")


def is_export(path: Path) -> bool:
    """Whether this is the folder of an export, or one of its files."""
    return _folder(path).joinpath(DESCRIPTION).is_file()


def read_export(path: Path, engine: str | None = None) -> tuple[Bundle, ExportedModel]:
    """Read and verify an export; runs no code from it.

    Args:
        path: The folder, or the model file in it.
        engine: ``onnxruntime``, ``openvino`` or ``openvino-bf16``; if not given (or ``auto``), what it was made for.

    Raises:
        BundleError: Truncated, foreign, of another version, edited, or not runnable.
        MissingExtraError: The engine is not installed.
        SpotterError: PyTorch was asked for.
    """
    folder = _folder(path)
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if description["format"] != FORMAT or description["format_version"] != FORMAT_VERSION:
            raise BundleError(
                f"{folder} is an export of format {description.get('format_version')}, this version reads "
                f"{FORMAT_VERSION}; export again"
            )
        files = {name: _verified(folder, name, digest) for name, digest in description["files"].items()}
        arrays = dict(load_arrays(files[ARRAYS]))
        sections = {
            name: dict(description[name]) for name in ("config", "preprocessing", "calibration", "provenance")
        }
        preprocessor = Preprocessor.from_parts(sections["preprocessing"], under("preprocessing.", arrays))
        model_file, made_for = str(description["model"]), str(description["engine"])
        graph = files[model_file]
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError, OSError) as error:
        raise BundleError(f"{folder}: the export is damaged ({error}); export again") from None
    if engine == "torch":
        raise SpotterError(f"{folder} is an export, which PyTorch does not run; name another engine")
    chosen = made_for if engine in (None, "auto") else str(engine)
    if model_file.endswith(".xml") and not chosen.startswith("openvino"):
        raise SpotterError(f"{folder} is an OpenVINO model; only openvino runs it, not {chosen}")
    shape = (preprocessor.height, preprocessor.width, preprocessor.channels)
    weights = files.get(model_file.replace(".xml", ".bin")) if model_file.endswith(".xml") else None
    model = ExportedModel(graph, chosen, shape, aligned=preprocessor.aligner is not None, weights=weights)
    # The graph normalises the light itself.
    own = dataclasses.replace(preprocessor, illumination=None)
    stored = Bundle(
        sections["config"], own.to_dict(), sections["calibration"], sections["provenance"], arrays
    )
    return stored, model


def _verified(folder: Path, name: str, digest: str) -> bytes:
    if "/" in name or "\\" in name or name.startswith("."):
        raise BundleError(f"{folder}: the export names a file outside its folder ({name}); do not use it")
    path = folder / name
    if path.stat().st_size > _LARGEST:
        raise BundleError(f"{path} is too large for an export; do not use it")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise BundleError(f"{path} was changed after the export (hash mismatch); export again")
    return content


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent
