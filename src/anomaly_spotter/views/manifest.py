"""What a model file is, on a terminal: the story of its detector, or of each product's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from anomaly_spotter.bundle import identity, product_names
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.scoring.conformal import Promise, held_out_share
from anomaly_spotter.views.wording import plural

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def print_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """A bundle's story: what, when, on what, and what it promises; product by product where it holds several."""
    if not product_names(manifest):
        _print({"file": str(path), **_story(manifest), "identity": identity(manifest)})
        return
    recogniser = manifest["recogniser"]
    told = {
        f"recognises {name}": f"{len(own) - mistaken} of {len(own)} good pictures that were left out of learning"
        for name, own, mistaken in zip(
            product_names(manifest), recogniser["left_out"], recogniser["mistaken"], strict=True
        )
    }
    products = ", ".join(product_names(manifest))
    _print({"file": str(path), "products": products, **told, "identity": identity(manifest)})
    for detector in manifest["products"]:
        _print({"product": detector["name"], **_story(detector)})


def _print(rows: Mapping[str, Any]) -> None:
    table = Table(show_header=False)
    for label, value in rows.items():
        table.add_row(label, Text(str(value), overflow="fold"))
    Console().print(table)


def _story(detector: Mapping[str, Any]) -> dict[str, Any]:
    promise = Promise(**detector["calibration"]["promise"])
    origin, geometry = detector["provenance"], detector["preprocessing"]
    counts = origin.get("train_counts", {})
    commit = f" ({origin['commit']})" if origin.get("commit") else ""
    framework = f" by {origin['framework']}" if origin.get("framework") else ""
    changes = origin.get("changes", [])
    held_out = 1.0 if changes else held_out_share(SpotterConfig.parse(detector["config"]))
    return {
        "category": origin.get("category"),
        "model": f"{origin.get('model')}, preset {origin.get('preset')}, seed {origin.get('seed')}",
        "canvas": f"{geometry['width']} x {geometry['height']} px, {geometry['channels']} channel(s)",
        "good pictures": ", ".join(f"{count} {part}" for part, count in counts.items()),
        "data SHA-256": origin.get("data_sha256"),
        "trained": f"{origin.get('created')}, {origin.get('epochs')} epochs in {origin.get('fit_seconds')} s{framework}",
        "anomaly-spotter": f"{origin.get('version')}{commit}",
        "versions": ", ".join(f"{name} {version}" for name, version in origin.get("versions", {}).items()),
        "decision limit": f"score > {detector['calibration']['threshold']:.4g}",
        "promise": promise.words(held_out),
        **{f"change {number}": _change(change) for number, change in enumerate(changes, start=1)},
    }


def _change(change: Mapping[str, Any]) -> str:
    what = {"extend": "extended", "recalibrate": "recalibrated"}.get(change["how"], change["how"])
    words = f"{what} {change['when']} from {change['parent'][:16]}…"
    if "pictures" not in change:
        return words
    rejected = len(change["rejected_before"])
    added = plural(change["pictures"], "good picture").replace(
        "\u00a0", " "
    )  # a space that can be searched for
    return (
        f"{words} with {added}{f', {rejected} of them rejected before' if rejected else ''} "
        f"(data SHA-256 {change['data_sha256'][:16]}…)"
    )
