"""Tree ensembles in a graph that decides every row as the library does.

As one operator of ``ai.onnx.ml``, or as plain tensor operators: see ``tensors``. LightGBM and scikit-learn compare
float64 thresholds with float32 features (XGBoost and CatBoost float32 ones); a graph compares float32 with float32.
Rounding each threshold *down* to the nearest float32 keeps every decision: for a float32 ``x``,
``x <= t`` exactly when ``x <= floor32(t)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from specml import tensors

if TYPE_CHECKING:
    import numpy as np

    from specml.data import Task
    from specml.graph import Graph

NODES = ("tree", "node", "feature", "mode", "threshold", "left", "right", "missing_goes_left", "cover")
"""Lists with an entry for each node."""


@dataclass
class Ensemble:
    """Trees summed into ``width`` scores [n, width]; node lists as the operator wants them, roots with number 0."""

    width: int
    tree: list[int] = field(default_factory=list)
    node: list[int] = field(default_factory=list)
    feature: list[int] = field(default_factory=list)
    mode: list[str] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    missing_goes_left: list[int] = field(default_factory=list)
    cover: list[float] = field(default_factory=list)
    """Of a leaf, how many training rows came to it, or what they weighed; of a split, 0."""
    leaf_tree: list[int] = field(default_factory=list)
    leaf_node: list[int] = field(default_factory=list)
    leaf_target: list[int] = field(default_factory=list)
    leaf_value: list[float] = field(default_factory=list)
    sets: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    """By tree and node, of a node that parts categories: which of the codes -1, 0, 1, … go to the left, bool."""

    def add_split(
        self, tree: int, node: int, *, feature: int, limit: float, below: tuple[int, int], missing_left: int
    ) -> None:
        """A node that sends ``x <= limit``, a float32, to the first node ``below`` and the others to the second."""
        self.tree.append(tree)
        self.node.append(node)
        self.feature.append(feature)
        self.mode.append("BRANCH_LEQ")
        self.threshold.append(limit)
        self.left.append(below[0])
        self.right.append(below[1])
        self.missing_goes_left.append(missing_left)
        self.cover.append(0)

    def add_set(self, tree: int, node: int, *, feature: int, left: np.ndarray, below: tuple[int, int]) -> None:
        """A node for the codes -1, 0, 1, … of a category: ``left`` bool says of each whether it goes to the left.

        What is missing goes with -1, and codes beyond with the last.
        """
        limit = math.inf if left[0] else -math.inf
        self.add_split(tree, node, feature=feature, limit=limit, below=below, missing_left=int(left[0]))
        if left.any() and not left.all():
            self.sets[tree, node] = left

    def add_leaf(self, tree: int, node: int, values: dict[int, float], cover: float = 0) -> None:
        """A node that adds to the scores: ``values`` by their place; see ``cover``."""
        self.tree.append(tree)
        self.node.append(node)
        self.feature.append(0)
        self.mode.append("LEAF")
        self.threshold.append(0.0)
        self.left.append(0)
        self.right.append(0)
        self.missing_goes_left.append(0)
        self.cover.append(cover)
        for target, value in values.items():
            self.leaf_tree.append(tree)
            self.leaf_node.append(node)
            self.leaf_target.append(target)
            self.leaf_value.append(value)

    def to_onnx(self, graph: Graph, X: str) -> str:
        """Add the ensemble, in the form that the graph has for trees; returns a float32 value [n, width]."""
        graph.has_trees = True
        return tensors.to_onnx(self, graph, X) if graph.trees == "tensors" else self._in_chains()._operator(graph, X)

    def _in_chains(self) -> Ensemble:
        """The same without sets: each run of codes on one side is a comparison of a chain.

        Its nodes share the two children; onnxruntime takes that where no node shares the child of those that the
        comparison fails. Numbers of new nodes follow the largest of the tree.
        """
        import numpy as np

        if not self.sets:
            return self
        empty: dict[str, Any] = {name: [] for name in NODES}
        made = replace(self, sets={}, **empty)
        fresh: dict[int, int] = {}
        for tree, node in zip(self.tree, self.node, strict=True):
            fresh[tree] = max(fresh.get(tree, 0), node + 1)
        for place, key in enumerate(zip(self.tree, self.node, strict=True)):
            if key not in self.sets:
                for name in NODES:
                    getattr(made, name).append(getattr(self, name)[place])
                continue
            (tree, node), left, below = key, self.sets[key], (self.left[place], self.right[place])
            ends = np.flatnonzero(left[1:] != left[:-1]).tolist()
            for end in ends:
                side = below[0] if left[end] else below[1]
                last = end == ends[-1]
                beyond = (below[0] if left[-1] else below[1]) if last else fresh[tree]
                missing = int(end == ends[0])
                made.add_split(
                    tree, node, feature=self.feature[place], limit=end - 0.5, below=(side, beyond), missing_left=missing
                )
                node, fresh[tree] = beyond, fresh[tree] + (not last)
        return made

    def _operator(self, graph: Graph, X: str) -> str:
        return graph.node(
            "TreeEnsembleRegressor",
            X,
            domain="ai.onnx.ml",
            n_targets=self.width,
            aggregate_function="SUM",
            post_transform="NONE",
            nodes_treeids=self.tree,
            nodes_nodeids=self.node,
            nodes_featureids=self.feature,
            nodes_modes=self.mode,
            nodes_values=self.threshold,
            nodes_hitrates=[1.0] * len(self.node),
            nodes_truenodeids=self.left,
            nodes_falsenodeids=self.right,
            nodes_missing_value_tracks_true=self.missing_goes_left,
            target_treeids=self.leaf_tree,
            target_nodeids=self.leaf_node,
            target_ids=self.leaf_target,
            target_weights=self.leaf_value,
        )


def floor32(threshold: float | np.ndarray) -> np.ndarray:
    """The largest float32 that is not above ``threshold``, for each."""
    import numpy as np

    with np.errstate(over="ignore"):
        nearest = np.asarray(threshold, dtype=np.float32)
    below = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest.astype(np.float64) > threshold, below, nearest)


def from_lightgbm(dump: dict[str, Any]) -> Ensemble:
    """The ensemble in ``Booster.dump_model()``.

    Raises:
        ValueError: a split is of a kind that this form can't say exactly (zero as missing).
    """
    width = int(dump["num_tree_per_iteration"])
    ensemble = Ensemble(width)
    for number, tree in enumerate(dump["tree_info"]):
        _add(ensemble, number, number % width, tree["tree_structure"])
    return ensemble


def from_forest(forest: list[dict[str, np.ndarray]]) -> Ensemble:
    """The mean of scikit-learn's trees, each by its arrays.

    ``feature``, ``threshold``, ``left_child``, ``right_child``, ``missing_go_to_left`` [nodes]; ``value``
    [nodes, width]; ``weighted_n_node_samples`` [nodes].
    """
    width, share = forest[0]["value"].shape[1], 1.0 / len(forest)
    ensemble = Ensemble(width)
    for number, tree in enumerate(forest):
        lists = [tree[name].tolist() for name in ("feature", "left_child", "right_child", "missing_go_to_left")]
        covers = tree["weighted_n_node_samples"].tolist()
        values = (tree["value"] * share).tolist()
        limits = floor32(tree["threshold"]).tolist()
        for node, (feature, left, right, missing_left) in enumerate(zip(*lists, strict=True)):
            if left < 0:
                ensemble.add_leaf(number, node, dict(enumerate(values[node])), covers[node])
            else:
                ensemble.add_split(
                    number, node, feature=feature, limit=limits[node], below=(left, right), missing_left=missing_left
                )
    return ensemble


def from_xgboost(grown: list[dict[str, Any]], outputs: list[int]) -> Ensemble:
    """XGBoost's trees as its JSON tells them; ``outputs``: the place of the score that each adds to.

    XGBoost sends ``x < t`` to the left, in float32: that is ``x <= `` the largest float32 below ``t``.
    """
    import numpy as np

    ensemble = Ensemble(max(outputs, default=0) + 1)
    names = ("split_indices", "split_conditions", "left_children", "right_children", "default_left", "sum_hessian")
    for number, tree in enumerate(grown):
        told = np.asarray(tree["split_conditions"], dtype=np.float32)
        limits = np.where(np.isposinf(told), told, np.nextafter(told, np.float32(-np.inf))).tolist()
        rows = zip(*(tree[name] for name in names), strict=True)
        for node, (feature, value, left, right, missing_left, cover) in enumerate(rows):
            if left < 0:
                ensemble.add_leaf(number, node, {outputs[number]: float(value)}, float(cover))
            else:
                ensemble.add_split(
                    number,
                    node,
                    feature=feature,
                    limit=limits[node],
                    below=(left, right),
                    missing_left=int(missing_left),
                )
    return ensemble


def from_catboost(grown: list[dict[str, Any]], columns: list[dict[str, Any]], width: int, scale: float) -> Ensemble:
    """CatBoost's oblivious trees as its JSON tells them; ``columns``: its ``float_features``.

    Each depth of a tree asks one question of all rows, ``x > border`` in float32, and the answers are the bits of the
    leaf's number, the first one the least. So the last one is asked at the root, as CatBoost's own TreeSHAP has it.
    """
    import numpy as np

    ensemble = Ensemble(width)
    described = {one["feature_index"]: one for one in columns}
    for number, tree in enumerate(grown):
        depth = len(tree["splits"])
        values = np.reshape(tree["leaf_values"], (2**depth, width)) * scale
        for node in range(2**depth - 1):
            split = tree["splits"][depth - (node + 1).bit_length()]
            column = described[split["float_feature_index"]]
            ensemble.add_split(
                number,
                node,
                feature=column["flat_feature_index"],
                limit=float(np.float32(split["border"])),
                below=(2 * node + 1, 2 * node + 2),
                missing_left=int(column["nan_value_treatment"] != "AsTrue"),
            )
        for leaf in range(2**depth):
            told, cover = dict(enumerate(values[leaf].tolist())), float(tree["leaf_weights"][leaf])
            ensemble.add_leaf(number, 2**depth - 1 + leaf, told, cover)
    return ensemble


def answer(score: np.ndarray, task: Task) -> np.ndarray:
    """What a model predicts (see ``kinds.Model``) whose trees sum to ``score`` float64 [n, k]."""
    import numpy as np
    from scipy.special import expit, softmax

    if task == "multiclass":
        return np.asarray(softmax(score, axis=1))
    return np.asarray(expit(score[:, 0])) if task == "binary" else score[:, 0]


def answer_in(graph: Graph, score: str, task: Task) -> str:
    """The same in the graph."""
    if task == "binary":
        return graph.node("Sigmoid", score)
    return graph.node("Softmax", score, axis=1) if task == "multiclass" else score


def from_histograms(forest: list[dict[str, np.ndarray]], width: int, known: np.ndarray) -> Ensemble:
    """The sum of scikit-learn's histogram trees, which take turns for the scores.

    As ``from_forest``, and ``categorical`` [nodes], ``left_set`` [nodes, 32]: the categories 0, 1, … that go to the
    left, as bits. A category that is not ``known`` [columns, 256] goes where a missing value goes.
    """
    import numpy as np

    ensemble = Ensemble(width)
    names = ("feature", "left_child", "right_child", "missing_go_to_left", "categorical", "value", "count")
    for number, tree in enumerate(forest):
        limits = floor32(tree["threshold"]).tolist()
        rows = zip(*(tree[name].tolist() for name in names), strict=True)
        for node, (feature, left, right, missing_left, categorical, value, count) in enumerate(rows):
            if left < 0:
                ensemble.add_leaf(number, node, {number % width: value}, count)
            elif categorical:
                met = known[feature]
                inside = np.unpackbits(tree["left_set"][node], bitorder="little").astype(bool)
                goes_left = np.where(met, inside, bool(missing_left))[: np.flatnonzero(met).max(initial=-1) + 1]
                told = np.array([missing_left, *goes_left, missing_left], dtype=bool)
                ensemble.add_set(number, node, feature=feature, left=told, below=(left, right))
            else:
                ensemble.add_split(
                    number, node, feature=feature, limit=limits[node], below=(left, right), missing_left=missing_left
                )
    return ensemble


def _add(ensemble: Ensemble, tree: int, target: int, root: dict[str, Any]) -> None:
    waiting, count = [(root, 0)], 1
    while waiting:
        node, number = waiting.pop()
        if "split_feature" not in node:
            ensemble.add_leaf(tree, number, {target: float(node["leaf_value"])})
            continue
        below = (count, count + 1)
        waiting += [(node["left_child"], count), (node["right_child"], count + 1)]
        count += 2
        if node["decision_type"] == "==":
            ensemble.add_set(tree, number, feature=int(node["split_feature"]), left=_members(node), below=below)
            continue
        if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
            raise ValueError(f"split {node['decision_type']!r} with missing type {node['missing_type']!r}")
        threshold = _threshold(node)
        # With missing type None, LightGBM reads NaN as 0.
        goes_left = node["default_left"] if node["missing_type"] == "NaN" else threshold >= 0.0
        feature, limit = int(node["split_feature"]), float(floor32(threshold))
        ensemble.add_split(tree, number, feature=feature, limit=limit, below=below, missing_left=int(goes_left))


def _members(node: dict[str, Any]) -> np.ndarray:
    """Of the codes -1, 0, 1, … whether a split by a set sends them to the left; what it does not name goes right."""
    import numpy as np

    codes = np.array([int(code) for code in node["threshold"].split("||")])
    left = np.zeros(codes.max() + 3, dtype=bool)
    left[codes + 1] = True
    return left


def _threshold(node: dict[str, Any]) -> float:
    """The split's threshold; ``dump_model`` writes an infinite one, which parts only missing values, as 1e300."""
    threshold = float(node["threshold"])
    return math.copysign(math.inf, threshold) if abs(threshold) >= 1e300 else threshold
