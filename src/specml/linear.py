"""A fitted linear model, whatever fitted it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from specml.files import canonical_json, read_json
from specml.kinds import Model, Native

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from specml.bundle import Space
    from specml.data import Design
    from specml.graph import Graph

Link = Literal["identity", "sigmoid", "softmax"]
SPACE: dict[Link, Space] = {"identity": "prediction", "sigmoid": "log_odds", "softmax": "score"}


class LinearModel(Model):
    """``link(X @ coef.T + intercept)``; ``coef`` float64 [k, d], ``intercept`` float64 [k].

    ``center`` float64 [d] is the mean training row, which explanations compare with; models that were saved by
    older versions have none. The graph computes the sums in float64 as Python does, so that the two agree to
    float32's last bit.
    """

    def __init__(self, coef: np.ndarray, intercept: np.ndarray, link: Link, center: np.ndarray | None = None) -> None:
        import numpy as np

        self.coef = np.asarray(coef, dtype=np.float64)
        self.intercept = np.asarray(intercept, dtype=np.float64)
        self.link = link
        self.center = None if center is None else np.asarray(center, dtype=np.float64)
        self.learned: dict[str, int] = {}

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np

        z = X.astype(np.float64) @ self.coef.T + self.intercept
        if self.link == "softmax":
            odds = np.exp(z - z.max(axis=1, keepdims=True))
            return np.asarray(odds / odds.sum(axis=1, keepdims=True))
        if self.link == "sigmoid":
            from scipy.special import expit

            return np.asarray(expit(z[:, 0]))
        return np.asarray(z[:, 0])

    @override
    def save(self, folder: Path) -> None:
        (folder / "linear.json").write_bytes(canonical_json({"link": self.link, **self._numbers()}))

    def _numbers(self) -> dict[str, Any]:
        numbers = {"coef": self.coef, "intercept": self.intercept, "center": self.center}
        return {name: array.tolist() for name, array in numbers.items() if array is not None}

    @classmethod
    def load(cls, folder: Path) -> LinearModel:
        """The model that ``save`` wrote."""
        import numpy as np

        content = read_json(folder / "linear.json")
        return cls(np.array(content["coef"]), np.array(content["intercept"]), content["link"], content.get("center"))

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        import numpy as np
        from onnx import TensorProto

        z = graph.node("Cast", X, to=TensorProto.DOUBLE)
        z = graph.node("MatMul", z, graph.constant(np.ascontiguousarray(self.coef.T)))
        z = graph.node("Add", z, graph.constant(self.intercept))
        if self.link == "softmax":
            z = graph.node("Softmax", z, axis=1)
        elif self.link == "sigmoid":
            z = graph.node("Sigmoid", z)
        return graph.node("Cast", z, to=TensorProto.FLOAT)

    @override
    def native(self) -> Native | None:
        return None if self.center is None else Native("linear", SPACE[self.link], canonical_json(self._numbers()))


def mean_row(design: Design) -> np.ndarray:
    """The mean of a design's rows, by their weights: float64 [d]."""
    import numpy as np

    return np.asarray(np.average(design.X.astype(np.float64), axis=0, weights=design.weight))
