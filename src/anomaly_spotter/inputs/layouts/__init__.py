"""Data sets on disk to lists of samples, in the layouts people have. Names are listed; no picture is decoded.

The layout is found by itself or named. One folder of pictures is enough: then all of them are good.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.layouts.dataset import (
    Dataset,
    Sample,
    Split,
    has_pictures,
    list_folders,
    list_pictures,
)
from anomaly_spotter.inputs.layouts.tables import (
    find_manifest,
    is_visa,
    manifest_categories,
    read_manifest,
    read_visa,
)
from anomaly_spotter.inputs.layouts.trees import (
    is_btad,
    is_folder,
    is_kolektor,
    is_loco,
    is_mvtec,
    read_btad,
    read_folder,
    read_kolektor,
    read_loco,
    read_mvtec,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LAYOUTS", "Dataset", "Sample", "Split", "detect_layout", "find_categories", "load_dataset"]

LAYOUTS = ("mvtec", "folder", "csv", "visa", "btad", "kolektor", "loco")


class _Tree(NamedTuple):
    matches: Callable[[Path], bool]
    read: Callable[[Path], Iterator[Sample]]


_STRUCTURED = {
    "mvtec": _Tree(is_mvtec, read_mvtec),
    "loco": _Tree(is_loco, read_loco),
    "btad": _Tree(is_btad, read_btad),
    "visa": _Tree(is_visa, read_visa),
    "kolektor": _Tree(is_kolektor, read_kolektor),
}
_TREES = _STRUCTURED | {"folder": _Tree(is_folder, read_folder)}
_GOOD_FOLDERS = frozenset({"good", "normal", "ok"})
_OTHER_FOLDERS = frozenset(
    {"anomalies", "anomalous", "anomaly", "bad", "defect", "defective", "defects"}
    | {"ground_truth", "ko", "masks", "ng", "nok", "test"}
)


def load_dataset(data: str | Path, category: str | None = None, layout: str | None = None) -> Dataset:
    """List the samples of one category.

    Args:
        data: A folder of categories, a category's own folder, a folder of good pictures, or a CSV manifest.
        category: The category's name; not needed where there is only one.
        layout: One of :data:`LAYOUTS`; found by itself if not given.

    Raises:
        DatasetError: Missing, unknown, ambiguous, or without pictures.
    """
    data = _path(data)
    _require_known(layout)
    manifest = _manifest(data, category, layout)
    if manifest is not None:
        category = _choose(manifest, category, manifest_categories(manifest))
        return _dataset(manifest.parent, category, "csv", read_manifest(manifest, category))
    folder = _category_folder(data, category, layout)
    layout = layout or _detect(folder)
    name = category or folder.absolute().name
    return _dataset(folder, name, layout, _TREES[layout].read(folder))


def find_categories(data: str | Path, layout: str | None = None) -> list[str]:
    """Name the categories in ``data``, sorted.

    Folders in ``data`` that have the layout (without ``layout``: any layout with a structure of its own); else
    ``data`` itself; else its folders that hold pictures. For a manifest, the values of its ``category`` column.

    Raises:
        DatasetError: ``data`` is missing or ``layout`` unknown.
    """
    data = _path(data)
    _require_known(layout)
    manifest = _manifest(data, None, layout)
    if manifest is not None:
        return manifest_categories(manifest)
    _require_folder(data)
    trees = [_TREES[layout]] if layout else list(_STRUCTURED.values())
    children = list_folders(data)
    found = [child.name for child in children if any(tree.matches(child) for tree in trees)]
    if found:
        return found
    if any(tree.matches(data) for tree in trees):
        return [data.absolute().name]
    return [child.name for child in children if has_pictures(child)] if layout is None else []


def detect_layout(data: str | Path, category: str | None = None) -> str:
    """Name the layout of ``data``, or of one category in it.

    Raises:
        DatasetError: Missing, without pictures, or ambiguous.
    """
    data = _path(data)
    if _manifest(data, category, None) is not None:
        return "csv"
    return _detect(_category_folder(data, category, None))


def _dataset(root: Path, category: str, layout: str, samples: Iterator[Sample]) -> Dataset:
    ordered = tuple(sorted(samples, key=lambda sample: (sample.split != "train", sample.path)))
    if not ordered:
        raise DatasetError(
            f"{root}: no pictures found with layout {layout}; check the path or name another layout"
        )
    return Dataset(root, category, layout, ordered)


# --- which folder -----------------------------------------------------------------------------------------------------


def _manifest(data: Path, category: str | None, layout: str | None) -> Path | None:
    """The manifest to read, or ``None`` if the data is a tree; a category's folder goes before a manifest."""
    if layout not in (None, "csv"):
        return None
    manifest = find_manifest(data)
    if manifest is None and category is not None:
        manifest = find_manifest(_path(data / category))
    if manifest is None and layout == "csv":
        raise DatasetError(f"{data}: no CSV manifest; name a .csv file, or a folder that holds manifest.csv")
    return manifest


def _category_folder(data: Path, category: str | None, layout: str | None) -> Path:
    _require_folder(data)
    if category is None:
        return _only_folder(data, layout)
    if _path(data / category).is_dir() and category == Path(category).name != "..":
        return data / category
    if data.absolute().name == category:
        return data
    raise _unknown(data, category, find_categories(data, layout))


def _only_folder(data: Path, layout: str | None) -> Path:
    """``data`` itself if it is a category, else the one category in it."""
    if layout == "folder" or any(
        tree.matches(data) for name, tree in _STRUCTURED.items() if layout in (None, name)
    ):
        return data
    found = find_categories(data, layout)
    structured = [name for name in found if _layouts_of(data / name)]
    if len(structured) > 1:
        raise DatasetError(f"{data}: holds {len(structured)} categories; name one of {', '.join(structured)}")
    return data / structured[0] if structured else data


def _choose(manifest: Path, category: str | None, found: list[str]) -> str:
    if category is None and len(found) > 1:
        raise DatasetError(f"{manifest}: holds {len(found)} categories; name one of {', '.join(found)}")
    if category is not None and category not in found:
        raise _unknown(manifest, category, found)
    return category or found[0]


# --- which layout -----------------------------------------------------------------------------------------------------


def _layouts_of(folder: Path) -> list[str]:
    return [name for name, tree in _STRUCTURED.items() if tree.matches(folder)]


def _detect(folder: Path) -> str:
    found = _layouts_of(folder)
    if len(found) > 1:
        raise DatasetError(f"{folder}: fits the layouts {' and '.join(found)}; name the one to use")
    if found:
        return found[0]
    pictures = list_pictures(folder)
    if not pictures:
        raise DatasetError(f"{folder}: no pictures in it; check the path")
    stray = _stray(folder, pictures)
    if stray is not None:
        raise DatasetError(
            f"{folder}: no known layout, and {stray.relative_to(folder)} does not look like a good picture; "
            "name the folder of good pictures, or the layout"
        )
    return "folder"


def _stray(folder: Path, pictures: list[Path]) -> Path | None:
    """A picture whose folders say that it is not a good one: ``bad/7.png``, or ``cut/7.png`` beside ``good/1.png``."""
    parents = {path: {part.lower() for part in path.relative_to(folder).parts[:-1]} for path in pictures}
    has_good = any(names & _GOOD_FOLDERS for names in parents.values())
    for path, names in parents.items():
        if names & _OTHER_FOLDERS or (has_good and not names & _GOOD_FOLDERS):
            return path
    return None


def _require_known(layout: str | None) -> None:
    if layout is not None and layout not in LAYOUTS:
        raise DatasetError(f"layout '{layout}' is unknown; choose one of {', '.join(LAYOUTS)}")


def _path(data: str | Path) -> Path:
    """``data`` as a path that the file system answers for; too long a name, for one, makes it raise."""
    try:
        Path(data).exists()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{data}: cannot be read ({error}); check the path") from error
    return Path(data)


def _require_folder(data: Path) -> None:
    if data.is_dir():
        return
    if data.exists():
        raise DatasetError(f"{data}: a file, but no CSV manifest; name a folder of pictures")
    names = [child.name for child in list_folders(data.parent)]
    beside = difflib.get_close_matches(data.name, names, n=5, cutoff=0.4)
    hint = f"beside it: {', '.join(beside)}" if beside else "check the path"
    raise DatasetError(f"{data}: no such folder; {hint}")


def _unknown(data: Path, category: str, found: list[str]) -> DatasetError:
    return DatasetError(
        f"{data}: no category '{category}'; {'found ' + ', '.join(found) if found else 'none found there'}"
    )
