"""Running a detector's network from a file of Keras, TensorFlow or TFLite that may come from anywhere.

All three are programs, not data: a ``.keras`` file names the classes that are built, a SavedModel and a TFLite model the
operations that run, and some of these read files or call Python. Each file is therefore read as plain data first, and
refused when it names anything that this package does not write.
"""

from __future__ import annotations

import importlib
import json
import os
import struct
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_spotter.errors import BundleError
from anomaly_spotter.extras import needed
from anomaly_spotter.models.keras_import import keras_module

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.models.engines import Session

KERAS, SAVED_MODEL, TFLITE = "model.keras", "saved_model", "model.tflite"
_UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
_MOST_DENSE = 200  # times smaller than unpacked, at most, as in bundles

ENGINES = {KERAS: "keras", SAVED_MODEL: "tensorflow", TFLITE: "tflite"}
"""The model in an export's folder -> what runs it."""

_CLASSES = frozenset(
    """
    Absolute Add AveragePooling2D BatchNormalization Concatenate Constant Conv2D Cropping2D DTypePolicy
    DepthwiseConv2D Divide EinsumDense Functional GetItem GlorotUniform InputLayer MaxPooling2D Mean Multiply Ones
    Pad Permute ReLU Relu Rescaling Reshape Softplus Sqrt Square Subtract Sum Take TrueDivide UpSampling2D Zeros
    __keras_tensor__ __tuple__
    """.split()  # noqa: SIM905  a list would take a line for each
)
_TENSORFLOW = frozenset(
    """
    Abs Add AddV2 AssignVariableOp AvgPool BatchMatMulV2 BiasAdd Cast ConcatV2 Const Conv2D DepthwiseConv2dNative
    DisableCopyOnRead Einsum FusedBatchNormV3 GatherV2 Identity Less MaxPool Maximum Mean Minimum MirrorPad Mul NoOp
    Pack Pad PartitionedCall Placeholder ReadVariableOp RealDiv Relu Relu6 Reshape ResizeBilinear Rsqrt Select
    SelectV2 Shape Softplus Sqrt Square SquaredDifference Squeeze StatefulPartitionedCall StridedSlice Sub Sum Tanh
    Transpose VarHandleOp
    """.split()  # noqa: SIM905  a list would take a line for each
)
_TFLITE = frozenset(
    """
    ABS ADD AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO CAST CONCATENATION CONV_2D DEPTHWISE_CONV_2D DIV
    EXP FULLY_CONNECTED GATHER LOG LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL PACK PAD PADV2 POW
    RELU RELU6 RESHAPE RESIZE_BILINEAR SELECT SELECT_V2 SHAPE SLICE SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE
    SUB SUM TANH TRANSPOSE
    """.split()  # noqa: SIM905  a list would take a line for each
)
_TFLITE_MARK = b"TFL3"


def open_file(path: Path) -> Session:
    """A session as :class:`~anomaly_spotter.models.keras_detector.KerasSession` for one of :data:`ENGINES`.

    Raises:
        BundleError: The file is damaged, or names something that this package does not write.
        MissingExtraError: What runs it is not installed.
        ConfigError: ``KERAS_BACKEND`` names no backend.
    """
    openers = {KERAS: _open_keras, SAVED_MODEL: _open_saved_model, TFLITE: _open_tflite}
    try:
        return openers[path.name](path)
    except (*_UNREADABLE, zipfile.BadZipFile, struct.error) as error:
        raise BundleError(
            f"{path} cannot be read ({' '.join(str(error).split())[:200]}); export again"
        ) from None


def _open_keras(path: Path) -> Session:
    with zipfile.ZipFile(path) as archive:
        if any(each.file_size > _MOST_DENSE * max(each.compress_size, 1) for each in archive.infolist()):
            raise BundleError(f"{path} unpacks to far more than it weighs; this is not a sane export")
        tree = json.loads(archive.read("config.json"))
    _refuse(path, set(_classes(tree)) - _CLASSES)
    session = keras_module("models.keras_detector").KerasSession
    import keras

    opened: Session = session(keras.saving.load_model(path, compile=False, safe_mode=True))
    return opened


def _classes(tree: Any) -> Iterator[str]:
    """Every class that a configuration names; one from outside Keras with its module."""
    if isinstance(tree, list):
        for each in tree:
            yield from _classes(each)
    elif isinstance(tree, dict):
        if "class_name" in tree:
            module = tree.get("module") or "keras"
            own = (
                tree["class_name"]
                if str(module).split(".")[0] == "keras"
                else f"{module}.{tree['class_name']}"
            )
            yield str(own)
        for each in tree.values():
            yield from _classes(each)


def _open_saved_model(path: Path) -> Session:
    tensorflow = _tensorflow()
    saved = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel()
    try:
        saved.ParseFromString((path / "saved_model.pb").read_bytes())
    except Exception as error:  # noqa: BLE001  protobuf's own class, which differs between its versions
        raise BundleError(f"{path} is no SavedModel ({error}); export again") from None
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].object_graph_def.nodes:
        raise BundleError(f"{path} is of TensorFlow 1, whose graphs run as they are loaded; export again")
    _refuse(path, _operations(saved.meta_graphs[0]) - _TENSORFLOW)
    loaded = tensorflow.saved_model.load(str(path))

    def run(*values: NDArray[Any]) -> list[NDArray[Any]]:
        found = loaded.serve(tensorflow.constant(values[0][None]))
        return _outputs(found["map"].numpy(), found["restored"].numpy())

    return run


def _operations(graph: Any) -> set[str]:
    """Every operation that anything in a SavedModel can start; what saves and restores it is out of reach."""
    functions = {each.signature.name: each for each in graph.graph_def.library.function}
    waiting = [name for node in graph.object_graph_def.nodes for name in node.function.concrete_functions]
    waiting += [node.bare_concrete_function.concrete_function_name for node in graph.object_graph_def.nodes]
    reached: set[str] = set()
    operations: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in reached or name not in functions:
            continue
        reached.add(name)
        for node in functions[name].node_def:
            if node.op not in functions:
                operations.add(node.op)
            calls = [each for value in node.attr.values() for each in (value.func, *value.list.func)]
            waiting += [node.op, *(each.name for each in calls)]
    return operations


def _open_tflite(path: Path) -> Session:
    content = path.read_bytes()
    _refuse(path, set(_operators(content)) - _TFLITE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's, that its copy of the interpreter will go
        interpreter = _interpreter()(model_content=content)
    run_signature = interpreter.get_signature_runner()

    def run(*values: NDArray[Any]) -> list[NDArray[Any]]:
        found = run_signature(canvas=values[0][None])
        return _outputs(found["map"], found["restored"])

    return run


def _operators(content: bytes) -> list[str]:
    """The operators that a TFLite model names; one of somebody's own as ``custom NAME``."""
    if content[4:8] != _TFLITE_MARK:
        raise ValueError("no TFLite model")
    schema = _schema()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    names = {
        number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")
    }
    found = []
    for code in model.operatorCodes or []:
        if code.customCode:
            found.append(f"custom {code.customCode.decode(errors='replace')}")
        else:
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            found.append(names.get(number, str(number)))
    return found


def _refuse(path: Path, foreign: Iterable[str]) -> None:
    if names := sorted(foreign):
        raise BundleError(
            f"{path} holds {', '.join(names[:5])}, which this package does not write and which could run code; "
            "export again from the .spot file"
        )


def _outputs(canvas_map: NDArray[Any], restored: NDArray[Any]) -> list[NDArray[Any]]:
    """Without the batch, and with channels first, as the other engines give them."""
    return [np.asarray(canvas_map)[0], np.asarray(restored).transpose(0, 3, 1, 2)]


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with needed("keras", "TensorFlow is not installed", "tensorflow"):
        return importlib.import_module("tensorflow")


def _interpreter() -> Any:
    """TFLite's own package where it is installed, as on small machines, else TensorFlow's copy of it."""
    try:
        return importlib.import_module("ai_edge_litert.interpreter").Interpreter
    except ModuleNotFoundError:
        return _tensorflow().lite.Interpreter


def _schema() -> Any:
    try:
        return importlib.import_module("ai_edge_litert.schema_py_generated")
    except ModuleNotFoundError:
        _tensorflow()
        return importlib.import_module("tensorflow.lite.python.schema_py_generated")
