"""The histogram trees answer as scikit-learn's do, their sets of categories too."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from specml.candidates.hist_gradient_boosting import HistGradientBoosting
from specml.graph import Graph
from specml.trees import Ensemble
from tests.components.test_candidates import matrix
from tests.conftest import design

if TYPE_CHECKING:
    from specml.data import Design, Task

OPTIONS: dict[str, Any] = {"max_iter": 25, "learning_rate": 0.3, "min_samples_leaf": 3, "categories": "sets"}


def coded(task: Task, categories: int = 40) -> Design:
    """Rows whose columns 2 and 4 hold codes that say something, in no order; some codes are of no row."""
    data = design(task)
    random = np.random.default_rng(5)
    codes = random.integers(0, categories, (len(data.y), 2))
    codes[codes == 7] = 8
    effect = random.normal(size=categories)[codes].sum(axis=1)
    y = data.y + effect if task == "regression" else np.where(effect > 1, data.n_classes - 1, data.y)
    data.X[:, [2, 4]] = codes
    data.X[:10, 2] = -1
    return replace(data, y=y, cardinalities=(0, 0, categories, 0, categories, 0))


@pytest.mark.parametrize("task", ["binary", pytest.param("multiclass", marks=pytest.mark.sweep), "regression"])
def test_it_is_scikit_learns_and_its_graph_too(task: Task) -> None:
    data = coded(task)
    model = HistGradientBoosting(**OPTIONS).fit(data, seed=3, threads=2)
    native: Any = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    missing = data.X.copy()
    missing[:, [2, 4]] = np.where(missing[:, [2, 4]] < 0, np.nan, missing[:, [2, 4]])
    native = native(
        max_iter=25,
        learning_rate=0.3,
        min_samples_leaf=3,
        l2_regularization=1.0,
        max_features=0.9,
        early_stopping=False,
        categorical_features=[2, 4],
        random_state=3,
    ).fit(missing, data.y)
    asked = np.repeat(data.X[:100], 2, axis=0)
    asked[::2, 2], asked[1::2, 4] = np.arange(100) % 42 - 1, np.arange(100) % 42 - 1
    asked[:8, [0, 1, 3, 5]] = np.array([np.inf, -np.inf, 3e38, np.nan, 0, -0.0, 1e-40, -3e38])[:, None]
    seen = asked.copy()
    seen[:, [2, 4]] = np.where(seen[:, [2, 4]] < 0, np.nan, seen[:, [2, 4]])
    expected = native.predict(seen) if task == "regression" else native.predict_proba(seen)
    expected = expected[:, 1] if task == "binary" else expected
    told = model.predict(asked)
    assert np.max(np.abs(told - expected)) < 1e-12
    graph = Graph("trees")
    value = model.to_onnx(graph, matrix(graph, 6))
    graph.output("out", value, "float32", told.reshape(200, -1).shape[1])
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    answer = session.run(None, {f"x{i}": asked[:, i : i + 1] for i in range(6)})[0].reshape(told.shape)
    assert np.max(np.abs(answer - told) / np.maximum(1, np.abs(told))) < 1e-5


def test_more_categories_than_bins_are_numbers() -> None:
    data = replace(coded("binary"), cardinalities=(0, 0, 300, 0, 40, 0))
    model: Any = HistGradientBoosting(**OPTIONS).fit(data, seed=3, threads=1)
    assert {int(f) for tree in model.forest for f in tree["feature"][tree["categorical"] > 0]} == {4}


@pytest.mark.parametrize("seed", range(6))
def test_a_set_of_categories_is_a_chain_of_comparisons(seed: int) -> None:
    random = np.random.default_rng(seed)
    left = random.random(random.integers(1, 30)) < [0.5, 0.1, 0.9, 0.0, 1.0, 0.5][seed]
    ensemble = Ensemble(1)
    ensemble.add_set(0, 0, feature=0, left=left, below=(1, 2))
    ensemble.add_leaf(0, 1, {0: 1.0})
    ensemble.add_leaf(0, 2, {0: 2.0})
    graph = Graph("set")
    graph.output("out", ensemble.to_onnx(graph, graph.input("x", "float32")), "float32", 1)
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    codes = np.array([*range(-1, len(left) + 2), np.nan], dtype=np.float32)
    wanted = [*left, left[-1], left[-1], left[-1], left[0]]
    (answer,) = session.run(None, {"x": codes[:, None]})
    assert answer[:, 0].tolist() == [1.0 if one else 2.0 for one in wanted]
