"""Several products in one file: a detector for each, and a recogniser that tells from the picture whose turn it is."""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np

from anomaly_spotter.bundle import (
    ProductsBundle,
    identity,
    product_names,
    read_manifest,
    read_products,
    write_bundle,
)
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import BundleError, PictureError, SpotterError
from anomaly_spotter.exported import is_export
from anomaly_spotter.inputs.layouts import load_dataset
from anomaly_spotter.inputs.store import read_ahead
from anomaly_spotter.recognition import Recogniser
from anomaly_spotter.runtime import uses_torch
from anomaly_spotter.scoring.decision import refused
from anomaly_spotter.spotter import Spotter
from anomaly_spotter.streaming import one_or_all, require_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.fitting import Progress
    from anomaly_spotter.inputs.decode import Picture
    from anomaly_spotter.inputs.layouts import Dataset
    from anomaly_spotter.recognition import Recognition
    from anomaly_spotter.scoring.inspection import Inspection
    from anomaly_spotter.streaming import Source

    Looks = Mapping[int, Picture]
    """A picture as it is decoded, by white level."""


def load(
    path: str | Path, *, engine: str | None = None, announce: Callable[[str], None] | None = None
) -> Spotter | ProductSpotter:
    """Read a ``.spot`` file of one detector or of several products, or an export folder; runs no code from it.

    Args:
        path: The file.
        engine: As for :meth:`Spotter.load`.
        announce: As for :meth:`Spotter.load`.

    Raises:
        BundleError: Missing, truncated, foreign, of another format version, or edited.
        ConfigError: No such engine, or a model runs in PyTorch only.
        MissingExtraError: The engine is not installed.
    """
    if not is_export(Path(path)) and product_names(read_manifest(Path(path))):
        return ProductSpotter.load(path, engine=engine, announce=announce)
    return Spotter.load(path, engine=engine, announce=announce)


class ProductSpotter:
    """Fitted detectors of several products.

    Attributes:
        spotters: The detector of each product, by its name, in order.
        recogniser: Tells the products apart.

    Example:
        >>> from anomaly_spotter import ProductSpotter
        >>> spotter = ProductSpotter.fit("data", ["screw", "nut"])    # doctest: +SKIP
        >>> spotter.inspect("new_part.png").product                   # doctest: +SKIP
        'nut'
        >>> spotter.inspect("new_part.png", product="nut").verdict    # doctest: +SKIP
        <Verdict.OK: 'OK'>
    """

    def __init__(self, spotters: Mapping[str, Spotter], recogniser: Recogniser) -> None:
        self.spotters = dict(spotters)
        self.recogniser = recogniser

    @classmethod
    def fit(
        cls,
        data: str | Path | Sequence[Dataset],
        categories: Sequence[str] = (),
        *,
        config: SpotterConfig | None = None,
        run_dir: Path | None = None,
        resume: bool = False,
        skip_bad: bool = False,
        show_progress: bool = False,
        progress: Progress | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> Self:
        """Fit a detector for every category, and learn to tell them apart; good training pictures only.

        Args:
            data: A data set root or CSV manifest with the ``categories``, or loaded data sets.
            categories: At least two; they become the products' names.
            config: Settings of every detector, as for :meth:`Spotter.fit`.
            run_dir: Folder for the detectors' runs, each in a folder of its own; temporary ones by default.
            resume: Continue the runs in ``run_dir`` after an interruption, to the same result.
            skip_bad: Leave unusable pictures out instead of raising.
            show_progress: Draw a progress bar with the time remaining on the terminal.
            progress: Called with (stage, done, total), for example ("screw: reading", 3, 320).
            announce: Told in one line each what the user should know about the pictures.

        Raises:
            DatasetError: An unknown category, one named twice, or only one; or as :meth:`Spotter.fit`, with the
                product's name.
            ConfigError: ``resume`` with other settings or pictures.
            MissingExtraError: PyTorch or Lightning is not installed.
            Interrupted: Ctrl-C while a detector was trained; ``resume`` goes on.
        """
        from anomaly_spotter.product_fitting import fit_products

        if isinstance(data, str | Path):
            data = [load_dataset(data, category) for category in categories]
        spotters, recogniser = fit_products(
            data,
            SpotterConfig.load() if config is None else config,
            run_dir,
            resume=resume,
            skip_bad=skip_bad,
            show_progress=show_progress,
            report=progress or (lambda *_: None),
            tell=announce or (lambda _: None),
        )
        return cls(spotters, recogniser)

    @property
    def products(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(self.spotters)

    def detector(self, product: str) -> Spotter:
        """The detector of one product.

        Raises:
            SpotterError: There is no such product.
        """
        if product not in self.spotters:
            raise SpotterError(f"no product '{product}' in this model; it knows {', '.join(self.products)}")
        return self.spotters[product]

    def exchanged(self, product: str, spotter: Spotter) -> ProductSpotter:
        """The same with another detector of one product, for example an extended one.

        Raises:
            SpotterError: There is no such product.
        """
        self.detector(product)
        return ProductSpotter({**self.spotters, product: spotter}, self.recogniser)

    def recognise(self, picture: str | Path | NDArray[Any]) -> str | None:
        """The name of the product on a picture, ``None`` when it shows none of them.

        Raises:
            PictureError: The picture cannot be read.
        """
        ((_, looks),) = self._decoded([picture])
        if isinstance(looks, PictureError):
            raise looks
        return self._name(self._recognised(looks))

    @overload
    def inspect(  # type: ignore[overload-overlap]
        self, picture: str | Path, product: str | None = None, *, threshold: float | None = None
    ) -> Inspection: ...
    @overload
    def inspect(
        self, picture: NDArray[Any], product: str | None = None, *, threshold: float | None = None
    ) -> Any: ...
    @overload
    def inspect(
        self,
        picture: Sequence[str | Path | NDArray[Any]],
        product: str | None = None,
        *,
        threshold: float | None = None,
    ) -> list[Inspection]: ...

    def inspect(
        self,
        picture: str | Path | NDArray[Any] | Sequence[str | Path | NDArray[Any]],
        product: str | None = None,
        *,
        threshold: float | None = None,
    ) -> Inspection | list[Inspection]:
        """Decide about one picture, or about each of a sequence, as :meth:`Spotter.inspect`.

        Args:
            picture: A file, an array, a sequence of them, or a batch ``[B, H, W, C]``.
            product: The product that it shows; recognised from the picture if not given.
            threshold: Decision limit instead of the calibrated one, on the scale of the scores.

        Raises:
            PictureError: A picture cannot be read; use :meth:`inspect_stream` to go on past bad ones.
            SpotterError: There is no such product.
        """
        return one_or_all(picture, partial(self.inspect_stream, product=product, threshold=threshold))

    def inspect_stream(
        self,
        pictures: Iterable[str | Path | NDArray[Any]],
        *,
        product: str | None = None,
        threshold: float | None = None,
        explain: bool = True,
    ) -> Iterator[tuple[str | Path | NDArray[Any], Inspection | PictureError]]:
        """Inspect any number of pictures in order, in bounded memory, as :meth:`Spotter.inspect_stream`.

        A picture that shows none of the products is a DEFECT with that reason and an infinite score.

        Args:
            pictures: Files and arrays; read as they are needed.
            product: The product that all of them show; each is recognised if not given.
            threshold: Decision limit instead of the calibrated one.
            explain: Also compute ``Inspection.normal``.

        Yields:
            The picture as given, with its inspection or the :class:`PictureError` that says why there is none.

        Raises:
            SpotterError: There is no such product, or the threshold is NaN.
        """
        require_number(threshold)
        if product is not None:
            named = self.detector(product).inspect_stream(pictures, threshold=threshold, explain=explain)
            for source, found in named:
                if not isinstance(found, PictureError):
                    found = dataclasses.replace(found, product=product)
                yield source, found
            return
        for source, looks in self._decoded(pictures):
            if isinstance(looks, PictureError):
                yield source, looks
                continue
            path = None if isinstance(source, np.ndarray) else Path(source)
            yield source, dataclasses.replace(self._inspect(looks, threshold, explain=explain), source=path)

    @property
    def white_levels(self) -> tuple[int, ...]:
        """The white levels that a picture must be decoded with for :meth:`inspect_decoded`, ascending."""
        return tuple(sorted({spotter.preprocessor.white_level for spotter in self.spotters.values()}))

    def inspect_decoded(
        self,
        looks: Looks,
        product: str | None = None,
        *,
        threshold: float | None = None,
        explain: bool = True,
    ) -> Inspection:
        """Inspect a picture that was decoded with each of the :attr:`white_levels`; otherwise as :meth:`inspect`.

        Raises:
            SpotterError: There is no such product.
        """
        if product is None:
            return self._inspect(looks, threshold, explain=explain)
        spotter = self.detector(product)
        look = looks[spotter.preprocessor.white_level]
        (found,) = spotter.inspect_decoded([look], threshold=threshold, explain=explain)
        return dataclasses.replace(found, product=product)

    def describe(self) -> dict[str, Any]:
        """What a result file says about each product's detector, and about the recogniser, as JSON-able values."""
        return {
            "products": {name: spotter.describe() for name, spotter in self.spotters.items()},
            "recogniser": self.recogniser.to_dict(),
        }

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of everything that decides; the same however often it is saved and loaded."""
        return identity(self._to_bundle())

    def save(self, path: str | Path) -> Path:
        """Write all detectors and the recogniser as one ``.spot`` file, whole or not at all; returns its path.

        Raises:
            SpotterError: The file cannot be written.
        """
        return write_bundle(Path(path), self._to_bundle())

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        engine: str | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> Self:
        """Read a ``.spot`` file of several products; runs no code from it.

        Args:
            path: The file.
            engine: As for :meth:`Spotter.load`.
            announce: As for :meth:`Spotter.load`.

        Raises:
            BundleError: Missing, truncated, foreign, of another format version, edited, or of one detector.
            ConfigError: No such engine, or a model runs in PyTorch only.
            MissingExtraError: The engine is not installed.
        """
        stored = read_products(Path(path))
        spotters = {
            name: Spotter.from_bundle(own, path, engine=engine, announce=announce)
            for name, own in stored.products.items()
        }
        try:
            recogniser = Recogniser.from_parts(
                len(spotters),
                stored.recogniser,
                stored.arrays,
                with_torch=uses_torch(None if engine == "keras" else engine),
            )
        except (TypeError, KeyError, ValueError) as error:
            raise BundleError(
                f"{path}: the manifest does not fit this version ({error}); train again"
            ) from None
        return cls(spotters, recogniser)

    def _to_bundle(self) -> ProductsBundle:
        return ProductsBundle(
            {name: spotter.to_bundle() for name, spotter in self.spotters.items()},
            self.recogniser.to_dict(),
            self.recogniser.arrays(),
        )

    def _decoded(self, pictures: Iterable[Source]) -> Iterator[tuple[Source, Looks | PictureError]]:
        """Every picture as the detectors see it: decoded once for each white level that occurs among them."""
        whites = self.white_levels
        streams = [
            read_ahead(copy, white) for white, copy in zip(whites, tee(pictures, len(whites)), strict=True)
        ]
        for decoded in zip(*streams, strict=True):
            looks: dict[int, Picture] = {}
            for white, (source, look) in zip(whites, decoded, strict=True):
                if isinstance(look, PictureError):
                    yield source, look
                    break
                looks[white] = look
            else:
                yield source, looks

    def _recognised(self, looks: Looks) -> Recognition:
        descriptors = {white: self.recogniser.describe(look.pixels) for white, look in looks.items()}
        whites = [spotter.preprocessor.white_level for spotter in self.spotters.values()]
        return self.recogniser.recognise(np.stack([descriptors[white] for white in whites]))

    def _name(self, found: Recognition) -> str | None:
        return None if found.product is None else self.products[found.product]

    def _inspect(self, looks: Looks, threshold: float | None, *, explain: bool) -> Inspection:
        found = self._recognised(looks)
        product = self._name(found)
        if product is None:
            limit = 1.0 if threshold is None else threshold
            reason = f"not one of the products: {', '.join(self.products)}"
            return refused(looks[max(looks)], reason, limit, found.p_value)
        spotter = self.spotters[product]
        look = looks[spotter.preprocessor.white_level]
        (inspection,) = spotter.inspect_decoded([look], threshold=threshold, explain=explain)
        return dataclasses.replace(inspection, product=product)
