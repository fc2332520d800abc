"""A graph cut in three: what a device computes, and what only the CPU has operators for, before and after it.

Texts never leave the CPU: categories are looked up, words counted before the numbers go to the device, and labels are
written after they have come back. Of what a device computes nothing is on the CPU then, so that it can be bound to
fixed memory and recorded as one CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx

ON_CPU = frozenset({"ai.onnx.ml", "com.microsoft"})
"""Domains whose operators no CUDA kernel has."""
TEXTS = frozenset({"TfIdfVectorizer"})
"""And these of ONNX's own, besides all that take or make texts."""
MOST_JOINED = 32
"""Inputs of one ``Concat``: of more, CUDA's kernel copies a table of addresses from memory that it gives back, which a
recorded graph would read again."""

BEFORE, WITHIN, AFTER = range(3)


@dataclass(frozen=True)
class Part:
    """One of the three graphs; ``b""`` where nothing is left for it."""

    graph: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """What is computed before, within and after; a value is known by its name in all of them."""

    before: Part
    within: Part
    after: Part
    outputs: tuple[str, ...]
    """Of the whole graph."""


def cut(graph: bytes, *, doubles: bool = True) -> Cut | None:
    """The three parts of a graph; None where a device would compute nothing.

    ``doubles``: whether the device computes in float64; TensorRT does not.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph))
    told = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    known = {one.name: one for one in told}
    kept = {_STRING} if doubles else {_STRING, _DOUBLE}
    places = _places(model.graph, {name for name, one in known.items() if one.type.tensor_type.elem_type in kept})
    if WITHIN not in places:
        return None
    nodes = [[node for node, at in zip(model.graph.node, places, strict=True) if at == place] for place in range(3)]
    if any(name not in known for part in nodes for node in part for name in node.output if name):
        return None  # its type can't be told
    outputs = tuple(one.name for one in model.graph.output)
    before, within, after = (_part(model, known, nodes, place, outputs) for place in range(3))
    return Cut(before, within, after, outputs)


_STRING, _DOUBLE = 8, 11
"""Of ``onnx.TensorProto``."""


def _places(graph: onnx.GraphProto, kept: set[str]) -> list[int]:
    """Where each operator is computed; what comes from one is never computed earlier than it.

    One that is left to the CPU goes, with all that it is made from, before; or, with all that is made from it, after:
    whichever leaves the device more. ``kept``: values that the device can't hold.
    """
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    above: list[int] = []
    on_cpu = 0
    for index, node in enumerate(graph.node):
        sources = {makers[name] for name in node.input if name in makers}
        above.append(_union(above[one] | 1 << one for one in sources))
        if node.domain in ON_CPU or node.op_type in TEXTS or kept.intersection((*node.input, *node.output)):
            on_cpu |= 1 << index
    below = [0] * len(above)
    for index in reversed(range(len(above))):
        for source in {makers[name] for name in graph.node[index].input if name in makers}:
            below[source] |= below[index] | 1 << index
    before = after = 0
    for index, (over, under) in enumerate(zip(above, below, strict=True)):
        here = 1 << index
        if not on_cpu & here or after & here:
            continue
        if (over & ~on_cpu).bit_count() < max(1, (under & ~on_cpu).bit_count()):
            before |= over | here
        else:
            after |= under | here
    return [BEFORE if before >> i & 1 else AFTER if after >> i & 1 else WITHIN for i in range(len(above))]


def _union(sets: Iterable[int]) -> int:
    united = 0
    for one in sets:
        united |= one
    return united


def _part(
    model: onnx.ModelProto,
    known: dict[str, onnx.ValueInfoProto],
    nodes: list[list[onnx.NodeProto]],
    place: int,
    outputs: tuple[str, ...],
) -> Part:
    from onnx import helper

    made = {name for node in nodes[place] for name in node.output if name}
    taken = dict.fromkeys(name for node in nodes[place] for name in node.input if name and name not in made)
    constants = [one for one in model.graph.initializer if one.name in taken]
    inputs = tuple(name for name in taken if name not in {one.name for one in constants})
    elsewhere = {name for other in nodes[place + 1 :] for node in other for name in node.input}
    given = tuple(name for node in nodes[place] for name in node.output if name and name in elsewhere.union(outputs))
    if not given:
        return Part(b"", (), ())
    graph = helper.make_graph(
        list(_narrow(nodes[place])),
        model.graph.name,
        [known[name] for name in inputs],
        [known[name] for name in given],
        initializer=constants,
        value_info=[known[name] for name in made if name not in given],
    )
    part = helper.make_model(graph, ir_version=model.ir_version, opset_imports=model.opset_import)
    return Part(bytes(part.SerializeToString()), inputs, given)


def _narrow(nodes: list[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    """The same operators with no ``Concat`` of more than ``MOST_JOINED`` inputs."""
    from onnx import helper

    for node in nodes:
        names, level = list(node.input), 0
        while node.op_type == "Concat" and len(names) > MOST_JOINED:
            groups = [names[start : start + MOST_JOINED] for start in range(0, len(names), MOST_JOINED)]
            names = [f"{node.output[0]}_{level}_{place}" for place in range(len(groups))]
            for group, name in zip(groups, names, strict=True):
                yield helper.make_node("Concat", group, [name], name=name, axis=node.attribute[0].i)
            level += 1
        copy = type(node)()
        copy.CopyFrom(node)
        copy.input[:] = names
        yield copy
