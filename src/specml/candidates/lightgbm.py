"""Gradient-boosted trees by LightGBM."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from specml import booster, trees, treeshap
from specml.kinds import Model
from specml.leafwise import LeafWise
from specml.space import Dimension, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    import lightgbm
    import numpy as np

    from specml.data import Design, Task
    from specml.graph import Graph
    from specml.kinds import Native

OBJECTIVE: dict[Task, str] = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}


class LightGBM(LeafWise):
    """Boosted trees; the number of rounds is found by early stopping on the folds, then refitted on all rows."""

    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass", "regression")
    keeps_monotone: ClassVar[bool] = True
    predicts_quantiles: ClassVar[bool] = True
    usual_space: ClassVar[Mapping[str, Dimension]] = {
        "learning_rate": Dimension(low=0.02, high=0.2, log=True),
        "num_leaves": Dimension(low=7, high=127, log=True),
        "min_child_samples": Dimension(low=5, high=100, log=True),
        "subsample": Dimension(low=0.5, high=1.0),
        "colsample_bytree": Dimension(low=0.4, high=1.0),
        "reg_lambda": Dimension(low=1e-3, high=10.0, log=True),
        "extra_trees": Dimension(choices=(False, True)),
    }
    # A base that samples, one of random thresholds, one of large trees, one of small ones: what is best depends on the
    # number of rows and on how columns interact. After AutoGluon 1.6 and the TabArena study (arXiv 2506.16791).
    portfolio: ClassVar[tuple[Mapping[str, Setting], ...]] = (
        {"learning_rate": 0.05, "num_leaves": 31, "subsample": 0.8, "colsample_bytree": 0.8},
        {"learning_rate": 0.1, "num_leaves": 64, "extra_trees": True},
        {"learning_rate": 0.05, "num_leaves": 127, "colsample_bytree": 0.6},
        {"learning_rate": 0.1, "num_leaves": 8},
    )

    type: Literal["lightgbm"] = "lightgbm"
    extra_trees: bool = False
    """Whether each column's threshold is drawn at random before the best column is taken: smoother, and rarely
    overfitted (Geurts, Ernst & Wehenkel 2006)."""
    categories: Literal["codes", "sets"] = "codes"
    """``sets``: a split parts a column's categories into two sets; ``codes``: by a threshold of their codes, which
    overfits less where rows are few."""
    class_weight: Literal["balanced"] | None = None
    """``balanced``: rows count in inverse proportion to their class's frequency; no effect on regression."""

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import lightgbm

        def table(design: Design, **told: Any) -> lightgbm.Dataset:
            return lightgbm.Dataset(design.X, design.y, weight=design.weighted(self.class_weight), **told)

        stopping = stop_on is not None and self.early_stopping > 0
        sets = [i for i, k in enumerate(train.cardinalities) if k] if self.categories == "sets" else []
        rows = table(train, categorical_feature=sets or "auto")
        booster = lightgbm.train(
            self._parameters(train, seed, threads),
            rows,
            num_boost_round=self.n_estimators,
            valid_sets=[table(stop_on, reference=rows)] if stopping and stop_on else None,
            callbacks=[lightgbm.early_stopping(self.early_stopping, verbose=False)] if stopping else None,
        )
        rounds = booster.best_iteration if stopping else self.n_estimators
        text = booster.model_to_string(num_iteration=rounds)
        # The number of threads changes nothing in the model, so it must not change its text either.
        text = re.sub(r"\[num_threads: \d+\]\n", "", text)
        return BoosterModel(text, train.task, max(rounds, 1))

    @override
    def load(self, folder: Path, task: Task) -> Model:
        text = (folder / "lightgbm.txt").read_text()
        return BoosterModel(text, task, 0)

    def _parameters(self, train: Design, seed: int, threads: int) -> dict[str, Any]:
        options: dict[str, Any] = {
            "objective": OBJECTIVE[train.task],
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_child_samples": self.min_child_samples,
            "bagging_fraction": self.subsample,
            "bagging_freq": 1,
            "feature_fraction": self.colsample_bytree,
            "lambda_l2": self.reg_lambda,
            "extra_trees": self.extra_trees,
            "seed": seed,
            "num_threads": threads,
            "verbosity": -1,
            # Together these make the model the same for any number of threads.
            "deterministic": True,
            "force_row_wise": True,
        }
        if train.quantile is not None:
            options |= {"objective": "quantile", "alpha": train.quantile}
        if train.monotone:
            options["monotone_constraints"] = list(train.monotone)
        if train.task == "multiclass":
            options["num_class"] = train.n_classes
        return options


class BoosterModel(Model):
    """A LightGBM model in its own text format."""

    def __init__(self, text: str, task: Task, rounds: int) -> None:
        self.text = text
        self.task = task
        self.learned = {"n_estimators": rounds}

    @property
    def booster(self) -> lightgbm.Booster:
        """The model, read from its text."""
        import lightgbm

        return lightgbm.Booster(model_str=self.text)

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(self.booster.predict(X, num_threads=1), dtype=np.float64)

    @override
    def save(self, folder: Path) -> None:
        (folder / "lightgbm.txt").write_text(self.text)

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        score = trees.from_lightgbm(self.booster.dump_model()).to_onnx(graph, X)
        return trees.answer_in(graph, score, self.task)

    @override
    def native(self) -> Native | None:
        return treeshap.told(booster.slim(self.text), treeshap.SPACE[self.task])
