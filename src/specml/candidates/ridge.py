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
    """Least squares with an L2 penalty (scikit-learn's, solved by Cholesky decomposition)."""

    tasks: ClassVar[tuple[Task, ...]] = ("regression",)
    prefers: ClassVar[Preference] = Preference(missing="median", scale="standard", encode="onehot")
    complexity: ClassVar[int] = 1
    usual_space: ClassVar[Mapping[str, Dimension]] = {"alpha": Dimension(low=1e-3, high=1000.0, log=True)}
    portfolio: ClassVar[tuple[Mapping[str, Setting], ...]] = ({"alpha": 10.0}, {"alpha": 100.0}, {"alpha": 0.1})

    type: Literal["ridge"] = "ridge"
    alpha: Annotated[float, Field(gt=0)] = 1.0
    """Strength of the penalty."""

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import numpy as np
        from sklearn.linear_model import Ridge as Estimator

        estimator = Estimator(alpha=self.alpha, solver="cholesky", random_state=seed)
        estimator.fit(train.X.astype(np.float64), train.y, sample_weight=train.weight)
        center = mean_row(train)
        return LinearModel(estimator.coef_.reshape(1, -1), np.atleast_1d(estimator.intercept_), "identity", center)

    @override
    def load(self, folder: Path, task: Task) -> Model:
        return LinearModel.load(folder)
