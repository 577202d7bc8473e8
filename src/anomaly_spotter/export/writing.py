"""Writing an export folder: the model, what Python needs beside it, a README and examples. Whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save as save_arrays

from anomaly_spotter.errors import ConfigError, SpotterError
from anomaly_spotter.export import keras
from anomaly_spotter.export.graph import detector_graph
from anomaly_spotter.export.parity import Parity, measure, probes
from anomaly_spotter.exported import ARRAYS, DESCRIPTION, FORMAT, FORMAT_VERSION, read_export
from anomaly_spotter.extras import needed
from anomaly_spotter.models.engines import require_engine
from anomaly_spotter.models.keras_files import ENGINES as KERAS_ENGINES
from anomaly_spotter.spotter import Spotter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}
FORMATS = (*_ENGINES, *keras.MODELS)
PRECISIONS = ("fp32", "bf16", "int8")
_EXAMPLES = ("inspect_part.py", "inspect_part.cpp", "InspectPart.cs")


@dataclass(frozen=True, slots=True)
class Export:
    """What was written.

    Attributes:
        folder: Where.
        model: The model file in it.
        parity: How it compares with the detector.
    """

    folder: Path
    model: Path
    parity: Parity


def export(
    spotter: Spotter,
    folder: Path,
    *,
    to: str = "onnx",
    precision: str = "fp32",
    pictures: Sequence[Path] = (),
    allow_drift: bool = False,
    announce: Callable[[str], None] = lambda _: None,
) -> Export:
    """Export a detector that PyTorch runs, and check the export against it.

    Args:
        spotter: The detector, loaded with ``engine="torch"``.
        folder: New, empty, or that of an earlier export, which is replaced.
        to: ``onnx`` or ``openvino``, from picture to verdict; ``keras``, ``saved_model`` or ``tflite``, a U-Net's network
            from canvas to anomaly map.
        precision: ``fp32``; ``bf16`` (OpenVINO computes so where the processor can); ``int8``, the convolutions
            quantised on the bundle's good canvases.
        pictures: Also compare on these, from file to verdict.
        allow_drift: Keep an export that decides differently.
        announce: Told the result of the comparison in one line.

    Raises:
        ConfigError: Format and precision or model do not go together, or the features run in PyTorch only.
        MissingExtraError: onnx, onnxruntime, openvino or Keras is not installed.
        SpotterError: The export decides differently, or cannot be written.
        PictureError: A picture cannot be read.
    """
    _check(to, precision, folder)
    if to not in keras.MODELS:  # those say so themselves
        require_engine(_ENGINES[to], f"exporting to {to}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
            made = Path(scratch) / "export"
            made.mkdir()
            model = _write_model(spotter, made, to, precision)
            description = _describe(spotter, made, model, to, precision)
            parity = _compared(spotter, made, pictures)
            announce(parity.words())
            if parity.other_verdicts and not allow_drift:
                raise SpotterError(
                    f"the export decides differently ({parity.words()}), so it was not kept; export as fp32, or keep it "
                    "with --allow-drift"
                )
            _write_json(made / DESCRIPTION, {**description, "parity": parity.to_dict()})
            if to in keras.MODELS:
                text = keras.readme(spotter, to, parity, DESCRIPTION)
            else:
                text = _readme(spotter, model, to, precision, parity)
                _write_examples(made, model)
            (made / "README.md").write_text(text, encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            made.rename(folder)
    except OSError as error:
        raise SpotterError(
            f"cannot write {folder}: {error.strerror or error}; choose another folder"
        ) from None
    return Export(folder, folder / model.name, parity)


def _check(to: str, precision: str, folder: Path) -> None:
    if to not in FORMATS:
        raise ConfigError(f"no export format '{to}'; choose one of {', '.join(FORMATS)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"no precision '{precision}'; choose one of {', '.join(PRECISIONS)}")
    if (to, precision) == ("onnx", "bf16"):
        raise ConfigError("ONNX Runtime computes no bf16 on processors; use --to openvino for bf16")
    if to in keras.MODELS and precision != "fp32":
        raise ConfigError(f"--to {to} is written in fp32; use --to onnx or openvino for {precision}")
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / DESCRIPTION).is_file())
    ):
        raise SpotterError(f"{folder} holds something else; name a new or empty folder")


def _write_model(spotter: Spotter, folder: Path, to: str, precision: str) -> Path:
    if to in keras.MODELS:
        size = (spotter.preprocessor.height, spotter.preprocessor.width, spotter.preprocessor.channels)
        return keras.write_network(spotter.config.model, size, spotter.model.state(), folder, to)
    import onnx

    metadata = {
        "anomaly_spotter": json.dumps(
            {
                "version": spotter.provenance.get("version"),
                "category": spotter.provenance.get("category"),
                "model": spotter.config.model.name,
                "bundle": spotter.identity,
                "threshold": spotter.calibration.threshold,
                "pixel_threshold": spotter.calibration.pixel_threshold,
                "promise": dataclasses.asdict(spotter.calibration.promise),
                "is_aligned": spotter.preprocessor.aligner is not None,
                "precision": precision,
            }
        )
    }
    graph = detector_graph(spotter, metadata)
    path = folder / "model.onnx"
    if precision == "int8":
        _quantise(graph, spotter, path)
    else:
        onnx.save(graph, str(path))
    if to == "onnx":
        return path
    import openvino

    model = openvino.Core().read_model(path.read_bytes())
    for name, value in metadata.items():
        model.set_rt_info(value, [name])
    openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
    path.unlink()
    return folder / "model.xml"


def _quantise(graph: Any, spotter: Spotter, path: Path) -> None:
    """8-bit convolutions, their ranges measured on good canvases; what decides stays in float32."""
    with needed("runtime", "int8 needs onnxruntime", "onnxruntime"):
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    names = [each.name for each in graph.graph.input]
    canvases = probes(spotter)
    good = canvases[: len(canvases) // 2]
    counts = np.ones(good[0].shape[:2], np.bool_)
    feeds = [dict(zip(names, (np.ascontiguousarray(each), counts), strict=False)) for each in good]

    class _Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> Any:
            return next(self._feeds, None)

    sizes = {each.name: tuple(each.dims) for each in graph.graph.initializer}
    kept = [
        node.name
        for node in graph.graph.node
        if node.op_type == "Conv" and sizes[node.input[1]][:2] == (1, 1)  # the smoothing
    ]
    quantize_static(
        graph,
        str(path),
        _Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=kept,
    )


def _describe(spotter: Spotter, folder: Path, model: Path, to: str, precision: str) -> dict[str, Any]:
    """Write what Python needs beside the model, and give what describes the export."""
    bundle = spotter.to_bundle()
    kept = {
        name: array
        for name, array in bundle.arrays.items()
        if name == "known.conditions" or not name.startswith(("model.", "known."))
    }
    arrays = {name: np.asarray(array, order="C") for name, array in kept.items()}
    (folder / ARRAYS).write_bytes(save_arrays(arrays or {"none": np.zeros(1, np.uint8)}))
    names = [ARRAYS, *_files(folder, model)]
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": model.name,
        "engine": _engine(model, to, precision),
        "precision": precision,
        "bundle": spotter.identity,
        "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names},
        "config": bundle.config,
        "preprocessing": bundle.preprocessing,
        "calibration": bundle.calibration,
        "provenance": bundle.provenance,
    }
    _write_json(folder / DESCRIPTION, description)
    return description


def _files(folder: Path, model: Path) -> list[str]:
    """The files of a model, relative to its folder."""
    found = [path for path in sorted(model.rglob("*")) if path.is_file()] if model.is_dir() else [model]
    if model.suffix == ".xml":
        found.append(model.with_suffix(".bin"))
    return [path.relative_to(folder).as_posix() for path in found]


def _engine(model: Path, to: str, precision: str) -> str:
    if to in keras.MODELS:
        return KERAS_ENGINES[model.name]
    return "openvino-bf16" if precision == "bf16" else _ENGINES[to]


def _write_examples(folder: Path, model: Path) -> None:
    for name in _EXAMPLES:
        source = resources.files("anomaly_spotter.export").joinpath("examples", f"{name}.txt")
        text = source.read_text("utf-8").replace("MODEL_FILE", model.name)
        (folder / name).write_text(text, encoding="utf-8")


def _compared(spotter: Spotter, folder: Path, pictures: Sequence[Path]) -> Parity:
    _, model = read_export(folder)
    return measure(spotter, model, pictures, Spotter.load(folder) if pictures else None)


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _readme(spotter: Spotter, model: Path, to: str, precision: str, parity: Parity) -> str:
    preprocessor, scoring = spotter.preprocessor, spotter.config.scoring
    height, width, channels = preprocessor.height, preprocessor.width, preprocessor.channels
    colour = "grey" if channels == 1 else "RGB"
    if preprocessor.aligner is None:
        inputs = (
            f"- `picture`: `uint8 [H, W, {channels}]`, {colour}, any size. Resizing and light normalisation are inside "
            "(where a picture is smaller than the canvas, some grey levels differ by one from the package's)."
        )
        outside = ""
        size = "[H, W]"
    else:
        size = f"[{height}, {width}]"
        inputs = (
            f"- `canvas`: `uint8 [{height}, {width}, {channels}]`, {colour}: the part, brought into its normal pose. Light "
            f"normalisation is inside.\n- `counts`: `bool {size}`: true where the canvas shows the picture and the region "
            "of interest; all true if you have neither borders nor a region."
        )
        outside = (
            "- **Alignment.** Finding the part's pose is not in the model. In Python, `anomaly_spotter.load(FOLDER)` does "
            "it (no PyTorch needed) and brings map and mask back to the picture. It also refuses pictures without a part.\n"
        )
    otsu = (
        "- **Otsu masks.** The settings ask for them; `mask` uses the calibrated pixel limit.\n"
        if scoring.mask == "otsu"
        else ""
    )
    hint = (
        "\nCompile it with `INFERENCE_PRECISION_HINT` = `bf16`; without the hint OpenVINO chooses the precision itself.\n"
        if precision == "bf16"
        else "\nWith OpenVINO, compile it with `INFERENCE_PRECISION_HINT` = `f32`: the parity below was measured so.\n"
    )
    return f"""# {spotter.provenance.get("category", "detector")}: exported detector

`{model.name}`, {"ONNX opset 20" if to == "onnx" else "OpenVINO IR"}, {precision}, from bundle `{spotter.identity[:16]}`.
{spotter.guarantee}

## Inputs
{inputs}

## Outputs
- `score` `float32 [1]`: above {spotter.calibration.threshold:g}: DEFECT. 0 is the typical pixel of a good part, 1 the limit as calibrated.
- `p_value` `float32 [1]`: how often a good part scores at least this high.
- `anomaly_map` `float32 {size}`: pixel scores, larger is stranger.
- `mask` `uint8 {size}`: 255 where a defect is, only where the verdict is DEFECT.
- `canvas_map` `float32 [{height}, {width}]`: the model's raw map, for the Python package.
{hint}
## What is not inside
{outside}- **Decoding.** Pictures of 16 bit are scaled so that {preprocessor.white_level} becomes 255.
- **Regions.** Splitting the mask into regions, and dropping those below {scoring.min_area} px.
{otsu}
## Parity
{parity.words()[0].upper() + parity.words()[1:]}. The numbers are also in `{DESCRIPTION}`.

## Use
`inspect_part.py` needs numpy and {"onnxruntime or " if to == "onnx" else ""}openvino; `inspect_part.cpp` OpenVINO's C++ API; `InspectPart.cs` Microsoft.ML.OnnxRuntime{"" if to == "onnx" else " (for the ONNX export)"}.
With the package: `anomaly-spotter predict --bundle THIS_FOLDER PICTURE...`
"""
