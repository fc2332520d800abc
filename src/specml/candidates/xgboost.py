"""Gradient-boosted trees by XGBoost."""

from __future__ import annotations

import json
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
    import xgboost

    from specml.data import Design, Task
    from specml.graph import Graph
    from specml.trees import Ensemble

OBJECTIVE: dict[Task, str] = {
    "binary": "binary:logistic",
    "multiclass": "multi:softprob",
    "regression": "reg:squarederror",
}


class XGBoost(Candidate):
    """Boosted trees; the number of rounds is found by early stopping on the folds, then refitted on all rows.

    Needs ``pip install 'specml[xgboost]'``. Trained on one thread, for its sums hang on how many there are.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass", "regression")
    prefers: ClassVar[Preference] = Preference(missing="native", scale="none", encode="ordinal")
    stops_early: ClassVar[bool] = True
    keeps_monotone: ClassVar[bool] = True
    predicts_quantiles: ClassVar[bool] = True
    usual_space: ClassVar[Mapping[str, Dimension]] = {
        "learning_rate": Dimension(low=0.02, high=0.2, log=True),
        "max_depth": Dimension(low=3, high=10),
        "min_child_weight": Dimension(low=0.5, high=50.0, log=True),
        "subsample": Dimension(low=0.5, high=1.0),
        "colsample_bytree": Dimension(low=0.4, high=1.0),
        "reg_lambda": Dimension(low=1e-3, high=10.0, log=True),
    }
    # As those of lightgbm: a base that samples, large trees, small ones.
    portfolio: ClassVar[tuple[Mapping[str, Setting], ...]] = (
        {"learning_rate": 0.05, "max_depth": 6, "subsample": 0.8, "colsample_bytree": 0.8},
        {"learning_rate": 0.05, "max_depth": 9, "colsample_bytree": 0.6},
        {"learning_rate": 0.1, "max_depth": 3},
    )

    type: Literal["xgboost"] = "xgboost"
    n_estimators: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most boosting rounds; early stopping usually ends before."""
    early_stopping: Annotated[int, Field(ge=0)] = 30
    """Rounds without a better validation loss until a fold stops; 0 always trains all rounds."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    max_depth: Annotated[int, Field(ge=1, le=24)] = 6
    """Most splits from the root to a leaf."""
    min_child_weight: Annotated[float, Field(ge=0)] = 1.0
    """Least sum of the loss's second derivatives in a leaf: of a regression, rows."""
    subsample: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of rows drawn for each round."""
    colsample_bytree: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of columns drawn for each tree."""
    reg_lambda: Annotated[float, Field(ge=0)] = 1.0
    """L2 penalty of the leaf values."""
    class_weight: Literal["balanced"] | None = None
    """``balanced``: rows count in inverse proportion to their class's frequency; no effect on regression."""

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import xgboost

        def matrix(design: Design) -> xgboost.DMatrix:
            return _matrix(design.X, label=design.y, weight=design.weighted(self.class_weight))

        stopping = stop_on is not None and self.early_stopping > 0
        booster = xgboost.train(
            self._parameters(train, seed),
            matrix(train),
            num_boost_round=self.n_estimators,
            evals=[(matrix(stop_on), "stop")] if stopping and stop_on else [],
            early_stopping_rounds=self.early_stopping if stopping else None,
            verbose_eval=False,
        )
        if stopping:
            booster = booster[: booster.best_iteration + 1]
        booster.set_attr(best_iteration=None, best_score=None)
        return XGBoostModel(bytes(booster.save_raw("json")), train.task)

    @override
    def load(self, folder: Path, task: Task) -> Model:
        return XGBoostModel((folder / "xgboost.json").read_bytes(), task)

    def _parameters(self, train: Design, seed: int) -> dict[str, Any]:
        options: dict[str, Any] = {
            "objective": OBJECTIVE[train.task],
            "learning_rate": self.learning_rate,
            "max_depth": self.max_depth,
            "min_child_weight": self.min_child_weight,
            "subsample": self.subsample,
            "colsample_bytree": self.colsample_bytree,
            "reg_lambda": self.reg_lambda,
            "tree_method": "hist",
            "seed": seed,
            "nthread": 1,
            "verbosity": 0,
        }
        if train.quantile is not None:
            options |= {"objective": "reg:quantileerror", "quantile_alpha": train.quantile}
        if train.monotone:
            options["monotone_constraints"] = tuple(train.monotone)
        if train.task == "multiclass":
            options["num_class"] = train.n_classes
        return options


def _matrix(X: np.ndarray, **told: Any) -> xgboost.DMatrix:
    """Rows as XGBoost takes them: it refuses infinities, and no threshold lies beyond the largest finite number."""
    import numpy as np
    import xgboost

    largest = np.finfo(np.float32).max
    return xgboost.DMatrix(np.clip(X, -largest, largest), missing=np.nan, nthread=1, **told)


class XGBoostModel(Model):
    """A model in XGBoost's own JSON."""

    def __init__(self, raw: bytes, task: Task) -> None:
        self.raw = raw
        self.task = task
        content = json.loads(raw)["learner"]
        self.trees = content["gradient_booster"]["model"]
        self.base_score = content["learner_model_param"]["base_score"]
        self.width = int(content["learner_model_param"]["num_feature"])
        outputs = max(1, int(content["learner_model_param"]["num_class"]))
        self.learned = {"n_estimators": len(self.trees["trees"]) // outputs}

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np
        import xgboost

        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(self.raw))
        # It tells probabilities in float32, which knows few of those near 1.
        score = np.asarray(booster.predict(_matrix(X), output_margin=True), dtype=np.float64)
        return trees.answer(score.reshape(len(X), -1), self.task)

    @override
    def save(self, folder: Path) -> None:
        (folder / "xgboost.json").write_bytes(self.raw)

    @property
    def _ensemble(self) -> Ensemble:
        return trees.from_xgboost(self.trees["trees"], self.trees["tree_info"])

    @property
    def _base(self) -> np.ndarray:
        import numpy as np
        from scipy.special import logit

        # One number, or one for each class; of a binary problem a probability.
        base = np.atleast_1d(json.loads(self.base_score))
        return np.asarray(logit(base) if self.task == "binary" else base, dtype=np.float32)

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        score = graph.node("Add", self._ensemble.to_onnx(graph, X), graph.constant(self._base))
        return trees.answer_in(graph, score, self.task)

    @override
    def native(self) -> Native | None:
        return treeshap.native(self._ensemble, treeshap.SPACE[self.task], self.width, self._base.tolist())
