"""The seasonal naive forecast."""

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


class SeasonalNaive(Candidate):
    """The value that the series had a season before: the latest whole season that is known at the horizon.

    Where that is missing, the mean of the training rows. What every forecast is compared with (Hyndman &
    Athanasopoulos 2021, *Forecasting: principles and practice*, §5.2).
    """

    tasks: ClassVar[tuple[Task, ...]] = ("forecast",)
    prefers: ClassVar[Preference] = Preference(missing="native", scale="none", encode="ordinal")
    complexity: ClassVar[int] = 0
    answers_with_past: ClassVar[bool] = True

    type: Literal["seasonal_naive"] = "seasonal_naive"

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import numpy as np

        assert train.seasonal is not None
        return SeasonalModel(train.seasonal, float(np.average(train.y, weights=train.weight)))

    @override
    def load(self, folder: Path, task: Task) -> Model:
        return SeasonalModel(**read_json(folder / "seasonal.json"))


class SeasonalModel(Model):
    """The column ``place`` of a row, and where that is missing ``mean``."""

    def __init__(self, place: int, mean: float) -> None:
        self.place, self.mean = place, mean
        self.learned = {}

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np

        known = X[:, self.place].astype(np.float64)
        return np.where(np.isfinite(known), known, np.float64(np.float32(self.mean)))

    @override
    def save(self, folder: Path) -> None:
        (folder / "seasonal.json").write_bytes(canonical_json({"place": self.place, "mean": self.mean}))

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        import numpy as np

        known = graph.node("Gather", X, graph.constant(np.array([self.place], dtype=np.int64)), axis=1)
        unknown = graph.node("Or", graph.node("IsNaN", known), graph.node("IsInf", known))
        return graph.node("Where", unknown, graph.constant(np.array(self.mean, np.float32)), known)
