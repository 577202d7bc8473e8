"""Speed on this machine: one picture, a batch, a cold start, fitting; each beside its limit, in one run.

    python benchmarks/speed/measure.py --out benchmarks/speed/results [--parts single,batch,fit,training] [--quick]

Pictures are the package's own sample screws, grey, 512 px, PNG. Keep the machine otherwise idle. With
--anomalib-python, the interpreter of an environment that holds anomalib and OpenVINO, its PaDiM is timed in the same run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx

from anomaly_spotter import Spotter, SpotterConfig, provenance
from anomaly_spotter.files import write_json
from anomaly_spotter.inputs.decode import read_picture
from anomaly_spotter.inputs.sample.writer import write_sample
from anomaly_spotter.models.engines import EXACT, available, open_session, processors
from anomaly_spotter.models.graph import Stage, stages
from anomaly_spotter.scoring.decision import Judge

SIDE = 512
DETECTORS = {  # name: preset, settings
    "unet 128 px": ("seed", ["training.epochs=1"]),
    "memory 256 px, not aligned": ("memory", ["preprocessing.long_side=256", "preprocessing.alignment=none"]),
    "memory, aligned": ("memory", []),
    "gaussian, aligned": ("gaussian", []),
}


def pictures(folder: Path) -> tuple[Path, list[Path]]:
    """100 good screws to fit on, and the test pictures, all grey at 512 px."""
    write_sample(folder / "sample", ["screw"], train=100, size=SIDE)
    root = folder / "sample" / "screw"
    for path in root.rglob("*.png"):
        if "ground_truth" not in path.parts:
            grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            cv2.imwrite(str(path), cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))
    return root / "train" / "good", sorted((root / "test").rglob("*.png"))


def timed(call: Any, inputs: list[Any]) -> list[float]:
    """Milliseconds of each call."""
    times = []
    for each in inputs:
        start = time.perf_counter()
        call(each)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def roofline(spotter: Spotter, picture: Path, machine: dict[str, float]) -> dict[str, Any]:
    """Each stage on each engine: arithmetic, bytes of constants, time, and the share of what the machine does at best.

    The bound is the larger of the arithmetic at the measured rate of 3x3 convolutions and of reading every constant once.
    """
    preprocessor = spotter.preprocessor
    pixels = read_picture(picture).pixels
    values = np.ascontiguousarray(preprocessor.prepare(pixels, preprocessor.place(pixels)))
    rows: dict[str, Any] = {}
    for stage in graphs(spotter):
        operations, constants = work(stage.model)
        rows[stage.name] = {
            "gflop": round(float(operations) / 1e9, 3),
            "constants_mb": round(constants / 2**20, 1),
        }
        outputs = None
        for engine in installed(machine):
            if stage.is_exact and engine not in EXACT:
                continue
            session = open_session(stage.model.SerializeToString(), engine)
            ms = float(np.median(timed(lambda each, own=session: own(each), [values] * 25)[5:]))
            bound = bound_ms(operations, constants, machine, bf16=engine not in EXACT)
            rows[stage.name][engine] = {"ms": round(ms, 2), "share_of_limit": round(bound / ms, 2)}
            outputs = session(values)[0].copy() if outputs is None else outputs
        values = outputs
    return rows


def installed(machine: dict[str, float]) -> list[str]:
    """The engines that differ here: on a processor without instructions for bf16, OpenVINO takes float32 instead."""
    has_bf16 = machine["conv_bf16_gflops"] > machine["conv_fp32_gflops"]
    return [engine for engine in available() if engine in EXACT or has_bf16]


def graphs(spotter: Spotter) -> list[Stage]:
    """The stages of the detector's model."""
    preprocessor = spotter.preprocessor
    canvas = (preprocessor.height, preprocessor.width, preprocessor.channels)
    return stages(spotter.config.model, canvas, spotter.model.state())


def stages_ms(spotter: Spotter, test: list[Path]) -> dict[str, float]:
    """What the parts of one inspection take, one after the other: medians over the test pictures."""
    preprocessor, config = spotter.preprocessor, spotter.config
    judge = Judge(config.scoring, spotter.calibration, preprocessor, spotter.location)
    times: dict[str, list[float]] = {}

    def clocked(name: str, call: Any, *given: Any) -> Any:
        start = time.perf_counter()
        found = call(*given)
        times.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        return found

    for path in test:
        picture = clocked("decode", read_picture, path)
        place = clocked("align", preprocessor.place, picture.pixels)
        canvas = clocked("warp", preprocessor.prepare, picture.pixels, place)
        maps, _ = clocked("model", spotter.model.anomaly_maps, canvas[None])
        clocked("judge", judge.judge, picture, place, maps[0])
    return {name: round(float(np.median(values)), 2) for name, values in times.items()}


def limit_ms(spotter: Spotter, machine: dict[str, float]) -> float:
    """What the model would take for one picture if every stage ran at the machine's limit in float32."""
    return sum(bound_ms(*work(stage.model), machine) for stage in graphs(spotter))


def bound_ms(operations: float, constants: float, machine: dict[str, float], *, bf16: bool = False) -> float:
    """The longer of computing and of reading every constant once."""
    return 1e3 * max(operations / 1e9 / rate(machine, bf16), constants / 1e9 / machine["read_gb_per_s"])


def rate(machine: dict[str, float], bf16: bool) -> float:
    """GFLOP/s of convolutions at best."""
    return machine["conv_bf16_gflops" if bf16 else "conv_fp32_gflops"]


def work(model: onnx.ModelProto) -> tuple[float, float]:
    """Floating point or whole number operations of convolutions and products, and bytes of all constants."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    shapes = {name: value.shape for name, value in constants.items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
    operations = 0.0
    for node in graph.node:
        if node.op_type == "Conv":
            operations += 2.0 * np.prod(shapes[node.output[0]]) * np.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("MatMul", "MatMulInteger", "Gemm"):
            operations += 2.0 * np.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return operations, float(sum(value.nbytes for value in constants.values()))


def single(good: Path, test: list[Path], folder: Path, machine: dict[str, float]) -> dict[str, Any]:
    """File to verdict, one picture at a time; engines take turns so that all see the same machine."""
    found: dict[str, Any] = {}
    decode = timed(read_picture, test)
    for name, (preset, settings) in DETECTORS.items():
        config = SpotterConfig.load(preset, None, [*settings, "calibration.false_reject_rate=0.05"])
        bundle = Spotter.fit(good, config=config).save(folder / f"{len(found)}.spot")
        names = ("torch", *installed(machine), "auto")
        engines = {engine: Spotter.load(bundle, engine=engine) for engine in names}
        times: dict[str, list[float]] = {engine: [] for engine in engines}
        for round_ in range(4):
            for engine, spotter in engines.items():
                new = timed(lambda path, own=spotter: list(own.inspect_stream([path], explain=False)), test)
                times[engine] += new if round_ else []  # the first round warms up
        canvas = spotter.preprocessor
        found[name] = {
            "canvas": [canvas.height, canvas.width],
            "bundle_mb": round(bundle.stat().st_size / 2**20, 1),
            "ms": {
                engine: {
                    "p50": round(float(np.percentile(values, 50)), 2),
                    "p99": round(float(np.percentile(values, 99)), 2),
                }
                for engine, values in times.items()
            },
            "times_faster_than_torch": {
                engine: round(float(np.median(times["torch"]) / np.median(values)), 2)
                for engine, values in times.items()
            },
        }
        found[name]["stages_ms"] = stages_ms(engines["auto"], test)
        found[name]["roofline"] = roofline(spotter, test[0], machine)
        print(name, json.dumps(found[name], indent=1), flush=True)
    return {"decode_ms_p50": round(float(np.median(decode)), 2), "detectors": found}


# Not ru_maxrss: a child begins with its parent's.
_PEAK = """
import json, sys, time
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
"""

_BATCH = (
    _PEAK
    + """
from anomaly_spotter import Spotter
spotter = Spotter.load(sys.argv[1], engine="auto")
paths = json.load(open(sys.argv[2])); count = int(sys.argv[3])
stream = (paths[i % len(paths)] for i in range(count))
start = time.perf_counter()
for _ in spotter.inspect_stream(stream, explain=False): pass
print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak()}))
"""
)


def batch(
    good: Path, test: list[Path], folder: Path, counts: tuple[int, ...], machine: dict[str, float]
) -> dict[str, Any]:
    """Thousands of pictures from disk, each count in a process of its own."""
    config = SpotterConfig.load("memory", None, DETECTORS["memory 256 px, not aligned"][1])
    spotter = Spotter.fit(good, config=config)
    bundle = spotter.save(folder / "batch.spot")
    (folder / "paths.json").write_text(json.dumps([str(path) for path in test]))
    rows = []
    for count in counts:
        done = subprocess.run(
            [sys.executable, "-c", _BATCH, bundle, folder / "paths.json", str(count)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        row = json.loads(done.stdout)
        rows.append(
            {
                "pictures": count,
                "per_second": round(count / row["seconds"], 1),
                "peak_mb": round(row["peak_mb"]),
            }
        )
        print(rows[-1], flush=True)
    decode = float(np.median(timed(read_picture, test)))
    compiled = Spotter.load(bundle, engine="auto")
    canvases = [
        compiled.preprocessor.prepare(p.pixels, compiled.preprocessor.place(p.pixels))
        for p in map(read_picture, test)
    ]
    model = float(np.median(timed(lambda canvas: compiled.model.anomaly_maps(canvas[None]), canvases)))
    each = 1e3 / rows[-1]["per_second"]
    limit = decode / processors() + limit_ms(compiled, machine)
    return {
        "rows": rows,
        "peak_ratio": round(rows[-1]["peak_mb"] / rows[0]["peak_mb"], 3),
        "ms_per_picture": round(each, 2),
        "of_it_ms": {"decode, on one core": round(decode, 2), "model, on both cores": round(model, 2)},
        "limit_ms": round(limit, 2),
        "share_of_limit": round(limit / each, 2),
    }


def cold(test: list[Path], folder: Path) -> dict[str, Any]:
    """Whole commands, median of five after one to warm the disk cache (and to measure engines once)."""
    program = [sys.executable, "-m", "anomaly_spotter"]
    bundles = {name: folder / f"{number}.spot" for number, name in enumerate(DETECTORS)}
    commands = {"--help": [*program, "--help"]} | {
        f"predict, {name}": [*program, "predict", "--bundle", bundle, test[0]]
        for name, bundle in bundles.items()
        if bundle.exists()
    }
    return {
        name: round(
            float(
                np.median(
                    timed(lambda each: subprocess.run(each, capture_output=True, check=False), [command] * 6)[
                        1:
                    ]
                )
            )
            / 1e3,
            2,
        )
        for name, command in commands.items()
    }


_FIT = (
    _PEAK
    + """
from anomaly_spotter import Spotter, SpotterConfig
config = SpotterConfig.load(sys.argv[1], None, ["preprocessing.long_side=128", "preprocessing.alignment=none"])
start = time.perf_counter()
spotter = Spotter.fit(sys.argv[2], config=config)
print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak()}))
spotter.save(sys.argv[3])
"""
)


def fit(good: Path, folder: Path, counts: tuple[int, ...], machine: dict[str, float]) -> dict[str, Any]:
    """Fit time and peak memory against the number of good pictures (128 px, not aligned).

    The limit is that of decoding every picture on all cores, and of running the fitted model on each once.
    """
    many = folder / "many"
    many.mkdir()
    sources = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(good.glob("*.png"))]
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {"memory": [], "gaussian": []}
    written = 0
    for count in counts:
        for index in range(written, count):
            small = cv2.resize(sources[index % len(sources)], (128, 128), interpolation=cv2.INTER_AREA)
            noisy = np.clip(small + rng.normal(0, 2, small.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(many / f"{index:05}.png"), noisy)
        written = count
        for name, rows in found.items():
            done = subprocess.run(
                [sys.executable, "-c", _FIT, name, many, folder / "fit.spot"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            row = json.loads(done.stdout)
            decode = float(np.median(timed(read_picture, sorted(many.iterdir())[:100])))
            model = limit_ms(Spotter.load(folder / "fit.spot"), machine)
            limit = count * (decode / processors() + model) / 1e3
            rows.append(
                {
                    "pictures": count,
                    "seconds": round(row["seconds"], 1),
                    "peak_mb": round(row["peak_mb"]),
                    "share_of_limit": round(float(limit) / row["seconds"], 2),
                }
            )
            print(name, rows[-1], flush=True)
    return found


def training(machine: dict[str, float]) -> dict[str, Any]:
    """Training throughput against plain fp32, by the script beside this one, in a process of its own."""
    script = Path(__file__).parents[1] / "training_speed.py"
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "training.json"
        command = [sys.executable, script, "--preset", "unet", "--rounds", "2", "--json", result]
        subprocess.run(command, check=True)
        found: dict[str, Any] = json.loads(result.read_text())
    gflop = found["gflop_per_picture"]
    found["share_of_limit"] = {
        preset: {
            name: round(speed * gflop[preset] / rate(machine, bf16=name.startswith("bf16")), 2)
            for name, speed in speeds.items()
        }
        for preset, speeds in found["presets"].items()
    }
    return found


_PEER = """
import json, sys, time
import numpy as np
from pathlib import Path
from anomalib.data import Folder
from anomalib.deploy import ExportType, OpenVINOInferencer
from anomalib.engine import Engine
from anomalib.models import Padim
good, test, out = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3]
import torch
model = Padim(backbone="resnet18", pre_trained=False)
data = Folder(name="screw", root=str(Path(good).parent), normal_dir="good", train_batch_size=8, eval_batch_size=8, num_workers=0)
engine = Engine(default_root_dir=out, accelerator="cpu", devices=1, logger=False)
engine.fit(model, datamodule=data)
path = engine.export(model, ExportType.OPENVINO)
inferencer = OpenVINOInferencer(path=path, device="CPU")
times = []
for index, each in enumerate(test * 4):
    start = time.perf_counter(); inferencer.predict(each); times.append(1e3 * (time.perf_counter() - start))
times = times[len(test):]
print(json.dumps({"p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99))}))
"""


def peer(python: Path, good: Path, test: list[Path], folder: Path) -> dict[str, Any]:
    """anomalib's PaDiM (ResNet-18, its own picture size) through its OpenVINO inferencer, file to result; time only.

    Weights do not change how long it takes, so none are fetched.
    """
    paths = folder / "peer.json"
    paths.write_text(json.dumps([str(path) for path in test]))
    command = [python, "-c", _PEER, good, paths, folder / "peer"]
    # It leaves a cache of compiled models where it is started.
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {name: round(value, 2) for name, value in found.items()}


def limits() -> dict[str, float]:
    """What this machine does at best: 3x3 convolutions in float32 and bfloat16, and copying memory."""
    import torch

    found = {}
    for name, dtype in (("conv_fp32_gflops", torch.float32), ("conv_bf16_gflops", torch.bfloat16)):
        x = torch.randn(1, 64, 128, 128, dtype=dtype).contiguous(memory_format=torch.channels_last)
        conv = torch.nn.Conv2d(64, 64, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            ms = float(np.median(timed(lambda each, own=conv: own(each), [x] * 20)[5:]))
        found[name] = round(2 * 64 * 64 * 9 * 128 * 128 / ms / 1e6, 1)
    bank = torch.zeros(2**26)
    ms = float(np.median(timed(lambda each: each.sum(), [bank] * 6)[1:]))
    found["read_gb_per_s"] = round(2**28 / ms / 1e6, 1)
    return found


def draw(found: dict[str, Any], out: Path) -> None:
    """The charts."""
    from matplotlib.figure import Figure

    if "single" in found:
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        detectors = found["single"]["detectors"]
        engines = list(next(iter(detectors.values()))["ms"])
        for number, engine in enumerate(engines):
            values = [each["ms"][engine]["p50"] for each in detectors.values()]
            bars = axes.bar(np.arange(len(values)) + number * 0.16, values, 0.15, label=engine)
            axes.bar_label(bars, fmt="%.0f", fontsize=7)
        if "anomalib_padim_ms" in found:
            peer_ms = found["anomalib_padim_ms"]["p50"]
            axes.axhline(
                peer_ms, color="0.4", ls="--", label="anomalib's PaDiM, OpenVINO, 256 px, not aligned"
            )
        axes.set_xticks(np.arange(len(detectors)) + 0.08 * (len(engines) - 1), list(detectors))
        axes.set_ylabel("ms, file to verdict (p50)")
        axes.set_title("One picture, 512 px grey PNG")
        figure.legend(fontsize=8, loc="outside lower center", ncols=5)
        figure.savefig(out / "single.png", dpi=110)
        draw_stages(detectors, out / "stages.png")
    if "fit" in found:
        figure = Figure(figsize=(9, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, rows in found["fit"].items():
            counts = [row["pictures"] for row in rows]
            left.loglog(counts, [row["seconds"] for row in rows], "o-", label=name)
            right.semilogx(counts, [row["peak_mb"] for row in rows], "o-", label=name)
        left.set(xlabel="good pictures", ylabel="s", title="Fit time")
        right.set(xlabel="good pictures", ylabel="MB", title="Peak memory", ylim=(0, None))
        left.legend()
        figure.savefig(out / "fit.png", dpi=110)


def draw_stages(detectors: dict[str, Any], path: Path) -> None:
    """Where the time of one inspection goes, a bar a detector."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(detectors))
    for stage in next(iter(detectors.values()))["stages_ms"]:
        values = np.array([each["stages_ms"][stage] for each in detectors.values()])
        bars = axes.barh(list(detectors), values, left=left, label=stage)
        axes.bar_label(
            bars, [f"{value:.1f}" if value >= 1 else "" for value in values], label_type="center", fontsize=7
        )
        left += values
    axes.invert_yaxis()
    axes.set_xlabel("ms (p50), engine chosen by auto")
    axes.set_title("Where the time of one picture goes")
    figure.legend(fontsize=8, loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/speed"))
    parser.add_argument("--parts", default="single,batch,fit,training")
    parser.add_argument("--anomalib-python", type=Path, help="interpreter of an environment with anomalib")
    parser.add_argument("--quick", action="store_true", help="a tenth of the pictures")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / "speed.json"
    found: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {}
    found |= {"measured": provenance.stamp(), "limits": limits()}
    few = 10 if arguments.quick else 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        good, test = pictures(folder)
        test = test[:60]
        if "single" in parts:
            found["single"] = single(good, test, folder, found["limits"])
            found["cold_start_s"] = cold(test, folder)
        write_json(target, found)
        if arguments.anomalib_python is not None:
            found["anomalib_padim_ms"] = peer(arguments.anomalib_python, good, test, folder)
        write_json(target, found)
        if "batch" in parts:
            found["batch"] = batch(good, test, folder, (1000 // few, 10_000 // few), found["limits"])
        write_json(target, found)
        if "fit" in parts:
            found["fit"] = fit(good, folder, (100, 1000, 10_000 // few), found["limits"])
        if "training" in parts:
            found["training"] = training(found["limits"])
    write_json(target, found)
    draw(found, arguments.out)
    print(target)


if __name__ == "__main__":
    main()
