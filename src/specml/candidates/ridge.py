"""Ridge regression."""

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


class Ridge(Candidate):
    """Least squares with a penalty (scikit-learn's, by Cholesky decomposition; elastic nets by coordinate descent)."""

    tasks: ClassVar[tuple[Task, ...]] = ("regression",)
    prefers: ClassVar[Preference] = Preference(missing="median", scale="standard", encode="onehot")
    complexity: ClassVar[int] = 1
    usual_space: ClassVar[Mapping[str, Dimension]] = {"alpha": Dimension(low=1e-3, high=1000.0, log=True)}
    portfolio: ClassVar[tuple[Mapping[str, Setting], ...]] = ({"alpha": 10.0}, {"alpha": 100.0}, {"alpha": 0.1})

    type: Literal["ridge"] = "ridge"
    alpha: Annotated[float, Field(gt=0)] = 1.0
    """Strength of the penalty, beside the sum of the rows' squared errors."""
    l1_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of L1 in the penalty: beyond 0 (an elastic net) columns that say little get no weight at all."""

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import warnings

        import numpy as np
        from sklearn import linear_model
        from sklearn.exceptions import ConvergenceWarning

        if self.l1_ratio:
            # Its errors are a mean over the rows, where those of ridge are a sum.
            rows = len(train.y) if train.weight is None else train.weight.sum()
            estimator = linear_model.ElasticNet(
                alpha=self.alpha / rows, l1_ratio=self.l1_ratio, max_iter=10_000, random_state=seed
            )
        else:
            estimator = linear_model.Ridge(alpha=self.alpha, solver="cholesky", random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(train.X.astype(np.float64), train.y, sample_weight=train.weight)
        center = mean_row(train)
        return LinearModel(estimator.coef_.reshape(1, -1), np.atleast_1d(estimator.intercept_), "identity", center)

    @override
    def load(self, folder: Path, task: Task) -> Model:
        return LinearModel.load(folder)
