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
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import BundleError, SpotterError
from anomaly_spotter.inputs.preprocess import Preprocessor
from anomaly_spotter.models.compiled import CompiledModel
from anomaly_spotter.models.engines import ENGINES, open_session
from anomaly_spotter.models.keras_files import ENGINES as KERAS_ENGINES
from anomaly_spotter.models.keras_files import open_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.models.base import NormalLook

FORMAT = "anomaly-spotter-export"
FORMAT_VERSION = 1
DESCRIPTION, ARRAYS = "detector.json", "detector.safetensors"
OUTPUTS = ("score", "p_value", "anomaly_map", "mask", "canvas_map")
_LARGEST = 8 * 2**30
_FIXED = "an export cannot be saved or changed; work on the .spot file it came from"


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
        raise SpotterError(_FIXED)


class ExportedNetwork(CompiledModel):
    """The network alone, run from an export of Keras's; canvases come with their light normalised."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Nothing that could be taken out again.

        Raises:
            SpotterError: Always.
        """
        raise SpotterError(_FIXED)


def is_export(path: Path) -> bool:
    """Whether this is the folder of an export, or one of its files."""
    return _folder(path).joinpath(DESCRIPTION).is_file()


def read_export(path: Path, engine: str | None = None) -> tuple[Bundle, ExportedModel | ExportedNetwork]:
    """Read and verify an export; runs no code from it.

    Args:
        path: The folder, or the model file in it.
        engine: ``onnxruntime``, ``openvino`` or ``openvino-bf16``; if not given (or ``auto``), what it was made for,
            the only one for exports of Keras's.

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
        if engine in (None, "auto") and made_for not in (*ENGINES, *KERAS_ENGINES.values()):
            raise BundleError(
                f"{folder} was made for the engine '{made_for}', which this version does not know; name one of "
                f"{', '.join(ENGINES)}, or export again"
            )
        is_network = model_file in KERAS_ENGINES
        graph = b"" if is_network else files[model_file]
        if is_network and (unlisted := _files_of(folder, model_file) - files.keys()):
            raise KeyError(f"no hash of {', '.join(sorted(unlisted)) or model_file}")
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError, OSError) as error:
        raise BundleError(f"{folder}: the export is damaged ({error}); export again") from None
    if engine == "torch":
        raise SpotterError(f"{folder} is an export, which PyTorch does not run; name another engine")
    chosen = made_for if engine in (None, "auto") else str(engine)
    shape = (preprocessor.height, preprocessor.width, preprocessor.channels)
    if is_network:
        if chosen != KERAS_ENGINES[model_file]:
            raise SpotterError(
                f"{folder} holds {model_file}, which only {KERAS_ENGINES[model_file]} runs, not {chosen}"
            )
        session = open_file(folder / model_file)
        settings = SpotterConfig.parse(sections["config"]).model
        network = ExportedNetwork(settings, shape, {}, {"network": session})
        return Bundle(
            sections["config"],
            sections["preprocessing"],
            sections["calibration"],
            sections["provenance"],
            arrays,
        ), network
    if model_file.endswith(".xml") and not chosen.startswith("openvino"):
        raise SpotterError(f"{folder} is an OpenVINO model; only openvino runs it, not {chosen}")
    weights = files.get(model_file.replace(".xml", ".bin")) if model_file.endswith(".xml") else None
    model = ExportedModel(graph, chosen, shape, aligned=preprocessor.aligner is not None, weights=weights)
    # The graph normalises the light itself.
    own = dataclasses.replace(preprocessor, illumination=None)
    stored = Bundle(
        sections["config"], own.to_dict(), sections["calibration"], sections["provenance"], arrays
    )
    return stored, model


def _files_of(folder: Path, model_file: str) -> set[str]:
    """What is read when a model of Keras's is opened: the file, or everything in its folder."""
    model = folder / model_file
    inside = [path for path in model.rglob("*") if not path.is_dir()]
    return {path.relative_to(folder).as_posix() for path in inside} or {model_file}


def _verified(folder: Path, name: str, digest: str) -> bytes:
    if "\\" in name or ":" in name or any(part.startswith(".") or not part for part in name.split("/")):
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
