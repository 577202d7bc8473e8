"""All models x all categories x seeds, each cell in a process of its own; tables, plots and one JSON at the end.

A cell's result is written as soon as it is there, so that an interrupted benchmark goes on where it stopped. A cell
that fails, crashes or runs out of memory is recorded and does not stop the others.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from anomaly_spotter import provenance
from anomaly_spotter.config import SpotterConfig, preset_names
from anomaly_spotter.errors import ConfigError, DatasetError, SpotterError
from anomaly_spotter.extras import require
from anomaly_spotter.files import write_atomic, write_json
from anomaly_spotter.fleet.benchmark_cell import Cell, Job
from anomaly_spotter.fleet.benchmark_summary import summarise
from anomaly_spotter.inputs.layouts import find_categories, load_dataset
from anomaly_spotter.models import REGISTRY
from anomaly_spotter.views.wording import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PRESET_PREFIX = "preset:"
"""Marks a model that is given as a preset: ``preset:seed`` is the original recipe."""
ALL_MODELS = "all"
"""Stands for every name of the model registry."""


@dataclass(slots=True)
class Benchmark:
    """What a benchmark found.

    Attributes:
        page: The Markdown page; the JSON and the plots lie beside it.
        results: Cell results, see :func:`anomaly_spotter.fleet.benchmark_cell.measure`.
        failed: Reason by cell that could not be measured.
    """

    page: Path
    results: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, dict[str, Any]]:
        """The results by the name of their cell."""
        return {str(Cell(**result["cell"])): result for result in self.results}


def run_benchmark(
    data: Path,
    out: Path,
    *,
    categories: Sequence[str] | None = None,
    models: Sequence[str] = (ALL_MODELS,),
    seeds: Sequence[int] = (0,),
    settings: Sequence[str] = (),
    layout: str | None = None,
    robustness: bool = True,
    resume: bool = False,
    announce: Callable[[str], None] = lambda _: None,
    measured: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Benchmark:
    """Measure every model on every category with every seed, and write ``out/benchmark.md``, ``.json`` and plots.

    Args:
        data: Data set root.
        out: Folder for the results; ``out/cells`` keeps one file per cell.
        categories: Names, or ``None`` for all that are found.
        models: Registry names with their own presets, ``preset:NAME``, or ``all``.
        seeds: Seeds of every random draw.
        settings: ``section.setting=value`` for every cell.
        layout: Layout by name instead of by detection.
        robustness: Measure perturbed test pictures too.
        resume: Keep cells that were finished with these settings and pictures.
        announce: Told in one line each what happens and how long it will take.
        measured: Told the result of each cell that was not kept, as soon as it is there.

    Raises:
        DatasetError: No category found, or an unknown one named.
        ConfigError: Unknown model, preset or setting; no model or seed.
        MissingExtraError: PyTorch is not installed.
        KeyboardInterrupt: Ctrl-C; finished cells are kept and shown.
    """
    require("train", "a benchmark trains, which needs PyTorch", "torch")
    jobs = _plan(data, out, categories, models, seeds, settings, layout, robustness)
    kept = _finished(jobs) if resume else {}
    if kept:
        announce(f"{len(kept)} of {len(jobs)} cells finished before, kept")
    results, failed = dict(kept), dict[Cell, str]()
    try:
        _run_all([job for job in jobs if job.cell not in kept], results, failed, announce, measured)
    finally:  # an interrupted benchmark shows what it has
        found = Benchmark(
            out / "benchmark.md",
            [results[job.cell] for job in jobs if job.cell in results],
            {str(job.cell): failed[job.cell] for job in jobs if job.cell in failed},
        )
        if found.results or found.failed:
            _write(found, data, settings, complete=len(results) + len(failed) == len(jobs))
    return found


def parse_seeds(texts: Sequence[str]) -> list[int]:
    """Seeds as a user writes them.

    Raises:
        ConfigError: One of them is no whole number.
    """
    try:
        return [int(text) for text in texts]
    except ValueError:
        raise ConfigError(f"seeds must be whole numbers such as 0,1,2; found {','.join(texts)}") from None


def load_peers() -> dict[str, Any]:
    """Published results of other methods, each with its source, and the sizes of the data they were measured on."""
    text = resources.files("anomaly_spotter.fleet").joinpath("peers.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def _plan(
    data: Path,
    out: Path,
    categories: Sequence[str] | None,
    models: Sequence[str],
    seeds: Sequence[int],
    settings: Sequence[str],
    layout: str | None,
    robustness: bool,
) -> list[Job]:
    """Every cell with its whole configuration; whatever is misspelt shows before the first hour of work."""
    names = find_categories(data, layout) if categories is None else list(dict.fromkeys(categories))
    if not names:
        raise DatasetError(f"{data} holds no category in a known layout; give another folder")
    for name in categories or ():
        load_dataset(data, name, layout)
    specs = dict.fromkeys(name for spec in models for name in (REGISTRY if spec == ALL_MODELS else (spec,)))
    if not specs or not seeds:
        raise ConfigError("a benchmark needs at least one model and one seed; leave --models and --seeds out")
    cells = [Cell(spec, name, seed) for name in names for spec in specs for seed in dict.fromkeys(seeds)]
    return [
        Job(
            cell,
            str(data),
            layout,
            _config(cell, settings).to_dict(),
            robustness,
            str(out.absolute() / "cells" / f"{_file_name(cell)}.json"),
        )
        for cell in cells
    ]


def _config(cell: Cell, settings: Sequence[str]) -> SpotterConfig:
    is_preset = cell.model.startswith(PRESET_PREFIX)
    own = cell.model if cell.model in preset_names() else "default"
    preset = cell.model.removeprefix(PRESET_PREFIX) if is_preset else own
    model = [] if is_preset else [f"model.name={cell.model}"]
    return SpotterConfig.load(preset, None, [*settings, *model, f"training.seed={cell.seed}"])


def _file_name(cell: Cell) -> str:
    """A category from a manifest must not lead out of the folder."""
    return re.sub(r"[^\w\-. ]", "_", f"{cell.category}-{cell.model}-{cell.seed}").lstrip(". ")


def _finished(jobs: Sequence[Job]) -> dict[Cell, dict[str, Any]]:
    """Stored results that came from the same settings and pictures."""
    digests: dict[str, str] = {}
    found = {}
    for job in jobs:
        try:
            stored = json.loads(Path(job.file).read_text(encoding="utf-8"))
            if any(stored[key] != value for key, value in job.identity.items()):
                continue
            category = job.cell.category
            if category not in digests:
                digests[category] = load_dataset(job.data, category, job.layout).digest()
            if stored["data"]["sha256"] == digests[category]:
                found[job.cell] = dict(stored)
        except (OSError, ValueError, KeyError, TypeError, SpotterError):
            continue
    return found


def _run_all(
    jobs: Sequence[Job],
    results: dict[Cell, dict[str, Any]],
    failed: dict[Cell, str],
    announce: Callable[[str], None],
    measured: Callable[[dict[str, Any]], None],
) -> None:
    """Run the jobs one after the other, filling ``results`` and ``failed`` as they end."""
    seconds: dict[str, list[float]] = {}
    for number, job in enumerate(jobs):
        where = f"[{number + 1}/{len(jobs)}] {job.cell}"
        announce(f"{where}{_time_left(seconds, jobs[number:])}")
        started = time.perf_counter()
        try:
            found = _run(job)
        except SpotterError as error:
            failed[job.cell] = str(error)
            announce(f"{where}: failed: {error}")
            continue
        results[job.cell] = found
        measured(found)
        seconds.setdefault(job.cell.model, []).append(time.perf_counter() - started)
        image, passed = found["image"], duration(seconds[job.cell.model][-1])
        numbers = ", ".join(
            f"{label} {'–' if image[key] is None else f'{image[key]:.3f}'}"
            for key, label in (
                ("auroc", "AUROC"),
                ("recall", "recall"),
                ("false_reject_rate", "false rejects"),
            )
        )
        announce(f"{where}: {numbers}, {passed}")


def _time_left(seconds: dict[str, list[float]], jobs: Sequence[Job]) -> str:
    """From the cells so far: of the same model where there are some, else of all."""
    everything = [value for values in seconds.values() for value in values]
    if not everything:
        return ""
    left = sum(statistics.fmean(seconds.get(job.cell.model, everything)) for job in jobs)
    return f": about {duration(left)} left"


def _run(job: Job) -> dict[str, Any]:
    """Measure a cell in a new process.

    Raises:
        SpotterError: The cell failed; the message says why, and ``NAME.log`` beside its file holds all it said.
    """
    file = Path(job.file)
    file.with_suffix(".log").unlink(missing_ok=True)
    command = [sys.executable, "-m", "anomaly_spotter.fleet.benchmark_cell"]
    with (
        tempfile.TemporaryDirectory(prefix="anomaly-spotter-", ignore_cleanup_errors=True) as scratch,
        # A session of its own: Ctrl-C is for this process, which then ends the child, half-trained as it is.
        subprocess.Popen(  # noqa: S603  our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
            # A killed child cannot tidy up, so its temporary files lie where this process does.
            env={**os.environ, "TMPDIR": scratch, "TEMP": scratch, "TMP": scratch},
        ) as process,
    ):
        try:
            _, log = process.communicate(job.to_json())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        write_atomic(file.with_suffix(".log"), log.encode("utf-8", "backslashreplace"))
        raise SpotterError(_reason(process.returncode, log))
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _reason(code: int, log: str) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"the process was ended by {name}{'; out of memory?' if name == 'SIGKILL' else ''}"
    last = next((line for line in reversed(log.splitlines()) if line.strip()), f"exit code {code}")
    return last.strip().removeprefix("error: ")


def _write(found: Benchmark, data: Path, settings: Sequence[str], *, complete: bool) -> None:
    from anomaly_spotter.views.benchmark_pages import benchmark_page  # plots are slow to import
    from anomaly_spotter.views.benchmark_plots import write_benchmark_plots

    summary = summarise(found.results)
    tree = {
        "benchmark": {
            **provenance.stamp(),
            "data": str(data),
            "settings": list(settings),
            "complete": complete,
        },
        "summary": summary,
        "failed": found.failed,
        "peers": load_peers(),
        "cells": found.results,
    }
    plots = write_benchmark_plots(summary, found.page.parent)
    write_atomic(found.page, benchmark_page(tree, plots).encode("utf-8", "backslashreplace"))
    write_json(found.page.with_suffix(".json"), tree)
