"""Columns side by side: what a graph does to each of many columns alike, it does to all of them at once.

Preprocessing is some operators for each column, and a call of an operator costs about as much for one column as for
all. So where columns come together (``Concat``) that were made alike, they are brought together before that, and what
was done to each with a number of its own is done to all with a row of numbers. Every value stays what it was, to the
last bit but the sign of a zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import onnx

ALIKE = frozenset({
    "Abs", "Add", "And", "Cast", "Clip", "Cos", "Div", "Equal", "Exp", "Floor", "Greater", "GreaterOrEqual", "Identity",
    "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Relu",
    "Sigmoid", "Sign", "Sin", "Sqrt", "Sub", "Tanh", "Where",
})  # fmt: skip
"""Operators that do to each number of a tensor what they do to it alone."""


def fused(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, with fewer operators where many columns are treated alike."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    _Fusing(inferred.graph, model.graph.value_info).do()
    return inferred


class _Fusing:
    """A graph that is being changed.

    Args:
        declared: what was told of values that can't be inferred.
    """

    def __init__(self, graph: onnx.GraphProto, declared: Sequence[onnx.ValueInfoProto]) -> None:
        from onnx import numpy_helper

        self._graph, self._declared = graph, list(declared)
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        told = [*graph.input, *graph.output, *graph.value_info]
        self._width = {one.name: _width(one) for one in told}
        self._inputs = {one.name: one.type.tensor_type.elem_type for one in graph.input}
        self._kinds = {one.name: one.type.tensor_type.elem_type for one in told}
        self._made: dict[tuple[str, ...], str] = {}
        self._fresh: list[onnx.NodeProto] = []
        self._count = 0

    def do(self) -> None:
        """Change it."""
        nodes: list[onnx.NodeProto] = []
        for node in self._graph.node:
            if len(node.input) > 1 and self._side_by_side(node):
                self._instead(node)
            else:
                self._fresh.append(node)
            nodes += self._fresh
            self._fresh.clear()
        self._keep(nodes)

    def _instead(self, node: onnx.NodeProto) -> None:
        """What gives the value of a ``Concat``, by its name."""
        names, given = tuple(self._flat(node)), node.output[0]
        joined = self._joined(names)
        if self._fresh and self._fresh[-1].output[0] == joined:
            self._fresh[-1].output[0] = given
            self._made = {key: given if value == joined else value for key, value in self._made.items()}
        else:  # the same was brought together before
            self._node("Identity", [joined], self._width[joined], joined)
            self._fresh[-1].output[0] = given

    def _side_by_side(self, node: onnx.NodeProto | None) -> bool:
        return (
            node is not None
            and node.op_type == "Concat"
            and node.attribute[0].i == 1
            and all(map(self._known, node.input))
        )

    def _flat(self, node: onnx.NodeProto) -> Iterator[str]:
        """What is brought together, and not what was brought together before."""
        for name in node.input:
            maker = self._makers.get(name)
            if maker is not None and self._side_by_side(maker):
                yield from self._flat(maker)
            else:
                yield name

    def _known(self, name: str) -> bool:
        return self._width.get(name, 0) > 0

    def _joined(self, names: tuple[str, ...]) -> str:
        """The value [n, …] with these columns side by side."""
        if len(names) == 1:
            return names[0]
        if names not in self._made:
            groups: dict[Any, list[int]] = {}
            for place, name in enumerate(names):
                groups.setdefault(self._signature(name) or place, []).append(place)
            if len(groups) == len(names):
                self._made[names] = self._node("Concat", list(names), self._widths(names), names[0], axis=1)
            elif len(groups) == 1:
                self._made[names] = self._alike(names)
            else:
                self._made[names] = self._grouped(names, list(groups.values()))
        return self._made[names]

    def _signature(self, name: str) -> Any:
        """What values must have in common to be made at once; None of one that can't be."""
        node = self._makers.get(name)
        if node is None:
            return ("input", self._kinds[name]) if name in self._inputs else None
        if node.op_type not in ALIKE or node.domain or len(node.output) != 1 or "" in node.input:
            return None
        sources = []
        for one in node.input:
            if one in self._constants:
                array = self._constants[one]
                row = array.ndim < 2 or array.shape[:-1] == (1,)
                if array.size not in (1, self._width[name]) or not row:
                    return None
                sources.append(("constant", str(array.dtype)))
            elif self._known(one) and self._width[one] in (1, self._width[name]):
                sources.append(("value", self._kinds[one]))
            else:
                return None
        if not any(kind == "value" for kind, _ in sources):
            return None
        return (node.op_type, tuple(one.SerializeToString() for one in node.attribute), tuple(sources))

    def _alike(self, names: tuple[str, ...]) -> str:
        nodes = [self._makers.get(name) for name in names]
        if nodes[0] is None:
            return self._node("Concat", list(names), self._widths(names), names[0], axis=1)
        first = nodes[0]
        sources = [tuple(node.input[place] for node in nodes if node) for place in range(len(first.input))]
        taken = [self._source(one, names) for one in sources]
        width = self._widths(names)
        if first.op_type == "Clip" and not all(len(set(one)) == 1 for one in sources[1:]):
            low = self._node("Max", [taken[0], taken[1]], width, names[0])
            return self._node("Min", [low, taken[2]], width, names[0]) if len(taken) > 2 else low
        made = self._node(first.op_type, taken, width, names[0])
        self._fresh[-1].attribute.extend(first.attribute)
        return made

    def _source(self, sources: tuple[str, ...], names: tuple[str, ...]) -> str:
        """What the operators took in one place, side by side."""
        import numpy as np

        widths = [self._width[name] for name in names]
        if sources[0] in self._constants:
            if len(set(sources)) == 1 and self._constants[sources[0]].size == 1:
                return sources[0]
            arrays = [
                np.broadcast_to(self._constants[one].reshape(-1), (width,))
                for one, width in zip(sources, widths, strict=True)
            ]
            return self._constant(np.concatenate(arrays).reshape(1, -1))
        joined = self._joined(sources)
        given = [self._width[one] for one in sources]
        if given == widths:
            return joined
        starts = np.cumsum([0, *given[:-1]])
        places = [
            start + (np.zeros(wide, np.int64) if have == 1 else np.arange(wide))
            for start, have, wide in zip(starts, given, widths, strict=True)
        ]
        return self._node("Gather", [joined, self._constant(np.concatenate(places))], sum(widths), joined, axis=1)

    def _grouped(self, names: tuple[str, ...], groups: list[list[int]]) -> str:
        """Each group by itself, and then all in the order that was asked for."""
        import numpy as np

        parts = [self._joined(tuple(names[place] for place in group)) for group in groups]
        width = self._widths(names)
        joined = self._node("Concat", parts, width, names[0], axis=1)
        order = [place for group in groups for place in group]
        if order == sorted(order):
            return joined
        starts = dict(
            zip(order, np.cumsum([0, *(self._width[names[place]] for place in order)]).tolist(), strict=False)
        )
        at = [starts[place] + step for place, name in enumerate(names) for step in range(self._width[name])]
        return self._node("Gather", [joined, self._constant(np.array(at, dtype=np.int64))], width, joined, axis=1)

    def _widths(self, names: tuple[str, ...]) -> int:
        return sum(self._width[name] for name in names)

    def _node(self, op: str, inputs: list[str], width: int, like: str, **attributes: Any) -> str:
        """A new operator; what it makes has ``width`` columns of the type of ``like``."""
        from onnx import helper

        name = self._name()
        self._kinds[name] = self._kinds[like]
        self._fresh.append(helper.make_node(op, inputs, [name], name=f"{op}{name}", **attributes))
        self._width[name] = width
        return name

    def _constant(self, array: np.ndarray) -> str:
        from onnx import numpy_helper

        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"_f{self._count}"

    def _keep(self, nodes: list[onnx.NodeProto]) -> None:
        """The nodes that the outputs are made from, and what these take."""
        needed = {one.name for one in self._graph.output}
        kept = []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input)
        constants = [one for one in self._graph.initializer if one.name in needed]
        del self._graph.node[:], self._graph.initializer[:], self._graph.value_info[:]
        self._graph.node.extend(reversed(kept))
        self._graph.initializer.extend(constants)
        self._graph.value_info.extend(one for one in self._declared if one.name in needed)


def _width(value: onnx.ValueInfoProto) -> int:
    """The columns of a value [n, columns]; 0 where it is none, or that can't be told."""
    shape = value.type.tensor_type.shape.dim
    return int(shape[1].dim_value) if len(shape) == 2 and not shape[0].HasField("dim_value") else 0
