"""Inference engines that run ONNX graphs on a CPU: ONNX Runtime and OpenVINO."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from anomaly_spotter.errors import BundleError, ConfigError
from anomaly_spotter.extras import needed, require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

EXACT = ("onnxruntime", "openvino")
"""Engines that compute in float32."""

ENGINES = (*EXACT, "openvino-bf16")
"""All of them; the last computes convolutions and products in bfloat16 where the processor has it."""

_PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "openvino-bf16": "openvino"}
_EXTRAS = {"onnxruntime": "runtime", "openvino": "openvino", "openvino-bf16": "openvino"}


class Session(Protocol):
    """A compiled graph."""

    def __call__(self, *values: NDArray[Any]) -> list[NDArray[Any]]:
        """The outputs for the inputs, in the order of the graph; valid until the next call."""
        ...


def available() -> list[str]:
    """The engines that are installed, by name."""
    return [name for name in ENGINES if importlib.util.find_spec(_PACKAGES[name]) is not None]


def require_engine(engine: str, purpose: str) -> None:
    """See that one of :data:`ENGINES` is installed, with onnx, which its graphs are built with.

    Args:
        engine: Which.
        purpose: What needs it, for the message.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    package = _PACKAGES[engine]
    require(_EXTRAS[engine], f"{purpose} needs onnx and {package}", "onnx", package)


def open_session(graph: bytes, engine: str, weights: bytes | None = None) -> Session:
    """Compile a graph.

    Args:
        graph: A serialised ``onnx.ModelProto``.
        engine: One of :data:`ENGINES`.
        weights: Of a graph in OpenVINO's own form, which keeps them apart.

    Raises:
        ConfigError: There is no such engine.
        MissingExtraError: The engine is not installed.
        BundleError: The engine does not run this graph.
    """
    if engine not in _PACKAGES:
        raise ConfigError(f"no engine '{engine}'; choose one of {', '.join(ENGINES)}")
    package = _PACKAGES[engine]
    with needed(_EXTRAS[engine], f"the engine '{engine}' needs {package}", package):
        module = importlib.import_module(package)
    with _clear_errors(engine):
        if package == "onnxruntime":
            return _OnnxRuntime(module, graph)
        return _OpenVino(module, graph, weights, "bf16" if engine.endswith("bf16") else "f32")


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int:
    """How many of them an engine takes: all, or as many as ``OMP_NUM_THREADS`` leaves it where others run beside."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(processors(), int(wanted)) if wanted.isdigit() and int(wanted) else processors()


@contextlib.contextmanager
def _clear_errors(engine: str) -> Iterator[None]:
    """What an engine has to say about a model in one line; arrays that do not fit may show with the first picture."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  the engines raise classes of their own, RuntimeError at best
        raise BundleError(f"{engine} cannot run the model: {' '.join(str(error).split())[:300]}") from None


class _OnnxRuntime:
    def __init__(self, onnxruntime: Any, graph: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _threads()
        options.log_severity_level = 4  # errors are raised, and told once
        # Idle threads that spin keep the next stage, which has threads of its own, from its processors.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._inputs = [each.name for each in self._session.get_inputs()]

    def __call__(self, *values: NDArray[Any]) -> list[NDArray[Any]]:
        with _clear_errors("onnxruntime"):
            return list(self._session.run(None, dict(zip(self._inputs, values, strict=True))))


class _OpenVino:
    def __init__(self, openvino: Any, graph: bytes, weights: bytes | None, precision: str) -> None:
        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": _threads(),
        }
        model = core.read_model(graph) if weights is None else core.read_model(graph, weights)
        with _signal_stack_kept():
            self._request = core.compile_model(model, "CPU", settings).create_infer_request()

    def __call__(self, *values: NDArray[Any]) -> list[NDArray[Any]]:
        with _clear_errors("openvino"):
            found = self._request.infer(list(values), share_inputs=True, share_outputs=True)
        return [np.asarray(value) for value in found.values()]


class _SignalStack(ctypes.Structure):
    """``stack_t`` of POSIX on Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def _signal_stack_kept() -> Iterator[None]:
    """Give the thread its own alternate signal stack back.

    OpenVINO's CPU plugin installs one of its own and, when plugins are freed in another order than the reverse of
    their creation, leaves the thread with one that is no longer mapped: the next Ctrl-C is then a segmentation
    fault. It touches nothing where it finds another stack than its own.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    exchange = ctypes.CDLL(None).sigaltstack
    before = _SignalStack()
    exchange(None, ctypes.byref(before))
    try:
        yield
    finally:
        exchange(ctypes.byref(before), None)
