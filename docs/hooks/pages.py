"""Pages that are written when the site is built: the command line from its own options, the benchmarks from their results.

A hook of MkDocs (``hooks`` in ``mkdocs.yml``); nothing here is part of the package.
"""

from __future__ import annotations

import inspect
import json
import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks"
CLI_PAGE, BENCHMARK_PAGE = "reference-cli.md", "benchmarks.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave pages out of the navigation that this checkout does not have: parts of the product bring their own."""
    there = {path.relative_to(config.docs_dir).as_posix() for path in Path(config.docs_dir).rglob("*.md")}
    config.nav = _without(config.nav or [], there | {CLI_PAGE, BENCHMARK_PAGE})
    return config


def _without(entries: list[Any], there: set[str]) -> list[Any]:
    kept: list[Any] = []
    for entry in entries:
        ((title, below),) = entry.items()
        if isinstance(below, list):
            kept.append({title: _without(below, there)})
        elif below in there:
            kept.append(entry)
    return kept


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the plots they show."""
    files.append(File.generated(config, CLI_PAGE, content=cli_page()))
    files.append(File.generated(config, BENCHMARK_PAGE, content=benchmark_page(results())))
    for path in sorted(RESULTS.glob("**/results/**/*.png")):
        files.append(File.generated(config, f"plots/{_plot_name(path)}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put what was measured into the model cards: ``<!-- measured: NAME -->`` becomes a table from the result files."""
    if page.file.src_uri != "model-cards.md":
        return markdown
    return re.sub(r"<!-- measured: (\w+) -->", lambda found: measured(found[1]), markdown)


def measured(model: str) -> str:
    """What the committed results say of one model."""
    rows = [
        f"| {row['category']} | {row['data']['train']} | {_number(row['image']['auroc'])} | {_percent(row['promise']['rate'])} | "
        f"{_number(row['image']['recall'])} | {_percent(row['image']['false_reject_rate'])} | {_number(row['cost']['fit_seconds'], '.0f')} s |"
        for _, values in results()
        for row in values.get("summary", ())
        if row["model"] == model
    ]
    head = [
        "| measured on | good pictures | AUROC | promised | recall | false rejects | fit |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *rows]) if rows else ""


def cli_page() -> str:
    """The reference of the command line, verb by verb, from the same objects that parse it."""
    import typer

    from anomaly_spotter.cli import app

    root = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "`anomaly-spotter VERB [OPTIONS]`, also `python -m anomaly_spotter`. Exit codes: 0 done, and for `predict` all OK; 1 some",
        "DEFECT; 2 an error or wrong usage; 3 some pictures unreadable (the rest is done); 130 interrupted. An error is one",
        "line on stderr; `ANOMALY_SPOTTER_DEBUG=1` adds the traceback. `--install-completion` adds completion to your shell.",
        "",
    ]
    for name, verb in _verbs(root):
        lines += [f"## {name}", "", *_paragraphs(verb.help or ""), "", *_options(verb), ""]
    return "\n".join(lines)


def _verbs(group: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, verb in group.commands.items():
        if getattr(verb, "commands", None):
            yield from _verbs(verb, f"{prefix}{name} ")
        elif not verb.hidden:
            yield f"{prefix}{name}", verb


def _paragraphs(text: str) -> list[str]:
    return [f"{' '.join(part.split())}\n" for part in text.split("\n\n")]


def _options(verb: Any) -> list[str]:
    kinds = get_type_hints(inspect.unwrap(verb.callback))
    rows = []
    for each in verb.params:
        if each.name == "help" or getattr(each, "hidden", False):
            continue
        is_option = each.param_type_name == "option"
        names = ", ".join(f"`{name}`" for name in each.opts) if is_option else f"`{each.name.upper()}`"
        kind = _kind(kinds[each.name])
        default = getattr(each.default, "value", each.default)
        shown = "" if default in (None, False, ()) or callable(default) or each.required else f"`{default}`"
        about = " ".join((getattr(each, "help", None) or "").split())
        rows.append(
            f"| {names}{' (required)' if each.required else ''} | {kind} | {shown} | {_cell(about)} |"
        )
    return ["| option | value | default | meaning |", "|---|---|---|---|", *rows] if rows else []


def _kind(annotation: Any) -> str:
    """What a value is, in a word: a flag takes none."""
    plain = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) is list:
        return f"{_kind(plain[0])}, repeatable"
    if plain:
        return _kind(plain[0])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    words = {bool: "", str: "text", int: "whole number", float: "number", Path: "path"}
    return words.get(annotation, "text")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def results() -> list[tuple[Path, dict[str, Any]]]:
    """All committed benchmark results, with their folders."""
    found = [
        (path, json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(RESULTS.glob("**/results/**/*.json"))
    ]
    return [(path, values) for path, values in found if isinstance(values, dict)]


def benchmark_page(found: list[tuple[Path, dict[str, Any]]]) -> str:
    """Tables of every benchmark result that is committed; no number on it comes from anywhere else."""
    quality = [(path, values) for path, values in found if "summary" in values]
    curves = [(path, values) for path, values in found if "rows" in values and "asked_rate" in values]
    lines = [
        "# Benchmarks",
        "",
        "This page is written at build time from the result files in `benchmarks/`, each of which holds its settings, commit,",
        "versions and the SHA-256 of its pictures. Limits come from good training pictures alone; columns with † pick theirs with",
        "the test labels: upper bounds, no promises. How to repeat it, and which times were taken beside other work: `benchmarks/quality/README.md`.",
        "",
        "## Image level",
        "",
        "| category | model | good pictures | AUROC | promised | recall | false rejects | F1 | F1 † | best trivial baseline |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows = [(path, row) for path, values in quality for row in values["summary"]]
    for _, row in rows:
        image = row["image"]
        baselines = {
            key: value["mean"]
            for key, value in image.get("baselines", {}).items()
            if value["mean"] is not None
        }
        best = max(baselines, key=lambda key: baselines[key], default=None)
        trivial = (
            "–"
            if best is None
            else f"{baselines[best]:.3f} ({best.removesuffix('_auroc').replace('_', ' ')})"
        )
        lines.append(
            f"| {row['category']} | {row['model']} | {row['data']['train']} | {_number(image['auroc'])} | "
            f"{_percent(row['promise']['rate'])} | {_number(image['recall'])} | {_percent(image['false_reject_rate'])} | "
            f"{_number(image['f1'])} | {_number(image['f1_max'])} | {trivial} |"
        )
    lines += [
        "",
        "## Place and cost",
        "",
        "| category | model | pixel AUROC | AUPRO to 0.3 | AUPRO to 0.05 | SegF1 | SegF1 † | fit | one picture (PyTorch) | bundle |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for _, row in rows:
        pixel, cost = row["pixel"] or {}, row["cost"]
        lines.append(
            f"| {row['category']} | {row['model']} | {_number(pixel.get('auroc'))} | {_number(pixel.get('aupro'))} | "
            f"{_number(pixel.get('aupro_05'))} | {_number(pixel.get('f1'))} | {_number(pixel.get('f1_max'))} | "
            f"{_number(cost.get('fit_seconds'), '.0f')} s | {_number(cost.get('ms_single'), '.0f')} ms | "
            f"{_number(cost.get('bundle_mb'), '.0f')} MB |"
        )
    lines += [
        "",
        *_robustness(rows),
        *_curves(curves),
        *_speed([(path, values) for path, values in found if "batch" in values]),
        "## Plots",
        "",
        *_plots(quality + curves),
        *_provenance(found),
    ]
    return "\n".join(lines)


def _robustness(rows: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    """What changes of the picture that are no defect do to AUROC and false rejects."""
    tested = [row for _, row in rows if row.get("robustness")]
    if not tested:
        return []
    names = list(tested[0]["robustness"])
    head = " | ".join(f"{row['category']}, {row['model']}" for row in tested)
    lines = [
        "## Robustness",
        "",
        "AUROC, and in brackets the false rejects at the limit as it was calibrated.",
        "",
    ]
    lines += [f"| test pictures | {head} |", f"|---|{'---:|' * len(tested)}"]
    for name in names:
        found = [row["robustness"].get(name, {}) for row in tested]
        cells = [
            f"{_number(each.get('auroc'))} ({_percent(each.get('false_reject_rate'))})" for each in found
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _curves(curves: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    lines: list[str] = []
    for _, values in curves:
        lines += [
            f"## With few good pictures: {values['category']}",
            "",
            "| good pictures | draws | AUROC | promised rate | recall | fit |",
            "|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row['size']} | {row['repeats']} | {_number(row['auroc'])} | {_percent(row['promised_rate'])} | "
            f"{_number(row['recall'])} | {_number(row['fit_seconds'], '.0f')} s |"
            for row in values["rows"]
        ]
        lines += ["", *values["sentences"], ""]
    return lines


def _speed(found: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    """One picture, where its time goes, cold starts, throughput from disk, fitting and training."""
    lines: list[str] = []
    for path, values in found:
        limits = values["limits"]
        lines += [
            "## Speed",
            "",
            (
                f"On {values['measured']['machine']}, commit `{values['measured']['commit']}`. At best this machine computes "
                f"convolutions at {limits['conv_fp32_gflops']:.0f} GFLOP/s in float32 and reads memory at "
                f"{limits['read_gb_per_s']:.0f} GB/s; *share of limit* says how much of that is used."
            ),
            "",
            *_single(values["single"], values.get("anomalib_padim_ms")),
            "| cold start | s |",
            "|---|---:|",
            *(f"| `{name}` | {seconds} |" for name, seconds in values["cold_start_s"].items()),
            "",
            "| pictures from disk | per second | peak memory |",
            "|---:|---:|---:|",
            *(
                f"| {row['pictures']} | {row['per_second']} | {row['peak_mb']} MB |"
                for row in values["batch"]["rows"]
            ),
            "",
            "| model | good pictures | fit | peak memory | share of limit |",
            "|---|---:|---:|---:|---:|",
            *(
                f"| {model} | {row['pictures']} | {row['seconds']} s | {row['peak_mb']} MB | {_percent(row['share_of_limit'])} |"
                for model, rows in values["fit"].items()
                for row in rows
            ),
            "",
            "| preset | training | pictures/s | share of limit |",
            "|---|---|---:|---:|",
            *(
                f"| {preset} | {name} | {speed:.2f} | {_percent(values['training']['share_of_limit'][preset][name])} |"
                for preset, speeds in values["training"]["presets"].items()
                for name, speed in speeds.items()
            ),
            "",
            *_plots([(path, values)]),
        ]
    return lines


def _single(single: dict[str, Any], peer: dict[str, float] | None) -> list[str]:
    """Milliseconds from file to verdict, p50 / p99, and how near the model's stages come to the machine's limit."""
    detectors = single["detectors"]
    engines = list(next(iter(detectors.values()))["ms"])
    lines = [
        f"One picture, file to verdict, ms, p50 / p99 (decoding alone {single['decode_ms_p50']}):",
        "",
        f"| detector | {' | '.join(engines)} | PyTorch's p50 over that of auto |",
        f"|---|{'---:|' * (len(engines) + 1)}",
    ]
    for name, each in detectors.items():
        cells = [f"{ms['p50']} / {ms['p99']}" for ms in each["ms"].values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {each['times_faster_than_torch']['auto']} |")
    if peer is not None:
        lines += [
            "",
            (
                f"anomalib's PaDiM (ResNet-18, 256 px, not aligned) by its OpenVINO inferencer, in the same run: "
                f"{peer['p50']} / {peer['p99']}."
            ),
        ]
    lines += [
        "",
        "| detector | stage | GFLOP | engine | ms | share of limit |",
        "|---|---|---:|---|---:|---:|",
    ]
    for name, each in detectors.items():
        for stage, row in each["roofline"].items():
            lines += [
                f"| {name} | {stage} | {row['gflop']} | {engine} | {row[engine]['ms']} | {_percent(row[engine]['share_of_limit'])} |"
                for engine in engines
                if engine in row
            ]
    return [*lines, ""]


def _plots(found: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    lines: list[str] = []
    for path, _ in found:
        for plot in sorted(path.parent.glob("*.png")):
            lines += [f"![{path.parent.name}: {plot.stem.replace('_', ' ')}](plots/{_plot_name(plot)})", ""]
    return lines


def _provenance(found: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    lines = ["## Provenance", "", "| result | written | commit | machine |", "|---|---|---|---|"]
    for path, values in found:
        about = values.get("benchmark") or values.get("measured") or values
        name = path.relative_to(ROOT).as_posix()
        if {"created", "commit", "machine"} <= set(about):
            lines.append(f"| `{name}` | {about['created'][:10]} | `{about['commit']}` | {about['machine']} |")
    return [*lines, ""]


def _plot_name(path: Path) -> str:
    return f"{path.parent.name}-{path.name}"


def _value(entry: Any) -> float | None:
    value = entry.get("mean") if isinstance(entry, dict) else entry
    return None if value is None else float(value)


def _number(entry: Any, form: str = ".3f") -> str:
    value = _value(entry)
    return "–" if value is None else f"{value:{form}}"


def _percent(entry: Any) -> str:
    value = _value(entry)
    return "–" if value is None else f"{100 * value:.1f} %"
