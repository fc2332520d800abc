"""The forest answers as scikit-learn's does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from specml.bundle import Contract
from specml.candidates.random_forest import RandomForest
from specml.data import Column
from specml.features.numeric import FittedNumeric
from specml.forest import ForestModel
from specml.preprocessing import Preprocessing
from specml.stages.chosen import Chosen, Member
from specml.stages.package import build
from tests.components.test_candidates import adversarial
from tests.conftest import design

if TYPE_CHECKING:
    from specml.data import Task

OPTIONS = {"n_estimators": 20, "max_depth": 6, "min_samples_leaf": 3}


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_it_is_scikit_learns(task: Task) -> None:
    data = design(task)
    model = RandomForest(**OPTIONS).fit(data, seed=3, threads=2)  # type: ignore[arg-type]
    X = np.vstack([data.X, adversarial(data.X, nan=True)])
    native: Any
    if task == "regression":
        native = RandomForestRegressor(max_features=1 / 3, random_state=3, **OPTIONS).fit(data.X, data.y)
    else:
        native = RandomForestClassifier(random_state=3, **OPTIONS).fit(data.X, data.y)
    # scikit-learn refuses infinities: its trees decide of them as of the largest finite numbers.
    finite = np.clip(X, *(np.finfo(np.float32).max * np.array([-1, 1])).astype(np.float32))
    answer = native.predict(finite) if task == "regression" else native.predict_proba(finite)
    expected = answer[:, 1] if task == "binary" else answer
    assert np.max(np.abs(model.predict(X) - expected)) < 1e-12


def test_infinities_and_columns_that_are_wholly_missing_are_taken() -> None:
    data = design("binary")
    data.X[:3, 0] = [np.inf, -np.inf, 3e38]
    data.X[:, 5] = np.nan
    model = RandomForest(**OPTIONS).fit(data, seed=3, threads=1)  # type: ignore[arg-type]
    assert np.isfinite(model.predict(data.X)).all()


def test_a_forest_whose_trees_are_all_sure_says_no_more_than_one() -> None:
    """Thirty times a thirtieth, summed in float32, is 1.0000004."""
    split = {
        "feature": [0, -2, -2],
        "left_child": [1, -1, -1],
        "right_child": [2, -1, -1],
        "value": [[0.0], [0.0], [1.0]],
    }
    tree = {name: np.array(values) for name, values in split.items()}
    tree |= {"threshold": np.array([0.5, -2.0, -2.0]), "missing_go_to_left": np.zeros(3, dtype=np.uint8)}
    tree["weighted_n_node_samples"] = np.array([3.0, 2.0, 1.0])
    column = Column(name="x", kind="numeric")
    preprocessing = Preprocessing((column,), ("numeric",), (FittedNumeric(("x",), None, 0.0, 1.0),))
    contract = Contract(
        name="f", task="binary", target="y", inputs=(column,), classes=(0, 1), threshold=0.5, candidate="f"
    )
    graph = build(contract, Chosen((Member(preprocessing, ForestModel([tree] * 30, 1, "binary")),)))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"x": np.array([[0.0], [1.0]])})
    assert probabilities.tolist() == [[1.0, 0.0], [0.0, 1.0]]
