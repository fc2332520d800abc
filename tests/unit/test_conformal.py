"""Prediction intervals: the published arithmetic, what they hold of rows like theirs, and the same in the graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.conformal import METHODS, Conformal, restore, score, usual_error
from specml.errors import NotEnoughData
from specml.evidence import Evidence, held
from specml.gates.coverage import Coverage
from specml.gates.parity import Parity
from specml.graph import Graph
from specml.kinds import Window
from specml.piecewise import straight
from specml.signals.coverage import Coverage as CoverageSignal
from specml.spec import PredictionInterval
from specml.stages.interval import interval
from specml.stages.validate import _intervals
from tests.conftest import spec_of


def fit(method: Any, y: Any, coverage: float = 0.9, **options: Any) -> Conformal:
    """Of predictions that are all 0."""
    y = np.asarray(y, dtype=float)
    return Conformal.fit(method, coverage, np.zeros(len(y)), y, **options)


def test_of_nine_errors_the_ninth_holds_nine_tenths() -> None:
    """⌈(9 + 1) 0.9⌉ = 9, by hand; of eight none does."""
    errors = [3.0, -1.0, 4.0, -1.5, 9.0, -2.6, 5.0, 3.5, -8.0]
    assert (fit("absolute", errors).below, fit("absolute", errors).above) == (9.0, 9.0)
    assert fit("absolute", errors, 0.8).above == 8.0
    with pytest.raises(NotEnoughData, match="8 out-of-fold rows are too few"):
        fit("absolute", errors[:8])
    # Each end for itself leaves out half as much: ⌈20 * 0.95⌉ = 19 of 19.
    signed = fit("signed", [*range(-5, 0), *range(1, 15)])
    assert (signed.below, signed.above) == (5.0, 14.0)
    assert fit("signed", range(1, 20)).below == 0.0  # an end never lies beyond the prediction


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=60), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_the_quantile_is_the_order_statistic_of_the_papers(errors: list[float], coverage: float) -> None:
    n = len(errors)
    place = -(-(n + 1) * round(coverage * 100) // 100)
    found = fit("absolute", errors, coverage)
    assert found.above == sorted(map(abs, errors))[place - 1]
    for weight in (0.25, 3.0):
        assert fit("absolute", errors, coverage, weight=np.full(n, weight)) == found


def test_a_row_counts_as_much_as_its_weight() -> None:
    errors = np.r_[np.ones(50), np.full(50, 7.0)]
    assert fit("absolute", errors, weight=np.r_[np.ones(50), np.full(50, 0.01)]).above == 1.0
    assert fit("absolute", errors, weight=np.r_[np.full(50, 0.01), np.ones(50)]).above == 7.0


@pytest.mark.parametrize("method", METHODS)
def test_exchangeable_rows_are_held_as_often_as_asked_for(method: Any) -> None:
    """Of 99 rows the corrected quantile holds a new one with a probability of exactly 0.9: 90 of 100 places."""
    generator = np.random.default_rng(0)
    rounds, n = 3000, 99
    prediction = generator.uniform(1, 5, (rounds, n + 1))
    y = prediction + prediction * generator.normal(size=(rounds, n + 1))
    others = generator.uniform(1, 5, 1000)
    points = usual_error(others, np.abs(others * generator.normal(size=1000)))
    hits, width = 0, 0.0
    for p, one in zip(prediction, y, strict=True):
        usual = straight(*points, p[:n]) if method == "normalised" else None
        found = Conformal.fit(method, 0.9, p[:n], one[:n], usual=usual)
        if method == "normalised":  # of other rows, as new ones are told it
            found = restore({**found.state(), "x": points[0], "y": points[1]})
        ((low, high),) = found(p[n:])
        hits += low <= one[n] <= high
        width += high - low
    assert hits / rounds == pytest.approx(0.9, abs=3 * (0.09 / rounds) ** 0.5)
    assert 5 < width / rounds < 15


def test_normalised_intervals_are_as_wide_as_predictions_of_that_size_are_wrong() -> None:
    generator = np.random.default_rng(1)
    prediction = generator.uniform(0, 10, 4000)
    y = prediction + (0.2 + prediction) * generator.normal(size=4000)
    found = Conformal.fit("normalised", 0.9, prediction, y)
    widths = np.diff(found(np.array([0.6, 9.4])), axis=1)[:, 0]
    assert widths[1] / widths[0] == pytest.approx(9.6 / 0.8, rel=0.25)
    flat = Conformal.fit("absolute", 0.9, prediction, y)
    for low, high in ((0, 2), (8, 10)):
        rows = (low <= prediction) & (prediction < high)
        assert held(y[rows], found(prediction[rows]), None, 0.95)[0] == pytest.approx(0.9, abs=0.04)
        assert abs(held(y[rows], flat(prediction[rows]), None, 0.95)[0] - 0.9) > 0.06


def test_a_model_that_says_one_thing_has_one_width() -> None:
    found = Conformal.fit("normalised", 0.9, np.full(300, 2.0), np.random.default_rng(0).normal(size=300))
    assert len(found.x) == 1
    assert np.ptp(np.diff(found(np.array([-1e9, 2.0, 1e9])), axis=1)) < 1e-6
    exact = Conformal.fit("normalised", 0.9, np.arange(300.0), np.arange(300.0))
    assert np.isfinite(exact(np.arange(3.0))).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_graph_answers_the_same(method: Any) -> None:
    generator = np.random.default_rng(2)
    prediction = np.r_[generator.uniform(0, 10, 900), np.full(100, 3.0)]
    y = prediction + (0.5 + prediction) * generator.gamma(1.0, size=1000) - 1
    found = Conformal.fit(method, 0.8, prediction, y)
    assert restore(found.state()) == found
    graph = Graph("g")
    for name, value in zip(("lower", "upper"), found.to_onnx(graph, graph.input("p", "float32")), strict=True):
        graph.output(name, value, "float32", 1)
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    knots = np.array([*found.x, 3.0, 0.0, -0.0, 1e-30, -1e6, 1e6, 1e30, -1e30])
    asked = np.r_[knots, np.nextafter(knots, np.inf), np.nextafter(knots, -np.inf), prediction].astype(np.float32)
    told = np.concatenate(session.run(None, {"p": asked.reshape(-1, 1)}), axis=1)
    expected = found(asked.astype(np.float64))
    assert np.max(np.abs(told - expected) / np.maximum(1, np.abs(expected))) < 1e-6


def test_quantiles_are_widened_or_narrowed_by_as_much_as_it_takes() -> None:
    """Romano et al. 2019, equation 6: of nine rows the ninth of max(low - y, y - high), by hand."""
    quantiles = np.tile([-1.0, 0.0, 1.0], (9, 1))
    wider = Conformal.fit(
        "quantile", 0.9, quantiles, np.array([0.0, 0.5, -0.5, 2.0, -3.0, 0.1, 0.2, 0.3, 0.4]), middle=1
    )
    assert (wider.below, wider.above) == (2.0, 2.0)
    narrower = Conformal.fit("quantile", 0.9, quantiles, np.linspace(-0.25, 0.25, 9), middle=1)
    assert narrower.below == -0.75
    asked = np.array([[-1.0, 0.0, 1.0], [-5.0, -4.9, 9.0], [0.0, 3.0, 3.1]])
    assert wider(asked).tolist() == [[-3, 3], [-7, 11], [-2, 5.1]]
    # No end passes the prediction.
    assert narrower(asked).tolist() == [[-0.25, 0.25], [-4.9, 8.25], [0.75, 3.0]]
    for found in (wider, narrower):
        assert restore(found.state()) == found
        graph = Graph("g")
        value = graph.input("q", "float32", 3)
        for name, end in zip(("lower", "upper"), found.to_onnx(graph, value), strict=True):
            graph.output(name, end, "float32", 1)
        session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
        told = np.concatenate(session.run(None, {"q": asked.astype(np.float32)}), axis=1)
        assert told == pytest.approx(found(asked), rel=1e-6)


def test_widened_quantiles_hold_exchangeable_rows_as_often_as_asked_for() -> None:
    generator = np.random.default_rng(7)
    hits, rounds, n = 0, 2000, 99
    for _ in range(rounds):
        size = generator.uniform(1, 5, n + 1)
        y = generator.normal(size=n + 1) * size
        told = np.outer(size, [-1.0, 0.0, 1.0])  # too narrow by far
        ((low, high),) = Conformal.fit("quantile", 0.9, told[:n], y[:n], middle=1)(told[n:])
        hits += low <= y[n] <= high
    assert hits / rounds == pytest.approx(0.9, abs=3 * (0.09 / rounds) ** 0.5)


def test_the_interval_score_is_the_papers() -> None:
    ends = np.array([[0.0, 2.0], [0.0, 2.0], [0.0, 2.0]])
    assert score(ends, np.array([1.0, 3.0, -0.5]), 0.9) == pytest.approx([2, 2 + 20 * 1, 2 + 20 * 0.5])


def found_by(method: str, y: np.ndarray, outcome: np.ndarray, *, forward: bool = False) -> tuple[Conformal, Any]:
    folds = [np.arange(start, start + len(y) // 5) for start in range(0, len(y), len(y) // 5)]
    told = interval(PredictionInterval(method=method), outcome, y, None, folds, forward=forward)
    return restore(told["state"]), told


def test_auto_takes_what_is_better_on_folds_that_did_not_fit_it() -> None:
    generator = np.random.default_rng(3)
    outcome, noise = generator.uniform(0, 10, 2000), generator.normal(size=2000)
    assert found_by("auto", outcome + noise, outcome)[0].method == "absolute"
    assert found_by("auto", outcome + outcome * noise, outcome)[0].method == "normalised"
    assert found_by("auto", outcome + noise**2, outcome)[0].method == "signed"
    for method in METHODS:
        found, told = found_by(method, outcome + noise, outcome)
        assert found.method == told["method"] == method
        assert told["folds"]["coverage"] == pytest.approx(0.9, abs=0.03)


def test_in_time_a_fold_is_judged_by_earlier_ones_alone() -> None:
    generator = np.random.default_rng(4)
    outcome = generator.uniform(0, 10, 500)
    y = outcome + generator.normal(size=500)
    later = np.r_[np.zeros(400), np.full(100, 50.0)]
    told, spoiled = (found_by("absolute", one, outcome, forward=True)[1] for one in (y, y + later))
    assert told["folds"]["rows"] == 400
    assert spoiled["folds"]["width"] == told["folds"]["width"]
    assert found_by("absolute", y + later, outcome)[1]["folds"]["width"] > told["folds"]["width"]


def evidence(n: int = 1000, reach: float = 1.6449, **facts: Any) -> Evidence:
    y = np.random.default_rng(5).normal(size=n)
    zero, ends = np.zeros(n), np.tile([-reach, reach], (n, 1))
    return Evidence("regression", y, zero, None, zero, zero, ends=ends, native_ends=ends, **facts)


def test_the_gate_judges_the_bound_of_all_rows_and_of_groups() -> None:
    gate = Coverage(min=0.85, by=("sex",))
    few = np.array(["f"] * 60 + ["m"] * 940, dtype=object)
    half = np.array(["f", "m"] * 500, dtype=object)
    assert gate.check(evidence(groups={"sex": half})).outcome == "holds"
    assert gate.check(evidence(groups={"sex": few})).outcome == "not measured"
    assert gate.check(evidence(groups={"sex": half}, declared_groups={"sex": ("x",)})).outcome == "not measured"
    assert Coverage(min=0.895).check(evidence()).outcome == "refused"
    assert Coverage(min=0.85).check(evidence(50)).outcome == "not measured"
    without = Evidence("regression", *(np.zeros(200),) * 2, None, *(np.zeros(200),) * 2)
    assert Coverage(min=0.85).check(without).outcome == "not measured"
    held_back = evidence(groups={"sex": half})
    held_back.ends[half == "f"] /= 2  # type: ignore[index]
    verdict = gate.check(held_back)
    assert verdict.outcome == "refused"
    weighted = evidence(weight=np.where(half == "f", 1e-6, 1.0))
    weighted.ends[half == "f"] = 0  # type: ignore[index]
    assert Coverage(min=0.8).check(weighted).outcome == "holds"
    assert {one.name: one.outcome for one in verdict.slices} == {"sex=f": "refused", "sex=m": "holds"}


def test_parity_looks_at_the_ends() -> None:
    same = evidence()
    assert Parity().check(same).outcome == "holds"
    assert same.ends is not None
    one = replace(same, native_ends=same.ends + 1e-3 * (np.arange(1000) == 7)[:, None])
    assert Parity().check(one).outcome == "refused"
    other = replace(same, native_ends=same.ends * np.array([1.0, 1 + 1e-3]))
    assert Parity().check(other).outcome == "refused"


def test_the_signal_is_raised_when_the_whole_interval_lies_below() -> None:
    y = np.random.default_rng(6).normal(size=500)
    signal = CoverageSignal(min=0.9)
    for reach, outcome in ((1.6449, "holds"), (1.0, "refused")):
        window = Window(500, y=y, scores=np.zeros(500), ends=np.tile([-reach, reach], (500, 1)))
        assert signal.judge({}, window).outcome == outcome
    assert signal.judge({}, Window(500, y=y, scores=y)).outcome == "not measured"
    assert signal.judge({}, Window(60, y=y[:60], scores=y[:60], ends=np.zeros((60, 2)))).outcome == "not measured"


REGRESSION: dict[str, Any] = {"problem": {"task": "regression", "target": "y"}, "candidates": {"line": "ridge"}}


def quantiles(*levels: float) -> dict[str, Any]:
    problem = {"task": "regression", "target": "y", "quantiles": levels}
    return {"problem": problem, "candidates": {"l": "dummy"}, "selection": {"prediction_interval": {}}}


@pytest.mark.parametrize(
    ("changes", "key", "what"),
    [
        ({"selection": {"prediction_interval": {}}}, "selection.prediction_interval", "has no effect on a binary"),
        ({"gates": {"c": {"type": "coverage", "min": 0.8}}}, "gates.c.type", "needs prediction intervals"),
        (
            {**REGRESSION, "selection": {"prediction_interval": {"method": "quantile"}}},
            "selection.prediction_interval.method",
            "none are predicted",
        ),
        (quantiles(0.1, 0.5), "selection.prediction_interval", "needs a quantile below 0.5, and one above"),
        (
            {**quantiles(0.1, 0.5, 0.9), "selection": {"prediction_interval": {"method": "absolute"}}},
            "selection.prediction_interval.method",
            "starts from them",
        ),
    ],
)
def test_what_contradicts_is_told(changes: Any, key: str, what: str) -> None:
    (found,) = spec_of(**changes).contradictions()
    assert ".".join(map(str, found.key)) == key
    assert what in found.what


def test_a_gate_that_asks_for_more_than_the_interval_is_told() -> None:
    spec = spec_of(
        problem={"task": "regression", "target": "y"},
        candidates={"line": "ridge"},
        selection={"prediction_interval": {"coverage": 0.8}},
        gates={"c": {"type": "coverage", "min": 0.8, "by": ["sex"]}},
        monitoring={"signals": {"c": {"type": "coverage", "min": 0.9}}},
    )
    told = {".".join(map(str, found.key)) for found in spec.contradictions()}
    assert {"gates.c.min", "gates.c.by.0", "monitoring.signals.c.min", "monitoring.signals.c.type"} <= told


def test_a_method_that_few_rows_do_not_suffice_for_is_not_compared() -> None:
    from specml.stages.interval import _worthwhile

    assert _worthwhile({"absolute": [3.0, 3.1, 2.9], "signed": [], "normalised": [1.0, 1.1, 0.9]}) == "normalised"


def test_a_groups_width_counts_rows_by_their_weight_as_that_of_all_rows() -> None:
    y = np.zeros(4)
    ends = np.stack([y, np.array([1.0, 3.0, 5.0, 7.0])], axis=1)
    weight = np.array([3.0, 1.0, 0.0, 0.0])
    groups = {"sex": np.array(["f", "f", "m", "m"], dtype=object)}
    told = _intervals(Evidence("regression", y, y, None, y, y, weight=weight, groups=groups, ends=ends), 0.9)
    women, men = told["groups"]
    assert told["width"] == women["width"] == 1.5
    assert (men["value"], men["width"]) == (None, None)
    plain = _intervals(Evidence("regression", y, y, None, y, y, groups=groups, ends=ends), 0.9)
    assert [plain["width"], *(one["width"] for one in plain["groups"])] == [4.0, 2.0, 6.0]
