"""A graph that takes many columns as one tensor.

A call of onnxruntime takes more than a microsecond for each input that it is given, which for one row is more than the
model takes. A server reads a request's numbers as one block anyway; the graph may have it as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import onnx

BLOCK = "specml.block"
"""What the input is called that holds the columns: float64 [rows, columns]."""


def packed(graph: bytes, columns: Sequence[str]) -> bytes:
    """The same graph with ``BLOCK`` in the place of its inputs ``columns``, each float64 [rows, 1]."""
    import onnx
    from onnx import helper

    model = onnx.load_model_from_string(graph)
    places = {name: place for place, name in enumerate(columns)}
    kept = [one for one in model.graph.input if one.name not in places]
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if _joins(node) and places.keys() >= set(node.input):
            nodes += _taken([places[name] for name in node.input], len(columns), node.output[0])
        else:
            nodes.append(node)
    apart = places.keys() & {*_used(nodes), *(one.name for one in model.graph.output)}
    first = [one for name in columns if name in apart for one in _taken([places[name]], len(columns), name)]
    del model.graph.input[:], model.graph.node[:]
    block = helper.make_tensor_value_info(BLOCK, onnx.TensorProto.DOUBLE, [None, len(columns)])
    model.graph.input.extend([block, *kept])
    model.graph.node.extend([*first, *nodes])
    return bytes(model.SerializeToString())


def _joins(node: onnx.NodeProto) -> bool:
    """Whether it brings columns together, side by side."""
    return node.op_type == "Concat" and node.attribute[0].i in (1, -1)


def _taken(places: list[int], width: int, name: str) -> Iterator[onnx.NodeProto]:
    """What gives the block's columns at ``places`` the name ``name``."""
    from onnx import TensorProto, helper

    if places == list(range(width)):
        yield helper.make_node("Identity", [BLOCK], [name])
        return
    which = f"{BLOCK}.{name}"
    told = helper.make_tensor(which, TensorProto.INT64, [len(places)], places)
    yield helper.make_node("Constant", [], [which], value=told)
    yield helper.make_node("Gather", [BLOCK, which], [name], axis=1)


def _used(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Every value that some operators take, or graphs within them."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _used(graph.node)
