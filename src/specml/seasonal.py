"""The season before, as forecasts use it: what ``seasonal_naive`` and ``lagged_lightgbm`` share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from specml.files import canonical_json, read_json

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from specml.data import Design
    from specml.graph import Graph


@dataclass(frozen=True)
class Level:
    """The column ``place`` of a row, or ``mean``, that of the training rows, where it is missing; without one 0."""

    place: int | None = None
    mean: float = 0.0

    @classmethod
    def fit(cls, train: Design) -> Level:
        """Of a forecast's training rows."""
        import numpy as np

        return cls(train.seasonal, float(np.average(train.y, weights=train.weight)))

    @classmethod
    def load(cls, file: Path) -> Level:
        """What ``save`` wrote."""
        return cls(**read_json(file))

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_bytes(canonical_json(asdict(self)))

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """float64 [n]."""
        import numpy as np

        if self.place is None:
            return np.zeros(len(X))
        return np.where(self.known(X), X[:, self.place], np.float32(self.mean)).astype(np.float64)

    def known(self, X: np.ndarray) -> np.ndarray:
        """Of which rows it is known, bool [n]."""
        import numpy as np

        return np.ones(len(X), dtype=bool) if self.place is None else np.isfinite(X[:, self.place])

    def to_onnx(self, graph: Graph, X: str) -> str:
        """The same of a design [n, d], float32 [n, 1]."""
        import numpy as np

        known = graph.node("Gather", X, graph.constant(np.array([self.place], dtype=np.int64)), axis=1)
        unknown = graph.node("Or", graph.node("IsNaN", known), graph.node("IsInf", known))
        return graph.node("Where", unknown, graph.constant(np.array(self.mean, np.float32)), known)
