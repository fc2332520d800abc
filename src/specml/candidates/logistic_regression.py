"""Logistic regression."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml.kinds import Candidate, Model, Preference
from specml.linear import LinearModel, mean_row
from specml.space import Dimension, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from specml.data import Design, Task


class LogisticRegression(Candidate):
    """A linear model of the log-odds, penalised (scikit-learn's: solver lbfgs, or saga for an elastic net)."""

    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass")
    prefers: ClassVar[Preference] = Preference(missing="median", scale="standard", encode="onehot")
    complexity: ClassVar[int] = 1
    usual_space: ClassVar[Mapping[str, Dimension]] = {
        "C": Dimension(low=1e-3, high=100.0, log=True),
        "class_weight": Dimension(choices=(None, "balanced")),
    }
    portfolio: ClassVar[tuple[Mapping[str, Setting], ...]] = ({"C": 0.1}, {"C": 10.0}, {"C": 0.01})

    type: Literal["logistic_regression"] = "logistic_regression"
    C: Annotated[float, Field(gt=0)] = 1.0
    """Inverse strength of the penalty."""
    l1_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of L1 in the penalty: beyond 0 (an elastic net) columns that say little get no weight at all, and training
    takes longer."""
    max_iter: Annotated[int, Field(ge=1)] = 1000
    class_weight: Literal["balanced"] | None = None
    """``balanced``: rows count in inverse proportion to their class's frequency."""

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import warnings

        import numpy as np
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression as Estimator

        estimator = Estimator(
            C=self.C,
            l1_ratio=self.l1_ratio,
            solver="saga" if self.l1_ratio else "lbfgs",
            max_iter=self.max_iter,
            class_weight=self.class_weight,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(train.X.astype(np.float64), train.y, sample_weight=train.weight)
        link: Literal["sigmoid", "softmax"] = "sigmoid" if train.task == "binary" else "softmax"
        return LinearModel(estimator.coef_, estimator.intercept_, link, mean_row(train))

    @override
    def load(self, folder: Path, task: Task) -> Model:
        return LinearModel.load(folder)
