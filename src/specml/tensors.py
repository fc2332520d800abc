"""Tree ensembles as plain tensor operators, for providers that have no operator for trees: CUDA's has none.

After Nakandala et al. 2020, *A tensor compiler for unified machine learning prediction serving* (Hummingbird): of
shallow trees all questions are asked at once and a matrix product finds the leaf (``GEMM``); in deeper ones every row
goes down all trees together, one step for each depth (``TreeTraversal``). No loops, no branches, and of every type
and version here CUDA has a kernel.

Each row ends in the same leaf as by the ``ai.onnx.ml`` operator, whatever its values are; the leaves are summed in
float64, by which the sum is the library's to float32's last bit.

Trees are taken in blocks of at most ``BLOCK``, ordered by depth: a call of n rows holds a few arrays [n, ``BLOCK``] of
4 or 8 bytes at a time, whatever the number of trees: of trees of depth 3 and of leaves of ten classes 26 kB for each
row, of others 5 to 11 (measured by onnxruntime's peak on the CPU).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from specml.graph import Graph
    from specml.trees import Ensemble

SHALLOW = 3
"""Depth up to which all questions of a tree are asked; beyond, most of them would be asked in vain."""
BLOCK = 256
"""Most trees that rows go down together."""

LOW, HIGH, MISSING, CODE = range(4)
"""What a split asks of a column: its number with the lowest for missing ones, with the highest, whether it is missing,
or the place of its code among -1, 0, 1, …"""


def to_onnx(ensemble: Ensemble, graph: Graph, X: str) -> str:
    """Add the ensemble; returns a float32 value [n, width]."""
    from onnx import TensorProto

    forest = _Forest(ensemble)
    asked = _asked(forest, graph, X)
    total = ""
    for roots in forest.blocks():
        told = _deep if forest.deep[roots[0]] else _shallow
        part = _sum(forest, roots, *told(forest, roots, graph, asked), graph)
        total = graph.node("Add", total, part) if total else part
    return graph.node("Cast", total, to=TensorProto.FLOAT)


class _Forest:
    """An ensemble's nodes as arrays [nodes]; children by their place in them."""

    def __init__(self, ensemble: Ensemble) -> None:
        import numpy as np

        tree, node = np.array(ensemble.tree), np.array(ensemble.node)
        self.tree = tree
        most = int(node.max()) + 1
        keys = tree * most + node
        order = np.argsort(keys)

        def place(node: Any, tree: np.ndarray = tree) -> np.ndarray:
            return np.asarray(order[np.searchsorted(keys[order], tree * most + np.asarray(node))])

        self.leaf = np.array(ensemble.mode) == "LEAF"
        self.roots = np.flatnonzero(node == 0)
        self.left, self.right = (
            place(np.where(self.leaf, node, np.array(side))) for side in (ensemble.left, ensemble.right)
        )
        self.sets = {int(place(node, np.array(tree))): left for (tree, node), left in ensemble.sets.items()}
        self._ask(ensemble)
        self._measure()
        at = place(ensemble.leaf_node, np.array(ensemble.leaf_tree))
        target, value = np.array(ensemble.leaf_target, dtype=np.int64), np.array(ensemble.leaf_value)
        self.value = np.zeros((len(tree), ensemble.width))
        self.value[at, target] = value
        # The trees of boosting add to one score each.
        self.target = np.zeros(int(tree.max()) + 1, dtype=np.int64)
        self.target[tree[at]] = target
        self.one_each = bool((self.target[tree[at]] == target).all())

    def _ask(self, ensemble: Ensemble) -> None:
        """``limit`` float32 and ``column`` of each node: a row goes to the right if its column is above the limit.

        ``columns``: what these are, as pairs of a feature and how it is asked.
        """
        import numpy as np

        self.limit = np.array(ensemble.threshold, dtype=np.float32)
        missing_left = np.array(ensemble.missing_goes_left, dtype=bool)
        how = np.where(missing_left, LOW, HIGH)
        # Nothing is above infinity, so that what parts missing numbers from all others asks for them.
        parts_missing = np.isposinf(self.limit) & ~missing_left & ~self.leaf
        how[parts_missing], self.limit[parts_missing] = MISSING, 0.5
        self.limit[self.leaf] = np.inf
        for place in self.sets:
            how[place], self.limit[place] = CODE, np.inf
        features = np.array(ensemble.feature)
        pairs = np.stack([how, features], axis=1)
        pairs[self.leaf] = pairs[~self.leaf][0] if not self.leaf.all() else (HIGH, 0)
        found, column = np.unique(pairs, axis=0, return_inverse=True)
        self.columns = [(int(feature), int(how)) for how, feature in found]
        self.column = column.reshape(-1).astype(np.int32)

    def _measure(self) -> None:
        """``depth`` of each root's tree, whether it ``parts`` categories, and whether it is ``deep``."""
        import numpy as np

        self.depth, parts = np.zeros(len(self.leaf), dtype=np.int64), np.zeros(int(self.tree.max()) + 1, dtype=bool)
        parts[self.tree[list(self.sets)]] = True
        self.parts = parts[self.tree]
        by_tree = np.zeros(len(parts), dtype=np.int64)
        level, depth = self.roots, 0
        while len(level):
            by_tree[self.tree[level]] = depth
            splits = level[~self.leaf[level]]
            level, depth = np.concatenate([self.left[splits], self.right[splits]]), depth + 1
        self.depth[self.roots] = by_tree[self.tree[self.roots]]
        self.deep = self.parts | (self.depth > SHALLOW)

    def blocks(self) -> Iterator[np.ndarray]:
        """Roots of trees that are treated alike, by depth: first shallow ones, those that part categories last."""
        import numpy as np

        kind = self.deep[self.roots].astype(int) + self.parts[self.roots]
        for one in range(3):
            roots = self.roots[kind == one]
            roots = roots[np.argsort(self.depth[roots], kind="stable")]
            for start in range(0, len(roots), BLOCK):
                yield roots[start : start + BLOCK]


def _asked(forest: _Forest, graph: Graph, X: str) -> str:
    """The columns that splits ask for: float32 [n, columns], without a missing number."""
    import numpy as np
    from onnx import TensorProto

    def number(value: float) -> str:
        return graph.constant(np.array(value, dtype=np.float32))

    parts = []
    for how in (LOW, HIGH, MISSING, CODE):
        features = np.array([feature for feature, one in forest.columns if one == how], dtype=np.int64)
        if not len(features):
            continue
        taken = graph.node("Gather", X, graph.constant(features), axis=1)
        missing = graph.node("IsNaN", taken)
        if how == MISSING:
            parts.append(graph.node("Cast", missing, to=TensorProto.FLOAT))
        elif how == CODE:
            last = max(len(left) for left in forest.sets.values()) - 2
            known = graph.node("Where", missing, number(-1), taken)
            known = graph.node("Clip", known, number(-1), number(last))
            below = graph.node("Floor", known)
            # A chain of comparisons sends the middle of two codes with the lower one.
            above = graph.node("Greater", known, graph.node("Add", below, number(0.5)))
            nearest = graph.node("Add", below, graph.node("Cast", above, to=TensorProto.FLOAT))
            parts.append(graph.node("Add", nearest, number(1)))
        else:
            parts.append(graph.node("Where", missing, number(-math.inf if how == LOW else math.inf), taken))
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)


def _shallow(forest: _Forest, roots: np.ndarray, graph: Graph, asked: str) -> tuple[str, np.ndarray]:
    """The place [n, trees] of each row's leaf among the leaves, and those: nodes [leaves].

    Trees are filled up to one depth, with questions to which the answer is always the left. A question counts 1 for
    the leaves on its right, -1 for those on its left; a leaf that gets as many as it has questions to the right is
    the row's, any other gets fewer.
    """
    import numpy as np
    from onnx import TensorProto

    depth = max(1, int(forest.depth[roots].max()))
    questions, level = [], roots[:, None]
    for _ in range(depth):
        questions.append(level)
        level = np.stack([np.where(forest.leaf[level], level, side[level]) for side in (forest.left, forest.right)], 2)
        level = level.reshape(len(roots), -1)
    asks = np.concatenate(questions, axis=1)
    values = graph.node("Gather", asked, graph.constant(forest.column[asks].reshape(-1)), axis=1)
    right = graph.node("Greater", values, graph.constant(forest.limit[asks].reshape(1, -1)))
    answers = graph.node("Cast", right, to=TensorProto.FLOAT)
    answers = graph.node("Reshape", answers, graph.constant(np.array([-1, asks.shape[1]])))
    counts = np.zeros((asks.shape[1], 2**depth), dtype=np.float32)
    for leaf in range(2**depth):
        for step in range(depth):
            counts[2**step - 1 + (leaf >> (depth - step)), leaf] = 1 if leaf >> (depth - step - 1) & 1 else -1
    surplus = graph.constant(-(counts > 0).sum(axis=0).astype(np.float32))
    found = graph.node("ArgMax", graph.node("Gemm", answers, graph.constant(counts), surplus), axis=1, keepdims=0)
    found = graph.node("Reshape", found, graph.constant(np.array([-1, len(roots)])))
    first = np.arange(len(roots))[None] * 2**depth
    return graph.node("Add", found, graph.constant(first)), level.reshape(-1)


def _deep(forest: _Forest, roots: np.ndarray, graph: Graph, asked: str) -> tuple[str, np.ndarray]:
    """The same, for nodes level by level: a right child follows the left one, and a leaf is followed by itself."""
    import numpy as np
    from onnx import TensorProto

    levels, firsts, count = [roots], [], len(roots)
    for _ in range(int(forest.depth[roots].max())):
        level = levels[-1]
        splits = ~forest.leaf[level]
        first = np.arange(count - len(level), count)
        first[splits] = count + 2 * np.arange(splits.sum())
        firsts.append(first)
        levels.append(np.stack([forest.left[level[splits]], forest.right[level[splits]]], axis=1).reshape(-1))
        count += len(levels[-1])
    nodes = np.concatenate(levels)
    firsts.append(np.arange(count - len(levels[-1]), count))
    table = _Table(forest.column[nodes], forest.limit[nodes], np.concatenate(firsts).astype(np.int32))
    if forest.parts[roots[0]]:
        table = table.with_sets([forest.sets.get(int(node)) for node in nodes])
    place = ""
    for _ in range(len(levels) - 1):
        at = table.at(graph, place, len(roots))
        column = at(table.column)
        values = graph.node("GatherElements" if place else "Gather", asked, column, axis=1)
        right = graph.node("Greater", values, at(table.limit))
        if table.outside is not None:
            code = graph.node("Max", values, graph.constant(np.array(0, dtype=np.float32)))
            code = graph.node("Cast", graph.node("Min", code, at(table.last)), to=TensorProto.INT32)
            member = graph.node("Add", at(table.start), code)
            right = graph.node("Or", right, graph.node("Gather", graph.constant(table.outside), member))
        place = graph.node("Add", at(table.first), graph.node("Cast", right, to=TensorProto.INT32))
    return place, nodes


@dataclass(frozen=True)
class _Table:
    """Nodes that rows go down: arrays [nodes]."""

    column: np.ndarray
    limit: np.ndarray
    first: np.ndarray
    """The place of the left child."""
    start: np.ndarray | None = None
    last: np.ndarray | None = None
    outside: np.ndarray | None = None
    """Of sets of categories, one after the other: which codes go to the right; from ``start`` to ``last`` beyond it.
    The first entry is for nodes that have none."""

    def with_sets(self, sets: list[np.ndarray | None]) -> _Table:
        """The same with nodes of which some part categories."""
        import numpy as np

        sizes = np.array([0 if left is None else len(left) for left in sets])
        ends = 1 + np.cumsum(sizes)
        return _Table(
            self.column,
            self.limit,
            self.first,
            np.where(sizes > 0, ends - sizes, 0).astype(np.int32),
            np.maximum(sizes - 1, 0).astype(np.float32),
            np.concatenate([[False], *(~left for left in sets if left is not None)]),
        )

    def at(self, graph: Graph, place: str, roots: int) -> Any:
        """What an array holds at ``place`` [n, trees]; at the roots, the first ``roots``, where there is none yet."""

        def told(array: np.ndarray) -> str:
            if place:
                return graph.node("Gather", graph.constant(array), place)
            return graph.constant(array[:roots] if array is self.column else array[None, :roots])

        return told


def _sum(forest: _Forest, roots: np.ndarray, place: str, nodes: np.ndarray, graph: Graph) -> str:
    """The sum of the rows' leaves: float64 [n, width]."""
    import numpy as np

    values = forest.value[nodes]
    if not forest.one_each:
        told = graph.node("Gather", graph.constant(values), place)
        return graph.node("ReduceSum", told, graph.constant(np.array([1])), keepdims=0)
    targets = forest.target[forest.tree[roots]]
    alone = values[np.arange(len(nodes)), forest.target[forest.tree[nodes]]]
    adds = (targets[:, None] == np.arange(forest.value.shape[1])).astype(np.float64)
    return graph.node("MatMul", graph.node("Gather", graph.constant(alone), place), graph.constant(adds))
