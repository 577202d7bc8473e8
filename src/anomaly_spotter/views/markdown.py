"""Numbers of a summary to Markdown: tables, and a mean with its deviation as one cell.

A number is ``{"mean", "deviation", "count"}`` or ``None``; the cells take a tree of them and the path to one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anomaly_spotter.views.lettering import clean
from anomaly_spotter.views.wording import DASH, number, percent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Tree = Mapping[str, Any]


def table(header: Sequence[str], body: Iterable[Sequence[str]], numbers_from: int | None = None) -> str:
    """A Markdown table; columns from ``numbers_from`` on are right-aligned."""
    words = len(header) if numbers_from is None else numbers_from
    rule = ["---"] * words + ["---:"] * (len(header) - words)
    rows = [[escaped(text) for text in line] for line in (header, *body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (rows[0], rule, *rows[1:]))


def escaped(text: str) -> str:
    """A user's word that cannot end a cell or a line."""
    return clean(text).replace("|", "\\|")


def mean_cell(tree: Tree | None, *path: str) -> str:
    """``0.981 ± 0.004``, the deviation only where there are several seeds; a dash for what is not defined."""
    value = _leaf(tree, path)
    if value is None:
        return DASH
    return number(value["mean"]) + _deviation(value, 1, 3)


def plain_cell(tree: Tree | None, *path: str) -> str:
    """``0.981``."""
    value = _leaf(tree, path)
    return DASH if value is None else number(value["mean"])


def percent_cell(tree: Tree | None, *path: str) -> str:
    """``2.4 % ± 0.3``."""
    value = _leaf(tree, path)
    return DASH if value is None else percent(value["mean"]) + _deviation(value, 100, 1)


def amount_cell(value: Tree | None, unit: str, digits: int) -> str:
    """``1,234 MB``."""
    return DASH if value is None else f"{value['mean']:,.{digits}f} {unit}".rstrip()


def _deviation(value: Tree, factor: float, digits: int) -> str:
    deviation = value["deviation"]
    return "" if deviation is None else f" ± {factor * deviation:.{digits}f}"


def _leaf(tree: Tree | None, path: Sequence[str]) -> Tree | None:
    found: Any = tree
    for key in path:
        found = None if found is None else found.get(key)
    return None if found is None else dict(found)
