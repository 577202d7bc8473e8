"""A judged picture as ``predict`` reports it: a line, a row for JSON and Parquet, and an overlay where one is wanted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anomaly_spotter.errors import PictureError
from anomaly_spotter.extras import needed
from anomaly_spotter.files import write_atomic
from anomaly_spotter.inputs.condition import NAMES
from anomaly_spotter.views.files import write_picture
from anomaly_spotter.views.overlay import mask_picture, overlay
from anomaly_spotter.views.terminal import inspection_row, inspection_to_dict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from anomaly_spotter.scoring.inspection import Inspection


@dataclass(frozen=True, slots=True)
class Judged:
    """What is told about a picture.

    Attributes:
        row: JSON-able values; of an unreadable picture ``path`` and ``error``.
        line: For a terminal.
    """

    row: dict[str, Any]
    line: str


def judged(path: Path, name: str, found: Inspection | PictureError, out: Path | None) -> Judged:
    """Report an inspection of ``path``, and write ``NAME_overlay.png`` and ``NAME_mask.png`` to the folder ``out``.

    Raises:
        SpotterError: A file cannot be written.
    """
    if isinstance(found, PictureError):
        return Judged({"path": str(path), "error": str(found)}, f"UNREADABLE  {found}")
    found = dataclasses.replace(found, source=path)
    if out is not None:
        write_picture(out / f"{name}_overlay.png", overlay(found))
        if found.mask.any():
            write_picture(out / f"{name}_mask.png", mask_picture(found))
    return Judged(inspection_to_dict(found), inspection_row(found))


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows of :attr:`Judged.row` as a Parquet table, whole or not at all.

    Raises:
        MissingExtraError: PyArrow is not installed.
        SpotterError: The file cannot be written.
    """
    with needed("ray", "Parquet needs PyArrow", "pyarrow"):
        import pyarrow as pa  # type: ignore[import-untyped]
        from pyarrow import parquet
    whole, real, text = pa.int64(), pa.float64(), pa.string()
    region = pa.struct(
        {
            "area": whole,
            "box": pa.list_(whole),
            "centroid": pa.list_(real),
            "peak": real,
            "peak_position": pa.list_(whole),
            "mean_score": real,
            "contour": pa.list_(pa.list_(whole)),
        }
    )
    schema = pa.schema(
        {
            "path": text,
            "product": text,
            "verdict": text,
            "score": real,
            "threshold": real,
            "p_value": real,
            "reason": text,
            "regions": pa.list_(region),
            "condition": pa.struct(dict.fromkeys(NAMES, real)),
            "error": text,
        }
    )
    table = pa.Table.from_pylist([_printable(row) for row in rows], schema)
    buffer = pa.BufferOutputStream()
    parquet.write_table(table, buffer)
    return write_atomic(path, buffer.getvalue().to_pybytes())


def _printable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A file name that is not UTF-8 holds lone surrogates, which Parquet has no place for."""
    return {
        key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for key, value in row.items()
    }
