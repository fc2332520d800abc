"""Forests by scikit-learn: what ``random_forest`` and ``extra_trees`` share, and a fitted one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml import trees, treeshap
from specml.kinds import Candidate, Model, Native, Preference
from specml.space import Dimension, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from specml.bundle import Space
    from specml.data import Design, Task
    from specml.graph import Graph


class Forest(Candidate):
    """Trees whose answers are averaged; a family says which, as the name of scikit-learn's two classes."""

    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass", "regression")
    prefers: ClassVar[Preference] = Preference(missing="native", scale="none", encode="ordinal")
    usual_space: ClassVar[Mapping[str, Dimension]] = {
        "max_depth": Dimension(low=4, high=18),
        "min_samples_leaf": Dimension(low=1, high=30, log=True),
        "max_features": Dimension(low=0.1, high=1.0),
    }
    # Deep trees that see most columns suit tables with few informative ones; large leaves, noisy targets.
    portfolio: ClassVar[tuple[Mapping[str, Setting], ...]] = (
        {"max_depth": 18, "min_samples_leaf": 3, "max_features": 0.5},
        {"max_depth": 18, "min_samples_leaf": 1, "max_features": 0.75},
        {"max_depth": 12, "min_samples_leaf": 15, "max_features": 0.3},
    )
    grown_by: ClassVar[str]
    """``RandomForest`` or ``ExtraTrees``."""

    n_estimators: Annotated[int, Field(ge=1, le=5000)] = 200
    """Trees."""
    max_depth: Annotated[int, Field(ge=1, le=64)] | None = 14
    """Most splits from the root to a leaf; null: until ``min_samples_leaf`` ends it, which makes large models."""
    min_samples_leaf: Annotated[int, Field(ge=1)] = 5
    """Fewest training rows in a leaf."""
    max_features: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    """Share of columns that each split chooses from; ``auto``: their square root (classification), a third
    (regression)."""
    class_weight: Literal["balanced"] | None = None
    """``balanced``: rows count in inverse proportion to their class's frequency; no effect on regression."""

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import numpy as np
        from sklearn import ensemble

        options: dict[str, Any] = {
            "n_estimators": self.n_estimators,
            "max_depth": self.max_depth,
            "min_samples_leaf": self.min_samples_leaf,
            "random_state": seed,
            "n_jobs": threads,
        }
        auto = 1 / 3 if train.task == "regression" else "sqrt"
        options["max_features"] = auto if self.max_features == "auto" else self.max_features
        if train.task == "regression":
            estimator = getattr(ensemble, f"{self.grown_by}Regressor")(**options)
        else:
            options["class_weight"] = self.class_weight
            estimator = getattr(ensemble, f"{self.grown_by}Classifier")(**options)
        # scikit-learn refuses infinities; no threshold lies beyond the largest finite number.
        largest = np.finfo(np.float32).max
        estimator.fit(np.clip(train.X, -largest, largest), train.y, sample_weight=train.weight)
        forest = [_arrays(one.tree_, train.task) for one in estimator.estimators_]
        return ForestModel(forest, train.X.shape[1], train.task)

    @override
    def load(self, folder: Path, task: Task) -> Model:
        return ForestModel.load(folder, task)


FIELDS = (
    "feature", "threshold", "left_child", "right_child", "missing_go_to_left", "weighted_n_node_samples", "value"
)  # fmt: skip


def _arrays(tree: Any, task: Task) -> dict[str, np.ndarray]:
    """What decides of a scikit-learn ``tree_``; ``value`` float64 [nodes, outputs], 0 but in leaves."""
    import numpy as np

    value = tree.value[:, 0, 1:] if task == "binary" else tree.value[:, 0, :]
    leaf = tree.children_left < 0
    return {
        "feature": tree.feature.astype(np.int32),
        "threshold": tree.threshold.astype(np.float64),
        "left_child": tree.children_left.astype(np.int32),
        "right_child": tree.children_right.astype(np.int32),
        "missing_go_to_left": tree.missing_go_to_left.astype(np.uint8),
        "weighted_n_node_samples": tree.weighted_n_node_samples.astype(np.float64),
        "value": np.where(leaf[:, None], value, 0.0),
    }


class ForestModel(Model):
    """The trees' arrays; answers are the mean of their leaves, summed in the trees' order."""

    def __init__(self, forest: list[dict[str, np.ndarray]], width: int, task: Task) -> None:
        self.forest = forest
        self.task = task
        self.width = width
        """Columns of the design."""
        self.learned = {}

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np

        X = np.ascontiguousarray(X, dtype=np.float32)
        total = np.zeros((len(X), self.forest[0]["value"].shape[1]))
        for tree in self.forest:
            total += self._tree(tree).predict(X).reshape(total.shape)
        total /= len(self.forest)
        return total[:, 0] if total.shape[1] == 1 else total

    def _tree(self, arrays: dict[str, np.ndarray]) -> Any:
        """scikit-learn's compiled tree around ``arrays``."""
        import numpy as np
        from sklearn.tree._tree import NODE_DTYPE, Tree

        nodes = np.zeros(len(arrays["feature"]), dtype=NODE_DTYPE)
        for name in FIELDS[:-1]:
            nodes[name] = arrays[name]
        outputs = arrays["value"].shape[1]
        tree = Tree(self.width, np.ones(outputs, dtype=np.intp), outputs)
        values = np.ascontiguousarray(arrays["value"][:, :, None])
        tree.__setstate__({"max_depth": 0, "node_count": len(nodes), "nodes": nodes, "values": values})
        return tree

    @override
    def save(self, folder: Path) -> None:
        import numpy as np

        parts = {name: np.concatenate([tree[name] for tree in self.forest]) for name in FIELDS}
        parts["sizes"] = np.array([len(tree["feature"]) for tree in self.forest], dtype=np.int64)
        parts["width"] = np.array(self.width, dtype=np.int64)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **parts)
        (folder / "forest.npz").write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, folder: Path, task: Task) -> ForestModel:
        """The model that ``save`` wrote."""
        import numpy as np

        with np.load(folder / "forest.npz", allow_pickle=False) as parts:
            cuts = np.cumsum(parts["sizes"])[:-1]
            split = {name: np.split(parts[name], cuts) for name in FIELDS}
            width = int(parts["width"])
        return cls([dict(zip(FIELDS, one, strict=True)) for one in zip(*split.values(), strict=True)], width, task)

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        return trees.from_forest(self.forest).to_onnx(graph, X)

    @override
    def native(self) -> Native | None:
        space: Space = "prediction" if self.task == "regression" else "probability"
        return treeshap.native(trees.from_forest(self.forest), space, self.width)
