"""Many categories and many pictures on a Ray cluster: this machine's processors, or those of many machines.

A category's training is a task; pictures are scored by Ray Data, in actors that open the model once. What a killed
worker had not finished is done again by another, so the results are those of one machine. All machines see the same
folders.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.extras import needed
from anomaly_spotter.fleet.judged import Judged, judged
from anomaly_spotter.fleet.local import Category, Outcome, process_category, told_afterwards
from anomaly_spotter.fleet.observing import unobserved
from anomaly_spotter.models.engines import processors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from anomaly_spotter.errors import PictureError
    from anomaly_spotter.fleet.observing import Observe
    from anomaly_spotter.scoring.inspection import Inspection

    Inspect = Callable[[Iterable[Path]], Iterator[tuple[Any, Inspection | PictureError]]]

CHUNK = 32  # pictures that an actor is given at a time: whole batches, and seconds of work
_ATTEMPTS = 4  # at a category whose worker dies
_STARTS = 5  # of a cluster here: Ray gives its agents 15 seconds, which a busy machine exceeds
_STORE = 200 * 2**20  # bytes that started clusters keep for results on their way; pictures stay on disk
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


def categories_on_ray(
    categories: Sequence[Category],
    announce: Callable[[str], None],
    *,
    address: str | None = None,
    observe: Observe = unobserved,
) -> Iterator[Outcome]:
    """Process categories as tasks, as many at a time as there are processors; they come as they are finished.

    Args:
        categories: What to do; their folders are seen by all machines.
        announce: Told what is finished, and how long the rest takes.
        address: Of a running cluster; by default one is started on this machine, and ended afterwards.
        observe: Told of each category when it is finished.

    Raises:
        MissingExtraError: Ray is not installed.
        SpotterError: The cluster cannot be reached.
    """
    with _cluster(address) as ray:
        task = ray.remote(max_retries=0, **_share(ray, len(categories)))(_process)
        started = time.time()
        running = {task.remote(category, None, Path.cwd()): (category, 1) for category in categories}
        done = 0
        while running:
            (reference,), _ = ray.wait(list(running), num_returns=1)
            category, attempt = running.pop(reference)
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except ray.exceptions.RayError as error:
                reason = type(error).__name__
                if attempt < _ATTEMPTS:
                    announce(f"{category.name}: its worker died ({reason}); another goes on")
                    running[task.remote(category, started, Path.cwd())] = (category, attempt + 1)
                    continue
                words = f"its worker died {_ATTEMPTS} times ({reason})"
                outcome = Outcome(category.name, f"failed: {words}", failed=f"{category.name}: {words}")
            told_afterwards(category, outcome, observe)
            done += 1
            left = (time.time() - started) / done * len(running)
            time_left = f"; about {left / 60:.0f} min left for {len(running)}" if running else ""
            announce(f"[{done}/{len(categories)}] {category.name}: {outcome.words}{time_left}")
            yield outcome


def pictures_on_ray(
    open_model: Callable[[], Inspect],
    pictures: Sequence[tuple[Path, str]],
    *,
    out: Path | None = None,
    address: str | None = None,
) -> Iterator[Judged]:
    """Score pictures in actors, one for each processor; the results come in the order given.

    Args:
        open_model: Opens the model in an actor; can be pickled.
        pictures: Files that all machines see, and the names of what is written about them.
        out: Folder for overlays and masks, seen by all machines.
        address: Of a running cluster; by default one is started on this machine, and ended afterwards.

    Raises:
        MissingExtraError: Ray is not installed.
        SpotterError: The cluster cannot be reached, or the model cannot be opened there.
    """
    with _cluster(address) as ray:
        chunks = [
            {"work": pickle.dumps(pictures[first : first + CHUNK])}
            for first in range(0, len(pictures), CHUNK)
        ]
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        actors = max(1, min(len(chunks), int(ray.cluster_resources().get("CPU", 1))))
        scored = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map(
            _Scorer,
            fn_constructor_args=(open_model, out, Path.cwd()),
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=1,
        )
        try:
            for row in scored.iter_rows():
                yield from pickle.loads(row["found"])  # noqa: S301  the actors' own
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            raise (
                cause
                if isinstance(cause, SpotterError)
                else SpotterError(f"scoring on Ray ended: {' '.join(str(error).split())[-300:]}")
            ) from None


def _process(category: Category, since: float | None, folder: Path) -> Outcome:
    """The task; ``since`` is when an attempt before this one may have begun, which is then continued."""
    os.chdir(folder)  # relative paths mean the same everywhere
    record = category.out / "runs" / f"{category.name}-{category.config.model.name}" / "run.json"
    if since is not None and record.is_file() and record.stat().st_mtime >= since:
        category = dataclasses.replace(category, resume=True)
    return process_category(category)


class _Scorer:
    """The actor."""

    def __init__(self, open_model: Callable[[], Inspect], out: Path | None, folder: Path) -> None:
        os.chdir(folder)
        self.inspect, self.report = open_model(), partial(judged, out=out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        pictures: list[tuple[Path, str]] = pickle.loads(row["work"])  # noqa: S301  the caller's own
        found = self.inspect([path for path, _ in pictures])
        reports = [
            self.report(path, name, each) for (path, name), (_, each) in zip(pictures, found, strict=True)
        ]
        return {"found": pickle.dumps(reports)}


def _share(ray: Any, tasks: int) -> dict[str, Any]:
    """Processors and graphics cards of a task: all machines' divided, but never more than the smallest machine has."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    processors_each = int(min(machine.get("CPU", 1) for machine in machines))
    total = int(ray.cluster_resources().get("CPU", 1))
    cards = 1 if ray.cluster_resources().get("GPU") else 0
    return {"num_cpus": max(1, min(processors_each, total // tasks)), "num_gpus": cards}


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected; a cluster that was started here sends nothing anywhere and ends here."""
    before = dict(os.environ)
    os.environ.update(_SETTINGS)
    try:
        ray = _import_ray()
        _connect(ray, address)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            yield ray
        finally:
            ray.shutdown()
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _connect(ray: Any, address: str | None) -> None:
    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {
            "address": "local",
            "num_cpus": processors(),
            "object_store_memory": _STORE,
            "include_dashboard": False,
        }
    for starts_left in reversed(range(1 if address else _STARTS)):
        try:
            ray.init(logging_level=logging.CRITICAL, log_to_driver=False, **options)
        except Exception as error:  # noqa: BLE001  it raises bare ones
            ray.shutdown()
            if starts_left:
                continue
            where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
            raise SpotterError(f"cannot reach {where}: {' '.join(str(error).split())[:300]}") from None
        return


def _import_ray() -> Any:
    with needed("ray", "the engine 'ray' needs Ray", "ray", "pyarrow"):
        import ray
        import ray.data
    return ray
