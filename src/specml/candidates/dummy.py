"""The answer that looks at no column."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from specml.files import canonical_json, read_json
from specml.kinds import Candidate, Model, Preference

if TYPE_CHECKING:
    import numpy as np

    from specml.data import Design, Task
    from specml.graph import Graph


class Dummy(Candidate):
    """The share of each class in the training rows, their mean or quantile, for every row (scikit-learn's, by weight).

    What it scores, columns have to beat: a floor to see others against, not a model to release.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass", "regression")
    prefers: ClassVar[Preference] = Preference(missing="native", scale="none", encode="ordinal")
    complexity: ClassVar[int] = 0
    predicts_quantiles: ClassVar[bool] = True

    type: Literal["dummy"] = "dummy"

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import numpy as np
        from sklearn.dummy import DummyClassifier, DummyRegressor

        if train.task == "regression":
            quantile = {} if train.quantile is None else {"strategy": "quantile", "quantile": train.quantile}
            found = DummyRegressor(**quantile).fit(train.X, train.y, sample_weight=train.weight)
            return ConstantModel(np.ravel(found.constant_))
        estimator = DummyClassifier(strategy="prior").fit(train.X, train.y, sample_weight=train.weight)
        shares = np.zeros(train.n_classes)
        shares[estimator.classes_] = estimator.class_prior_
        return ConstantModel(shares[1:] if train.task == "binary" else shares)

    @override
    def load(self, folder: Path, task: Task) -> Model:
        return ConstantModel.load(folder)


class ConstantModel(Model):
    """``answer`` float64 [k], to every row."""

    def __init__(self, answer: np.ndarray) -> None:
        self.answer = answer
        self.learned = {}

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np

        told = np.tile(self.answer, (len(X), 1))
        return told[:, 0] if len(self.answer) == 1 else told

    @override
    def save(self, folder: Path) -> None:
        (folder / "constant.json").write_bytes(canonical_json({"answer": self.answer.tolist()}))

    @classmethod
    def load(cls, folder: Path) -> ConstantModel:
        """The model that ``save`` wrote."""
        import numpy as np

        return cls(np.array(read_json(folder / "constant.json")["answer"], dtype=np.float64))

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        import numpy as np

        rows = graph.node("Shape", X, start=0, end=1)
        width = graph.constant(np.array([len(self.answer)], dtype=np.int64))
        # Nothing is multiplied by the columns: 0 times a missing value is missing.
        zeros = graph.node("ConstantOfShape", graph.node("Concat", rows, width, axis=0))
        return graph.node("Add", zeros, graph.constant(self.answer.astype(np.float32)))
