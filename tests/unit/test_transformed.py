"""A target that is learned as its root or its logarithm is answered as itself, in Python and in the graph."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import Ridge as Reference

from specml import transformed
from specml.candidates.lightgbm import LightGBM
from specml.candidates.ridge import Ridge
from specml.data import Column, Design, Layout
from specml.errors import DataCheckFailed
from specml.graph import Graph
from specml.stages import prepare
from specml.stages.train import declare, load_model, work
from specml.stages.work import Work, narrowed
from tests.conftest import spec_of

FUNCTIONS = {"sqrt": (np.sqrt, np.square), "log": (np.log1p, np.expm1)}


def amounts(n: int = 400) -> Design:
    """Targets that grow by a factor with each column."""
    generator = np.random.default_rng(3)
    X = generator.normal(size=(n, 3)).astype(np.float32)
    y = np.round(np.exp(2 + X[:, 0] + 0.5 * X[:, 1] + 0.3 * generator.normal(size=n)))
    return Design(X, y, None, "regression", 2)


@pytest.mark.parametrize("way", ["sqrt", "log"])
def test_it_is_scikit_learns_transformed_target(way: Any) -> None:
    rows, (there, back) = amounts(), FUNCTIONS[way]
    model = transformed.fit(Ridge(target_transform=way), rows, (), seed=7, threads=1)
    reference = TransformedTargetRegressor(Reference(), func=there, inverse_func=back).fit(rows.X, rows.y)
    expected = reference.predict(rows.X)
    above = reference.regressor_.predict(rows.X) > 0
    np.testing.assert_allclose(model.predict(rows.X)[above], expected[above], rtol=1e-4, atol=1e-6)
    assert (model.predict(rows.X)[~above] == 0).all()


@pytest.mark.parametrize("way", ["sqrt", "log"])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
@pytest.mark.parametrize("kind", [Ridge, partial(LightGBM, n_estimators=300)])
def test_the_graph_answers_as_python_does_however_small_or_large(way: Any, scale: float, kind: Any) -> None:
    rows = amounts()
    rows = replace(rows, y=rows.y * scale)
    model = transformed.fit(kind(target_transform=way), rows, (), seed=7, threads=1)
    graph = Graph("model")
    graph.output("answer", model.to_onnx(graph, graph.input("X", "float32", 3)), "float32", 1)
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    X = np.concatenate([rows.X, np.array([[1e3, 0, 0], [-1e3, 0, 0]], dtype=np.float32)])
    (found,) = session.run(None, {"X": X})
    expected = model.predict(X)
    difference = np.abs(found[:, 0] - expected) / np.maximum(np.abs(expected), rows.y.std())
    assert difference[: len(rows.y)].max() < 2e-6
    assert difference.max() < 1e-3
    assert (expected >= 0).all()
    assert model.native() is None


def test_no_target_is_below_0() -> None:
    y = np.array([1.0, -2.0, 3.0, -4.0])
    for candidate in (
        Ridge(target_transform="log"),
        Ridge(space={"target_transform": {"choices": ("none", "sqrt")}}),  # type: ignore[dict-item]
    ):
        with pytest.raises(DataCheckFailed, match=r"takes no target below 0; 2 of 4 training rows have one") as told:
            transformed.check(candidate, y, "candidates.line")
        assert told.value.where == "candidates.line.target_transform"
    transformed.check(Ridge(), y, "candidates.line")


def test_classes_are_not_transformed() -> None:
    spec = spec_of(candidates={"gbm": {"type": "lightgbm", "target_transform": "log"}})
    (found,) = (one for one in spec.contradictions() if "target_transform" in one.key)
    assert "has no effect on classes" in found.what
    searched = {"type": "lightgbm", "space": {"target_transform": {"choices": ("none", "log")}}}
    spec = spec_of(candidates={"gbm": searched}, search={"trials": 3})
    assert [one.key for one in spec.contradictions()] == [("candidates", "gbm", "space", "target_transform")]


def test_a_search_tries_each_way_first_and_the_best_is_kept(tmp_path: Path) -> None:
    rows = amounts()
    (tmp_path / prepare.TRAIN).parent.mkdir(parents=True)
    table = pl.DataFrame({**{f"x{i}": rows.X[:, i] for i in range(3)}, "y": rows.y})
    table.write_parquet(tmp_path / prepare.TRAIN)
    columns = tuple(Column(name=f"x{i}", kind="numeric") for i in range(3))
    layout = Layout(task="regression", target="y", features=columns)
    (tmp_path / prepare.LAYOUT).write_text(layout.model_dump_json())
    spec = spec_of(
        problem={"task": "regression", "target": "y"},
        candidates={"line": {"type": "ridge"}},
        search={"trials": 6, "folds": 3},
    )
    stage = declare(spec)
    work(one := Work(stage, tmp_path, narrowed(spec, stage, "line"), lambda *_, **__: None, "line"))
    told = json.loads((tmp_path / "artifacts/train/line/cross_validation.json").read_text())
    ways = [trial["options"]["target_transform"] for trial in told["trials"]]
    assert ways[:4] == ["none", "sqrt", "log", "none"]
    assert ways[4] == "log", "the portfolio goes on from the best"
    assert told["options"]["target_transform"] == "log"
    preprocessing, model = load_model(one, layout, spec.candidates["line"], "artifacts/train/line")
    found = model.predict(preprocessing.transform(table))
    assert np.mean(np.abs(np.log1p(found) - np.log1p(rows.y))) < 0.3
