"""Quantiles: the metric, the lines, and what a spec may ask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import QuantileRegressor
from sklearn.metrics import mean_pinball_loss

from specml.candidates.quantile_regression import QuantileRegression
from specml.data import Design
from specml.evidence import Evidence, Serial
from specml.gates.baseline import Baseline
from specml.gates.metric import MetricGate
from specml.graph import Graph
from specml.kinds import Model, Window
from specml.metrics import TABLE, known
from specml.quantiles import Quantiles
from specml.resamples import pinball
from specml.signals.performance import Performance
from specml.stages.champion import unfit
from specml.watch.live import labelled
from tests.conftest import spec_of

LEVELS = (0.1, 0.5, 0.9)


def told(**problem: Any) -> Any:
    problem = {"task": "regression", "target": "y", "quantiles": LEVELS, **problem}
    return spec_of(problem=problem, candidates={"gbm": "lightgbm"})


@pytest.mark.parametrize("weighted", [False, True])
def test_the_metric_is_the_mean_of_scikit_learns(weighted: bool) -> None:
    generator = np.random.default_rng(0)
    y, scores = generator.normal(size=300), np.sort(generator.normal(size=(300, 3)), axis=1)
    weight = generator.uniform(0.1, 2, 300) if weighted else None
    parts = [mean_pinball_loss(y, one, sample_weight=weight, alpha=a) for one, a in zip(scores.T, LEVELS, strict=True)]
    metric = TABLE["mean_pinball_loss"].at(LEVELS)
    assert metric.measure(y, scores, None, weight) == pytest.approx(np.mean(parts))
    assert metric.over(y, scores, None, weight)(np.arange(300)) == pytest.approx(np.mean(parts))
    assert pinball(y, scores, LEVELS).mean() == pytest.approx(metric.measure(y, scores, None))
    for name in ("r2", "mean_absolute_error", "root_mean_squared_error"):
        one = TABLE[name].at(LEVELS)
        median = TABLE[name].measure(y, scores[:, 1], None, weight)
        assert one.measure(y, scores, None, weight) == median
        assert one.over(y, scores, None, weight)(np.arange(300)) == pytest.approx(median)


def test_the_primary_metric_of_quantiles_is_their_pinball_loss() -> None:
    assert told().problem.metric == "mean_pinball_loss"
    assert told(primary_metric="r2").problem.metric == "r2"
    assert "mean_pinball_loss" not in known(told(quantiles=()).problem)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_a_line_is_that_of_the_linear_programme(level: float) -> None:
    generator = np.random.default_rng(1)
    X = generator.normal(size=(400, 4)).astype(np.float32)
    y = 5 + X @ [1.0, -2.0, 0.0, 0.5] * 10 + generator.gumbel(size=400) * (1 + np.abs(X[:, 0]))
    weight = generator.integers(0, 3, 400).astype(float)
    found = QuantileRegression(alpha=1e-6).fit(Design(X, y, weight, "regression", 2, quantile=level), seed=0, threads=1)
    exact = QuantileRegressor(quantile=level, alpha=0, solver="highs").fit(X.astype(float), y, sample_weight=weight)
    ours, best = (
        mean_pinball_loss(y, one, sample_weight=weight, alpha=level)
        for one in (found.predict(X), exact.predict(X.astype(float)))
    )
    assert best <= ours * (1 + 1e-9) <= best * 1.002
    assert np.abs(found.predict(X) - exact.predict(X)).mean() < 0.2
    shrunk = QuantileRegression(alpha=1e5).fit(Design(X, y, weight, "regression", 2), seed=0, threads=1)
    assert np.ptp(shrunk.predict(X)) < 0.05 * np.ptp(found.predict(X))


class Fixed(Model):
    """Answers a column."""

    def __init__(self, place: int) -> None:
        self.place, self.learned = place, {"rounds": 10 * place}

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X[:, self.place].astype(np.float64)

    def save(self, folder: Any) -> None:
        (folder / "model.json").write_text("{}")

    def to_onnx(self, graph: Graph, X: str) -> str:
        return graph.node("Gather", X, graph.constant(np.array([self.place])), axis=1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 3), min_size=1, max_size=20))
def test_answers_that_cross_are_sorted_in_python_and_in_the_graph(rows: list[tuple[float, float, float]]) -> None:
    import onnxruntime

    X = np.array(rows, dtype=np.float32)
    model = Quantiles(LEVELS, tuple(map(Fixed, range(3))))
    graph = Graph("g")
    graph.output("q", model.to_onnx(graph, graph.input("X", "float32", 3)), "float32", 3)
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"X": X})[0], np.sort(X, axis=1))
    assert np.array_equal(model.predict(X), np.sort(X, axis=1))
    assert model.learned == {"rounds": 10}


def evidence(n: int = 500) -> Evidence:
    generator = np.random.default_rng(2)
    size = generator.uniform(1, 9, n)
    y = size + generator.normal(size=n)
    scores = size[:, None] + np.array([-1.2816, 0.0, 1.2816])
    prior = np.tile(np.quantile(y, LEVELS), (n, 1))
    return Evidence("regression", y, scores, None, scores, prior, quantiles=LEVELS)


def test_gates_and_the_signal_judge_quantiles() -> None:
    seen = evidence()
    assert Baseline().check(seen).outcome == "holds"
    assert "mean_pinball_loss" in Baseline().check(seen).reason
    forecast = Baseline().check(replace(seen, serial=Serial(np.arange(500), 24)))
    assert "mean_absolute_error over the seasonal naive forecast" in forecast.reason
    assert forecast.outcome == "holds"
    assert MetricGate(metric="mean_pinball_loss", max=0.4).check(seen).outcome == "holds"
    assert MetricGate(metric="mean_absolute_error", max=0.9).check(seen).value == pytest.approx(0.8, abs=0.05)
    window = Window(500, y=seen.y, scores=seen.scores, quantiles=LEVELS)
    assert Performance(metric="mean_pinball_loss", max=0.4).judge({}, window).outcome == "holds"
    assert Performance(metric="r2", min=0.99).judge({}, window).outcome == "refused"


def test_late_labels_are_judged_by_the_quantiles_that_were_answered() -> None:
    seen = evidence(60)
    named = {f"quantile_{level:g}": one for level, one in zip(LEVELS, seen.scores.T, strict=True)}
    rows = pl.DataFrame({"id": "a", "y": seen.y, "prediction": seen.scores[:, 1], **named})
    window = labelled(rows)
    assert window.quantiles == LEVELS
    assert np.array_equal(window.scores, seen.scores)  # type: ignore[arg-type]
    assert labelled(rows.select("id", "y", "prediction")).quantiles == ()


def test_a_champion_of_other_quantiles_is_not_compared() -> None:
    from specml.bundle import Contract
    from specml.data import Layout

    contract = Contract(name="a", task="regression", target="y", inputs=(), candidate="c", quantiles=LEVELS)
    layout = Layout(task="regression", target="y", features=())
    assert unfit(contract, layout) == "it answers the quantiles 0.1, 0.5, 0.9, not the mean."
    assert not unfit(contract, layout.model_copy(update={"quantiles": LEVELS}))


@pytest.mark.parametrize(
    ("problem", "key", "what"),
    [
        ({"quantiles": [0.9, 0.5]}, "problem.quantiles", "must rise"),
        ({"quantiles": [0.5, 0.5]}, "problem.quantiles", "must rise"),
        ({"quantiles": [0.1, 0.10000001, 0.5]}, "problem.quantiles", "must be told apart by six digits"),
        ({"quantiles": [0.5]}, "problem.quantiles", "must have 0.5, which is the prediction, and another"),
        ({"quantiles": [0.1, 0.9]}, "problem.quantiles", "must have 0.5"),
        ({"quantiles": [i / 50 for i in range(1, 50)]}, "problem.quantiles", "20 at most"),
        ({"primary_metric": "mean_pinball_loss", "quantiles": []}, "problem.primary_metric", "is no metric"),
    ],
)
def test_what_a_spec_may_not_ask(problem: Any, key: str, what: str) -> None:
    (found,) = told(**problem).contradictions()
    assert ".".join(map(str, found.key)) == key
    assert what in found.what


def test_families_that_predict_none_are_refused_with_those_that_do() -> None:
    candidates = {"line": "ridge", "forest": "random_forest"}
    spec = spec_of(problem={"task": "regression", "target": "y", "quantiles": LEVELS}, candidates=candidates)
    found = list(spec.contradictions())
    assert [".".join(map(str, one.key)) for one in found] == ["candidates.line.type", "candidates.forest.type"]
    assert "predicts no quantiles" in found[0].what
    assert "lightgbm, quantile_regression, tabular_mlp" in found[0].hint
    assert "random_forest" not in found[0].hint
    (probabilities,) = spec_of(problem={"task": "binary", "target": "y", "quantiles": LEVELS}).contradictions()
    assert "has no effect" in probabilities.what


def test_quantiles_keep_no_direction() -> None:
    features = {"columns": {"x": {"type": "numeric", "monotone": "increasing"}}}
    spec = spec_of(
        problem={"task": "regression", "target": "y", "quantiles": LEVELS},
        candidates={"gbm": "lightgbm"},
        features=features,
    )
    assert any("can't be kept by quantiles" in one.what for one in spec.contradictions())
