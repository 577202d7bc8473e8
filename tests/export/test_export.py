"""Exports decide as the detector does, whatever its settings, and say so; what cannot be exported gets one line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from anomaly_spotter import Spotter, load
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import BundleError, ConfigError, MissingExtraError, SpotterError
from anomaly_spotter.export import export, writing
from anomaly_spotter.exported import DESCRIPTION, read_export
from tests.conftest import draw_part, write_png

BASE = {
    "preprocessing": {"long_side": 64, "alignment": "none", "illumination": "none"},
    "model": {"features": "gradients", "dimensions": 12},
    "scoring": {"smoothing_sigma": 3},
    "calibration": {"false_reject_rate": 0.1},
}


def fit(root: Path, preset: str = "memory", *settings: str) -> Spotter:
    config = SpotterConfig.load(preset, overrides=BASE, environment={})
    values = config.to_dict()
    for setting in settings:
        key, value = setting.split("=")
        section, name = key.split(".")
        values[section][name] = json.loads(value) if value[:1] in "[{0123456789" else value
    return Spotter.fit(root, config=SpotterConfig.parse(values))


def good_folder(root: Path, *, colour: bool = False, large: int = 1) -> Path:
    rng = np.random.default_rng(3)
    for index in range(24):
        picture = draw_part(rng)[0]
        if large > 1:
            picture = cv2.resize(picture, None, fx=large, fy=large, interpolation=cv2.INTER_CUBIC)
        if colour:
            picture = np.dstack([picture, picture // 2, 255 - picture])
        write_png(root / f"{index:02}.png", picture)
    return root


def new_parts(*, colour: bool = False, scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    parts = [cv2.resize(draw_part(rng, defect=bool(i % 2))[0], None, fx=scale, fy=scale) for i in range(6)]
    return [np.dstack([255 - each, each // 2, each]) for each in parts] if colour else parts


@pytest.mark.parametrize("to", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("settings", "colour", "large"),
    [
        (["scoring.pooling=top_mean", "scoring.top_fraction=0.02"], False, 1),
        (["scoring.normalise=location", "preprocessing.illumination=robust"], False, 2),
        (["preprocessing.illumination=background", "model.places=global"], True, 3),
        (["preprocessing.aspect=squash", "scoring.smoothing_sigma=0"], True, 1),
    ],
)
def test_picture_to_verdict_is_the_same(tmp_path, to, settings, colour, large):
    spotter = fit(good_folder(tmp_path / "good", colour=colour, large=large), "memory", *settings)
    told: list[str] = []
    made = export(spotter, tmp_path / "export", to=to, announce=told.append)
    assert "verdicts identical" in told[0]
    assert made.parity.canvases == 24
    _, model = read_export(made.folder)
    channels = 3 if colour else 1
    for scale in (large, 0.5, 1.37 * large):  # also sizes that were never seen
        for part in new_parts(colour=colour, scale=scale):
            expected = spotter.inspect(part)
            found = model.outputs(part.reshape(*part.shape[:2], channels))
            assert found["anomaly_map"].shape == expected.anomaly_map.shape
            if scale < large:  # enlarged: OpenCV rounds every tenth pixel down by a grey level
                assert float(found["score"][0]) == pytest.approx(expected.score, abs=0.06, rel=0.1)
                continue
            assert float(found["score"][0]) == pytest.approx(expected.score, abs=0.01, rel=0.01)
            if abs(expected.score - 1) > 0.02:
                assert float(found["p_value"][0]) == pytest.approx(expected.p_value, abs=0.05)
                overlap = (found["mask"] > 0) & expected.mask
                union = (found["mask"] > 0) | expected.mask
                assert overlap.sum() >= 0.95 * union.sum()


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_the_unet_and_gaussians_go_through_the_package_too(spotter, tmp_path, to):
    parts = new_parts()
    gaussian = fit(good_folder(tmp_path / "good"), "gaussian")
    for number, detector in enumerate((spotter, gaussian)):
        made = export(detector, tmp_path / str(number), to=to, allow_drift=True)
        again = load(made.folder)
        for one, other in zip(again.inspect(parts), detector.inspect(parts), strict=True):
            assert one.score == pytest.approx(other.score, abs=2e-3)
            assert one.regions == pytest.approx(other.regions) or len(one.regions) == len(other.regions)
            assert one.condition == other.condition
        np.testing.assert_array_equal(again.known.conditions, detector.known.conditions)


def test_a_region_of_interest_goes_along(tmp_path):
    root = good_folder(tmp_path / "good")
    region = np.zeros((72, 96), np.uint8)
    region[:, :60] = 255
    cv2.imwrite(str(tmp_path / "region.png"), region)
    config = SpotterConfig.load("memory", overrides=BASE, environment={}).to_dict()
    config["preprocessing"]["region"] = str(tmp_path / "region.png")
    spotter = Spotter.fit(root, config=SpotterConfig.parse(config))
    made = export(spotter, tmp_path / "export")
    _, model = read_export(made.folder)
    blot = draw_part(np.random.default_rng(0))[0]
    blot[30:40, 75:85] = 255  # outside
    found = model.outputs(blot[..., None])
    assert float(found["score"][0]) == pytest.approx(spotter.inspect(blot).score, abs=0.03)
    assert not found["mask"][:, 70:].any()


def test_an_aligned_detector_is_aligned_by_the_package(tmp_path, real_data):
    source = real_data / "mvtec_ad" / "screw"
    good = tmp_path / "good"
    good.mkdir()
    for path in sorted((source / "train" / "good").iterdir())[:24]:
        shutil.copy(path, good)
    config = SpotterConfig.load("memory", overrides={"preprocessing": {"alignment": "template", "long_side": 320, "illumination": "robust"}}, environment={})  # fmt: skip
    spotter = Spotter.fit(good, config=config)
    pictures = sorted((source / "test" / "thread_top").iterdir())[:4]
    made = export(spotter, tmp_path / "export", pictures=pictures)
    assert made.parity.pictures == 4
    assert made.parity.score < 0.02
    assert "not in the model" in (made.folder / "README.md").read_text()
    again = load(made.folder).inspect(pictures)
    assert [each.verdict for each in again] == [each.verdict for each in spotter.inspect(pictures)]
    assert again[0].anomaly_map.shape == spotter.inspect(pictures[0]).anomaly_map.shape


def test_an_export_that_decides_differently_is_refused_unless_allowed(tmp_path, monkeypatch):
    spotter = fit(good_folder(tmp_path / "good"))
    build = writing.detector_graph

    def broken(detector, metadata):
        model = build(detector, metadata)
        tripled = onnx.helper.make_node("Mul", ["score_", "three"], ["score"])
        for node in model.graph.node:
            node.output[:] = ["score_" if name == "score" else name for name in node.output]
        model.graph.node.append(tripled)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3], np.float32), "three"))
        return model

    monkeypatch.setattr(writing, "detector_graph", broken)
    with pytest.raises(SpotterError, match="decides differently"):
        export(spotter, tmp_path / "export")
    assert not (tmp_path / "export").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["good"]
    made = export(spotter, tmp_path / "export", allow_drift=True)
    assert made.parity.other_verdicts
    assert json.loads((made.folder / DESCRIPTION).read_text())["parity"]["score"] > 0.5


@pytest.mark.parametrize(("to", "precision"), [("openvino", "bf16"), ("onnx", "int8"), ("openvino", "int8")])
def test_lower_precision_is_written_with_its_measured_loss(tmp_path, to, precision):
    spotter = fit(good_folder(tmp_path / "good"), "memory", "model.features=lite0")
    made = export(spotter, tmp_path / "export", to=to, precision=precision, allow_drift=True)
    description = json.loads((made.folder / DESCRIPTION).read_text())
    assert description["precision"] == precision
    assert description["parity"]["score"] == pytest.approx(made.parity.score)
    if precision == "int8" and to == "onnx":
        kinds = {node.op_type for node in onnx.load(made.model).graph.node}
        assert "QuantizeLinear" in kinds
    assert load(made.folder).inspect(new_parts()[1]).score > 0


def test_metadata_travels_in_the_model(tmp_path):
    spotter = fit(good_folder(tmp_path / "good"))
    made = export(spotter, tmp_path / "export")
    (entry,) = onnx.load(made.model).metadata_props
    facts = json.loads(entry.value)
    assert facts["bundle"] == spotter.identity
    assert facts["promise"]["asked_rate"] == 0.1


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    spotter = fit(good_folder(root / "good"))
    part = new_parts()[1]
    (root / "part.pgm").write_bytes(b"P5 96 72 255\n" + part.tobytes())
    return (
        spotter,
        export(spotter, root / "onnx").folder,
        export(spotter, root / "ir", to="openvino").folder,
        part,
    )


def check_printed(printed: str, spotter: Spotter, part: np.ndarray) -> None:
    expected = spotter.inspect(part)
    verdict, score, p_value, marked = re.fullmatch(
        r"(\w+) score ([\d.-]+) p ([\d.]+) marked (\d+)\s*", printed
    ).groups()
    assert verdict == expected.verdict
    assert float(score) == pytest.approx(expected.score, abs=0.02)
    assert float(p_value) == pytest.approx(expected.p_value, abs=1e-3)
    assert int(marked) == pytest.approx(int(expected.mask.sum()), rel=0.1)


def test_the_python_example_runs_without_the_package_and_without_pytorch(exported):
    spotter, *folders, part = exported
    for folder in folders:
        model = next(path for path in folder.iterdir() if path.suffix in (".onnx", ".xml"))
        script = (
            "import sys, runpy; sys.modules['torch'] = sys.modules['anomaly_spotter'] = None; sys.argv = sys.argv[1:]; "
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, folder / "inspect_part.py", model, folder.parent / "part.pgm"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        check_printed(done.stdout, spotter, part)


def test_the_cpp_example_compiles_and_runs(exported, tmp_path):
    import openvino

    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler; 'make system-deps' installs one")
    spotter, *folders, part = exported
    home = Path(openvino.__file__).parent
    (library,) = (home / "libs").glob("libopenvino.so.*")
    program = tmp_path / "inspect_part"
    subprocess.run(
        [compiler, "-std=c++17", folders[0] / "inspect_part.cpp", f"-I{home / 'include'}", f"-L{home / 'libs'}",
         f"-l:{library.name}", f"-Wl,-rpath,{home / 'libs'}", "-o", program],
        check=True, capture_output=True,
    )  # fmt: skip
    for folder in folders:
        model = next(path for path in folder.iterdir() if path.suffix in (".onnx", ".xml"))
        done = subprocess.run(
            [program, model, folder.parent / "part.pgm"], capture_output=True, text=True, check=True
        )
        check_printed(done.stdout, spotter, part)


def test_an_edited_or_damaged_export_is_refused(exported, tmp_path):
    source = exported[1]

    def broken(name, change):
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        return folder

    with pytest.raises(BundleError, match="changed after the export"):
        load(broken("model.onnx", lambda content: content[:-1] + b"x"))
    with pytest.raises(BundleError, match="changed after the export"):
        load(broken("model.onnx", lambda content: content[: len(content) // 2]))
    with pytest.raises(BundleError, match="damaged"):
        load(broken(DESCRIPTION, lambda content: content[:100]))
    with pytest.raises(BundleError, match="format 99"):
        load(
            broken(
                DESCRIPTION, lambda content: content.replace(b'"format_version": 1', b'"format_version": 99')
            )
        )
    outside = broken(DESCRIPTION, lambda content: content.replace(b'"model.onnx":', b'"../model.onnx":'))
    with pytest.raises(BundleError, match="outside its folder"):
        load(outside)
    missing = broken("README.md", bytes)
    (missing / "detector.safetensors").unlink()
    with pytest.raises(BundleError, match="damaged"):
        load(missing)


def test_a_model_with_an_operator_of_its_own_is_refused_in_one_line(exported, tmp_path):
    import hashlib

    folder = tmp_path / "custom"
    shutil.copytree(exported[1], folder)
    model = onnx.load(folder / "model.onnx")
    model.graph.node[0].domain = "evil.example"
    onnx.save(model, folder / "model.onnx")
    description = json.loads((folder / DESCRIPTION).read_text())
    description["files"]["model.onnx"] = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(BundleError, match="cannot run the model") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_an_engine_that_nobody_knows_is_named_and_can_be_replaced(exported, tmp_path):
    spotter, folder, _, part = exported
    shutil.copytree(folder, tmp_path / "warp")
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    (tmp_path / "warp" / DESCRIPTION).write_text(
        json.dumps(description | {"engine": "warp"}), encoding="utf-8"
    )
    for engine in (None, "auto"):
        with pytest.raises(BundleError, match="engine 'warp', which this version does not know") as caught:
            load(tmp_path / "warp", engine=engine)
        assert "\n" not in str(caught.value)
    assert (
        load(tmp_path / "warp", engine="onnxruntime").inspect(part).verdict == spotter.inspect(part).verdict
    )


def test_an_export_for_an_engine_that_is_missing_says_what_to_install(exported, monkeypatch):
    _, _, ir_folder, _ = exported
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        MissingExtraError, match=r"needs openvino: pip install 'anomaly-spotter\[openvino\]'$"
    ):
        load(ir_folder)


def test_what_cannot_be_asked_for_gets_one_line(exported, tmp_path, monkeypatch):
    spotter, onnx_folder, ir_folder, _ = exported
    for arguments, words in (
        ({"to": "coreml"}, "no export format"),
        ({"to": "tflite"}, "Keras runs the U-Net only"),
        ({"precision": "fp8"}, "no precision"),
        ({"precision": "bf16"}, "use --to openvino"),
    ):
        with pytest.raises(ConfigError, match=words):
            export(spotter, tmp_path / "x", **arguments)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    with pytest.raises(SpotterError, match="something else"):
        export(spotter, tmp_path / "full")
    assert (tmp_path / "full" / "precious.txt").exists()
    with pytest.raises(SpotterError, match="PyTorch does not run"):
        load(onnx_folder, engine="torch")
    with pytest.raises(SpotterError, match="only openvino runs it"):
        load(ir_folder, engine="onnxruntime")
    with pytest.raises(SpotterError, match="cannot be saved"):
        load(onnx_folder).save(tmp_path / "a.spot")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"anomaly-spotter\[openvino\]"):
        export(spotter, tmp_path / "x", to="openvino")


def test_the_command_line_exports_and_predicts_from_the_export(exported, tmp_path):
    spotter, _, _, part = exported
    bundle = spotter.save(tmp_path / "a.spot")
    picture = write_png(tmp_path / "part.png", part)

    def run(*arguments):
        command = [sys.executable, "-m", "anomaly_spotter", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("export", "--bundle", bundle, "--to", "onnx", "--out", tmp_path / "e", "--pictures", picture)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "e" / "model.onnx")
    assert "parity with PyTorch on 24 canvases and 1 pictures: verdicts identical" in done.stderr
    found = run("predict", "--bundle", tmp_path / "e", picture, "--json", tmp_path / "r.json")
    assert found.returncode == 1, found.stderr
    rows = json.loads((tmp_path / "r.json").read_text())["pictures"]
    assert rows[0]["score"] == pytest.approx(spotter.inspect(part).score, abs=0.02)
    refused = run("export", "--bundle", tmp_path / "none.spot", "--out", tmp_path / "f")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
