"""An ONNX graph, written node by node.

The network is known and small, so it is written down rather than traced: no PyTorch is needed where parts are inspected,
and the graph holds what is computed and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_spotter.extras import needed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

OPSET = 20
IR_VERSION = 10  # what ONNX Runtime 1.18 and OpenVINO 2024 read


class Graph:
    """A graph under construction. Values are named by strings; shapes are the caller's business.

    Calling the graph adds a node: ``y = graph("Conv", x, weight, strides=[2, 2])``. Arrays among the inputs become
    constants.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[np.generic]] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._helper = _onnx().helper

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[int | str | None]) -> str:
        """Declare an input; a string names a side that may vary."""
        kind = self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(self._helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def constant(self, values: Any, dtype: type[np.generic] | None = None) -> str:
        """A constant array."""
        name = f"c{len(self._constants)}"
        self._constants[name] = np.ascontiguousarray(np.asarray(values, dtype)).reshape(np.shape(values))
        return name

    def tensor(self, values: Any) -> onnx.TensorProto:
        """An array as an attribute of a node, ``float32``."""
        array: onnx.TensorProto = _onnx().numpy_helper.from_array(np.asarray(values, np.float32))
        return array

    def __call__(self, operator: str, *inputs: str | NDArray[np.generic], **attributes: Any) -> str:
        """Add a node; gives the name of its first output."""
        return self.several(operator, 1, *inputs, **attributes)[0]

    def several(
        self, operator: str, outputs: int, *inputs: str | NDArray[np.generic], **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        made = [f"v{len(self._nodes)}_{number}" for number in range(outputs)]
        self._nodes.append(
            self._helper.make_node(operator, names, made, f"n{len(self._nodes)}", **attributes)
        )
        return made

    def cast(self, value: str, dtype: Any) -> str:
        """``value`` as another type: a NumPy type, or a number of ``onnx.TensorProto``."""
        kind = dtype if isinstance(dtype, int) else self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self("Cast", value, to=kind)

    def part(self, value: str, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int]) -> str:
        """A slice; an end of 0 or less counts from behind, 0 meaning the end."""
        last = [end if end != 0 else np.iinfo(np.int64).max for end in ends]
        return self("Slice", value, np.array(starts), np.array(last), np.array(axes))

    def reshape(self, value: str, *shape: int) -> str:
        """Another shape of the same values."""
        return self("Reshape", value, np.array(shape, np.int64))

    def maximum(self, value: str, axis: int) -> str:
        """The largest along an axis, which disappears."""
        return self("ReduceMax", value, np.array([axis]), keepdims=0)

    def total(self, value: str, axis: int) -> str:
        """The sum along an axis, which disappears."""
        return self("ReduceSum", value, np.array([axis]), keepdims=0)

    def model(
        self,
        outputs: Mapping[str, tuple[str, Any, Sequence[Any]]],
        metadata: Mapping[str, str] | None = None,
    ) -> onnx.ModelProto:
        """The finished model.

        Args:
            outputs: Name in the model -> (value, type, shape).
            metadata: Written into the model as it is.
        """
        helper = self._helper
        declared = []
        for name, (value, dtype, shape) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [name]))
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            declared.append(helper.make_tensor_value_info(name, kind, list(shape)))
        # Filled in place: the ways through the helpers copy every constant twice more, which shows in cold starts.
        model: onnx.ModelProto = _onnx().ModelProto(ir_version=IR_VERSION, producer_name="anomaly-spotter")
        model.opset_import.append(helper.make_opsetid("", OPSET))
        model.graph.name = "anomaly_spotter"
        model.graph.node.extend(self._nodes)
        model.graph.input.extend(self._inputs)
        model.graph.output.extend(declared)
        for name, array in self._constants.items():
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            bare = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            model.graph.initializer.add(name=name, data_type=kind, dims=array.shape, raw_data=bare)
        helper.set_model_props(model, dict(metadata or {}))
        return model


def _onnx() -> Any:
    with needed("runtime", "running without PyTorch and exporting need onnx", "onnx"):
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    return onnx
