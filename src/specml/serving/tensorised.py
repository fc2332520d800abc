"""Trees of a packaged graph as tensor operators, for a device that has no operator for trees.

The bundle keeps the operator, which is fastest on a CPU; a replica that tries a GPU makes the other form of it as it
starts. Every row ends in the same leaf of every tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml.graph import OPSET, Graph
from specml.trees import Ensemble

if TYPE_CHECKING:
    import numpy as np
    import onnx

OPERATOR = "TreeEnsembleRegressor"


def tensorised(graph: bytes) -> bytes | None:
    """The same graph with tensor operators in the place of trees; None where it has none, or some of another make."""
    import onnx

    model = onnx.load_model_from_string(graph)
    versions = {one.domain: one.version for one in model.opset_import}
    if versions.get("") != OPSET or all(node.op_type != OPERATOR for node in model.graph.node):
        return None
    told = onnx.shape_inference.infer_shapes(model).graph
    shapes = {one.name: one.type.tensor_type.shape.dim for one in [*told.input, *told.value_info]}
    nodes = []
    for place, node in enumerate(model.graph.node):
        if node.op_type != OPERATOR:
            nodes.append(node)
            continue
        ensemble, shape = _ensemble(node), shapes.get(node.input[0], ())
        if ensemble is None or len(shape) != 2 or not shape[1].dim_value:
            return None
        part = _part(ensemble, shape[1].dim_value)
        names = {"": "", "x": node.input[0], "out": node.output[0]}
        for made in part.node:
            for given in (made.input, made.output):
                given[:] = [names.setdefault(name, f"_t{place}{name}") for name in given]
            made.name = f"_t{place}{made.name}"
        for constant in part.initializer:
            constant.name = names.setdefault(constant.name, f"_t{place}{constant.name}")
        nodes += part.node
        model.graph.initializer.extend(part.initializer)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _part(ensemble: Ensemble, width: int) -> onnx.GraphProto:
    import onnx

    graph = Graph("trees", "tensors")
    graph.output("out", ensemble.to_onnx(graph, graph.input("x", "float32", width)), "float32", ensemble.width)
    return onnx.load_model_from_string(graph.to_bytes()).graph


def _ensemble(node: onnx.NodeProto) -> Ensemble | None:
    """The trees that an operator holds; None where it is not one of ``Ensemble.to_onnx``."""
    from onnx import helper

    told: dict[str, Any] = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    modes = {mode.decode() for mode in told["nodes_modes"]}
    plain = (told.get("aggregate_function", b"SUM"), told.get("post_transform", b"NONE")) == (b"SUM", b"NONE")
    if not plain or told.get("base_values") or not modes <= {"BRANCH_LEQ", "LEAF"} or "nodes_values" not in told:
        return None
    leaves: dict[tuple[int, int], dict[int, float]] = {}
    for tree, at, target, value in zip(
        told["target_treeids"], told["target_nodeids"], told["target_ids"], told["target_weights"], strict=True
    ):
        leaves.setdefault((tree, at), {})[target] = value
    names = ("modes", "featureids", "values", "truenodeids", "falsenodeids")
    missing = told.get("nodes_missing_value_tracks_true") or [0] * len(told["nodes_modes"])
    trees: dict[int, dict[int, Any]] = {}
    for tree, at, *rest in zip(
        told["nodes_treeids"], told["nodes_nodeids"], *(told[f"nodes_{name}"] for name in names), missing, strict=True
    ):
        trees.setdefault(tree, {})[at] = rest
    ensemble = Ensemble(int(told["n_targets"]))
    return ensemble if all(_grow(ensemble, tree, nodes, leaves) for tree, nodes in trees.items()) else None


def _grow(
    ensemble: Ensemble, tree: int, nodes: dict[int, Any], leaves: dict[tuple[int, int], dict[int, float]]
) -> bool:
    """Add a tree, from its root down; False where nodes share children but in the chains of ``Ensemble``."""
    waiting, seen = [0], set()
    while waiting:
        at = waiting.pop()
        if at in seen:
            return False
        seen.add(at)
        mode, feature, limit, left, right, missing = nodes[at]
        if mode == b"LEAF":
            ensemble.add_leaf(tree, at, leaves.get((tree, at), {0: 0.0}))
            continue
        below, chain = (left, right), _chain(nodes, at)
        if chain is not None:
            below, codes = chain
            ensemble.add_set(tree, at, feature=feature, left=codes, below=below)
        else:
            ensemble.add_split(tree, at, feature=feature, limit=limit, below=below, missing_left=missing)
        waiting += below
    return True


def _chain(nodes: dict[int, Any], at: int) -> tuple[tuple[int, int], np.ndarray] | None:
    """The two children that a chain of comparisons of one category leads to, and which codes go to the first."""
    import numpy as np

    _, feature, limit, first, after, _ = nodes[at]
    ends, sides = [limit], [first]
    while after not in sides:
        mode, asked, limit, left, beyond, _ = nodes[after]
        if mode == b"LEAF" or asked != feature or limit <= ends[-1] or (len(sides) > 1 and left not in sides):
            return None
        ends.append(limit)
        sides.append(left)
        after = beyond
    if len(ends) == 1 or len(set(sides)) != 2 or any(end != np.floor(end) + 0.5 for end in ends):
        return None
    codes = np.arange(-1, int(ends[-1] + 0.5) + 1)
    place = np.searchsorted(ends, codes)
    return (sides[0], sides[1]), np.array([*sides, after])[place] == sides[0]
