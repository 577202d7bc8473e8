"""Run by ``tests/test_keras.py`` once per backend of Keras, in a process of its own: measures, and judges nothing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly_spotter import Spotter, load
from anomaly_spotter.config import ModelConfig, SpotterConfig
from anomaly_spotter.errors import SpotterError
from anomaly_spotter.models.compiled import CompiledModel
from anomaly_spotter.models.features import PatchFeatures, extractor, levels
from anomaly_spotter.models.keras_import import keras_module
from anomaly_spotter.models.unet import UNet, UNetModel

EVERYTHING = ("grey", "gradient", "features", "segmentation")
# stem, channels, skips, batch norm, reference, error, evidence, features
NETWORKS: list[tuple[Any, ...]] = [
    (2, 3, (False, True, True), True, True, "absolute", EVERYTHING, "lite0"),
    (1, 1, (True, False, True), False, False, "squared", EVERYTHING, "gradients"),
    (1, 3, (True, True, False), True, False, "squared", ("gradient",), "lite0"),
    (2, 1, (False, False, False), False, True, "absolute", ("grey",), "lite0"),
]
SETTINGS = {
    "preprocessing": {"long_side": 64, "alignment": "none", "illumination": "robust"},
    "model": {"widths": [8, 16, 16, 16], "features": "gradients", "dimensions": 12},
    "training": {"epochs": 3, "batch_size": 8, "pictures_per_epoch": 32, "precision": "fp32"},
    "calibration": {"false_reject_rate": 0.1},
}


def settings(evidence: list[str] | None = None, **training: Any) -> SpotterConfig:
    tree = {**SETTINGS, "training": {**SETTINGS["training"], **training}}
    if evidence:
        tree["model"] = {**SETTINGS["model"], "evidence": evidence}
    return SpotterConfig.load("unet", overrides=tree, environment={})


def fitted(config: ModelConfig, size: tuple[int, int, int]) -> tuple[UNetModel, np.ndarray]:
    """A network with random weights and statistics, and pictures to try it on."""
    rng = np.random.default_rng(0)
    torch.manual_seed(1)
    height, width, channels = size
    network = UNet(channels, config, torch.rand(1, channels, height, width) * 2 - 1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    coarse = rng.integers(0, 256, (3, height // 8, width // 8, channels), dtype=np.uint8)
    noise = rng.integers(-9, 9, (3, *size))
    pictures = np.clip(coarse.repeat(8, 1).repeat(8, 2) + noise, 0, 255).astype(np.uint8)
    features = None
    if "features" in config.evidence:
        extract = extractor(config.features, channels)
        grids = [extract(levels(one)) for one in pictures]
        features = PatchFeatures.fit(extract, grids, config.dimensions, 0)
    return UNetModel.fit(network, config, features, list(pictures)), pictures


def compare_networks(networks: list[tuple[Any, ...]], out: Path, formats: list[str]) -> list[dict[str, Any]]:
    """The same weights in PyTorch and in Keras: largest differences of every output, and of the weights read back."""
    from anomaly_spotter.export.keras import write_network
    from anomaly_spotter.models.keras_files import open_file

    unet, detecting = keras_module("models.keras_unet"), keras_module("models.keras_detector")
    rows = []
    for stem, channels, skips, norm, reference, error, evidence, features in networks:
        config = ModelConfig(
            widths=(4, 8, 12, 8), stem=stem, skips=skips, batch_norm=norm, reference=reference, error=error,
            evidence=evidence, features=features, dimensions=10,
        )  # fmt: skip
        size = (48, 80, channels)
        model, pictures = fitted(config, size)
        arrays = {
            name.removeprefix("network."): value
            for name, value in model.state().items()
            if "network." in name
        }
        network = unet.build(size, config)
        unet.load(network, arrays)
        batch = np.random.default_rng(2).uniform(-1, 1, (2, *size)).astype(np.float32)
        found = network.predict_on_batch(batch)
        with torch.inference_mode():
            expected = model.network(torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))))
        apart = {
            name: float(
                np.abs(np.asarray(value).transpose(0, 3, 1, 2) - getattr(expected, name).numpy()).max()
            )
            for name, value in found.items()
        }
        back = unet.weights(network)
        twin = UNet(channels, config, torch.zeros(1, channels, *size[:2]))
        twin.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in back.items()})
        session = detecting.KerasSession(detecting.detector(config, size, model.state()))
        compiled = CompiledModel(config, size, model.state(), {"network": session})
        (maps, looks), (own_maps, own_looks) = (each.anomaly_maps(pictures) for each in (compiled, model))
        folder = out / f"network{len(rows)}"
        folder.mkdir()
        from_files = {}
        for to in formats if len(rows) < 2 else ():
            session = open_file(write_network(config, size, model.state(), folder, to))
            its_maps = np.stack([session(picture)[0] for picture in pictures])
            from_files[to] = float(np.abs(its_maps - own_maps).max() / np.abs(own_maps).max())
        rows.append(
            {
                "files": from_files,
                "outputs": apart,
                "weights": max(
                    float(np.abs(back[name] - value).max())
                    for name, value in arrays.items()
                    if "num_batches" not in name
                ),
                "map": float(np.abs(maps - own_maps).max() / np.abs(own_maps).max()),
                "look": max(
                    int(np.abs(a().astype(int) - b()).max()) for a, b in zip(looks, own_looks, strict=True)
                ),
            }
        )
    return rows


def train(data: Path, out: Path) -> dict[str, Any]:
    """The same run in Keras and in PyTorch, and the bundle of the one on the engines of the other."""
    spotter = Spotter.fit(data, "disc", config=settings(framework="keras"), run_dir=out / "keras")
    twin = Spotter.fit(data, "disc", config=settings(), run_dir=out / "torch")
    path = spotter.save(out / "keras.spot")
    parts = sorted((data / "disc/test").rglob("*.png"))
    scores = {"fitted": [each.score for each in spotter.inspect(parts)]}
    for engine in ("torch", "onnxruntime", "keras"):
        loaded = Spotter.load(path, engine=engine)
        scores[engine] = [each.score for each in loaded.inspect(parts)]
        assert loaded.identity == spotter.identity
    return {
        "keras": spotter.provenance["history"],
        "torch": twin.provenance["history"],
        "framework": spotter.provenance["framework"],
        "versions": spotter.provenance["versions"],
        "spread": [spotter.model.state()["spread"].tolist(), twin.model.state()["spread"].tolist()],
        "scores": scores,
        "auroc": [each.evaluate(data, "disc").summary["image"]["auroc"] for each in (spotter, twin)],
    }


def go_on(data: Path, out: Path) -> dict[str, Any]:
    """A run that a crash breaks off in its second epoch and Ctrl-C in its third, taken up again each time; other ends."""
    training = keras_module("keras_training")
    end_of_batch = training._Book.on_train_batch_end
    found: dict[str, Any] = {}

    def breaking(epochs, how):
        def on_train_batch_end(book, *rest, **named):
            if len(book.history) == epochs:
                how()
            end_of_batch(book, *rest, **named)

        return on_train_batch_end

    def crash():
        raise MemoryError("power cut")

    config, run = settings(framework="keras"), out / "broken"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    training._Book.on_train_batch_end = breaking(1, crash)
    try:
        Spotter.fit(data, "disc", config=config, run_dir=run)
    except MemoryError:
        found["crash"] = len((run / "history.jsonl").read_text().splitlines())
    training._Book.on_train_batch_end = breaking(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    stopped = Spotter.fit(data, "disc", config=config, run_dir=run, resume=True).provenance
    found["ctrl_c"] = [stopped["interrupted"], len(stopped["history"])]
    training._Book.on_train_batch_end = end_of_batch
    signal.signal(signal.SIGINT, before)
    for name in ("resumed", "finished"):
        found[name] = Spotter.fit(data, "disc", config=config, run_dir=run, resume=True).provenance["history"]
    last = run / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    found["damaged"] = refusal(lambda: Spotter.fit(data, "disc", config=config, run_dir=run, resume=True))
    half = settings(framework="keras", precision="bf16", epochs=1)
    found["bf16"] = Spotter.fit(data, "disc", config=half).provenance["history"]
    plain = {"framework": "keras", "schedule": "constant", "pictures_per_epoch": 16, "evidence": ["grey"]}
    stopping = settings(**plain, patience=1, epochs=30, learning_rate=0.2)
    found["early"] = Spotter.fit(data, "disc", config=stopping).provenance["history"]
    found["diverged"] = refusal(
        lambda: Spotter.fit(data, "disc", config=settings(**plain, epochs=1, learning_rate=1e30))
    )
    return found


def refusal(attempt) -> str:
    try:
        attempt()
    except SpotterError as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def export_all(data: Path, out: Path, formats: list[str]) -> dict[str, Any]:
    from anomaly_spotter.cli import app
    from anomaly_spotter.export import export

    spotter = Spotter.load(out / "keras.spot", engine="torch")
    part = min((data / "disc/test/bar").iterdir())
    own = spotter.inspect(part)
    found: dict[str, Any] = {}
    for to in formats:
        folder, printed, told = out / f"as-{to}", io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
            app(
                [
                    "export",
                    "--bundle",
                    str(out / "keras.spot"),
                    "--to",
                    to,
                    "--out",
                    str(folder),
                    "--pictures",
                    str(part),
                ],
                standalone_mode=False,
            )
        again = load(folder)
        mine = again.inspect(part)
        readme = (folder / "README.md").read_text()
        scope: dict[str, Any] = {}
        with contextlib.chdir(folder):
            exec(
                re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1], scope
            )  # what the README tells to do
        found[to] = {
            "printed": printed.getvalue().strip(),
            "told": told.getvalue(),
            "parity": json.loads((folder / "detector.json").read_text())["parity"],
            "score": [mine.score, own.score],
            "regions": [len(mine.regions), len(own.regions)],
            "normal": int(np.abs(mine.normal.astype(int) - own.normal).max()),
            "readme": scope["anomaly_map"].shape,
            "torch": refusal(lambda folder=folder: load(folder, engine="torch")),
            "other": refusal(lambda folder=folder: load(folder, engine="onnxruntime")),
            "saving": refusal(lambda again=again: again.save(out / "no.spot")),
            "precision": refusal(lambda to=to: export(spotter, out / "int8", to=to, precision="int8")),
        }
        file = folder / found[to]["printed"].split("/")[-1]
        file = file / "saved_model.pb" if file.is_dir() else file
        content = file.read_bytes()
        file.write_bytes(content[:-1] + b"x")
        found[to]["edited"] = refusal(lambda folder=folder: load(folder))
        file.write_bytes(content)
    return found


def drift(out: Path) -> dict[str, Any]:
    """An export whose network gives another map than PyTorch's."""
    from anomaly_spotter.export import export

    detecting = keras_module("models.keras_detector")
    make = detecting.detector

    def silenced(config, size, arrays, batch=None):
        return make(config, size, {**arrays, "spread": arrays["spread"] * 1e6}, batch)

    detecting.detector = silenced
    spotter = Spotter.load(out / "keras.spot", engine="torch")
    found = {
        "refused": refusal(lambda: export(spotter, out / "drifted", to="keras")),
        "kept": (out / "drifted").exists(),
    }
    made = export(spotter, out / "drifted", to="keras", allow_drift=True)
    detecting.detector = make
    return {**found, "verdicts": len(made.parity.other_verdicts)}


def hostile(out: Path) -> dict[str, Any]:
    """Files that would run code of their own."""
    import keras
    import tensorflow as tf

    from anomaly_spotter.models.keras_files import open_file

    folder = out / "hostile"
    folder.mkdir()
    witness = folder / "ran.txt"
    x = keras.Input((4, 4, 1), name="canvas")
    evil = keras.layers.Lambda(lambda value: value * 2)(x)
    keras.Model(x, evil).save(folder / "model.keras")
    found = {"lambda": refusal(lambda: open_file(folder / "model.keras"))}
    with (
        zipfile.ZipFile(out / "as-keras/model.keras") as source,
        zipfile.ZipFile(folder / "model.keras", "w") as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                tree = json.loads(content)
                tree["config"]["layers"][1]["module"], tree["config"]["layers"][1]["class_name"] = (
                    "os",
                    "system",
                )
                content = json.dumps(tree).encode()
            target.writestr(name, content)
    found["foreign class"] = refusal(lambda: open_file(folder / "model.keras"))

    class Writes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 1], tf.uint8)])
        def serve(self, canvas):
            tf.io.write_file(str(witness), "ran")
            return {"map": canvas, "restored": canvas}

    tf.saved_model.save(Writes(), str(folder / "saved_model"))
    found["writes a file"] = refusal(lambda: open_file(folder / "saved_model"))
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved_model"))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    (folder / "model.tflite").write_bytes(converter.convert())
    found["select ops"] = refusal(lambda: open_file(folder / "model.tflite"))
    for name in ("model.keras", "model.tflite"):
        (folder / name).write_bytes(b"nothing of the kind")
        found[f"damaged {name}"] = refusal(lambda name=name: open_file(folder / name))
    (folder / "saved_model/saved_model.pb").write_bytes(b"nothing of the kind")
    found["damaged saved_model"] = refusal(lambda: open_file(folder / "saved_model"))
    found["ran"] = witness.exists()
    return found


def verbs(data: Path, out: Path) -> dict[str, Any]:
    """The command line in this process, which has Keras already."""
    from anomaly_spotter.cli import app

    def run(*arguments: Any) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            app([str(each) for each in arguments], standalone_mode=False)
        return printed.getvalue()

    sets = [part for setting in (
        "preprocessing.long_side=64", "preprocessing.alignment=none", "model.widths=[8, 16, 16, 16]",
        "model.evidence=[grey]", "training.batch_size=8", "training.pictures_per_epoch=16",
    ) for part in ("--set", setting)]  # fmt: skip
    trained = run("train", "--data", data, "--category", "disc", "--framework", "keras", "--epochs", 1, "--seed", 3,
                  "--false-reject-rate", 0.1, "--out", out / "outputs", *sets)  # fmt: skip
    bundle = trained.splitlines()[-1]
    part = min((data / "disc/test/bar").iterdir())
    for engine in ("keras", "onnxruntime"):
        run("predict", "--bundle", bundle, part, "--engine", engine, "--json", out / f"{engine}.json")
    good = data / "disc/test/good"
    run(
        "evaluate",
        "--data",
        data,
        "--category",
        "disc",
        "--bundle",
        bundle,
        "--json",
        out / "evaluation.json",
    )
    run("overlay", "--bundle", bundle, part, "--out", out / "overlays", "--engine", "keras")
    run("extend", "--bundle", bundle, "--good", good, "--out", out / "extended.spot")
    run("recalibrate", "--bundle", bundle, "--false-reject-rate", 0.2, "--out", out / "recalibrated.spot")
    run("export", "--bundle", bundle, "--to", "onnx", "--out", out / "onnx", "--allow-drift")
    run("export", "--bundle", bundle, "--to", "openvino", "--out", out / "openvino", "--allow-drift")
    scores = {
        e: json.loads((out / f"{e}.json").read_text())["pictures"][0]["score"]
        for e in ("keras", "onnxruntime")
    }
    return {
        "bundle": bundle,
        "info": run("info", bundle),
        "scores": scores,
        "overlays": len(list((out / "overlays").rglob("*.png"))),
        "evaluated": json.loads((out / "evaluation.json").read_text())["bundle"]["framework"],
        "extended": len(Spotter.load(out / "extended.spot").calibration.scores)
        - len(Spotter.load(bundle).calibration.scores),
        "recalibrated": Spotter.load(out / "recalibrated.spot").calibration.promise.asked_rate,
        "exports": sorted(
            path.name for name in ("onnx", "openvino") for path in (out / name).glob("model.*")
        ),
    }


def main(data: Path, out: Path) -> None:
    import keras

    whole = keras.backend.backend() == "tensorflow"
    found: dict[str, Any] = {"backend": keras.backend.backend()}
    formats = ["keras", "saved_model", "tflite"] if whole else ["keras"]
    found["networks"] = compare_networks(NETWORKS if whole else NETWORKS[:1], out, formats)
    found["train"] = train(data, out)
    found["exports"] = export_all(data, out, formats)
    if whole:
        found["go_on"], found["drift"] = go_on(data, out), drift(out)
        found["hostile"], found["verbs"] = hostile(out), verbs(data, out)
    else:
        from anomaly_spotter.export import export

        spotter = Spotter.load(out / "keras.spot", engine="torch")
        found["saved_model"] = refusal(lambda: export(spotter, out / "x", to="saved_model"))
    shutil.rmtree(out / "outputs", ignore_errors=True)
    (out / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
