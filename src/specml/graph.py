"""One ONNX graph, built node by node: preprocessing and model in the same file.

Names are counted, so that the same calls give the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import onnx

OPSET = 21
ML_OPSET = 3
IR_VERSION = 10
"""Format versions of the graph: what onnxruntime 1.18 and later runs, on CPU and CUDA."""

DType = Literal["float32", "float64", "int64", "bool", "string"]


class Graph:
    """A graph in the making; values are known by the name that made them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._count = 0

    def input(self, name: str, dtype: DType) -> str:
        """Declare the column ``name``: a tensor of shape [rows, 1]."""
        self._inputs.append(_value_info(name, dtype, ["rows", 1]))
        return name

    def output(self, name: str, value: str, dtype: DType, width: int | None = None) -> None:
        """Publish ``value`` as ``name``: shape [rows], or [rows, width]."""
        self._nodes.append(_node("Identity", [value], [name], ""))
        self._outputs.append(_value_info(name, dtype, ["rows"] if width is None else ["rows", width]))

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant tensor."""
        from onnx import numpy_helper

        name = self._fresh("c")
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator with one output; returns the output's name."""
        name = self._fresh("v")
        self._nodes.append(_node(op, inputs, [name], domain, **attributes))
        return name

    def to_bytes(self) -> bytes:
        """The serialised, checked model.

        Raises:
            onnx.checker.ValidationError: the graph is not valid ONNX.
        """
        import onnx
        from onnx import helper

        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, initializer=self._constants)
        model = helper.make_model(
            graph,
            ir_version=IR_VERSION,
            producer_name="specml",
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
        )
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))

    def _fresh(self, prefix: str) -> str:
        self._count += 1
        return f"_{prefix}{self._count}"


def _node(op: str, inputs: Any, outputs: Any, domain: str, **attributes: Any) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node(op, list(inputs), list(outputs), name=f"{op}_{outputs[0]}", domain=domain, **attributes)


def _value_info(name: str, dtype: DType, shape: list[str | int]) -> onnx.ValueInfoProto:
    from onnx import TensorProto, helper

    types = {
        "float32": TensorProto.FLOAT,
        "float64": TensorProto.DOUBLE,
        "int64": TensorProto.INT64,
        "bool": TensorProto.BOOL,
        "string": TensorProto.STRING,
    }
    return helper.make_tensor_value_info(name, types[dtype], shape)
