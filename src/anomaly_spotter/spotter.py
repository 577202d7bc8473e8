"""The public API: ``Spotter.fit`` learns good parts, ``inspect`` decides, ``evaluate`` measures, ``save``/``load`` ship."""

from __future__ import annotations

import dataclasses
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np

from anomaly_spotter.bundle import Bundle, identity, prefixed, read_bundle, under, write_bundle
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import BundleError, ConfigError, PictureError, SpotterError
from anomaly_spotter.exported import is_export, read_export
from anomaly_spotter.inputs.decode import Picture
from anomaly_spotter.inputs.layouts import Dataset, load_dataset
from anomaly_spotter.inputs.preprocess import Preprocessor
from anomaly_spotter.inputs.store import read_ahead
from anomaly_spotter.known import Known
from anomaly_spotter.models import model_class
from anomaly_spotter.processes import member
from anomaly_spotter.runtime import Parts, compiled, uses_torch
from anomaly_spotter.scoring.calibration import Calibration
from anomaly_spotter.scoring.conformal import held_out_share
from anomaly_spotter.scoring.decision import Judge
from anomaly_spotter.scoring.location import LocationScale
from anomaly_spotter.streaming import batches, one_or_all, require_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.evaluation import Evaluation
    from anomaly_spotter.fitting import Progress
    from anomaly_spotter.living import KnownDefects
    from anomaly_spotter.models.base import InspectingModel
    from anomaly_spotter.scoring.drift import DriftReport, DriftSettings, DriftWatch
    from anomaly_spotter.scoring.inspection import Inspection


class Spotter:
    """A fitted detector.

    Attributes:
        config: The settings it was fitted with.
        preprocessor: Picture to canvas geometry.
        model: Canvas to raw anomaly map.
        calibration: What scores mean, and what is promised.
        location: What is usual at each place of the map; ``None`` where scoring does not ask for it.
        provenance: What was trained on what, when, with which versions.
        known: The good pictures it has seen.

    Example:
        >>> from anomaly_spotter import Spotter
        >>> spotter = Spotter.fit("data/screw/train/good")       # doctest: +SKIP
        >>> spotter.inspect("new_part.png").verdict              # doctest: +SKIP
        <Verdict.OK: 'OK'>
    """

    def __init__(
        self,
        config: SpotterConfig,
        preprocessor: Preprocessor,
        model: InspectingModel,
        calibration: Calibration,
        provenance: dict[str, Any],
        location: LocationScale | None = None,
        known: Known | None = None,
    ) -> None:
        self.config = config
        self.preprocessor = preprocessor
        self.model = model
        self.calibration = calibration
        self.provenance = provenance
        self.location = location
        self.known = Known() if known is None else known

    @classmethod
    def fit(
        cls,
        data: str | Path | Dataset,
        category: str | None = None,
        *,
        config: SpotterConfig | None = None,
        run_dir: Path | None = None,
        resume: bool = False,
        skip_bad: bool = False,
        show_progress: bool = False,
        progress: Progress | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> Self:
        """Learn what good parts look like, and calibrate the decision on held-out good pictures.

        Args:
            data: A folder of good pictures, a data set root, a CSV manifest, or a loaded data set. Only good
                training pictures are used.
            category: Category below a data set root.
            config: Settings; by default the preset ``default`` (see :meth:`SpotterConfig.load`).
            run_dir: Folder for checkpoints, a new one or that of an earlier run; a temporary one by default, which
                cannot be resumed.
            resume: Continue the run in ``run_dir`` after an interruption, to the same result.
            skip_bad: Leave unusable pictures out (listed in ``provenance["skipped"]``) instead of raising.
            show_progress: Draw a progress bar with the time remaining on the terminal.
            progress: Called with (stage, done, total), for example ("reading", 3, 320).
            announce: Told in one line each, before training starts, what the user should know about the pictures.

        Raises:
            DatasetError: Missing folder, unusable or too few pictures.
            ConfigError: ``resume`` with other settings or pictures.
            MissingExtraError: PyTorch or Lightning is not installed.
        """
        from anomaly_spotter.fitting import fit

        config = SpotterConfig.load() if config is None else config
        dataset = data if isinstance(data, Dataset) else load_dataset(data, category)
        if run_dir is None and member().count > 1:
            raise ConfigError(
                "processes of torchrun meet in a folder that all of them see; name it as run_dir"
            )
        with tempfile.TemporaryDirectory(prefix="anomaly-spotter-") as scratch:
            fitted = fit(
                dataset,
                config,
                Path(scratch) / "run" if run_dir is None else run_dir,
                resume=resume,
                skip_bad=skip_bad,
                show_progress=show_progress,
                progress=progress,
                announce=announce,
            )
        return cls(
            fitted.config,
            fitted.preprocessor,
            fitted.model,
            fitted.calibration,
            fitted.provenance,
            fitted.location,
            fitted.known,
        )

    @overload
    def inspect(self, picture: str | Path, *, threshold: float | None = None) -> Inspection: ...  # type: ignore[overload-overlap]
    @overload
    def inspect(self, picture: NDArray[Any], *, threshold: float | None = None) -> Any: ...
    @overload
    def inspect(
        self, picture: Sequence[str | Path | NDArray[Any]], *, threshold: float | None = None
    ) -> list[Inspection]: ...

    def inspect(
        self,
        picture: str | Path | NDArray[Any] | Sequence[str | Path | NDArray[Any]],
        *,
        threshold: float | None = None,
    ) -> Inspection | list[Inspection]:
        """Decide about one picture, or about each of a sequence.

        Args:
            picture: A file, an array ``uint8``/``uint16`` ``[H, W]``, ``[H, W, 3]`` (RGB) or ``[H, W, 4]``, a sequence
                of files and arrays of any sizes, or a batch ``[B, H, W, C]``.
            threshold: Decision limit instead of the calibrated one, on the scale of the scores.

        Returns:
            One :class:`Inspection`, or for a sequence or batch a list in the order given.

        Raises:
            PictureError: A picture cannot be read; use :meth:`inspect_stream` to go on past bad ones.
        """
        return one_or_all(picture, partial(self.inspect_stream, threshold=threshold))

    def inspect_stream(
        self,
        pictures: Iterable[str | Path | NDArray[Any]],
        *,
        threshold: float | None = None,
        explain: bool = True,
    ) -> Iterator[tuple[str | Path | NDArray[Any], Inspection | PictureError]]:
        """Inspect any number of pictures in order, decoding ahead of the model, in bounded memory.

        Args:
            pictures: Files and arrays, as for :meth:`inspect`; read as they are needed.
            threshold: Decision limit instead of the calibrated one.
            explain: Also compute ``Inspection.normal``, which takes some models as long as the verdict.

        Yields:
            The picture as given, with its inspection or the :class:`PictureError` that says why there is none.
        """
        require_number(threshold)
        for batch in batches(read_ahead(pictures, self.preprocessor.white_level)):
            readable = [picture for _, picture in batch if isinstance(picture, Picture)]
            inspections = self.inspect_decoded(readable, threshold=threshold, explain=explain)
            for source, picture in batch:
                if isinstance(picture, PictureError):
                    yield source, picture
                    continue
                path = None if isinstance(source, np.ndarray) else Path(source)
                yield source, dataclasses.replace(next(inspections), source=path)

    def inspect_decoded(
        self, pictures: Sequence[Picture], *, threshold: float | None = None, explain: bool = True
    ) -> Iterator[Inspection]:
        """Inspect a few pictures at once that were decoded with this detector's white level; otherwise as a stream."""
        if not pictures:
            return
        judge = Judge(self.config.scoring, self.calibration, self.preprocessor, self.location)
        places = [self.preprocessor.place(picture.pixels) for picture in pictures]
        canvases = [
            self.preprocessor.prepare(picture.pixels, place)
            for picture, place in zip(pictures, places, strict=True)
        ]
        maps, looks = self.model.anomaly_maps(np.stack(canvases))
        for picture, place, canvas_map, look in zip(pictures, places, maps, looks, strict=True):
            normal = look() if explain and place.reason is None else None
            yield judge.judge(picture, place, canvas_map, normal, threshold)

    def evaluate(
        self,
        data: str | Path | Dataset,
        category: str | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Measure this detector on the labelled test pictures of a data set, at the calibrated threshold.

        Raises:
            DatasetError: Missing folder, unknown category, or no usable test picture.
        """
        from anomaly_spotter.evaluation import evaluate

        dataset = data if isinstance(data, Dataset) else load_dataset(data, category)
        samples = dataset.test
        found = self.inspect_stream([sample.path for sample in samples], explain=False)
        inspected = ((sample, result) for sample, (_, result) in zip(samples, found, strict=True))
        return evaluate(dataset, inspected, self.calibration.threshold, self.describe(), progress)

    def extend(
        self,
        good: str | Path | Dataset,
        *,
        skip_bad: bool = False,
        progress: Progress | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> Spotter:
        """A new detector that also knows these good pictures; see :func:`anomaly_spotter.living.extend`."""
        from anomaly_spotter.living import extend

        return extend(self, good, skip_bad=skip_bad, progress=progress, announce=announce)

    def recalibrate(
        self,
        good: str | Path | Dataset | None = None,
        *,
        false_reject_rate: float | None = None,
        confidence: float | None = None,
        on_average: bool = False,
        skip_bad: bool = False,
        progress: Progress | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> Spotter:
        """A new detector with the same model and another promise; see :func:`anomaly_spotter.living.recalibrate`."""
        from anomaly_spotter.living import recalibrate

        return recalibrate(
            self,
            good,
            false_reject_rate=false_reject_rate,
            confidence=confidence,
            on_average=on_average,
            skip_bad=skip_bad,
            progress=progress,
            announce=announce,
        )

    def recall_at_rates(self, defects: Iterable[str | Path]) -> KnownDefects:
        """What share of known defects each false reject rate would find; moves nothing."""
        from anomaly_spotter.living import recall_at_rates

        return recall_at_rates(self, defects)

    def drift_watch(self, settings: DriftSettings | None = None) -> DriftWatch:
        """A watch over this detector's inspections that tells when the calibration no longer holds."""
        from anomaly_spotter.scoring.drift import DriftWatch

        return DriftWatch(self.calibration, self.known.conditions, settings)

    def drift(
        self, pictures: Iterable[str | Path | NDArray[Any]], *, settings: DriftSettings | None = None
    ) -> DriftReport:
        """Compare recent pictures, in the order they were taken, with those of the calibration.

        All but the last ``settings.window`` of them count for slow drift only.

        Raises:
            PictureError: A picture cannot be read; feed :meth:`drift_watch` to go on past bad ones.
        """
        watch = self.drift_watch(settings)
        for _, found in self.inspect_stream(pictures, explain=False):
            if isinstance(found, PictureError):
                raise found
            watch.add_inspection(found)
        return watch.report()

    @property
    def guarantee(self) -> str:
        """What the calibration promises about good parts, in plain words."""
        return self.calibration.promise.words(
            1.0 if self.provenance.get("changes") else held_out_share(self.config)
        )

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of everything that decides; the same however often the detector is saved and loaded."""
        return identity(self.to_bundle())

    def describe(self) -> dict[str, Any]:
        """Provenance, configuration and promise as JSON-able values: what a result file says about its detector."""
        return {
            **self.provenance,
            "config": self.config.to_dict(),
            "promise": dataclasses.asdict(self.calibration.promise),
        }

    def save(self, path: str | Path) -> Path:
        """Write the detector as one ``.spot`` file, whole or not at all; returns its path.

        Raises:
            SpotterError: The file cannot be written.
        """
        return write_bundle(Path(path), self.to_bundle())

    def to_bundle(self) -> Bundle:
        """Everything that a model file holds of this detector."""
        return Bundle(
            config=self.config.to_dict(),
            preprocessing=self.preprocessor.to_dict(),
            calibration=self.calibration.to_dict(),
            provenance=self.provenance,
            arrays={
                **prefixed("model.", self.model.state()),
                **prefixed("preprocessing.", self.preprocessor.arrays()),
                **prefixed("location.", {} if self.location is None else self.location.arrays()),
                **prefixed("known.", self.known.arrays()),
            },
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        engine: str | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> Self:
        """Read a ``.spot`` file, or an export folder; runs no code from it.

        Args:
            path: The file or folder.
            engine: What runs the model: ``torch``, ``onnxruntime``, ``openvino``, ``openvino-bf16``, ``keras`` (the
                U-Net, on the backend that ``KERAS_BACKEND`` names), or ``auto`` for the fastest installed engine that
                decides the same, measured once per machine. If not given, ``torch`` where it is installed. Only
                ``torch`` can :meth:`extend` what was learned.
            announce: Told in one line when a measurement takes place, and what it found.

        Raises:
            BundleError: Missing, truncated, foreign, of another format version, edited, or of several products.
            ConfigError: No such engine, or the model runs in PyTorch only.
            MissingExtraError: The engine is not installed.
        """
        if is_export(Path(path)):
            stored, model = read_export(Path(path), engine)
            return cls.from_bundle(stored, path, model=model)
        return cls.from_bundle(read_bundle(Path(path)), path, engine=engine, announce=announce)

    @classmethod
    def from_bundle(
        cls,
        stored: Bundle,
        path: str | Path,
        *,
        engine: str | None = None,
        announce: Callable[[str], None] | None = None,
        model: InspectingModel | None = None,
    ) -> Self:
        """Inverse of :meth:`to_bundle`, as :meth:`load`; ``path`` stands in error messages.

        ``model`` takes the place of the stored one.
        """
        try:
            config = SpotterConfig.parse(stored.config)
            preprocessor = Preprocessor.from_parts(
                stored.preprocessing, under("preprocessing.", stored.arrays)
            )
            calibration = Calibration.from_dict(stored.calibration)
            known = Known.from_arrays(under("known.", stored.arrays))
            location = None
            if config.scoring.normalise == "location" and (arrays := under("location.", stored.arrays)):
                location = LocationScale.from_arrays(arrays)
        except (SpotterError, TypeError, KeyError, ValueError) as error:
            raise BundleError(
                f"{path}: the manifest does not fit this version ({error}); train again"
            ) from None
        arrays = under("model.", stored.arrays)
        if model is not None:
            pass
        elif uses_torch(engine):
            model = model_class(config.model.name).from_state(config.model, preprocessor.channels, arrays)
        else:
            parts = Parts(config, preprocessor, calibration, location, known, arrays)
            model = compiled(parts, engine or "auto", stored.read_as or identity(stored), announce)
        return cls(config, preprocessor, model, calibration, stored.provenance, location, known)
