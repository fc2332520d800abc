"""One ONNX graph, built node by node: preprocessing and model in the same file.

Names are counted, so that the same calls give the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from specml.fused import fused

if TYPE_CHECKING:
    import numpy as np
    import onnx

OPSET = 21
ML_OPSET = 3
IR_VERSION = 10
"""Format versions of the graph: what onnxruntime 1.18 and later runs, on CPU and CUDA."""

DType = Literal["float32", "float64", "int64", "bool", "string"]
Trees = Literal["operator", "tensors"]


class Graph:
    """A graph in the making; values are known by the name that made them.

    ``trees``: what ensembles of trees become, ``ai.onnx.ml``'s operator or plain tensor operators.
    """

    def __init__(self, name: str, trees: Trees = "operator") -> None:
        self.name = name
        self.trees = trees
        self.has_trees = False
        """Whether any became that."""
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._told: list[onnx.ValueInfoProto] = []
        self._count = 0
        self._made: dict[bytes, str] = {}
        self._declared: set[str] = set()

    def input(self, name: str, dtype: DType, width: int = 1) -> str:
        """Declare the column ``name``: a tensor of shape [rows, width]; another time, it is the same column."""
        if name not in self._declared:
            self._declared.add(name)
            self._inputs.append(_value_info(name, dtype, ["rows", width]))
        return name

    def output(self, name: str, value: str, dtype: DType, width: int | None = None) -> None:
        """Publish ``value`` as ``name``: shape [rows], or [rows, width]."""
        self._nodes.append(_node("Identity", [value], [name], ""))
        self._outputs.append(_value_info(name, dtype, ["rows"] if width is None else ["rows", width]))

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant tensor; equal ones are one."""
        from onnx import numpy_helper

        made = numpy_helper.from_array(array)
        key = bytes(made.SerializeToString(deterministic=True))
        if key not in self._made:
            made.name = self._made[key] = self._fresh("c")
            self._constants.append(made)
        return self._made[key]

    def node(self, op: str, *inputs: str, domain: str = "", spare: int = 0, **attributes: Any) -> str:
        """Add an operator; returns the name of its first output. The same on the same values is done once.

        ``spare``: how many outputs it has beside, which nothing reads.
        """
        made = _node(op, inputs, [""] * (1 + spare), domain, **attributes)
        key = bytes(made.SerializeToString(deterministic=True))
        if key not in self._made:
            name = self._made[key] = self._fresh("v")
            made.name, made.output[:] = f"{op}_{name}", [name, *(self._fresh("v") for _ in range(spare))]
            self._nodes.append(made)
        return self._made[key]

    def before(self, value: str, op: str) -> str | None:
        """What an operator ``op`` has made ``value`` from; None where something else made it."""
        made = (node for node in self._nodes if value in node.output and node.op_type == op)
        return next((str(node.input[0]) for node in made), None)

    def foreign(self, op: str, value: str, domain: str, dtype: DType, shape: list[str | int], **attributes: Any) -> str:
        """Add an operator that ONNX does not know: it is told what comes out, which it could not infer."""
        name = self.node(op, value, domain=domain, **attributes)
        if name not in self._declared:
            self._declared.add(name)
            self._told.append(_value_info(name, dtype, shape))
        return name

    def inline(self, model: onnx.ModelProto, value: str, output: str) -> str:
        """Add what ``output`` of another model of one input takes to compute, on ``value``; returns its name here.

        The model's nodes must be valid in ``OPSET`` and ``ML_OPSET``.
        """
        from onnx import numpy_helper

        graph = model.graph
        known = {tensor.name: tensor for tensor in graph.initializer}
        makers = {name: node for node in graph.node for name in node.output}
        needed = _needed(makers, output)
        (taken,) = [one.name for one in graph.input if one.name not in known]
        names = {"": "", taken: value}
        for node in graph.node:
            if not needed.intersection(node.output):
                continue
            if node.op_type == "Constant":
                names[node.output[0]] = self.constant(_constant(node))
                continue
            for one in node.input:
                if one in known and one not in names:
                    names[one] = self.constant(numpy_helper.to_array(known[one]))
            copy = type(node)()
            copy.CopyFrom(node)
            fresh = [one and self._fresh("v") for one in node.output]
            names |= dict(zip(node.output, fresh, strict=True))
            copy.ClearField("doc_string")
            copy.name = f"{node.op_type}_{fresh[0]}"
            copy.input[:] = [names[one] for one in node.input]
            copy.output[:] = fresh
            self._nodes.append(copy)
        return names[output]

    def to_bytes(self) -> bytes:
        """The serialised, checked model; columns that are treated alike are treated at once (see ``fused``).

        Raises:
            onnx.checker.ValidationError: the graph is not valid ONNX.
        """
        import onnx
        from onnx import helper

        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, initializer=self._constants, value_info=self._told
        )
        model = helper.make_model(
            graph,
            ir_version=IR_VERSION,
            producer_name="specml",
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
        )
        for domain in sorted({node.domain for node in self._nodes} - {"", "ai.onnx.ml"}):
            model.opset_import.append(helper.make_opsetid(domain, 1))
        model = fused(model)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))

    def _fresh(self, prefix: str) -> str:
        self._count += 1
        return f"_{prefix}{self._count}"


class Number:
    """A float64 value of a graph, computed with as one computes with an array: the same formula serves both."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph = graph
        self.name = name

    def __add__(self, other: Number | float) -> Number:
        return self.call("Add", other)

    def __sub__(self, other: Number | float) -> Number:
        return self.call("Sub", other)

    def __mul__(self, other: Number | float) -> Number:
        return self.call("Mul", other)

    def __truediv__(self, other: Number | float) -> Number:
        return self.call("Div", other)

    def call(self, op: str, *others: Number | float) -> Number:
        """The value of an operator on this value and others."""
        import numpy as np

        names = (
            one.name if isinstance(one, Number) else self.graph.constant(np.array(one, np.float64)) for one in others
        )
        return Number(self.graph, self.graph.node(op, self.name, *names))


def floor(x: Any) -> Any:
    """The largest whole number that is at most ``x``, an array or a ``Number``."""
    import numpy as np

    return x.call("Floor") if isinstance(x, Number) else np.floor(x)


def sine(x: Any) -> Any:
    """Of an array or a ``Number``."""
    import numpy as np

    return x.call("Sin") if isinstance(x, Number) else np.sin(x)


def cosine(x: Any) -> Any:
    """Of an array or a ``Number``."""
    import numpy as np

    return x.call("Cos") if isinstance(x, Number) else np.cos(x)


def _needed(makers: dict[str, onnx.NodeProto], output: str) -> set[str]:
    """Every value that ``output`` is computed from, and itself; ``makers``: the node that each value comes from."""
    needed, waiting = set(), [output]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += makers[name].input if name in makers else ()
    return needed


def _constant(node: onnx.NodeProto) -> np.ndarray:
    """The value of a node ``Constant``."""
    import numpy as np
    from onnx import helper, numpy_helper

    (attribute,) = node.attribute
    content = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return np.asarray(numpy_helper.to_array(content))
    return np.asarray(content, dtype=np.float32 if "float" in attribute.name else np.int64)


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
