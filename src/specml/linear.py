"""A fitted linear model, whatever fitted it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml.files import canonical_json, read_json
from specml.kinds import Model

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from specml.graph import Graph

Link = Literal["identity", "sigmoid", "softmax"]


class LinearModel(Model):
    """``link(X @ coef.T + intercept)``; ``coef`` float64 [k, d], ``intercept`` float64 [k].

    The graph computes the sums in float64 as Python does, so that the two agree to float32's last bit.
    """

    def __init__(self, coef: np.ndarray, intercept: np.ndarray, link: Link) -> None:
        import numpy as np

        self.coef = np.asarray(coef, dtype=np.float64)
        self.intercept = np.asarray(intercept, dtype=np.float64)
        self.link = link
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
        content = {"link": self.link, "coef": self.coef.tolist(), "intercept": self.intercept.tolist()}
        (folder / "linear.json").write_bytes(canonical_json(content))

    @classmethod
    def load(cls, folder: Path) -> LinearModel:
        """The model that ``save`` wrote."""
        import numpy as np

        content = read_json(folder / "linear.json")
        return cls(np.array(content["coef"]), np.array(content["intercept"]), content["link"])

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
