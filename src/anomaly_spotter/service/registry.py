"""The models of a station: one file each in the models folder, one of them active.

The files are the truth: what somebody copies into the folder is there, without a restart. Which one is active stands
beside the data of the station, so that several stations may share a folder of models.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anomaly_spotter.bundle import SUFFIX, identity, next_version, product_names, read_manifest
from anomaly_spotter.errors import BundleError, SpotterError
from anomaly_spotter.files import write_json
from anomaly_spotter.scoring.calibration import Calibration
from anomaly_spotter.scoring.conformal import Promise, held_out_share
from anomaly_spotter.service.detectors import Detector
from anomaly_spotter.service.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anomaly_spotter.service.settings import StationSettings

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+. -]{0,199}")


class UnknownModelError(SpotterError):
    """There is no model of that name."""


class ModelInUseError(SpotterError):
    """A model is active."""


@dataclass(frozen=True, slots=True)
class ProductInfo:
    """One detector of a model file.

    Attributes:
        name: Product, or category.
        kind: ``memory``, ``gaussian`` or ``unet``.
        created: When it was trained (ISO 8601).
        good_pictures: How many were used, by purpose.
        threshold: Decision limit.
        false_reject_rate: Share of good parts that may be rejected.
        is_kept: Whether there were enough good pictures for that promise.
        promise: The promise in words.
        changes: What was done to it since: extended, recalibrated.
    """

    name: str
    kind: str
    created: str | None
    good_pictures: dict[str, int]
    threshold: float
    false_reject_rate: float
    is_kept: bool
    promise: str
    changes: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model file is.

    Attributes:
        name: File name without the suffix.
        is_active: Whether it inspects when no model is named.
        identity: SHA-256 of what decides; ``None`` where the file cannot be read.
        bytes: Size of the file.
        products: Its detectors; one, unless it tells products apart.
        error: Why the file cannot be used.
    """

    name: str
    is_active: bool
    identity: str | None
    bytes: int
    products: tuple[ProductInfo, ...] = ()
    error: str | None = None


class Registry:
    """Model files and what is loaded of them."""

    def __init__(self, settings: StationSettings) -> None:
        self._folder, self._engine = settings.models, settings.engine
        self._most, self._marker = settings.loaded_models, settings.data / "active.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._disk = Disk(self._folder, settings.limits.free_bytes)
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._loaded: OrderedDict[str, tuple[tuple[int, int], Detector]] = OrderedDict()

    def list(self) -> list[ModelInfo]:
        """All models by name; one that cannot be read says why."""
        active = self.active
        found = sorted(
            path for path in self._folder.glob(f"*{SUFFIX}") if _is_name(path.name.removesuffix(SUFFIX))
        )
        return [_described(path, active) for path in found]

    def info(self, name: str) -> ModelInfo:
        """One model.

        Raises:
            UnknownModelError: There is none of that name.
        """
        return _described(self.path(name), self.active)

    def manifest(self, name: str) -> dict[str, Any]:
        """Everything that the file says about itself.

        Raises:
            UnknownModelError: There is none of that name.
            BundleError: It cannot be read.
        """
        return read_manifest(self.path(name))

    def calibrations(self, name: str) -> dict[str, Calibration]:
        """What scores mean, by product; for one detector, by its category.

        Raises:
            UnknownModelError: There is none of that name.
            BundleError: It cannot be read.
        """
        manifest = self.manifest(name)
        detectors = manifest["products"] if product_names(manifest) else [manifest]
        return {_product(each).name: Calibration.from_dict(each["calibration"]) for each in detectors}

    @property
    def active(self) -> str | None:
        """The model that inspects when none is named: the activated one, or the only one."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, UnknownModelError):
            name = str(json.loads(self._marker.read_text(encoding="utf-8"))["model"])
            self.path(name)
            return name
        files = list(self._folder.glob(f"*{SUFFIX}"))
        return files[0].name.removesuffix(SUFFIX) if len(files) == 1 else None

    def activate(self, name: str) -> ModelInfo:
        """Let a model inspect when none is named; it is loaded first, so that a broken one never becomes active.

        Raises:
            UnknownModelError: There is none of that name.
            BundleError: It cannot be used.
        """
        self.detector(name)
        write_json(self._marker, {"model": name})
        return self.info(name)

    def add(self, file: Path, name: str) -> ModelInfo:
        """Take a model file over under a name, or the next version of it; the file is copied.

        Raises:
            BundleError: It is no model that this station can run.
            StorageError: The disk would be too full.
            SpotterError: The name cannot be used, or the file cannot be written.
        """
        require_name(name)
        Detector(name, file, self._engine)
        self._disk.require(file.stat().st_size, "the model is not kept; free some space")
        with self._lock:
            target = self._folder / f"{name}{SUFFIX}"
            if target.exists():
                target = next_version(target)
            part = self._folder / f".{name}.part"
            try:
                shutil.copyfile(file, part)  # the folder of models may be on another disk
                part.replace(target)
            except OSError as error:
                part.unlink(missing_ok=True)
                raise SpotterError(f"the model cannot be kept: {error.strerror}; free some space") from None
        return self.info(target.name.removesuffix(SUFFIX))

    def remove(self, name: str) -> None:
        """Delete a model; the inspections it made stay.

        Raises:
            UnknownModelError: There is none of that name.
            ModelInUseError: It is active.
        """
        path = self.path(name)
        if name == self.active and len(list(self._folder.glob(f"*{SUFFIX}"))) > 1:
            raise ModelInUseError(f"the model {name} is active; activate another one before deleting it")
        path.unlink(missing_ok=True)
        with self._lock:
            self._loaded.pop(name, None)

    def path(self, name: str) -> Path:
        """The file of a model.

        Raises:
            UnknownModelError: There is none of that name, or it is no name at all.
        """
        path = self._folder / f"{name}{SUFFIX}"
        if not _is_name(name) or not path.is_file():
            raise UnknownModelError(f"there is no model '{name[:60]}'")
        return path

    def detector(self, name: str | None = None) -> Detector:
        """A model in memory, by default the active one; loaded once, and again when its file was replaced.

        Raises:
            UnknownModelError: There is none of that name, or none is active.
            BundleError: It cannot be used.
        """
        name = self.active if name is None else name
        if name is None:
            raise UnknownModelError("no model is active; activate one, or name the one to inspect with")
        path = self.path(name)
        with self._lock:
            own = self._locks.setdefault(name, threading.Lock())
        with own:
            stamp = _stamp(path, name)
            with self._lock:
                if name in self._loaded and self._loaded[name][0] == stamp:
                    self._loaded.move_to_end(name)
                    return self._loaded[name][1]
            detector = Detector(name, path, self._engine)
            with self._lock:
                self._loaded[name] = (stamp, detector)
                while len(self._loaded) > self._most:
                    self._loaded.popitem(last=False)
            return detector


def require_name(name: str) -> None:
    """See that a model can be called so.

    Raises:
        SpotterError: It cannot.
    """
    if not _is_name(name):
        raise SpotterError(
            f"'{name[:60]}' is no name for a model; use letters, digits, space and _ + . -, at most 200"
        )


def _is_name(name: str) -> bool:
    return NAME.fullmatch(name) is not None and ".." not in name and name == name.strip(". ")


def _stamp(path: Path, name: str) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        raise UnknownModelError(f"there is no model '{name}'") from None
    return status.st_mtime_ns, status.st_size


def _described(path: Path, active: str | None) -> ModelInfo:
    name = path.name.removesuffix(SUFFIX)
    size = _stamp(path, name)[1]
    try:
        manifest = read_manifest(path)
        detectors = manifest["products"] if product_names(manifest) else [manifest]
        products = tuple(_product(detector) for detector in detectors)
    except (BundleError, KeyError, TypeError, ValueError) as error:
        return ModelInfo(name, name == active, None, size, error=str(error))
    return ModelInfo(name, name == active, identity(manifest), size, products)


def _product(detector: Mapping[str, Any]) -> ProductInfo:
    from anomaly_spotter.config import SpotterConfig

    config = SpotterConfig.parse(detector["config"])
    promise = Promise(**detector["calibration"]["promise"])
    origin = detector["provenance"]
    changes = list(origin.get("changes", []))
    return ProductInfo(
        name=str(detector.get("name") or origin.get("category")),
        kind=config.model.name,
        created=origin.get("created"),
        good_pictures=dict(origin.get("train_counts", {})),
        threshold=detector["calibration"]["threshold"],
        false_reject_rate=promise.rate,
        is_kept=promise.is_kept,
        promise=promise.words(1.0 if changes else held_out_share(config)),
        changes=changes,
    )
