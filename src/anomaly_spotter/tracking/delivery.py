"""Journal -> MLflow: creates the run on the server and replays the events; what was sent twice counts once.

Only MLflow's client is used, none of its process-wide state, so that a program's own MLflow runs are left alone.
Nothing but the chosen store is talked to: MLflow's telemetry is off.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_spotter import __version__
from anomaly_spotter.extras import needed
from anomaly_spotter.tracking.journal import RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from anomaly_spotter.tracking.journal import Event, Journal

CHAMPION = "champion"
"""The alias of the registry that inspection asks for: ``models:/NAME@champion``."""
JOURNAL_TAG = "anomaly_spotter.journal"
_MODEL = "model"
_LONGEST = 200  # characters of a reason
_BATCH = 100  # parameters or tags that a server takes at once
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Minutes of patience belong to who waits for an answer; here the journal does.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where scripts expect the path of the bundle
}
# What no later attempt would change; a run that somebody deleted on the server no longer exists.
_REFUSED = frozenset(
    {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"}
)


class Undelivered(Exception):  # noqa: N818  no error of the run's
    """The server cannot be reached or does not take anything now; the message says why in one line."""


def prepare() -> None:
    """Import MLflow with its telemetry off and little patience.

    Raises:
        MissingExtraError: It is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with needed("track", "tracking needs MLflow", "mlflow"):
        # Here and not when they are first used, which is on another thread, beside the imports of the training.
        for module in ("mlflow", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store"):
            importlib.import_module(module)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*An input example was not provided")


class Store:
    """A tracking store or server, by its URI; connected to on first use."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._client: Any = None
        self._experiments: dict[str, str] = {}

    def deliver(self, journal: Journal, announce: Callable[[str], None] = lambda _: None) -> None:
        """Send what is pending.

        Args:
            journal: Of a run for this store.
            announce: Told in one line what the server refuses for good, which is then left out.

        Raises:
            Undelivered: The rest stays pending.
        """
        from mlflow.exceptions import MlflowException

        for event in journal.pending():
            try:
                self._send(journal, event)
            except MlflowException as error:
                if error.error_code not in _REFUSED:
                    raise Undelivered(_one_line(error)) from error
                announce(f"warning: tracking: the store refused {event['kind']}: {_one_line(error)}")
            except Undelivered:
                raise
            except Exception as error:  # a driver's, a proxy's, the disk's: a training must survive them all
                raise Undelivered(_one_line(error)) from error
            journal.delivered(event)

    def _send(self, journal: Journal, event: Event) -> None:
        if self._client is None:
            self._client = _connect(self.uri)
        run_id = self._run(journal)
        kind = event["kind"]
        if kind in ("parameters", "tags", "metrics"):
            self._send_values(run_id, kind, event)
        elif kind == "files":
            folder = journal.kept(event["files"])
            if folder.is_dir():
                self._client.log_artifacts(run_id, str(folder), event["folder"] or None)
        elif kind == _MODEL:
            self._send_model(run_id, journal, event)
        elif event["status"] == RUNNING:
            self._client.update_run(run_id, status=RUNNING)
        else:
            self._client.set_terminated(run_id, event["status"], event["time"])

    def _send_values(self, run_id: str, kind: str, event: Event) -> None:
        from mlflow.entities import Metric, Param, RunTag

        if kind == "metrics":
            values = [
                Metric(name, value, event["time"], event["step"]) for name, value in event["values"].items()
            ]
            for some in _batches(values):
                self._client.log_batch(run_id, metrics=some)
        elif kind == "parameters":
            for some in _batches(Param(name, value) for name, value in event["values"].items()):
                self._client.log_batch(run_id, params=some)
        else:
            for some in _batches(RunTag(name, value) for name, value in event["values"].items()):
                self._client.log_batch(run_id, tags=some)

    def _run(self, journal: Journal) -> str:
        """The run's id on the server; created once, also where the answer to its creation was lost."""
        if run_id := journal.state.get("run_id"):
            return str(run_id)
        experiment = self._experiment(journal.head.experiment, journal.head.artifacts)
        run_id = self._find(experiment, journal.head.key)
        if run_id is None:
            tags = {JOURNAL_TAG: journal.head.key, "mlflow.source.name": f"anomaly-spotter {__version__}"}
            if journal.head.parent is not None:
                parent = self._find(experiment, journal.head.parent)
                if parent is None:
                    raise Undelivered("its parent run is not there yet")
                tags["mlflow.parentRunId"] = parent
            created = self._client.create_run(
                experiment, start_time=journal.head.started, tags=tags, run_name=journal.head.name
            )
            run_id = created.info.run_id
        journal.mark(run_id=run_id)
        return str(run_id)

    def _find(self, experiment: str, key: str) -> str | None:
        found = self._client.search_runs([experiment], f"tags.`{JOURNAL_TAG}` = '{key}'", max_results=1)
        return found[0].info.run_id if found else None

    def _experiment(self, name: str, artifacts: str | None) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            self._experiments[name] = (
                self._client.create_experiment(name, artifact_location=artifacts)
                if found is None
                else found.experiment_id
            )
        return self._experiments[name]

    def _send_model(self, run_id: str, journal: Journal, event: Event) -> None:
        from mlflow.entities import LoggedModelOutput

        (bundle,) = journal.kept(event["files"]).iterdir()
        model_id = journal.state.get("model_id")
        if model_id is None:
            experiment = self._experiment(journal.head.experiment, journal.head.artifacts)
            model_id = self._client.create_logged_model(
                experiment, _MODEL, run_id, tags=event["tags"], model_type="anomaly-detection"
            ).model_id
            journal.mark(model_id=model_id)
        location = self._client.get_logged_model(model_id).artifact_location
        with tempfile.TemporaryDirectory(prefix="anomaly-spotter-") as scratch:
            folder = Path(scratch) / _MODEL
            write_model(folder, bundle, {"artifact_path": location, "run_id": run_id, "model_id": model_id})
            self._client.log_model_artifacts(model_id, str(folder))
        self._client.finalize_logged_model(model_id, "READY")
        outputs = self._client.get_run(run_id).outputs
        if model_id not in {each.model_id for each in (outputs.model_outputs if outputs else ())}:
            self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
        if event["register"]:
            # A database is asked in this process, where "models:/" would mean another, process-wide store.
            source = f"models:/{model_id}" if self.uri.startswith("http") else location
            self._register(run_id, model_id, source, event)

    def _register(self, run_id: str, model_id: str, source: str, event: Event) -> None:
        name = _registry_name(event["register"])
        found = self._client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        version = next((each for each in found if source in (each.source, f"models:/{each.model_id}")), None)
        if version is None:
            if not self._client.search_registered_models(f"name = '{name}'", max_results=1):
                self._client.create_registered_model(name)
            version = self._client.create_model_version(
                name, source, run_id, tags=event["tags"], model_id=model_id
            )
        taken = CHAMPION in self._client.get_registered_model(name).aliases
        if event["champion"] == "always" or (event["champion"] == "first" and not taken):
            self._client.set_registered_model_alias(name, CHAMPION, version.version)


def write_model(folder: Path, bundle: Path, identity: Mapping[str, Any] | None = None) -> Path:
    """Write a bundle as an MLflow model with the pyfunc flavour of :mod:`anomaly_spotter.tracking.flavour`.

    The folder holds the bundle as it is and no code: MLflow imports the flavour from the installed package.

    Args:
        folder: A new folder.
        bundle: The ``.spot`` file.
        identity: What MLflow knows the model by: ``artifact_path``, ``run_id`` and ``model_id``.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ParamSchema, ParamSpec

    settings = ParamSchema([ParamSpec("threshold", "double", None), ParamSpec("product", "string", None)])
    save_model(
        folder,
        loader_module="anomaly_spotter.tracking.flavour",
        data_path=str(bundle),
        mlflow_model=None if identity is None else Model(**identity),
        pip_requirements=[f"anomaly-spotter[runtime,track]=={__version__}"],
        signature=ModelSignature(params=settings),  # pictures come as paths, text or arrays: no one schema
    )
    return folder


def _connect(uri: str) -> Any:
    from mlflow import MlflowClient

    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).absolute().parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri, os.environ.get("MLFLOW_REGISTRY_URI") or uri)


def _batches(values: Iterable[Any]) -> Iterator[list[Any]]:
    remaining = iter(values)
    while some := list(itertools.islice(remaining, _BATCH)):
        yield some


def _registry_name(name: str) -> str:
    """Slashes and colons would make it a URI."""
    return re.sub(r"[/:'\"]", "_", name)


def _one_line(error: BaseException) -> str:
    """What went wrong in a few words: the first cause, without an address's password."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"(\w+://)[^\s/@]+@", r"\1", text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
