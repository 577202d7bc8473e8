"""Benchmark to Markdown: what was measured, at what price, beside trivial baselines and what others published.

Every function takes the tree of ``benchmark.json``. A number of the summary is ``{"mean", "deviation", "count"}`` over
the seeds, or ``None`` where it is not defined.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from anomaly_spotter.views.markdown import amount_cell, escaped, mean_cell, percent_cell, plain_cell, table
from anomaly_spotter.views.wording import DASH, duration, likely_range, number, plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Tree = Mapping[str, Any]

ORACLE = "†"
"""Marks what was chosen with the test labels at hand."""
BROKEN = "‡"
"""Marks more false rejects than were promised."""
_LEGEND = f"""\
Every number is measured on test pictures that nothing was learned from. Recall, precision, F1, false rejects and SegF1
are taken at the limits that were calibrated on good training pictures alone. Columns with {ORACLE} (`*_max`) pick their
limit with the test labels: upper bounds, no promises. ± is the sample standard deviation over the seeds; {DASH} is not
defined (no masks, or one class only). {BROKEN} marks more false rejects than promised, beyond what the number of good test
pictures explains: they differ from the training pictures, or the calibration is wrong."""


def benchmark_page(tree: Tree, plots: Mapping[str, Path]) -> str:
    """The whole page.

    Args:
        tree: ``benchmark``, ``summary``, ``failed``, ``peers`` and ``cells`` of ``benchmark.json``.
        plots: Picture files beside the page, by what they show.
    """
    rows, head = tree["summary"], tree["benchmark"]
    parts = ["# Benchmark", _opening(tree)]
    if not head["complete"]:
        parts.append("**This benchmark was interrupted: cells are missing.** `--resume` goes on from here.")
    if rows:
        parts += [_LEGEND, "## Image AUROC", _overview(rows), *_pictures(plots, "auroc", "cost")]
        parts += ["## Decision at the calibrated limit", _decisions(rows)]
        parts += ["## The same scores, other promises", _at_rates(rows)]
        parts += ["## Defects found, by kind", _kinds(rows)]
        parts += ["## Place of the defect", _places(rows)]
    if any(row["robustness"] for row in rows):
        parts += ["## Robustness", _robustness(rows), *_pictures(plots, "robustness")]
    if rows:
        parts += ["## Cost", _costs(rows), "## Trivial baselines", _baselines(rows)]
        parts += ["## What others published", _peers(rows, tree["peers"])]
    if tree["failed"]:
        listed = table(["cell", "reason"], [[cell, reason] for cell, reason in tree["failed"].items()])
        parts += ["## Failed", listed]
    parts += ["## How to repeat it", _provenance(tree)]
    return "\n\n".join(parts) + "\n"


# --- sections ---------------------------------------------------------------------------------------------------------


def _opening(tree: Tree) -> str:
    rows = tree["summary"]
    models, categories = _distinct(rows, "model"), _distinct(rows, "category")
    return (
        f"{plural(len(tree['cells']), 'cell')} measured, {len(tree['failed'])} failed: "
        f"{_listed('model', models)} on {_listed('category', categories)}. {tree['benchmark']['machine']}."
    )


def _overview(rows: Sequence[Tree]) -> str:
    models, by_cell = _distinct(rows, "model"), {(row["category"], row["model"]): row for row in rows}
    categories = _distinct(rows, "category")
    body = []
    for category in categories:
        found = [by_cell.get((category, model)) for model in models]
        known = next(row for row in found if row is not None)
        body.append([category, *(mean_cell(row, "image", "auroc") for row in found), _best_trivial(known)])
    if len(categories) > 1:
        body.append(["**mean**", *(_mean_over(rows, model, len(categories)) for model in models), ""])
    return table(["category", *models, "best trivial baseline"], body, numbers_from=1)


def _mean_over(rows: Sequence[Tree], model: str, wanted: int) -> str:
    """The mean over categories; one that lacks some cannot be compared, and says so."""
    own = [row["image"]["auroc"] for row in rows if row["model"] == model]
    known = [value["mean"] for value in own if value]
    if not known:
        return DASH
    missing = "" if len(known) == wanted else f" ({len(known)} of {wanted})"
    return f"**{statistics.fmean(known):.3f}**{missing}"


def _decisions(rows: Sequence[Tree]) -> str:
    columns = {
        "precision": ("image", "precision"),
        "recall": ("image", "recall"),
        "F1": ("image", "f1"),
        f"F1_max {ORACLE}": ("image", "f1_max"),
        "average precision": ("image", "average_precision"),
    }
    header = ["category", "model", *columns, "false rejects", "promised", "calibration pictures"]
    body = [
        [
            row["category"],
            row["model"],
            *(mean_cell(row, *path) for path in columns.values()),
            _false_rejects(row),
            percent_cell(row, "promise", "rate"),
            amount_cell(row["promise"]["pictures"], "", 0),
        ]
        for row in rows
    ]
    return table(header, body, numbers_from=2)


def _false_rejects(row: Tree) -> str:
    """With a mark where the 95 % range of the measured rate lies wholly above the promise."""
    text, rate = percent_cell(row, "image", "false_reject_rate"), row["image"]["false_reject_rate"]
    good = row["data"]["counts"].get("test/good", 0)
    likely = None if rate is None else likely_range(round(rate["mean"] * good), good)
    return f"{text} {BROKEN}" if likely and likely[0] > row["promise"]["rate"]["mean"] else text


def _at_rates(rows: Sequence[Tree]) -> str:
    rates = list(dict.fromkeys(rate for row in rows for rate in row["at_rate"]))
    header = ["category", "model"]
    for rate in rates:
        asked = f"at {100 * float(rate):g} %"
        header += [f"promised {asked}", f"false rejects {asked}", f"recall {asked}", f"F1 {asked}"]
    body = []
    for row in rows:
        line = [row["category"], row["model"]]
        for rate in rates:
            line.append(percent_cell(row, "at_rate", rate, "promised_rate"))
            line.append(percent_cell(row, "at_rate", rate, "false_reject_rate"))
            line += [mean_cell(row, "at_rate", rate, key) for key in ("recall", "f1")]
        body.append(line)
    note = (
        "Limits from the calibration scores alone. *Promised* is what their number allows: it is larger than the "
        "asked rate where there are too few good pictures."
    )
    return f"{note}\n\n{table(header, body, numbers_from=2)}"


def _kinds(rows: Sequence[Tree]) -> str:
    models = _distinct(rows, "model")
    body = []
    for category in _distinct(rows, "category"):
        own = {row["model"]: row for row in rows if row["category"] == category}
        for kind in dict.fromkeys(kind for row in own.values() for kind in row["per_kind"]):
            count = next(row["per_kind"][kind]["count"] for row in own.values() if kind in row["per_kind"])
            found = [
                f"{mean_cell(row, 'per_kind', kind, 'recall')} ({plain_cell(row, 'per_kind', kind, 'auroc')})"
                if row
                else DASH
                for row in (own.get(model) for model in models)
            ]
            body.append([category, kind, number(count["mean"], 0), *found])
    listed = table(["category", "kind", "pictures", *models], body, numbers_from=2)
    return f"Recall at the calibrated limit; in brackets the AUROC of the kind against the good pictures.\n\n{listed}"


def _places(rows: Sequence[Tree]) -> str:
    columns = {
        "pixel AUROC": "auroc",
        "AUPRO to 0.3": "aupro",
        "AUPRO to 0.05": "aupro_05",
        "SegF1": "f1",
        f"SegF1_max {ORACLE}": "f1_max",
    }
    body = [
        [row["category"], row["model"], *(mean_cell(row, "pixel", key) for key in columns.values())]
        for row in rows
    ]
    note = (
        "SegF1 is the F1 over all pixels of all pictures of the mask as it is drawn: at the calibrated pixel "
        "threshold, and only on parts that were called DEFECT."
    )
    return f"{note}\n\n{table(['category', 'model', *columns], body, numbers_from=2)}"


def _robustness(rows: Sequence[Tree]) -> str:
    measured = [row for row in rows if row["robustness"]]
    return "\n\n".join(
        f"### {escaped(row['category'])}, {escaped(row['model'])}\n\n{_robustness_table(row)}"
        for row in measured
    )


def _robustness_table(row: Tree) -> str:
    body = [
        [
            name,
            mean_cell(found, "auroc"),
            mean_cell(found, "recall"),
            percent_cell(found, "false_reject_rate"),
        ]
        for name, found in row["robustness"].items()
    ]
    worst = row["largest_change"]
    body.append(
        [
            "**largest change**",
            *(_change(worst[key], 1, 3, "") for key in ("auroc", "recall")),
            _change(worst["false_reject_rate"], 100, 1, " points"),
        ]
    )
    return table(["pictures", "AUROC", "recall", "false rejects"], body, numbers_from=1)


def _change(worst: Tree | None, factor: float, digits: int, unit: str) -> str:
    if worst is None:
        return DASH
    if not worst["change"]:
        return "none"
    return f"**{factor * worst['change']:+.{digits}f}{unit}** ({worst['perturbation']})"


def _costs(rows: Sequence[Tree]) -> str:
    header = ["category", "model", "good pictures", "fit", "peak memory, fit", "peak memory, all", "bundle"]
    header += ["ms per picture, from files", "ms per picture, single"]
    body = []
    for row in rows:
        cost = row["cost"]
        body.append(
            [
                row["category"],
                row["model"],
                str(row["data"]["train"]),
                duration(cost["fit_seconds"]["mean"]),
                *(amount_cell(cost[key], "MB", 0) for key in ("fit_peak_mb", "peak_mb")),
                amount_cell(cost["bundle_mb"], "MB", 1),
                *(amount_cell(cost[key], "ms", 1) for key in ("ms_per_picture", "ms_single")),
            ]
        )
    note = (
        "Each cell ran in a process of its own. *From files* is the stream of all test pictures, decoding included; "
        "*single* is the median from one decoded picture to its verdict."
    )
    return f"{note}\n\n{table(header, body, numbers_from=2)}"


def _baselines(rows: Sequence[Tree]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["image"]["baselines"]))
    body = []
    for category in _distinct(rows, "category"):
        own = [row for row in rows if row["category"] == category]
        ranked = [row for row in own if row["image"]["auroc"]]
        best = max(ranked, key=lambda row: float(row["image"]["auroc"]["mean"]), default=None)
        line = [category, *(plain_cell(own[0], "image", "baselines", name) for name in names)]
        body.append(
            [*line, DASH if best is None else f"{plain_cell(best, 'image', 'auroc')} ({best['model']})"]
        )
    labels = [name.removesuffix("_auroc").replace("_", " ") for name in names]
    note = (
        "AUROC of statistics that know nothing of defects, in whichever direction separates better. Where one comes "
        "near the models, the category has a shortcut and its image numbers prove less than they seem."
    )
    return f"{note}\n\n{table(['category', *labels, 'best model'], body, numbers_from=1)}"


def _peers(rows: Sequence[Tree], peers: Tree) -> str:
    comparable = [name for name in _distinct(rows, "category") if _has_size(rows, name, peers["sizes"])]
    body = []
    for model in _distinct(rows, "model") if comparable else ():
        own = {row["category"]: row for row in rows if row["model"] == model}
        values = [mean_cell(own.get(name), "image", "auroc") for name in comparable]
        body.append([f"**{escaped(model)}**", "measured here", *values, DASH])
    for peer in peers["peers"]:
        values = [number(peer.get("values", {}).get(name)) for name in comparable]
        body.append([f"{peer['method']} ({peer['year']})", peers["status"], *values, number(peer["mean"])])
    header = ["method", "status", *comparable, "mean of 15"]
    return "\n\n".join(
        [
            _comparability(comparable, peers),
            table(header, body, numbers_from=2),
            "\n".join(
                f"- {peer['method']}: {peer['paper']}. Read in: {peer['source']}. "
                f"Backbone: {peer['backbone']}. Hardware: {peer['hardware']}."
                for peer in peers["peers"]
            ),
        ]
    )


def _comparability(comparable: Sequence[str], peers: Tree) -> str:
    what = f"{peers['metric']} on {peers['dataset']}: **{peers['status']}**."
    if comparable:
        return (
            f"{what} Only categories with exactly as many pictures as the published data set stand beside our own "
            "numbers; resolution, compression and hardware may still differ."
        )
    return (
        f"{what} None of the categories above has that data set's size, so nothing here compares with them."
    )


def _has_size(rows: Sequence[Tree], category: str, sizes: Mapping[str, Sequence[int]]) -> bool:
    data = next(row["data"] for row in rows if row["category"] == category)
    good = data["counts"].get("test/good", 0)
    return sizes.get(category) == [data["train"], good, sum(data["counts"].values()) - good]


def _provenance(tree: Tree) -> str:
    head, cells = tree["benchmark"], tree["cells"]
    commits = sorted({cell["evaluated"]["commit"] or "unknown" for cell in cells})
    machines = sorted({cell["evaluated"]["machine"] for cell in cells})
    processors = sorted(
        {
            f"{cell['processors']['count']} (OMP_NUM_THREADS {cell['processors']['threads'] or 'not set'})"
            for cell in cells
        }
    )
    facts = {
        "data": head["data"],
        "settings for every cell": ", ".join(head["settings"]) or "none",
        "seeds": ", ".join(str(seed) for seed in sorted({cell["cell"]["seed"] for cell in cells})),
        "anomaly-spotter": f"{head['version']}, commit {', '.join(commits) or head['commit'] or 'unknown'}",
        "versions": ", ".join(f"{name} {version}" for name, version in head["versions"].items()),
        "machine": "; ".join(machines) or head["machine"],
        "processors": "; ".join(processors),
        "written": head["created"],
    }
    facts |= {f"SHA-256 of {row['category']}": row["data"]["sha256"] for row in tree["summary"]}
    lines = [table(["", ""], [[name, str(value)] for name, value in facts.items()])]
    if len(commits) > 1:
        lines.insert(
            0, "**The cells come from different commits;** run without `--resume` before comparing them."
        )
    return "\n\n".join(lines)


# --- words ------------------------------------------------------------------------------------------------------------


def _pictures(plots: Mapping[str, Path], *names: str) -> list[str]:
    return [f"![{name}]({plots[name].name})" for name in names if name in plots]


def _distinct(rows: Sequence[Tree], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _listed(noun: str, names: Sequence[str]) -> str:
    plural = {"model": "models", "category": "categories"}[noun] if len(names) != 1 else noun
    return f"{len(names)} {plural} ({', '.join(names) or 'none'})"


def _best_trivial(row: Tree) -> str:
    values = {name: value["mean"] for name, value in row["image"]["baselines"].items() if value}
    if not values:
        return DASH
    best = max(values, key=lambda name: float(values[name]))
    return f"{values[best]:.3f} ({best.removesuffix('_auroc').replace('_', ' ')})"
