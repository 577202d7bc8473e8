"""How verbs open a model file, which may hold one detector or several products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anomaly_spotter.errors import SpotterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.errors import PictureError
    from anomaly_spotter.products import ProductSpotter
    from anomaly_spotter.scoring.inspection import Inspection
    from anomaly_spotter.spotter import Spotter


def open_for_inspection(bundle: Path, product: str | None, engine: str | None) -> Spotter | ProductSpotter:
    """Read a model file to inspect with it, on the fastest engine if none is named.

    Raises:
        SpotterError: It does not hold the product, cannot be read, or does not run on the engine.
    """
    from anomaly_spotter.cli.console import announce
    from anomaly_spotter.exported import is_export
    from anomaly_spotter.products import load
    from anomaly_spotter.runtime import fastest_installed

    # An export runs on what it was made for.
    chosen = engine or (None if is_export(bundle) else fastest_installed())
    return _of_product(load(bundle, engine=chosen, announce=announce), bundle, product)


def open_model(bundle: Path, product: str | None, engine: str | None = None) -> Spotter | ProductSpotter:
    """Read a model file to work on what it has learned.

    Raises:
        SpotterError: It does not hold the product, or cannot be read.
    """
    from anomaly_spotter.products import load

    return _of_product(load(bundle, engine=engine), bundle, product)


def _of_product(
    model: Spotter | ProductSpotter, bundle: Path, product: str | None
) -> Spotter | ProductSpotter:
    from anomaly_spotter.products import ProductSpotter

    if product is None:
        return model
    if isinstance(model, ProductSpotter):
        model.detector(product)
    elif product != model.provenance["category"]:
        raise SpotterError(
            f"{bundle} holds one detector, of {model.provenance['category']}, not of {product}; leave --product out"
        )
    return model


def detector_of(model: Spotter | ProductSpotter, bundle: Path, product: str | None) -> Spotter:
    """The detector that is meant.

    Raises:
        SpotterError: There are several, and none is named.
    """
    from anomaly_spotter.products import ProductSpotter

    if not isinstance(model, ProductSpotter):
        return model
    if product is None:
        raise SpotterError(
            f"{bundle} holds several products; name the one that is meant: --product {' or '.join(model.products)}"
        )
    return model.detector(product)


def with_detector(
    model: Spotter | ProductSpotter, product: str | None, detector: Spotter
) -> Spotter | ProductSpotter:
    """The model with a changed detector in the place of the one that :func:`detector_of` gave."""
    from anomaly_spotter.products import ProductSpotter

    if isinstance(model, ProductSpotter) and product is not None:
        return model.exchanged(product, detector)
    return detector


def inspections(
    model: Spotter | ProductSpotter,
    files: Iterable[Path | NDArray[Any]],
    product: str | None,
    threshold: float | None = None,
    *,
    explain: bool = True,
) -> Iterator[tuple[Any, Inspection | PictureError]]:
    """Inspect files and frames in order; where there are several products, as the named one or as each is recognised.

    ``explain`` asks for the normal look too.
    """
    from anomaly_spotter.products import ProductSpotter

    if isinstance(model, ProductSpotter):
        return model.inspect_stream(files, product=product, threshold=threshold, explain=explain)
    return model.inspect_stream(files, threshold=threshold, explain=explain)
