"""Layouts that are tables: our own CSV manifest, and VisA, whose split is a table beside its folders."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, NamedTuple

from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.layouts.dataset import GOOD, Sample, Split, list_pictures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST_NAME = "manifest.csv"
"""The manifest that is looked for where a folder is given."""
VISA_TEST_EVERY = 10
"""Without VisA's own split, every 10th normal picture goes to the test (the official split takes 10 % as well)."""

_GOOD_LABELS = frozenset({"good", "ok", "normal", "0"})
_DEFECT_LABELS = frozenset({"defect", "anomaly", "1"})
_SPLITS: dict[str, Split] = {"train": "train", "test": "test"}


class _Row(NamedTuple):
    line: int
    cells: dict[str, str]


# --- our manifest -----------------------------------------------------------------------------------------------------


def find_manifest(data: Path) -> Path | None:
    """The manifest that ``data`` is or holds, if any."""
    if data.is_file() and data.suffix.lower() == ".csv":
        return data
    return data / MANIFEST_NAME if (data / MANIFEST_NAME).is_file() else None


def manifest_categories(manifest: Path) -> list[str]:
    """The values of its ``category`` column, sorted; without one, the manifest's (or its folder's) name."""
    found = {row.cells.get("category", "") for row in _read_rows(manifest, ("path", "split", "label"))} - {""}
    if found:
        return sorted(found)
    manifest = manifest.absolute()
    return [manifest.parent.name if manifest.name == MANIFEST_NAME else manifest.stem]


def read_manifest(manifest: Path, category: str) -> Iterator[Sample]:
    """Read the rows of one category; rows without a category belong to every one.

    Columns, in any order: ``path`` (relative to the manifest), ``split`` (``train`` or ``test``), ``label`` (``good``,
    ``ok``, ``normal``, ``0``; or ``defect``, ``anomaly``, ``1``; or a kind of defect), optionally ``mask`` (one or
    several, separated by ``;``) and ``category``.

    Raises:
        DatasetError: A column, a value or a file is missing or wrong; the message names the line.
    """
    lines: dict[Path, int] = {}
    for line, cells in _read_rows(manifest, ("path", "split", "label")):
        if cells.get("category", "") not in ("", category):
            continue
        path = _existing(manifest, line, manifest.parent, cells["path"], "path")
        if path in lines:
            raise DatasetError(
                f"{manifest}, line {line}: {cells['path']} is listed on line {lines[path]} already; remove one"
            )
        lines[path] = line
        split = _SPLITS.get(cells["split"].lower())
        if split is None:
            raise DatasetError(f"{manifest}, line {line}: split is '{cells['split']}'; write train or test")
        masks = tuple(
            _existing(manifest, line, manifest.parent, name.strip(), "mask")
            for name in cells.get("mask", "").split(";")
            if name.strip()
        )
        yield Sample(path, split, _kind(manifest, line, cells["label"]), masks)


def _kind(manifest: Path, line: int, label: str) -> str:
    if not label:
        raise DatasetError(f"{manifest}, line {line}: label is empty; write good or a kind of defect")
    if label.lower() in _GOOD_LABELS:
        return GOOD
    return "defect" if label.lower() in _DEFECT_LABELS else label


# --- VisA: <category>/Data/Images/Normal|Anomaly, <category>/Data/Masks/Anomaly, split_csv/1cls.csv --------------------


def is_visa(folder: Path) -> bool:
    """``Data/Images/Normal``."""
    return (folder / "Data" / "Images" / "Normal").is_dir()


def read_visa(folder: Path) -> Iterator[Sample]:
    """Read a category as ``split_csv/1cls.csv`` beside it splits it; anomalies are of kind ``anomaly``.

    Where that table is missing or does not list the category: every anomaly and every 10th normal picture (the 10th,
    the 20th, ... by name) is for the test.

    Raises:
        DatasetError: The table is malformed or names a missing file.
    """
    table = folder.absolute().parent / "split_csv" / "1cls.csv"
    rows = _read_rows(table, ("object", "split", "label", "image")) if table.is_file() else []
    rows = [row for row in rows if row.cells["object"] == folder.absolute().name]
    yield from _visa_rows(table, rows) if rows else _visa_folders(folder)


def _visa_rows(table: Path, rows: list[_Row]) -> Iterator[Sample]:
    root = table.parent.parent
    for line, cells in rows:
        split = _SPLITS.get(cells["split"].lower())
        if split is None or cells["label"].lower() not in ("normal", "anomaly"):
            raise DatasetError(
                f"{table}, line {line}: expected split train or test and label normal or anomaly, "
                f"found '{cells['split']}' and '{cells['label']}'"
            )
        mask = cells.get("mask", "")
        yield Sample(
            _existing(table, line, root, cells["image"], "image"),
            split,
            GOOD if cells["label"].lower() == "normal" else "anomaly",
            (_existing(table, line, root, mask, "mask"),) if mask else (),
        )


def _visa_folders(folder: Path) -> Iterator[Sample]:
    images, masks = folder / "Data" / "Images", list_pictures(folder / "Data" / "Masks" / "Anomaly")
    for index, path in enumerate(list_pictures(images / "Normal"), start=1):
        yield Sample(path, "train" if index % VISA_TEST_EVERY else "test", GOOD)
    for path in list_pictures(images / "Anomaly"):
        yield Sample(path, "test", "anomaly", tuple(mask for mask in masks if mask.stem == path.stem))


# --- tables -----------------------------------------------------------------------------------------------------------


def _read_rows(table: Path, required: tuple[str, ...]) -> list[_Row]:
    """Rows with their line numbers; column names in lower case, cells stripped, the separator ``,``, ``;`` or tab.

    Raises:
        DatasetError: Not readable as text, or a required column is missing.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=next((mark for mark in ",;\t" if mark in header), ","))
            names = [name.strip().lower() for name in next(reader, [])]
            missing = [name for name in required if name not in names]
            if missing:
                raise DatasetError(
                    f"{table}, line 1: column {', '.join(missing)} missing; the first line names the columns "
                    f"{', '.join(required)}"
                )
            rows = []
            for cells in reader:
                if len(cells) > len(names):
                    raise DatasetError(
                        f"{table}, line {reader.line_num}: {len(cells)} cells for {len(names)} columns; "
                        "quote a cell that holds the separator"
                    )
                padded = [cell.strip() for cell in cells] + [""] * (len(names) - len(cells))
                if any(padded):
                    rows.append(_Row(reader.line_num, dict(zip(names, padded, strict=True))))
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{table}: cannot be read as a table ({error}); save it as CSV in UTF-8"
        ) from error


def _existing(table: Path, line: int, root: Path, name: str, column: str) -> Path:
    path = root / name
    if not name or not path.is_file():
        raise DatasetError(f"{table}, line {line}: {column} '{name}' is not a file; paths start at {root}")
    return path
