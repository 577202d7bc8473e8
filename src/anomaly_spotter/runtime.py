"""Inference without PyTorch: which engine runs a detector on this machine.

ONNX Runtime and OpenVINO differ in speed from processor to processor and from model to model. A short measurement finds
the fastest that decides as the float32 reference does on good canvases out of the bundle and on synthetic defects; the
choice is remembered per bundle and machine.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_spotter.errors import ConfigError, MissingExtraError, SpotterError
from anomaly_spotter.files import write_json
from anomaly_spotter.inputs.preprocess import Placement
from anomaly_spotter.models.compiled import CompiledModel
from anomaly_spotter.models.engines import ENGINES, EXACT, available, open_session, processors, require_engine
from anomaly_spotter.models.graph import stages
from anomaly_spotter.models.keras_import import keras_module
from anomaly_spotter.scoring.decision import placed_map

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.config import SpotterConfig
    from anomaly_spotter.inputs.preprocess import Preprocessor
    from anomaly_spotter.known import Known
    from anomaly_spotter.models.graph import Stage
    from anomaly_spotter.scoring.calibration import Calibration
    from anomaly_spotter.scoring.location import LocationScale

CHOICES = ("auto", "torch", *ENGINES, "keras")
"""What a user can ask for. ``auto`` measures; the others run every stage that they can; ``keras`` runs the U-Net."""

DRIFT = 0.02
"""How far an engine may move a score, in units of the distance from the typical good pixel to the decision limit."""

_ROUNDS = 5  # of the measurement
_ENVIRONMENT = "ANOMALY_SPOTTER_ENGINE"


class Parts:
    """What decides about a canvas, whichever engine gives the map."""

    def __init__(
        self,
        config: SpotterConfig,
        preprocessor: Preprocessor,
        calibration: Calibration,
        location: LocationScale | None,
        known: Known,
        arrays: Mapping[str, NDArray[np.generic]],
    ) -> None:
        self.config, self.arrays = config, arrays
        self._calibration, self._location, self._known = calibration, location, known
        self.threshold = calibration.threshold
        self.canvas = (preprocessor.height, preprocessor.width, preprocessor.channels)
        outside = None if preprocessor.region is None else ~preprocessor.region
        self._place = Placement(np.eye(2, 3), 0, 0, preprocessor.width, preprocessor.height, outside=outside)

    def score(self, canvas_map: NDArray[np.float32]) -> float:
        """Image score of a raw map ``float32 [H, W]``."""
        raw = placed_map(canvas_map, self._place, self.config.scoring, self._location)
        return self._calibration.score(raw, self.config.scoring)

    def probes(self) -> list[NDArray[np.uint8]]:
        """Good canvases out of the bundle, and copies with synthetic defects from faint to strong."""
        from anomaly_spotter.inputs.synthetic import corrupt

        rng = np.random.default_rng(0)
        examples = self._known.examples
        good = [_noise(self.canvas, rng) for _ in range(4)] if examples is None else examples.canvases()
        strengths = np.geomspace(0.3, 2.0, len(good))
        return good + [
            corrupt(each, each, rng, float(strength))[0]
            for each, strength in zip(good, strengths, strict=True)
        ]


def fastest_installed() -> str:
    """``auto`` where detectors can run without PyTorch, ``torch`` where only it is there; the environment's choice first.

    With neither it is ``auto`` too: what is missing to inspect is an engine, which is smaller than PyTorch.
    """
    return os.environ.get(_ENVIRONMENT) or ("auto" if is_installed() or not _has_torch() else "torch")


def uses_torch(engine: str | None) -> bool:
    """Whether PyTorch runs the models when this engine is asked for; without a wish, where it is installed.

    Raises:
        ConfigError: There is no such engine.
    """
    if engine is not None and engine not in CHOICES:
        raise ConfigError(f"no engine '{engine}'; choose one of {', '.join(CHOICES)}")
    return engine == "torch" or (engine is None and _has_torch())


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def is_installed() -> bool:
    """Whether detectors can run without PyTorch here."""
    return importlib.util.find_spec("onnx") is not None and bool(available())


def compiled(
    parts: Parts, engine: str, identity: str, announce: Callable[[str], None] | None = None
) -> CompiledModel:
    """A detector's model on an engine.

    Args:
        parts: What decides.
        engine: ``auto``, one of :data:`~anomaly_spotter.models.engines.ENGINES`, or ``keras``.
        identity: Of the bundle; a choice is remembered under it.
        announce: Told in one line when a measurement takes place, and what it found.

    Raises:
        MissingExtraError: The engine, or any, is not installed.
        ConfigError: The model's features run in PyTorch only, or the model is not for Keras.
        BundleError: The arrays do not fit, or the engine does not run the model.
    """
    if engine == "keras":
        in_keras = keras_module("models.keras_detector")
        session = in_keras.KerasSession(in_keras.detector(parts.config.model, parts.canvas, parts.arrays))
        return CompiledModel(parts.config.model, parts.canvas, parts.arrays, {"network": session})
    if engine != "auto":
        require_engine(engine, f"the engine '{engine}'")
    elif not is_installed():
        raise MissingExtraError(
            "no inference engine is installed: pip install 'anomaly-spotter[runtime]' (or [openvino], or [train])"
        )
    graphs = stages(parts.config.model, parts.canvas, parts.arrays)
    if engine == "auto":
        engines = _remembered(identity, graphs) or _measured(
            parts, graphs, identity, announce or (lambda _: None)
        )
    else:
        engines = {stage.name: _capable(stage, engine) for stage in graphs}
    sessions = {
        stage.name: open_session(stage.model.SerializeToString(), engines[stage.name]) for stage in graphs
    }
    return CompiledModel(parts.config.model, parts.canvas, parts.arrays, sessions)


def _capable(stage: Stage, engine: str) -> str:
    """The engine, in float32 where a stage needs it."""
    return "openvino" if stage.is_exact and engine not in EXACT else engine


def _measured(
    parts: Parts, graphs: Sequence[Stage], identity: str, announce: Callable[[str], None]
) -> dict[str, str]:
    """The fastest engine of each stage, among those that decide as the reference does."""
    installed = available()
    announce("measuring once which engine is fastest for this model on this machine")
    probes = parts.probes()
    reference = next(name for name in installed if name in EXACT)
    sessions: dict[tuple[str, str], Any] = {}
    seconds: dict[tuple[str, str], float] = {}
    values: NDArray[Any] = probes[0]
    for stage in graphs:
        candidates = [name for name in installed if not stage.is_exact or name in EXACT]
        for name in candidates:
            try:
                session = open_session(stage.model.SerializeToString(), name)
            except SpotterError:
                if name == reference:
                    raise
                continue
            sessions[stage.name, name] = session
            seconds[stage.name, name] = _seconds(session, values)
        values = sessions[stage.name, reference](values)[0].copy()
    engines = {stage.name: reference for stage in graphs}
    expected = _scores(parts, engines, sessions, probes)
    for stage in graphs:
        ranking = sorted(
            (name for own, name in sessions if own == stage.name), key=lambda name: seconds[stage.name, name]
        )
        for name in ranking:
            if name == engines[stage.name] or same_decisions(
                expected, _scores(parts, {**engines, stage.name: name}, sessions, probes), parts.threshold
            ):
                engines[stage.name] = name
                break
    cost = {stage.name: seconds[stage.name, engines[stage.name]] for stage in graphs}
    announce(
        "chosen: " + ", ".join(f"{name} on {engines[name]} ({1e3 * cost[name]:.1f} ms)" for name in engines)
    )
    _remember(identity, engines)
    return engines


def same_decisions(expected: NDArray[np.float64], found: NDArray[np.float64], threshold: float) -> bool:
    """Whether no verdict differs, and no score by more than :data:`DRIFT` (of itself, where it is above 1)."""
    scale = np.maximum(1.0, np.abs(expected))
    return bool(
        ((expected > threshold) == (found > threshold)).all()
        and (np.abs(found - expected) <= DRIFT * scale).all()
    )


def _scores(
    parts: Parts,
    engines: Mapping[str, str],
    sessions: Mapping[tuple[str, str], Any],
    probes: Sequence[NDArray[np.uint8]],
) -> NDArray[np.float64]:
    chosen = {stage: sessions[stage, name] for stage, name in engines.items()}
    model = CompiledModel(parts.config.model, parts.canvas, parts.arrays, chosen)
    return np.array([parts.score(model.anomaly_maps(probe[None])[0][0]) for probe in probes])


def _seconds(session: Any, values: NDArray[Any]) -> float:
    """Median time of a call, after a warm-up."""
    session(values)
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        session(values)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _noise(canvas: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Something to measure with where a file has no good canvases."""
    return rng.integers(64, 192, canvas).astype(np.uint8)


def _remembered(identity: str, graphs: Sequence[Stage]) -> dict[str, str] | None:
    try:
        engines = json.loads(_memory(identity).read_text(encoding="utf-8"))["engines"]
        named = {stage.name: engines[stage.name] for stage in graphs}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    installed = available()
    fits = all(
        named[stage.name] in installed and _capable(stage, named[stage.name]) == named[stage.name]
        for stage in graphs
    )
    return named if fits else None


def _remember(identity: str, engines: Mapping[str, str]) -> None:
    try:
        write_json(_memory(identity), {"engines": dict(engines)})
    except SpotterError:  # a read-only home measures again next time
        return


def _memory(identity: str) -> Path:
    """The file with the choice for a bundle, on this processor, with these versions."""
    versions = {}
    for package in ("onnxruntime", "openvino"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    key = json.dumps(
        [identity, platform.machine(), platform.processor(), platform.node(), processors(), versions]
    )
    return cache_folder() / "engines" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def cache_folder() -> Path:
    """Where this machine's measurements are kept: ``ANOMALY_SPOTTER_CACHE``, or the user's cache folder."""
    if own := os.environ.get("ANOMALY_SPOTTER_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "anomaly-spotter"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anomaly-spotter"
