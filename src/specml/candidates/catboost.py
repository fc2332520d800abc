"""Gradient-boosted oblivious trees by CatBoost."""

from __future__ import annotations

import json
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from specml import trees, treeshap
from specml.errors import StageFailed
from specml.files import canonical_json
from specml.kinds import Candidate, Model, Native, Preference
from specml.space import Dimension, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    import catboost
    import numpy as np

    from specml.data import Design, Task
    from specml.graph import Graph
    from specml.trees import Ensemble

LOSS: dict[Task, str] = {"binary": "Logloss", "multiclass": "MultiClass", "regression": "RMSE"}


class CatBoost(Candidate):
    """Boosted trees that ask the same of all rows at each depth; rounds are found by early stopping, then refitted.

    Needs ``pip install 'specml[catboost]'``. Categories are codes: CatBoost's own statistics of them are no part of a
    graph; ``features`` can say ``encode: target`` or ``onehot``. Trained on one thread, for its sums hang on how many
    there are.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("binary", "multiclass", "regression")
    prefers: ClassVar[Preference] = Preference(missing="native", scale="none", encode="ordinal")
    stops_early: ClassVar[bool] = True
    keeps_monotone: ClassVar[bool] = True
    predicts_quantiles: ClassVar[bool] = True
    usual_space: ClassVar[Mapping[str, Dimension]] = {
        "learning_rate": Dimension(low=0.02, high=0.2, log=True),
        "depth": Dimension(low=4, high=8),
        "l2_leaf_reg": Dimension(low=0.5, high=30.0, log=True),
        "rsm": Dimension(low=0.4, high=1.0),
        "random_strength": Dimension(low=0.1, high=10.0, log=True),
    }
    # Its defaults are the strongest single setting of TabArena (arXiv 2506.16791); then small and large trees.
    portfolio: ClassVar[tuple[Mapping[str, Setting], ...]] = (
        {"learning_rate": 0.1, "depth": 6},
        {"learning_rate": 0.1, "depth": 4},
        {"learning_rate": 0.05, "depth": 8, "rsm": 0.7},
    )

    type: Literal["catboost"] = "catboost"
    iterations: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most boosting rounds; early stopping usually ends before."""
    early_stopping: Annotated[int, Field(ge=0)] = 30
    """Rounds without a better validation loss until a fold stops; 0 always trains all rounds."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    depth: Annotated[int, Field(ge=1, le=10)] = 6
    """Questions from the root to a leaf: a tree has two to this power leaves."""
    l2_leaf_reg: Annotated[float, Field(ge=0)] = 3.0
    """L2 penalty of the leaf values."""
    rsm: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of columns that each split chooses from (random subspace method)."""
    random_strength: Annotated[float, Field(ge=0)] = 1.0
    """How much chance is in the score of a split, early on."""
    class_weight: Literal["balanced"] | None = None
    """``balanced``: rows count in inverse proportion to their class's frequency; no effect on regression."""

    @override
    def fit(self, train: Design, *, seed: int, threads: int, stop_on: Design | None = None) -> Model:
        import catboost

        stopping = stop_on is not None and self.early_stopping > 0
        try:
            booster = catboost.train(
                pool=self._pool(train),
                params=self._parameters(train, seed),
                eval_set=self._pool(stop_on) if stopping and stop_on else None,
                early_stopping_rounds=self.early_stopping if stopping else None,
            )
        except catboost.CatBoostError as error:
            told = str(error).splitlines()[0].rpartition(": ")[2]
            hint = "It takes neither columns that are all constant nor targets that are all equal."
            raise StageFailed(f"CatBoost can't train: {told}", where="catboost", hint=hint) from None
        return CatBoostModel(_slim(booster), train.task)

    @override
    def load(self, folder: Path, task: Task) -> Model:
        return CatBoostModel((folder / "catboost.json").read_bytes(), task)

    def _pool(self, design: Design) -> catboost.Pool:
        import catboost
        import numpy as np

        largest = np.finfo(np.float32).max
        seen = np.clip(design.X, -largest, largest)
        return catboost.Pool(seen, design.y, weight=design.weighted(self.class_weight))

    def _parameters(self, train: Design, seed: int) -> dict[str, Any]:
        options: dict[str, Any] = {
            "loss_function": LOSS[train.task],
            "iterations": self.iterations,
            "learning_rate": self.learning_rate,
            "depth": self.depth,
            "l2_leaf_reg": self.l2_leaf_reg,
            "rsm": self.rsm,
            "random_strength": self.random_strength,
            "random_seed": seed,
            "thread_count": 1,
            "allow_writing_files": False,
            "verbose": False,
        }
        if train.quantile is not None:
            options["loss_function"] = f"Quantile:alpha={train.quantile!r}"
            if train.weight is not None:  # which the usual method does not look at
                options["leaf_estimation_method"] = "Gradient"
        if train.monotone:
            options["monotone_constraints"] = list(train.monotone)
        if train.task == "multiclass":
            options["classes_count"] = train.n_classes
        return options


def _slim(booster: catboost.CatBoost) -> bytes:
    """CatBoost's JSON without parameters, times and ids: what decides, and what its loader asks for."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        booster.save_model(str(path), format="json")
        content = json.loads(path.read_bytes())
    columns = content["features_info"]["float_features"]
    kept = ("leaf_values", "leaf_weights", "splits")
    found = [{name: tree[name] for name in kept} for tree in content["oblivious_trees"]]
    return canonical_json({
        "features_info": {"float_features": columns},
        "model_info": {},
        "oblivious_trees": found,
        "scale_and_bias": content["scale_and_bias"],
    })  # fmt: skip


class CatBoostModel(Model):
    """A model in CatBoost's own JSON, as ``_slim`` leaves it."""

    def __init__(self, raw: bytes, task: Task) -> None:
        self.raw = raw
        self.task = task
        self.content = json.loads(raw)
        self.learned = {"iterations": len(self.content["oblivious_trees"])}

    @cached_property
    def _booster(self) -> catboost.CatBoost:
        import catboost

        booster = catboost.CatBoost()
        with tempfile.TemporaryDirectory() as folder:  # of bytes it takes its binary format only
            path = Path(folder) / "model.json"
            path.write_bytes(self.raw)
            booster.load_model(str(path), format="json")
        return booster

    @override
    def predict(self, X: np.ndarray) -> np.ndarray:
        import numpy as np

        score = np.asarray(self._booster.predict(np.asarray(X), prediction_type="RawFormulaVal", thread_count=1))
        return trees.answer(score.reshape(len(X), -1), self.task)

    @override
    def save(self, folder: Path) -> None:
        (folder / "catboost.json").write_bytes(self.raw)

    @property
    def _ensemble(self) -> tuple[Ensemble, list[float]]:
        """The trees, and what they are added to."""
        scale, bias = self.content["scale_and_bias"]
        columns = self.content["features_info"]["float_features"]
        return trees.from_catboost(self.content["oblivious_trees"], columns, len(bias), scale), bias

    @override
    def to_onnx(self, graph: Graph, X: str) -> str:
        import numpy as np

        ensemble, bias = self._ensemble
        score = graph.node("Add", ensemble.to_onnx(graph, X), graph.constant(np.array(bias, dtype=np.float32)))
        return trees.answer_in(graph, score, self.task)

    @override
    def native(self) -> Native | None:
        ensemble, bias = self._ensemble
        columns = len(self.content["features_info"]["float_features"])
        return treeshap.native(ensemble, treeshap.SPACE[self.task], columns, bias)
