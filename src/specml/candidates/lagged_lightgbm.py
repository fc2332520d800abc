"""Gradient-boosted trees over past values, by LightGBM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from specml.kinds import Candidate, Model
from specml.leafwise import LeafWise
from specml.seasonal import Level
from specml.space import Dimension, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from specml.data import Design, Task
    from specml.graph import Graph

FILE = "level.json"

OWN = {"type", "space", "difference"}
"""Options that are not those of LightGBM."""


class LaggedLightGBM(LeafWise):
    """LightGBM on what a series has changed since the season before.

    Trees answer with means of what they have seen: a series that grows leaves them behind. The difference to the
    seasonal naive forecast stays where it was (Hyndman & Athanasopoulos 2021, *Forecasting: principles and practice*,
    §9.1), and what is told is that forecast and the difference together. Rounds are found as ``lightgbm`` does.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("forecast",)
    answers_with_past: ClassVar[bool] = True
    predicts_quantiles: ClassVar[bool] = True
    usual_space: ClassVar[Mapping[str, Dimension]] = {
        "difference": Dimension(choices=("season", "none")),
        "learning_rate": Dimension(low=0.02, high=0.2, log=True),
        "num_leaves": Dimension(low=7, high=127, log=True),
        "min_child_samples": Dimension(low=5, high=200, log=True),
        "colsample_bytree": Dimension(low=0.2, high=1.0),
        "reg_lambda": Dimension(low=1e-3, high=10.0, log=True),
    }
    portfolio: ClassVar[tuple[Mapping[str, Setting], ...]] = (
        {"difference": "none"},
        {"num_leaves": 15, "min_child_samples": 50},
        {"num_leaves": 63, "min_child_samples": 50, "colsample_bytree": 0.4},
    )

    type: Literal["lagged_lightgbm"] = "lagged_lightgbm"
    difference: Literal["season", "none"] = "season"
    """What the trees learn: the difference to the seasonal naive forecast, or the value itself."""

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import numpy as np

        level = Level.fit(train)
        if self.difference == "none" or not level.known(train.X).any():
            level = Level()

        def changed(rows: Design) -> Design:
            # Differences to a mean, where no season before is known, would be far from all others.
            known = rows.rows(np.flatnonzero(level.known(rows.X)))
            return replace(known, y=known.y - level(known.X))

        stop = None if stop_on is None else changed(stop_on)
        stop = None if stop is None or not len(stop.y) else stop
        return LaggedModel(level, self._trees.fit(changed(train), seed=seed, threads=threads, stop_on=stop))

    @override
    def load(self, folder: Path, task: Task) -> Model:
        return LaggedModel(Level.load(folder / FILE), self._trees.load(folder, task))

    @property
    def _trees(self) -> Candidate:
        made = Candidate.table["lightgbm"].model_validate(self.model_dump(exclude=OWN))
        assert isinstance(made, Candidate)
        return made


class LaggedModel(Model):
    """A level and LightGBM's difference to it."""

    def __init__(self, level: Level, trees: Model) -> None:
        self.level, self.trees = level, trees
        self.learned = trees.learned

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np

        # Added in float32, as the graph does: of a series of large numbers its last digits are fewer.
        return np.asarray(self.level(X).astype(np.float32) + self.trees.predict(X).astype(np.float32), np.float64)

    @override
    def save(self, folder: Path) -> None:
        self.level.save(folder / FILE)
        self.trees.save(folder)

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        change = self.trees.to_onnx(graph, X)
        return change if self.level.place is None else graph.node("Add", self.level.to_onnx(graph, X), change)
