"""From a probability to a decision: costs, thresholds, and what is told of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from specml.decision import Costs
from specml.errors import SpecmlError
from specml.evidence import Evidence
from specml.gates.expected_cost import ExpectedCost
from specml.load import load
from specml.stages.threshold import threshold
from tests.conftest import run_stages, spec_of

if TYPE_CHECKING:
    from pathlib import Path

    from specml.spec import Problem

SCORES: dict[str, Any] = {
    "balanced_accuracy": balanced_accuracy_score,
    "accuracy": accuracy_score,
    "f1": lambda y, d, sample_weight: f1_score(y, d, sample_weight=sample_weight, zero_division=0.0),
    "f1_macro": lambda y, d, sample_weight: f1_score(
        y, d, sample_weight=sample_weight, average="macro", zero_division=0.0
    ),
}


def problem(**decision: Any) -> Problem:
    """A binary problem; ``costs`` beside the decision's own keys."""
    costs = {"costs": decision.pop("costs")} if "costs" in decision else {}
    return spec_of(problem={"task": "binary", "target": "y", **costs, "decision": decision}).problem


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Classes, probabilities with ties that float32 holds, and weights or none."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(4, 60))
    y = generator.integers(0, 2, n)
    y[:2] = [0, 1]
    steps = draw(st.sampled_from([4, 16, 1024]))
    noise = generator.normal(scale=draw(st.floats(0.1, 2)), size=n)
    scores = np.round(1 / (1 + np.exp(-(2 * y - 1 + noise))) * steps) / steps
    return y, scores, generator.random(n) + 0.1 if draw(st.booleans()) else None


def every_cut(scores: np.ndarray) -> np.ndarray:
    """One cut for each way to divide the rows."""
    known = np.unique(scores)
    return np.append(known, known[-1] + 1)


@settings(max_examples=80, deadline=None)
@given(predictions(), st.floats(0.01, 100), st.floats(0.01, 100), st.floats(-50, 0), st.floats(-50, 0))
def test_no_cut_costs_less_out_of_fold(rows: Any, missed: float, alarm: float, hit: float, calm: float) -> None:
    y, scores, weight = rows
    told = {"false_negative": missed, "false_positive": alarm, "true_positive": hit, "true_negative": calm}
    costs = Costs.model_validate(told)

    def cost(cut: float) -> float:
        decided = scores >= cut
        each = [
            (hit if d else missed) if truth else (alarm if d else calm) for truth, d in zip(y, decided, strict=True)
        ]
        return float(np.average(each, weights=weight))

    found, how = threshold(problem(threshold="costs", costs=told), y, scores, weight)
    least = min(cost(cut) for cut in every_cut(scores))
    # Nothing but 1 itself can be above a probability of 1.
    if scores.max() < 1:
        assert how["expected_cost"] == pytest.approx(least, abs=1e-9)
        assert cost(found) == pytest.approx(least, abs=1e-9)
    assert how["theoretical"] == costs.threshold
    assert how["expected_cost"] <= how["expected_cost_theoretical"]


@settings(max_examples=60, deadline=None)
@given(predictions(), st.sampled_from(sorted(SCORES)))
def test_auto_is_best_by_its_metric(rows: Any, metric: str) -> None:
    y, scores, weight = rows
    scores = np.clip(scores, 0.01, 0.99).astype(np.float32).astype(np.float64)
    found, how = threshold(problem(threshold="auto", metric=metric), y, scores, weight)
    worth = [SCORES[metric](y, (scores >= cut).astype(int), sample_weight=weight) for cut in every_cut(scores)]
    assert SCORES[metric](y, (scores >= found).astype(int), sample_weight=weight) == pytest.approx(max(worth))
    assert how == {"by": metric}


def test_the_theoretical_threshold_is_elkans() -> None:
    assert Costs(false_negative=5200, false_positive=410).threshold == pytest.approx(410 / 5610)
    gain = Costs(false_negative=10, false_positive=4, true_positive=-30, true_negative=1)
    p = gain.threshold
    decided = p * -30 + (1 - p) * 4
    assert decided == pytest.approx(p * 10 + (1 - p) * 1)


def test_where_nothing_is_gained_by_the_rows_the_theoretical_threshold_is_taken() -> None:
    y, scores = np.array([0, 0, 1, 1]), np.array([0.05, 0.1, 0.8, 0.9])
    found, how = threshold(
        problem(threshold="costs", costs={"false_negative": 3, "false_positive": 1}), y, scores, None
    )
    assert found == 0.25
    assert how["expected_cost"] == 0


def test_rows_of_no_fold_say_nothing() -> None:
    y, scores = np.array([0, 1, 1, 1]), np.array([0.2, 0.7, np.nan, np.nan])
    assert threshold(problem(threshold="auto"), y, scores, None)[0] == pytest.approx(0.7)


def test_a_wrong_decision_costs_more_than_the_right_one() -> None:
    with pytest.raises(ValidationError, match="false_positive above true_negative"):
        Costs(false_negative=5, false_positive=1, true_negative=1)
    with pytest.raises(ValidationError):
        Costs(false_negative=float("nan"), false_positive=1)


BASE = "name: small\nproblem: {task: TASK, target: y, DECISION}\ndata: {sources: {rows: {type: csv, path: rows.csv}}}\n"


@pytest.mark.parametrize(
    ("task", "decision", "what"),
    [
        ("binary", "decision: {threshold: costs}", "nothing says what decisions cost"),
        ("binary", "decision: {metric: f1}", "has no effect: the threshold is 0.5"),
        ("multiclass", "costs: {false_negative: 2, false_positive: 1}", "has no effect on a multiclass problem"),
        ("binary", "costs: {false_negative: 1, false_positive: 0}", "needs false_positive above true_negative"),
    ],
)
def test_a_decision_without_effect_is_refused(tmp_path: Path, task: str, decision: str, what: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        BASE.replace("TASK", task).replace("DECISION", decision) + "candidates: {line: logistic_regression}\n"
    )
    with pytest.raises(SpecmlError) as error:
        load(path, [])
    assert what in str(error.value)


def test_a_gate_of_costs_needs_costs(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    text = BASE.replace("TASK", "binary").replace(", DECISION", "")
    path.write_text(text + "candidates: {line: logistic_regression}\ngates: {cost: {type: expected_cost, max: 3}}\n")
    with pytest.raises(SpecmlError, match="needs to know what decisions cost"):
        load(path, [])


def test_the_expected_cost_is_judged_on_its_upper_bound() -> None:
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 1000)
    p = np.clip(0.5 + 0.3 * (2 * y - 1) + generator.normal(scale=0.3, size=1000), 0, 1)
    decisions = (p >= 0.5).astype(np.int64)
    costs = Costs(false_negative=10, false_positive=2).each(y, decisions)
    evidence = Evidence("binary", y, p, decisions, p, p, costs=costs)
    value = ExpectedCost(max=1e9).check(evidence).value
    assert value == pytest.approx((10 * ((y == 1) & (p < 0.5)) + 2 * ((y == 0) & (p >= 0.5))).mean())
    assert value is not None
    assert ExpectedCost(max=value * 1.001).check(evidence).outcome == "refused"
    assert ExpectedCost(max=value * 1.3).check(evidence).outcome == "holds"
    assert ExpectedCost(max=9).check(replace(evidence, costs=None)).outcome == "not measured"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose threshold is found by costs, run up to the release."""
    folder = tmp_path_factory.mktemp("costs")
    write_people(folder)
    spec = people(costs={"false_negative": 50, "false_positive": 4, "currency": "EUR"}, decision={"threshold": "costs"})
    run_stages(spec, folder)
    return folder


def write_people(folder: Path, n: int = 900) -> None:
    """Rows of two groups, of which one has the positive label more often."""
    generator = np.random.default_rng(5)
    group = generator.integers(0, 2, n)
    income = generator.normal(size=n) + 0.8 * group
    y = generator.random(n) < 1 / (1 + np.exp(-(1.5 * income - 1)))
    table = {"income": income, "noise": generator.normal(size=n), "group": np.where(group, "a", "b")}
    pl.DataFrame({**table, "y": np.where(y, "yes", "no")}).write_csv(folder / "people.csv")


def people(**problem: Any) -> Any:
    """A spec over these rows."""
    from specml.spec import Spec

    return Spec.model_validate({
        "name": "people",
        "problem": {
            "task": "binary", "target": "y", "positive_class": "yes",
            "feasibility": {"learning_curve": False}, **problem,
        },
        "data": {
            "sources": {"rows": {"type": "csv", "path": "people.csv"}},
            "columns": {"group": {"role": "protected"}},
            "split": {"test": 0.3},
        },
        "candidates": {"line": {"type": "logistic_regression"}},
    })  # fmt: skip


def test_the_expected_cost_is_told_in_metrics_card_and_verdicts(ran: Path) -> None:

    told = json.loads((ran / "artifacts/validate/verdicts.json").read_text())
    choice = json.loads((ran / "artifacts/select/choice.json").read_text())
    test = pl.read_parquet(ran / "artifacts/prepare/test.parquet")
    metrics = json.loads((ran / "metrics/holdout.json").read_text())
    positive, n = test["y"].sum(), test.height
    missed = positive * (1 - metrics["recall"])
    alarms = positive * metrics["recall"] * (1 / metrics["precision"] - 1)
    assert metrics["expected_cost"] == pytest.approx((50 * missed + 4 * alarms) / n)
    assert told["costs"]["expected"] == metrics["expected_cost"]
    assert told["costs"]["always"] == pytest.approx({"negative": 50 * positive / n, "positive": 4 * (1 - positive / n)})
    assert choice["decision"]["theoretical"] == pytest.approx(4 / 54)
    card = (ran / "artifacts/release/card.md").read_text()
    assert f"Expected cost: {metrics['expected_cost']:.4g} EUR a row" in card
    assert "false negative 50 EUR, false positive 4 EUR" in card
    assert f"{choice['decision']['theoretical']:.4g} (Elkan 2001)" in card


def test_currencies_are_one_line_of_plain_text() -> None:
    with pytest.raises(ValidationError):
        Costs(false_negative=5, false_positive=1, currency="<b>EUR")
