"""The seasonal naive forecast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from specml.kinds import Candidate, Model, Preference
from specml.seasonal import Level

if TYPE_CHECKING:
    import numpy as np

    from specml.data import Design, Task
    from specml.graph import Graph

FILE = "seasonal.json"


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
        assert train.seasonal is not None
        return SeasonalModel(Level.fit(train))

    @override
    def load(self, folder: Path, task: Task) -> Model:
        return SeasonalModel(Level.load(folder / FILE))


class SeasonalModel(Model):
    """A level alone."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.learned = {}

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.level(X)

    @override
    def save(self, folder: Path) -> None:
        self.level.save(folder / FILE)

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        return self.level.to_onnx(graph, X)
