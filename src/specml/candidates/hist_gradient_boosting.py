"""Gradient-boosted trees over binned columns by scikit-learn."""

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

    from specml.data import Design, Task
    from specml.graph import Graph
    from specml.trees import Ensemble

BINS = 255
"""Most categories of a column that are parted into sets; of more, codes are parted."""


class HistGradientBoosting(Candidate):
    """Boosted trees over bins; the number of rounds is found by early stopping on the folds, then refitted on all rows.

    Trained on one thread, for scikit-learn's sums hang on how many there are.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass", "regression")
    prefers: ClassVar[Preference] = Preference(missing="native", scale="none", encode="ordinal")
    stops_early: ClassVar[bool] = True
    keeps_monotone: ClassVar[bool] = True
    predicts_quantiles: ClassVar[bool] = True
    usual_space: ClassVar[Mapping[str, Dimension]] = {
        "learning_rate": Dimension(low=0.02, high=0.2, log=True),
        "max_leaf_nodes": Dimension(low=7, high=127, log=True),
        "min_samples_leaf": Dimension(low=5, high=100, log=True),
        "max_features": Dimension(low=0.4, high=1.0),
        "l2_regularization": Dimension(low=1e-3, high=10.0, log=True),
        "categories": Dimension(choices=("codes", "sets")),
    }
    # As those of lightgbm: a base that samples columns, large trees, small ones.
    portfolio: ClassVar[tuple[Mapping[str, Setting], ...]] = (
        {"learning_rate": 0.1, "max_leaf_nodes": 31, "max_features": 0.8},
        {"learning_rate": 0.05, "max_leaf_nodes": 127, "max_features": 0.6},
        {"learning_rate": 0.1, "max_leaf_nodes": 8},
    )

    type: Literal["hist_gradient_boosting"] = "hist_gradient_boosting"
    max_iter: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most boosting rounds; early stopping usually ends before."""
    early_stopping: Annotated[int, Field(ge=0)] = 30
    """Rounds without a better validation loss until a fold stops; 0 always trains all rounds."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    max_leaf_nodes: Annotated[int, Field(ge=2, le=4096)] = 31
    """Most leaves of a tree."""
    min_samples_leaf: Annotated[int, Field(ge=1)] = 20
    """Fewest training rows in a leaf."""
    l2_regularization: Annotated[float, Field(ge=0)] = 1.0
    """L2 penalty of the leaf values."""
    max_features: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of columns that each split chooses from."""
    categories: Literal["codes", "sets"] = "codes"
    """``sets``: a split parts a column's categories into two sets, where it has up to 255; ``codes``: by a threshold of
    their codes, which overfits less where rows are few."""
    class_weight: Literal["balanced"] | None = None
    """``balanced``: rows count in inverse proportion to their class's frequency; no effect on regression."""

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import numpy as np
        from sklearn import ensemble
        from threadpoolctl import threadpool_limits

        cardinalities = train.cardinalities if self.categories == "sets" else ()
        sets = np.array([1 <= k <= BINS for k in cardinalities or (0,) * train.X.shape[1]])
        stop_on = stop_on if self.early_stopping else None
        options: dict[str, Any] = {
            "learning_rate": self.learning_rate,
            "max_iter": self.max_iter,
            "max_leaf_nodes": self.max_leaf_nodes,
            "min_samples_leaf": self.min_samples_leaf,
            "l2_regularization": self.l2_regularization,
            "max_features": self.max_features,
            "categorical_features": sets if sets.any() else None,
            "monotonic_cst": list(train.monotone) or None,
            "early_stopping": stop_on is not None,
            "n_iter_no_change": max(1, self.early_stopping),
            "tol": 0.0,
            "random_state": seed,
        }
        if train.quantile is not None:
            options |= {"loss": "quantile", "quantile": train.quantile}
        family = "Regressor" if train.task == "regression" else "Classifier"
        estimator = getattr(ensemble, f"HistGradientBoosting{family}")(**options)
        watched: dict[str, Any] = {}
        if stop_on is not None:
            watched = {
                "X_val": _seen(stop_on.X, sets),
                "y_val": stop_on.y,
                "sample_weight_val": stop_on.weighted(self.class_weight),
            }
        with threadpool_limits(1):
            estimator.fit(
                _known(_seen(train.X, sets)), train.y, sample_weight=train.weighted(self.class_weight), **watched
            )
        # Scores begin with the one of no rounds.
        best = int(np.argmax(estimator.validation_score_)) if stop_on is not None else self.max_iter
        return HistModel(*_arrays(estimator, sets, max(best, 1)), train.task)

    @override
    def load(self, folder: Path, task: Task) -> Model:
        return HistModel.load(folder, task)


def _seen(X: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """``X`` with no infinity and, in the columns of categories, NaN for one never seen."""
    import numpy as np

    largest = np.finfo(np.float32).max
    seen = np.clip(X, -largest, largest)
    seen[:, sets] = np.where(seen[:, sets] < 0, np.nan, seen[:, sets])
    return np.asarray(seen)


def _known(X: np.ndarray) -> np.ndarray:
    """``X`` with zeros for a column that is wholly missing, which has no bins; no split is on it."""
    import numpy as np

    return np.where(np.isnan(X).all(axis=0), np.float32(0), X)


FIELDS = (
    "feature", "threshold", "left_child", "right_child", "missing_go_to_left", "value", "count", "categorical",
    "left_set",
)  # fmt: skip


def _arrays(
    estimator: Any, sets: np.ndarray, rounds: int
) -> tuple[list[dict[str, np.ndarray]], np.ndarray, np.ndarray]:
    """What decides: the trees of the first ``rounds``, what they are added to [k], and known categories [d, 256].

    scikit-learn puts columns of categories first and numbers the categories that it met; here both are as in the
    design again.
    """
    import numpy as np

    d = len(sets)
    order = np.concatenate([np.flatnonzero(sets), np.flatnonzero(~sets)])
    known = np.zeros((d, 256), dtype=bool)
    codes: dict[int, np.ndarray] = {}
    if sets.any():
        met = estimator._preprocessor.named_transformers_["encoder"].categories_
        for column, values in zip(np.flatnonzero(sets), met, strict=True):
            codes[int(column)] = values[~np.isnan(values)].astype(np.int64)
            known[column, codes[int(column)]] = True
    forest = []
    for predictor in (one for group in estimator._predictors[:rounds] for one in group):
        nodes = predictor.nodes
        feature = np.where(nodes["is_leaf"], 0, order[nodes["feature_idx"] % d])
        left = np.zeros((len(nodes), 256), dtype=bool)
        for place in np.flatnonzero(nodes["is_categorical"] & ~nodes["is_leaf"].astype(bool)):
            words = predictor.raw_left_cat_bitsets[nodes["bitset_idx"][place]]
            bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little").astype(bool)
            ours = codes[int(feature[place])]
            left[place, ours] = bits[: len(ours)]
        forest.append({
            "feature": feature.astype(np.int32),
            "threshold": np.where(nodes["is_leaf"], 0.0, nodes["num_threshold"]),
            "left_child": np.where(nodes["is_leaf"], -1, nodes["left"].astype(np.int32)).astype(np.int32),
            "right_child": np.where(nodes["is_leaf"], -1, nodes["right"].astype(np.int32)).astype(np.int32),
            "missing_go_to_left": nodes["missing_go_to_left"].astype(np.uint8),
            "value": np.where(nodes["is_leaf"], nodes["value"], 0.0),
            "count": nodes["count"].astype(np.int64),
            "categorical": (nodes["is_categorical"] & ~nodes["is_leaf"].astype(bool)).astype(np.uint8),
            "left_set": np.packbits(left, axis=1, bitorder="little"),
        })  # fmt: skip
    return forest, np.ravel(estimator._baseline_prediction).astype(np.float64), known


class HistModel(Model):
    """Trees that take turns for the ``base`` [k] scores; ``known`` [d, 256]: categories that training met."""

    def __init__(self, forest: list[dict[str, np.ndarray]], base: np.ndarray, known: np.ndarray, task: Task) -> None:
        self.forest = forest
        self.base = base
        self.known = known
        self.task = task
        self.learned = {"max_iter": len(forest) // len(base)}

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np

        X = np.ascontiguousarray(X, dtype=np.float64)
        known = np.packbits(self.known, axis=1, bitorder="little").view("<u4")
        place = np.arange(len(known), dtype=np.uint32)
        score = np.tile(self.base, (len(X), 1))
        for number, tree in enumerate(self.forest):
            score[:, number % len(self.base)] += self._predictor(tree).predict(X, known, place, 1)
        return trees.answer(score, self.task)

    def _predictor(self, arrays: dict[str, np.ndarray]) -> Any:
        """scikit-learn's compiled tree around ``arrays``."""
        import numpy as np
        from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
        from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

        nodes = np.zeros(len(arrays["feature"]), dtype=PREDICTOR_RECORD_DTYPE)
        leaf = arrays["left_child"] < 0
        nodes["value"], nodes["feature_idx"] = arrays["value"], arrays["feature"]
        nodes["num_threshold"], nodes["missing_go_to_left"] = arrays["threshold"], arrays["missing_go_to_left"]
        nodes["left"], nodes["right"] = (np.where(leaf, 0, arrays[f"{side}_child"]) for side in ("left", "right"))
        nodes["is_leaf"], nodes["is_categorical"] = leaf, arrays["categorical"]
        nodes["bitset_idx"] = np.arange(len(nodes))
        sets = np.ascontiguousarray(arrays["left_set"]).view("<u4")
        return TreePredictor(nodes, sets, sets)

    @override
    def save(self, folder: Path) -> None:
        import numpy as np

        parts = {name: np.concatenate([tree[name] for tree in self.forest]) for name in FIELDS}
        parts["sizes"] = np.array([len(tree["feature"]) for tree in self.forest], dtype=np.int64)
        parts["base"], parts["known"] = self.base, np.packbits(self.known, axis=1, bitorder="little")
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **parts)
        (folder / "trees.npz").write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, folder: Path, task: Task) -> HistModel:
        """The model that ``save`` wrote."""
        import numpy as np

        with np.load(folder / "trees.npz", allow_pickle=False) as parts:
            cuts = np.cumsum(parts["sizes"])[:-1]
            split = {name: np.split(parts[name], cuts) for name in FIELDS}
            base, known = parts["base"], np.unpackbits(parts["known"], axis=1, bitorder="little").astype(bool)
        return cls(
            [dict(zip(FIELDS, one, strict=True)) for one in zip(*split.values(), strict=True)], base, known, task
        )

    @property
    def _ensemble(self) -> Ensemble:
        return trees.from_histograms(self.forest, len(self.base), self.known)

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        import numpy as np

        score = graph.node("Add", self._ensemble.to_onnx(graph, X), graph.constant(self.base.astype(np.float32)))
        return trees.answer_in(graph, score, self.task)

    @override
    def native(self) -> Native | None:
        return treeshap.native(self._ensemble, treeshap.SPACE[self.task], len(self.known), self.base.tolist())
