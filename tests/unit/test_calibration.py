"""Calibration: the published formulas, and the same in the graph on whatever a model may answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from specml import calibration
from specml.calibration import METHODS, STEEPEST, Isotonic, Sigmoid, Temperature, restore
from specml.graph import Graph
from specml.stages.calibrate import calibrate

N = 3000


def expit(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def rows(seed: int = 0, n: int = N, sharper: float = 2.0, shift: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are too sure, and what came."""
    generator = np.random.default_rng(seed)
    score = generator.normal(size=n)
    return expit(sharper * score + shift), (generator.random(n) < expit(score)).astype(np.int64)


def classes(seed: int = 0, n: int = N, sharper: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """The same of four classes."""
    generator = np.random.default_rng(seed)
    score = generator.normal(size=(n, 4))
    true = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    y = (generator.random((n, 1)) > true.cumsum(axis=1)).sum(axis=1).clip(0, 3)
    told = np.exp(sharper * score)
    return told / told.sum(axis=1, keepdims=True), y.astype(np.int64)


def folds(n: int = N, k: int = 4) -> list[np.ndarray]:
    return [np.arange(start, n, k) for start in range(k)]


def in_graph(found: Any, p: np.ndarray) -> np.ndarray:
    """The answers of its nodes to float32 probabilities."""
    width = 1 if p.ndim == 1 else p.shape[1]
    graph = Graph("g")
    graph.output("out", found.to_onnx(graph, graph.input("p", "float32", width)), "float32", width)
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    (told,) = session.run(None, {"p": p.astype(np.float32).reshape(-1, width)})
    return np.asarray(told.reshape(p.shape))


def test_sigmoid_is_platts() -> None:
    from sklearn.calibration import _SigmoidCalibration

    p, y = rows()
    weight = np.random.default_rng(1).uniform(0.5, 2, N)
    score = np.log(p / (1 - p))
    for one in (None, weight):
        found, theirs = Sigmoid.fit(p, y, one), _SigmoidCalibration().fit(score, y, one)
        assert found.slope == pytest.approx(-theirs.a_, rel=1e-3)
        assert found.offset == pytest.approx(-theirs.b_, rel=1e-3, abs=1e-3)
    assert Sigmoid.fit(p, y, None).slope == pytest.approx(0.5, abs=0.05)


def test_rows_of_which_a_forest_is_sure_do_not_decide_the_slope() -> None:
    p, y = rows(sharper=1.0, shift=0.0)
    p[:20] = 0.0
    y[:19] = 0
    found = Sigmoid.fit(p, y, None)
    assert found.slope == pytest.approx(1.0, abs=0.1)
    assert found(np.zeros(1))[0] > 1e-4


@pytest.mark.parametrize("weighted", [False, True])
def test_isotonic_is_scikit_learns(monkeypatch: pytest.MonkeyPatch, weighted: bool) -> None:
    monkeypatch.setattr(calibration, "STEEPEST", float("inf"))
    p, y = rows(n=500)
    weight = np.random.default_rng(1).uniform(0.5, 2, 500) if weighted else None
    sure = 1 / 502
    theirs = IsotonicRegression(y_min=sure, y_max=1 - sure, out_of_bounds="clip").fit(p, y, sample_weight=weight)
    found = Isotonic.fit(p, y, weight)
    asked = np.r_[0.0, 1.0, np.linspace(0, 1, 4001), p, theirs.X_thresholds_]
    asked = np.r_[asked, np.nextafter(asked, 0), np.nextafter(asked, 1)]
    assert found(asked) == pytest.approx(theirs.predict(asked), rel=1e-12, abs=1e-12)


def test_isotonic_is_nowhere_too_steep_and_else_scikit_learns() -> None:
    p, y = rows()
    sure = 1 / (N + 2)
    theirs = IsotonicRegression(y_min=sure, y_max=1 - sure, out_of_bounds="clip").fit(p, y)
    found = Isotonic.fit(p, y, None)
    slopes = np.diff(found.y) / np.diff(found.x)
    assert slopes.min() >= 0
    assert slopes.max() <= STEEPEST * (1 + 1e-9)
    asked = np.linspace(0, 1, 20_001)
    ours, wanted = found(asked), theirs.predict(asked)
    assert (ours <= wanted + 1e-12).all()
    assert (np.abs(ours - wanted) < 1e-12).mean() > 0.9


def test_isotonic_of_equal_probabilities_answers_their_share() -> None:
    found = Isotonic.fit(np.full(10, 0.3), np.array([0, 1] * 5), None)
    assert found(np.array([0.0, 0.3, 1.0])).tolist() == [0.5] * 3
    assert in_graph(found, np.array([0.0, 0.3, 1.0])).tolist() == [0.5] * 3


def test_temperature_undoes_what_was_too_sure_and_no_class_overtakes_another() -> None:
    p, y = classes(n=20_000)
    found = Temperature.fit(p, y, None)
    assert found.temperature == pytest.approx(2.0, rel=0.05)
    told = found(p)
    assert told.sum(axis=1) == pytest.approx(1)
    assert (np.argsort(told, axis=1) == np.argsort(p, axis=1)).all()


def test_log_odds_are_taken_from_the_graph_where_it_has_them() -> None:
    """Of probabilities so near 1 that float32 does not tell them apart, the calibrated ones are still told apart."""
    score = np.linspace(-40, 40, 81)
    found = Sigmoid(0.3, -0.2)
    graph = Graph("g")
    value = graph.node("Sigmoid", graph.input("score", "float32"))
    graph.output("out", found.to_onnx(graph, value), "float32", 1)
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    (told,) = session.run(None, {"score": score.astype(np.float32)[:, None]})
    assert told[:, 0] == pytest.approx(expit(0.3 * np.clip(score, -30, 30) - 0.2), abs=1e-6)
    assert found(expit(score)) == pytest.approx(told[:, 0], abs=1e-4)
    assert (np.diff(told[10:71, 0]) > 0).all()


def test_a_class_that_a_forest_rules_out_is_not_impossible() -> None:
    p, y = classes()
    p[:5] = np.eye(4)[(y[:5] + 1) % 4]
    found = Temperature.fit(p, y, None)
    assert found.temperature < 4
    assert found(p)[:5].min() > 1e-4


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(METHODS)), st.integers(0, 2**32 - 1), st.floats(0.5, 4))
def test_the_graph_answers_the_same(method: str, seed: int, sharper: float) -> None:
    """Also at 0, 1 and where pieces end; and a last bit of float32 moves no answer as far as ``parity`` looks."""
    if method == "temperature":
        p, y = classes(seed, 400, sharper)
        found: Any = Temperature.fit(p, y, None)
        asked = np.r_[p, np.eye(4), np.full((1, 4), 0.25)].astype(np.float32)
    else:
        p, y = rows(seed, 400, sharper)
        found = METHODS[method].fit(p, y, None)
        ends = np.array(getattr(found, "x", ()))
        asked = np.r_[p, 0.0, 1.0, 1e-30, 1e-8, 1 - 1e-7, 0.5, ends].astype(np.float32)
    told = in_graph(found, asked)
    exact = found(asked.astype(np.float64))
    assert np.abs(told - exact).max() < 1e-7
    for end in (0, 1):
        near = np.clip(np.nextafter(asked, np.float32(end)), 0, 1).astype(np.float64)
        assert np.abs(found(near) - exact).max() < 2e-6


@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_was_learned_is_data(method: str) -> None:
    p, y = classes() if method == "temperature" else rows()
    found = METHODS[method].fit(p, y, None)
    assert restore({"method": method, **found.state()}) == found
    assert METHODS[method].fit(p, y, None) == found


def test_auto_calibrates_what_is_too_sure_and_leaves_what_is_not() -> None:
    p, y = rows()
    found, told = calibrate("auto", p, y, None, folds())
    assert found is not None
    assert told["method"] == "sigmoid"
    assert told["log_loss"]["sigmoid"] < told["log_loss"]["none"]
    true, y = rows(sharper=1.0, shift=0.0)
    found, told = calibrate("auto", true, y, None, folds())
    assert found is None
    assert told["method"] is None
    assert set(told["log_loss"]) == {"none", "sigmoid", "isotonic"}


def test_auto_thinks_of_no_isotonic_on_few_rows() -> None:
    p, y = rows(n=400)
    assert "isotonic" not in calibrate("auto", p, y, None, folds(400))[1]["log_loss"]


def test_a_fold_is_judged_by_what_did_not_see_it() -> None:
    """With a fold's labels turned, its own loss is that of a fit on the others, which know nothing of it."""
    from specml.stages.calibrate import _losses

    p, y = rows()
    turned = y.copy()
    turned[folds()[0]] = 1 - turned[folds()[0]]
    before, after = (list(_losses(Sigmoid.fit, p, one, np.ones(N), folds())) for one in (y, turned))
    found = Sigmoid.fit(p[np.r_[tuple(folds()[1:])]], y[np.r_[tuple(folds()[1:])]], np.ones(3 * N // 4))
    told = found(p[folds()[0]])
    one = turned[folds()[0]]
    assert after[0] == pytest.approx(-np.log(np.where(one == 1, told, 1 - told)).mean())
    assert before[0] != after[0]


def test_a_named_method_is_taken_whatever_it_is_worth_and_rows_in_no_fold_say_nothing() -> None:
    p, y = rows(sharper=1.0, shift=0.0)
    p[:100] = np.nan
    held = [one[one >= 100] for one in folds()]
    found, told = calibrate("isotonic", p, y, None, held)
    assert isinstance(found, Isotonic)
    assert told["rows"] == N - 100
    assert found == Isotonic.fit(p[np.concatenate(held)], y[np.concatenate(held)], None)
