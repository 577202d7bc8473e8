"""The one-file model, ``*.spot``: a zip of ``manifest.json`` and ``model.safetensors``.

Loading runs no code: JSON and safetensors only, no pickle, nothing is unpacked to disk. The manifest names the
format version and the SHA-256 of the weights and of everything else that decides; a file that is truncated, foreign,
newer or edited is refused. (The hashes find accidents and honest edits; they are no signature against a forger.)

A file of several products holds one detector for each of them, and what tells the products apart.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from anomaly_spotter.errors import BundleError
from anomaly_spotter.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT = "anomaly-spotter"
FORMAT_VERSION = 2
PRODUCTS_VERSION = (
    3  # several products: a number of its own, at which a version that knows none asks for an update
)
SUFFIX = ".spot"
_MANIFEST, _WEIGHTS = "manifest.json", "model.safetensors"
_VERSION = re.compile(r"(.+)\.v(\d{1,9})")
_LARGEST_MANIFEST = 64 * 2**20
_LARGEST_WEIGHTS = 8 * 2**30
_MOST_DENSE = 200  # times smaller than unpacked, at most
_SECTIONS = ("config", "preprocessing", "calibration", "provenance")
_SHAPES: dict[int, dict[str, type]] = {
    FORMAT_VERSION: dict.fromkeys(_SECTIONS, dict),
    PRODUCTS_VERSION: {"recogniser": dict, "products": list},
}
_RECOGNISER = "recogniser."


@dataclass(frozen=True, slots=True)
class Bundle:
    """The contents of a model file.

    Attributes:
        config: The whole configuration, as plain values.
        preprocessing: The fitted geometry.
        calibration: The fitted constants.
        provenance: What was trained on what, when and with which versions.
        arrays: Learned arrays by name: ``model.*``, ``preprocessing.*``, ``location.*`` and ``known.*``.
        read_as: What a bundle that was read from a file is known by on this machine; no need to hash it again.
    """

    config: dict[str, Any]
    preprocessing: dict[str, Any]
    calibration: dict[str, Any]
    provenance: dict[str, Any]
    arrays: Mapping[str, NDArray[np.generic]]
    read_as: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ProductsBundle:
    """The contents of a model file of several products.

    Attributes:
        products: The detector of each, by the product's name, in order.
        recogniser: What tells them apart, as plain values.
        arrays: Its learned arrays by name.
    """

    products: Mapping[str, Bundle]
    recogniser: dict[str, Any]
    arrays: Mapping[str, NDArray[np.generic]]


def write_bundle(path: Path, bundle: Bundle | ProductsBundle) -> Path:
    """Write a bundle, whole or not at all.

    Raises:
        SpotterError: The file cannot be written.
    """
    manifest, weights = _packed(bundle)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_MANIFEST, json.dumps(manifest, indent=2, allow_nan=False))
        archive.writestr(_WEIGHTS, weights, compress_type=zipfile.ZIP_STORED)
    return write_atomic(path, buffer.getvalue())


def read_bundle(path: Path) -> Bundle:
    """Read and verify the bundle of one detector.

    Raises:
        BundleError: Missing, truncated, foreign, of another format version, edited, or of several products.
    """
    manifest = read_manifest(path)
    if names := product_names(manifest):
        raise BundleError(
            f"{path} holds several products ({', '.join(names)}); open it with ProductSpotter.load or "
            "anomaly_spotter.load"
        )
    return _bundle(manifest, _read_arrays(path, manifest), identity(manifest))


def read_products(path: Path) -> ProductsBundle:
    """Read and verify the bundle of several products.

    Raises:
        BundleError: Missing, truncated, foreign, of another format version, edited, or of one detector.
    """
    manifest = read_manifest(path)
    if not product_names(manifest):
        raise BundleError(
            f"{path} holds one detector, not several products; open it with Spotter.load or anomaly_spotter.load"
        )
    arrays = _read_arrays(path, manifest)
    whole = identity(manifest)
    products = {
        detector["name"]: _bundle(detector, under(f"{number}.", arrays), f"{whole}.{number}")
        for number, detector in enumerate(manifest["products"])
    }
    return ProductsBundle(products, manifest["recogniser"], under(_RECOGNISER, arrays))


def product_names(manifest: Mapping[str, Any]) -> list[str]:
    """The products that a file holds detectors for; none where it holds one detector."""
    return [detector["name"] for detector in manifest.get("products", ())]


def _read_arrays(path: Path, manifest: Mapping[str, Any]) -> dict[str, NDArray[np.generic]]:
    weights = _read_member(path, _WEIGHTS, _LARGEST_WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != manifest.get("weights_sha256"):
        raise BundleError(
            f"{path}: the weights were changed after training (hash mismatch); use the original file"
        )
    try:
        return dict(load_arrays(weights))
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"{path}: the weights cannot be read ({error}); use the original file") from None


def read_manifest(path: Path) -> dict[str, Any]:
    """Everything but the weights; costs no PyTorch and reads only a few kilobytes.

    Raises:
        BundleError: Missing, truncated, foreign or of another format version.
    """
    try:
        manifest = json.loads(_read_member(path, _MANIFEST, _LARGEST_MANIFEST))
    except ValueError:
        raise BundleError(f"{path}: the manifest is damaged; copy the bundle again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{path} is not an Anomaly Spotter bundle; expected a file written by 'train'")
    version = manifest.get("format_version")
    if version not in _SHAPES:
        raise BundleError(
            f"{path} has bundle format {version}, this version reads {FORMAT_VERSION} and {PRODUCTS_VERSION}; "
            "update anomaly-spotter or train again"
        )
    sections = _SHAPES[version]
    missing = [section for section, kind in sections.items() if not isinstance(manifest.get(section), kind)]
    if version == PRODUCTS_VERSION and not missing and not _are_products(manifest["products"]):
        missing = ["a part of its products"]
    if missing:
        raise BundleError(f"{path}: the manifest lacks {', '.join(missing)}; use the original file")
    if _digest({section: manifest[section] for section in sections}) != manifest.get("sections_sha256"):
        raise BundleError(
            f"{path}: the manifest was changed after training (hash mismatch); use the original file"
        )
    return manifest


def identity(content: Bundle | ProductsBundle | Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what a bundle or a manifest stands for; the same however often it is written and read."""
    manifest = _packed(content)[0] if isinstance(content, Bundle | ProductsBundle) else content
    return hashlib.sha256(f"{manifest['weights_sha256']}{manifest['sections_sha256']}".encode()).hexdigest()


def next_version(path: Path) -> Path:
    """``screw.spot`` -> ``screw.v2.spot``, ``screw.v2.spot`` -> ``screw.v3.spot``; the first that is not there yet."""
    stem, version = path.name.removesuffix(SUFFIX), 1
    if found := _VERSION.fullmatch(stem):
        stem, version = found[1], int(found[2])
    while (candidate := path.with_name(f"{stem}.v{version + 1}{SUFFIX}")).exists():
        version += 1
    return candidate


def prefixed(prefix: str, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """The arrays with ``prefix`` before their names."""
    return {f"{prefix}{name}": value for name, value in arrays.items()}


def under(prefix: str, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """The arrays whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _packed(bundle: Bundle | ProductsBundle) -> tuple[dict[str, Any], bytes]:
    """The manifest and the weights file."""
    version, sections, arrays = FORMAT_VERSION, {}, dict(bundle.arrays)
    if isinstance(bundle, Bundle):
        sections = _sections(bundle)
    else:
        version, arrays = PRODUCTS_VERSION, prefixed(_RECOGNISER, bundle.arrays)
        # A list, because the hash of a manifest does not see the order of a mapping.
        detectors = [{"name": name, **_sections(own)} for name, own in bundle.products.items()]
        sections = {"recogniser": bundle.recogniser, "products": detectors}
        for number, own in enumerate(bundle.products.values()):
            arrays |= prefixed(f"{number}.", own.arrays)
    # safetensors writes the memory behind an array: a transposed view would come back scrambled.
    weights = save_arrays({name: np.asarray(array, order="C") for name, array in arrays.items()})
    manifest = {
        "format": FORMAT,
        "format_version": version,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "sections_sha256": _digest(sections),
        **sections,
    }
    return manifest, weights


def _sections(bundle: Bundle) -> dict[str, Any]:
    return {section: getattr(bundle, section) for section in _SECTIONS}


def _bundle(sections: Mapping[str, Any], arrays: Mapping[str, NDArray[np.generic]], read_as: str) -> Bundle:
    return Bundle(**{section: sections[section] for section in _SECTIONS}, arrays=arrays, read_as=read_as)


def _are_products(detectors: list[Any]) -> bool:
    """Whether these are the detectors of several products, each with its own name."""
    if not all(
        isinstance(detector, dict)
        and isinstance(detector.get("name"), str)
        and all(isinstance(detector.get(section), dict) for section in _SECTIONS)
        for detector in detectors
    ):
        return False
    return len({detector["name"] for detector in detectors}) == len(detectors) > 1


def _digest(sections: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()


def _read_member(path: Path, name: str, largest: int) -> bytes:
    if path.is_dir():
        raise BundleError(f"{path} is a folder; give the {SUFFIX} file inside it")
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(name)
            # A file that grows by so much when it is unpacked was made to fill the memory.
            if info.file_size > largest or info.file_size > _MOST_DENSE * max(info.compress_size, 1):
                raise BundleError(f"{path}: {name} claims {info.file_size} bytes; this is not a sane bundle")
            return archive.read(info)
    except FileNotFoundError:
        raise BundleError(f"{path} does not exist; give the path that 'train' printed last") from None
    except KeyError:
        raise BundleError(f"{path} is not an Anomaly Spotter bundle (no {name} inside)") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise BundleError(
            f"{path} is truncated or not a bundle ({error}); give the {SUFFIX} file that 'train' wrote"
        ) from None
