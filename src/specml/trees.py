"""Tree ensembles as one ``ai.onnx.ml`` operator that decides every row as the library does.

LightGBM compares float64 thresholds with float32 features; the operator compares float32 with float32.
Rounding each threshold *down* to the nearest float32 keeps every decision: for a float32 ``x``,
``x <= t`` exactly when ``x <= floor32(t)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specml.graph import Graph


@dataclass
class Ensemble:
    """Trees summed into ``width`` scores [n, width]; node lists as the operator wants them."""

    width: int
    tree: list[int] = field(default_factory=list)
    node: list[int] = field(default_factory=list)
    feature: list[int] = field(default_factory=list)
    mode: list[str] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    missing_goes_left: list[int] = field(default_factory=list)
    leaf_tree: list[int] = field(default_factory=list)
    leaf_node: list[int] = field(default_factory=list)
    leaf_target: list[int] = field(default_factory=list)
    leaf_value: list[float] = field(default_factory=list)

    def to_onnx(self, graph: Graph, X: str) -> str:
        """Add the ensemble; returns a float32 value [n, width]."""
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


def floor32(threshold: float) -> float:
    """The largest float32 that is not above ``threshold``."""
    import numpy as np

    with np.errstate(over="ignore"):
        nearest = np.float32(threshold)
    if float(nearest) > threshold:
        nearest = np.nextafter(nearest, np.float32(-np.inf))
    return float(nearest)


def from_lightgbm(dump: dict[str, Any]) -> Ensemble:
    """The ensemble in ``Booster.dump_model()``.

    Raises:
        ValueError: a split is of a kind that this form can't say exactly (categorical, zero as missing).
    """
    width = int(dump["num_tree_per_iteration"])
    ensemble = Ensemble(width)
    for number, tree in enumerate(dump["tree_info"]):
        _add(ensemble, number, number % width, tree["tree_structure"])
    return ensemble


def _add(ensemble: Ensemble, tree: int, target: int, root: dict[str, Any]) -> None:
    waiting, count = [(root, 0)], 1
    while waiting:
        node, number = waiting.pop()
        ensemble.tree.append(tree)
        ensemble.node.append(number)
        if "split_feature" not in node:
            _add_leaf(ensemble, tree, number, target, float(node["leaf_value"]))
            continue
        if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
            raise ValueError(f"split {node['decision_type']!r} with missing type {node['missing_type']!r}")
        threshold = _threshold(node)
        # With missing type None, LightGBM reads NaN as 0.
        goes_left = node["default_left"] if node["missing_type"] == "NaN" else threshold >= 0.0
        ensemble.feature.append(int(node["split_feature"]))
        ensemble.mode.append("BRANCH_LEQ")
        ensemble.threshold.append(floor32(threshold))
        ensemble.left.append(count)
        ensemble.right.append(count + 1)
        ensemble.missing_goes_left.append(int(goes_left))
        waiting += [(node["left_child"], count), (node["right_child"], count + 1)]
        count += 2


def _threshold(node: dict[str, Any]) -> float:
    """The split's threshold; ``dump_model`` writes an infinite one, which parts only missing values, as 1e300."""
    threshold = float(node["threshold"])
    return math.copysign(math.inf, threshold) if abs(threshold) >= 1e300 else threshold


def _add_leaf(ensemble: Ensemble, tree: int, number: int, target: int, value: float) -> None:
    ensemble.feature.append(0)
    ensemble.mode.append("LEAF")
    ensemble.threshold.append(0.0)
    ensemble.left.append(0)
    ensemble.right.append(0)
    ensemble.missing_goes_left.append(0)
    ensemble.leaf_tree.append(tree)
    ensemble.leaf_node.append(number)
    ensemble.leaf_target.append(target)
    ensemble.leaf_value.append(value)
