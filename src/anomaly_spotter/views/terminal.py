"""Results on a terminal: one line per picture, tables for audits and evaluations; and rows for JSON."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anomaly_spotter.inputs.findings import SHORTCUT_AUROC, is_beyond_chance
from anomaly_spotter.scoring.inspection import finite
from anomaly_spotter.views.wording import likely_range, number, plural

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.evaluation import Evaluation
    from anomaly_spotter.inputs.findings import Audit
    from anomaly_spotter.living import KnownDefects
    from anomaly_spotter.scoring.drift import DriftReport
    from anomaly_spotter.scoring.inspection import Inspection

_IMAGE_ROWS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "false_reject_rate": "false reject rate",
    "f1_max": "F1_max (oracle threshold)",
}
_PIXEL_ROWS = {
    "auroc": "pixel AUROC",
    "aupro": "AUPRO (to 30 % FPR)",
    "aupro_05": "AUPRO (to 5 % FPR)",
    "f1": "pixel F1",
    "f1_max": "pixel F1_max (oracle threshold)",
}


def inspection_row(found: Inspection) -> str:
    """One aligned line: verdict, score, p-value, number of regions, file, product, remarks."""
    regions = f"{len(found.regions)} region{'' if len(found.regions) == 1 else 's'}"
    product = f"product {found.product}" if found.product else None
    remarks = [*filter(None, (product, found.reason)), *found.notes]
    notes = f"  ({'; '.join(remarks)})" if remarks else ""
    return (
        f"{found.verdict.value:<10}  score {found.score:7.3f}  p {found.p_value:6.4f}  "
        f"{regions:>11}  {found.source or 'array'}{notes}"
    )


def inspection_to_dict(found: Inspection) -> dict[str, Any]:
    """The same as JSON-able values, regions included, without the arrays."""
    return {
        "path": None if found.source is None else str(found.source),
        "product": found.product,
        "verdict": found.verdict.value,
        "reason": found.reason,
        "score": finite(found.score),
        "threshold": found.threshold,
        "p_value": found.p_value,
        "condition": None if found.condition is None else found.condition.to_dict(),
        "regions": [
            {
                "area": region.area,
                "box": list(region.box),
                "centroid": list(region.centroid),
                "peak": region.peak,
                "peak_position": list(region.peak_position),
                "mean_score": region.mean_score,
                "contour": _polygon(region.contour),
            }
            for region in found.regions
        ],
        "notes": list(found.notes),
    }


def watch_header() -> str:
    """The head of the table that ``watch`` grows."""
    return f"{'time':<9}{'verdict':<12}{'score':>7}{'p':>8}{'regions':>9}  picture"


def watch_row(result: Mapping[str, Any]) -> str:
    """One result of ``watch`` in a line."""
    score = "" if result.get("score") is None else f"{result['score']:.3f}"
    p_value = "" if result.get("p_value") is None else f"{result['p_value']:.4f}"
    regions = str(len(result["regions"])) if "regions" in result else ""
    remarks = [str(remark) for remark in (result.get("reason"), result.get("error")) if remark]
    remarks += [f"not delivered: {reason}" for reason in result.get("undelivered", ())]
    row = f"{datetime.now():%H:%M:%S} {result['verdict']:<12}{score:>7}{p_value:>8}{regions:>9}  {result['path']}"
    return " | ".join([row, *remarks])


def watch_counter(counts: Mapping[str, int]) -> str:
    """How many of which verdict since the start."""
    total = sum(counts.values())
    parts = ", ".join(
        f"{counts[verdict]} {verdict}" for verdict in ("OK", "DEFECT", "UNREADABLE") if counts.get(verdict)
    )
    return f"{total} inspected{f': {parts}' if parts else ''}"


def print_drift(found: DriftReport) -> None:
    """A table of what was compared, what has changed in plain words, and what to do about it."""
    console = Console()
    if found.findings:
        table = Table("compared", "", "usual", "recent", "by chance")
        for test in found.findings:
            mark = f"{test.direction}, CHANGED" if test.is_change else test.direction
            values = (f"{value:.4g}" for value in (test.usual, test.recent))
            table.add_row(test.name, mark, *values, f"{test.chance:.2g}")
        console.print(table)
    for line in (*found.sentences, *found.advice):
        console.print(Text(line))


def _polygon(contour: NDArray[np.int32]) -> list[list[int]]:
    """The outline with the points left out that lie within half a pixel of it."""
    points = np.asarray(cv2.approxPolyDP(contour, 0.5, closed=True), dtype=np.int32).reshape(-1, 2)
    return [[int(x), int(y)] for x, y in points]


def print_audit(found: Audit) -> None:
    """What a data set is made of, how well trivial statistics do on it, and every warning in plain words."""
    console = Console()
    table = Table(title=f"{found.category} ({found.layout})", title_justify="left", show_header=False)
    for split, kinds in found.counts.items():
        table.add_row(f"{split} pictures", _counts(kinds))
    table.add_row("sizes", _counts(found.sizes))
    table.add_row("modes", _counts(found.modes))
    table.add_row("cannot be read", str(len(found.broken)))
    table.add_row("exact, near duplicates", f"{len(found.exact_duplicates)}, {len(found.near_duplicates)}")
    for separation in found.shortcuts:
        name = separation.statistic.replace("_", " ")
        table.add_row(f"AUROC of {name} alone", f"{separation.auroc:.3f}")
    console.print(table)
    for fault in found.broken:
        console.print(f"broken: {fault.reason}", soft_wrap=True, highlight=False, markup=False)
    for warning in found.warnings:
        console.print(f"warning: {warning}", soft_wrap=True, highlight=False, markup=False)


def print_evaluation(found: Evaluation) -> None:
    """Image, pixel and per-kind tables; oracle values and trivial baselines are marked as such."""
    console = Console()
    summary = found.summary
    table = Table(title=f"{summary['data']['category']}: at the calibrated threshold", title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for key, label in _IMAGE_ROWS.items():
        table.add_row(label, number(summary["image"][key]))
    for key, label in _PIXEL_ROWS.items():
        table.add_row(label, number((summary["pixel"] or {}).get(key)))
    table.add_section()
    for name, value in summary["image"]["baselines"].items():
        label = name.removesuffix("_auroc").replace("_", " ")
        table.add_row(
            Text(f"trivial baseline, {label}: AUROC", style="dim"), Text(number(value), style="dim")
        )
    table.add_section()
    table.add_row("time per picture", f"{summary['timing']['ms_per_picture']:.1f} ms")
    console.print(table)
    if summary["per_kind"]:
        console.print(_kind_table(summary["per_kind"]))
    defects = sum(row.is_defect for row in found.pictures)
    good = len(found.pictures) - defects
    for name, value in summary["image"]["baselines"].items():
        if value is not None and value >= SHORTCUT_AUROC and is_beyond_chance(value, good, defects):
            what = name.removesuffix("_auroc").replace("_", " ")
            console.print(
                f"warning: {what} alone separates good from defective test pictures (AUROC {value:.2f}); "
                "the AUROC above proves less than it seems",
                soft_wrap=True,
                highlight=False,
                markup=False,
            )


def print_summary(results: Mapping[str, Mapping[str, Any]], reports: Mapping[str, Path]) -> None:
    """One row per category with the honest numbers, the oracle F1 beside them, and the best trivial baseline."""
    console = Console()
    table = Table(title="all categories, at the calibrated thresholds", title_justify="left")
    table.add_column("category")
    columns = (
        "AUROC",
        "F1",
        "recall",
        "false rejects",
        "F1_max",
        "pixel AUROC",
        "AUPRO",
        "best trivial AUROC",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for category, result in results.items():
        image, pixel = result["image"], result["pixel"] or {}
        trivial = max((value for value in image["baselines"].values() if value is not None), default=None)
        table.add_row(
            category,
            *(number(image[key]) for key in ("auroc", "f1", "recall", "false_reject_rate", "f1_max")),
            *(number(pixel.get(key)) for key in ("auroc", "aupro")),
            number(trivial),
        )
    console.print(table)
    for category, report in reports.items():
        console.print(f"report {category}: {report}", soft_wrap=True, highlight=False, markup=False)


def print_rates(found: KnownDefects) -> None:
    """What share of known defects each false reject rate finds; the one in force is marked and stays."""
    console = Console()
    table = Table(title=f"{_plural(len(found.pictures), 'known defect')}", title_justify="left")
    for column in ("", "rejects", "limit", "promised", "found", "recall (95 %)"):
        table.add_column(column, justify="left" if column in ("", "promised") else "right", no_wrap=True)
    for row in found.rows:
        low, high = likely_range(row.found, row.count) or (0.0, 1.0)
        kept = (
            "yes"
            if row.promise.is_kept
            else f"no: {rate_words(row.promise.rate)}, needs {row.promise.needed}"
        )
        table.add_row(
            "now" if row.is_current else "",
            rate_words(row.promise.asked_rate),
            f"{row.limit:.3f}",
            kept,
            f"{row.found} of {row.count}",
            f"{rate_words(row.recall)} ({100 * low:.0f} to {100 * high:.0f})",
        )
    console.print(table)
    trust = found.rows[0].promise.confidence
    how = "on average" if trust is None else f"with {rate_words(trust)} confidence"
    console.print(
        f"False rejects are promised {how}, from good pictures alone. The decision limit was not moved; "
        "recalibrate --false-reject-rate moves it.",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def rates_to_dict(found: KnownDefects) -> dict[str, Any]:
    """The same as JSON-able values, with the score of every picture."""
    return {
        "threshold": found.threshold,
        "rates": [
            {
                "asked_rate": row.promise.asked_rate,
                "promised_rate": row.promise.rate,
                "confidence": row.promise.confidence,
                "is_promised": row.promise.is_kept,
                "good_pictures": row.promise.count,
                "good_pictures_needed": row.promise.needed,
                "limit": row.limit,
                "found": row.found,
                "count": row.count,
                "recall": row.recall,
                "recall_range": likely_range(row.found, row.count),
                "is_current": row.is_current,
            }
            for row in found.rows
        ],
        "pictures": [{"path": str(path), "score": finite(score)} for path, score in found.pictures],
        "unreadable": list(found.unreadable),
    }


def print_learning_curve(summary: Mapping[str, Any]) -> None:
    """One row per number of good pictures, mean and half the range over the draws, and what follows from it."""
    console = Console()
    by = "test pictures" if summary["measured_by"] == "test" else "left-out good pictures, synthetic defects"
    table = Table(title=f"{summary['category']}: learning curve, measured by {by}", title_justify="left")
    for column in ("pictures", "AUROC", "recall", "rejects", "F1", "promised", "fit, s"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in summary["rows"]:
        promised = rate_words(row["promised_rate"])
        table.add_row(
            str(row["size"]),
            *(_with_spread(row[key]) for key in ("auroc", "recall", "false_reject_rate", "f1")),
            promised if row["is_promised"] else f"only {promised}",
            f"{row['fit_seconds']:.1f}",
        )
    console.print(table)
    for sentence in summary["sentences"]:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def _with_spread(value: Mapping[str, float] | None) -> str:
    if value is None:
        return number(None)
    if value["low"] == value["high"]:
        return number(value["mean"])
    return f"{value['mean']:.3f} ±{(value['high'] - value['low']) / 2:.2f}"


def rate_words(share: float) -> str:
    """``0.005`` as ``0.5 %``."""
    return f"{100 * share:.3g} %"


def _plural(count: int, noun: str) -> str:
    """With a space that can be searched for."""
    return plural(count, noun).replace("\u00a0", " ")


def _counts(counts: Mapping[str, int]) -> Text:
    return Text(", ".join(f"{name} {count}" for name, count in counts.items()))


def _kind_table(per_kind: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="by kind of defect", title_justify="left")
    for column in ("kind", "pictures", "AUROC", "recall"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind, row in per_kind.items():
        table.add_row(Text(kind), str(row["count"]), number(row["auroc"]), number(row["recall"]))
    return table
