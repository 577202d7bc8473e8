"""Detectors without PyTorch: the same verdicts, a choice that is measured once, and clear lines when it cannot be."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from anomaly_spotter import Spotter, Verdict, load, runtime
from anomaly_spotter.errors import ConfigError, MissingExtraError
from anomaly_spotter.models.compiled import CompiledModel
from anomaly_spotter.models.engines import ENGINES, EXACT
from tests.conftest import draw_part, draw_plate, write_products
from tests.test_products import CONFIG


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALY_SPOTTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(5)
    return [draw_part(rng, defect=bool(index % 2))[0] for index in range(8)]


@pytest.mark.parametrize("engine", [*EXACT, "auto"])
def test_every_engine_decides_as_pytorch_does(spotter, bundle, parts, engine):
    expected = spotter.inspect(parts)
    found = Spotter.load(bundle, engine=engine).inspect(parts)
    for one, other in zip(found, expected, strict=True):
        assert one.verdict is other.verdict
        assert one.score == pytest.approx(other.score, abs=runtime.DRIFT)
        if engine in EXACT:
            assert one.score == pytest.approx(other.score, abs=1e-3)
            assert np.abs(one.anomaly_map - other.anomaly_map).max() < 0.01
            assert np.abs(one.normal.astype(int) - other.normal).max() <= 1


def test_the_measurement_takes_place_once_and_is_told(bundle, cache):
    told: list[str] = []
    first = Spotter.load(bundle, engine="auto", announce=told.append)
    assert isinstance(first.model, CompiledModel)
    assert told[0].startswith("measuring once")
    assert told[1].startswith("chosen: network on ")
    (file,) = (cache / "engines").glob("*.json")
    assert json.loads(file.read_text())["engines"]["network"] in ENGINES
    Spotter.load(bundle, engine="auto", announce=told.append)
    assert len(told) == 2
    file.write_text("{")  # damaged: measured again
    Spotter.load(bundle, engine="auto", announce=told.append)
    assert len(told) == 4


def test_an_engine_that_decides_differently_is_not_chosen(bundle, monkeypatch):
    opened = runtime.open_session

    def drifting(graph, engine):
        session = opened(graph, engine)
        if engine == "onnxruntime":
            return session
        return lambda values: [session(values)[0] * 3, *session(values)[1:]]

    monkeypatch.setattr(runtime, "open_session", drifting)
    monkeypatch.setattr(
        runtime, "_seconds", lambda session, values: 1.0 if hasattr(session, "_inputs") else 0.1
    )
    told: list[str] = []
    Spotter.load(bundle, engine="auto", announce=told.append)
    assert "network on onnxruntime" in told[1]


def test_a_cache_that_cannot_be_written_costs_only_time(bundle, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANOMALY_SPOTTER_CACHE", str(tmp_path / "file" / "below"))
    Spotter.load(bundle, engine="auto")


def test_the_environment_names_an_engine(monkeypatch):
    assert runtime.fastest_installed() == "auto"
    monkeypatch.setenv("ANOMALY_SPOTTER_ENGINE", "torch")
    assert runtime.fastest_installed() == "torch"


def test_an_unknown_engine_gets_one_line(bundle):
    with pytest.raises(ConfigError, match="no engine 'cuda'; choose one of auto, torch"):
        Spotter.load(bundle, engine="cuda")


def test_without_any_engine_the_extras_are_named(bundle, monkeypatch):
    monkeypatch.setattr(runtime, "available", list)
    with pytest.raises(MissingExtraError, match=r"anomaly-spotter\[runtime\]"):
        Spotter.load(bundle, engine="auto")
    assert not runtime.is_installed()
    assert runtime.fastest_installed() == "torch"


def test_a_compiled_detector_can_be_saved_and_recalibrated_but_not_taught(tmp_path, parts):
    good = [draw_part(np.random.default_rng(index))[0] for index in range(20)]
    folder = tmp_path / "good"
    folder.mkdir()
    import cv2

    for index, picture in enumerate(good):
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    fitted = Spotter.fit(folder, config=CONFIG)
    path = fitted.save(tmp_path / "a.spot")
    compiled = Spotter.load(path, engine="onnxruntime")
    assert compiled.identity == fitted.identity
    assert compiled.recalibrate(false_reject_rate=0.2).calibration.promise.asked_rate == 0.2
    more = tmp_path / "more"
    more.mkdir()
    cv2.imwrite(str(more / "a.png"), draw_part(np.random.default_rng(99))[0])
    with pytest.raises(ConfigError, match="only PyTorch"):
        compiled.extend(more)


def test_several_products_are_recognised_without_pytorch(tmp_path):
    from anomaly_spotter import ProductSpotter

    root = write_products(tmp_path / "data")
    fitted = ProductSpotter.fit(root, ["disc", "plate"], config=CONFIG)
    path = fitted.save(tmp_path / "two.spot")
    pictures = [draw_part(np.random.default_rng(1))[0], draw_plate(np.random.default_rng(2), defect=True)]
    found = load(path, engine="onnxruntime").inspect(pictures)
    for one, other in zip(found, fitted.inspect(pictures), strict=True):
        assert (one.product, one.verdict) == (other.product, other.verdict)
        assert one.score == pytest.approx(other.score, rel=1e-3)


def test_predict_runs_where_pytorch_is_not_installed(spotter, bundle, tmp_path, parts):
    """In a process of its own that cannot import torch or lightning."""
    import cv2

    cv2.imwrite(str(tmp_path / "part.png"), parts[0])
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['lightning'] = None\n"
        "from anomaly_spotter.cli import main; main()"
    )
    arguments = [
        "predict",
        "--bundle",
        str(bundle),
        str(tmp_path / "part.png"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    verdict = spotter.inspect(parts[0]).verdict
    assert done.returncode == (verdict is Verdict.DEFECT), done.stderr
    assert done.stdout.startswith(verdict)
    assert (tmp_path / "out" / "part_overlay.png").exists()


CTRL_C = """
import faulthandler, signal, sys
faulthandler.enable()
import numpy as np
import onnx
from anomaly_spotter.models.engines import open_session

node = onnx.helper.make_node("Relu", ["x"], ["y"])
value = lambda name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4])
graph = onnx.helper.make_graph([node], "g", [value("x")], [value("y")])
model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
sessions = [open_session(model.SerializeToString(), "openvino") for _ in range(3)]
for session in sessions:
    session(np.ones(4, np.float32))
del session
sessions.pop(0)  # the first before the last: each plugin would bring the stack back that it found
sessions.pop(0)
sessions.pop(0)
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the alternate signal stack is read as Linux has it")
def test_ctrl_c_after_openvino_is_handled_and_no_segmentation_fault():
    done = subprocess.run([sys.executable, "-c", CTRL_C], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr[-2000:]
