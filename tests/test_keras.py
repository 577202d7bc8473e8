"""The U-Net in Keras 3: equal to PyTorch's on every backend, trained to the same losses, resumed, exported, and safe to load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from anomaly_spotter.cli import app
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import ConfigError, MissingExtraError, SpotterError
from anomaly_spotter.models.keras_import import keras_module
from tests.conftest import REPOSITORY, write_dataset
from tests.keras_checks import NETWORKS

if TYPE_CHECKING:
    from pathlib import Path

BACKENDS = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def keras_data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("keras-data"), train=24, test=3)


@pytest.fixture(scope="session")
def measure(tmp_path_factory, keras_data):
    """What ``tests/keras_checks.py`` finds on a backend; measured once."""
    found, ended = {}, {}

    def on(backend: str) -> dict:
        if backend not in ended:
            pytest.importorskip("keras", reason="pip install 'anomaly-spotter[keras]'")
            pytest.importorskip(BACKENDS[backend], reason=f"Keras's backend {backend} is not installed")
            out = tmp_path_factory.mktemp(f"keras-{backend}")
            environment = {
                **os.environ,
                "KERAS_BACKEND": backend,
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling takes longer than all that is computed here
                "ANOMALY_SPOTTER_CACHE": str(out / "cache"),
            }
            done = subprocess.run(
                [sys.executable, "-m", "tests.keras_checks", keras_data, out],
                env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False,
            )  # fmt: skip
            ended[backend] = done
            if done.returncode == 0:
                found[backend] = json.loads((out / "found.json").read_text())
        assert ended[backend].returncode == 0, ended[backend].stderr[-4000:]
        return found[backend]

    return on


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    return request.param


@pytest.fixture
def found(measure, backend) -> dict:
    return measure(backend)


@pytest.fixture
def whole(measure) -> dict:
    return measure("tensorflow")


def test_the_backend_is_the_one_that_was_asked_for(found, backend):
    assert found["backend"] == backend
    assert found["train"]["framework"].startswith("keras 3")
    assert found["train"]["framework"].endswith(backend)
    named = {"keras", "tensorflow", "jax"} & found["train"]["versions"].keys()
    assert named == {"keras", backend} - {"torch"}  # PyTorch is always named


def test_the_same_weights_give_the_same_outputs_and_maps(found, backend):
    assert len(found["networks"]) == (len(NETWORKS) if backend == "tensorflow" else 1)
    for row in found["networks"]:
        assert max(row["outputs"].values()) < 1e-5
        assert row["map"] < 1e-5
        assert row["look"] <= 1
        assert max(row["files"].values(), default=0) < 1e-5
        assert row["weights"] == 0


def test_training_goes_through_the_losses_of_pytorch(found):
    train = found["train"]
    assert len(train["keras"]) == len(train["torch"]) == 3
    for one, other in zip(train["keras"], train["torch"], strict=True):
        assert one["epoch"] == other["epoch"]
        assert one["learning_rate"] == pytest.approx(other["learning_rate"], rel=1e-3)
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.01)
        # Running variances are of all pixels here, and of all but one in PyTorch.
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=0.01)
    assert train["spread"][0] == pytest.approx(train["spread"][1], rel=0.05)
    assert train["auroc"][0] == pytest.approx(train["auroc"][1], abs=0.12)


def test_a_detector_trained_in_keras_decides_the_same_on_every_engine(found):
    scores = found["train"]["scores"]
    for engine in ("torch", "onnxruntime", "keras"):
        assert scores[engine] == pytest.approx(scores["fitted"], abs=1e-3, rel=1e-3)
    assert np.std(scores["fitted"]) > 0


def test_a_run_that_was_broken_off_goes_on_to_the_same_end(whole):
    straight, found = whole["train"]["keras"], whole["go_on"]
    assert found["crash"] == 1
    assert found["ctrl_c"] == [True, 2]
    for one, other in zip(found["resumed"], straight, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_a_finished_run_is_given_again_and_a_damaged_one_named(whole):
    assert whole["go_on"]["finished"] == whole["go_on"]["resumed"]
    assert "last.safetensors is damaged" in whole["go_on"]["damaged"]
    assert "\n" not in whole["go_on"]["damaged"]


def test_training_stops_early_and_refuses_to_diverge(whole):
    losses = [row["val_loss"] for row in whole["go_on"]["early"]]
    assert len(losses) < 30
    assert losses[-1] >= min(losses[:-1])
    assert "no validation loss is finite" in whole["go_on"]["diverged"]


def test_bf16_learns_what_fp32_learns(whole):
    (half,) = whole["go_on"]["bf16"]
    assert half["train_loss"] == pytest.approx(whole["train"]["keras"][0]["train_loss"], rel=0.1)


def test_exports_decide_as_pytorch_and_say_so(found, backend):
    formats = {"keras": "model.keras", "saved_model": "saved_model", "tflite": "model.tflite"}
    assert list(found["exports"]) == (list(formats) if backend == "tensorflow" else ["keras"])
    for to, export in found["exports"].items():
        assert export["printed"].endswith(f"as-{to}/{formats[to]}")
        assert "parity with PyTorch on 24 canvases and 1 pictures: verdicts identical" in export["told"]
        assert export["parity"]["other_verdicts"] == []
        assert export["parity"]["score"] < 1e-3
        assert export["parity"]["anomaly_map"] < 1e-2
        assert export["score"][0] == pytest.approx(export["score"][1], abs=1e-3)
        assert export["regions"][0] == export["regions"][1]
        assert export["normal"] <= 1
        assert len(export["readme"]) == 2


def test_exports_cannot_be_changed_or_run_by_what_cannot_run_them(found):
    for export in found["exports"].values():
        assert "PyTorch does not run" in export["torch"]
        assert "runs, not onnxruntime" in export["other"]
        assert "cannot be saved" in export["saving"]
        assert "is written in fp32" in export["precision"]
        assert "changed after the export" in export["edited"]


def test_what_only_tensorflow_writes_is_refused_on_other_backends(measure):
    assert "set KERAS_BACKEND=tensorflow" in measure("torch")["saved_model"]


def test_an_export_that_decides_differently_is_refused_unless_allowed(whole):
    assert "decides differently" in whole["drift"]["refused"]
    assert not whole["drift"]["kept"]
    assert whole["drift"]["verdicts"] > 0


def test_files_that_would_run_code_are_refused_before_they_do(whole):
    hostile = whole["hostile"]
    assert not hostile.pop("ran")
    damaged = {name: words for name, words in hostile.items() if name.startswith("damaged")}
    assert len(damaged) == 3
    for words in damaged.values():
        assert words.startswith("BundleError")
    for name, named in (("lambda", "Lambda"), ("foreign class", "os.system"), ("writes a file", "WriteFile"),
                        ("select ops", "custom FlexWriteFile")):  # fmt: skip
        assert named in hostile[name]
        assert "could run code" in hostile[name]


def test_every_verb_works_on_a_bundle_of_keras(whole):
    verbs = whole["verbs"]
    assert verbs["bundle"].endswith("outputs/models/disc-unet.spot")
    assert "keras" in verbs["info"]
    assert verbs["scores"]["keras"] == pytest.approx(verbs["scores"]["onnxruntime"], abs=1e-3)
    assert verbs["overlays"] > 0
    assert verbs["evaluated"].startswith("keras 3")
    assert verbs["extended"] == 3
    assert verbs["recalibrated"] == 0.2
    assert verbs["exports"] == ["model.bin", "model.onnx", "model.xml"]


def test_keras_is_not_imported_unless_it_is_asked_for():
    code = (
        "import sys, anomaly_spotter.cli, anomaly_spotter.fitting, anomaly_spotter.export, anomaly_spotter.products; "
        "print([name for name in ('keras', 'tensorflow', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_keras_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'anomaly-spotter\[keras\]'") as caught:
        keras_module("models.keras_unet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("abacus", "ConfigError: KERAS_BACKEND is 'abacus'; choose tensorflow, torch or jax"),
        (
            "jax",
            "MissingExtraError: Keras's backend jax is not installed: pip install 'anomaly-spotter[keras]'",
        ),
        ("tensorflow", "MissingExtraError: Keras's backend tensorflow is not installed: pip install"),
    ],
)
def test_a_backend_that_cannot_be_had_is_named(backend, words):
    code = (
        "import sys; sys.modules |= {'jax': None, 'tensorflow': None}\n"
        "from anomaly_spotter.models.keras_import import keras_module; keras_module('models.keras_unet')"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert words in done.stderr.splitlines()[-1]


def test_keras_trains_networks_only():
    with pytest.raises(ConfigError, match=r"keras trains the U-Net, not 'memory'; set model\.name=unet"):
        SpotterConfig.load("memory", overrides=["training.framework=keras"], environment={})


@pytest.mark.parametrize("setting", ["training.devices=2", "training.nodes=2", "training.precision=fp16"])
def test_keras_trains_in_one_process(setting):
    with pytest.raises(ConfigError, match="trains in one process, in fp32 or bf16"):
        SpotterConfig.load("unet", overrides=["training.framework=keras", setting], environment={})


def test_process_all_trains_every_category_in_keras(tmp_path, monkeypatch):
    asked = []

    def run_all(data, categories, config, out, **rest):
        asked.append(config)
        raise SpotterError("as far as this test goes")

    monkeypatch.setattr("anomaly_spotter.fleet.local.process_all", run_all)
    line = ["process-all", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--framework", "keras"]
    with pytest.raises(SpotterError, match="as far as"):
        app(line, standalone_mode=False)
    (config,) = asked
    assert config.training.framework == "keras"
    assert config.model.name == "unet"
