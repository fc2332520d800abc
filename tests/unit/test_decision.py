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

from specml.decision import Costs, Decision
from specml.evidence import Evidence, wilson
from specml.gates.expected_cost import ExpectedCost
from specml.stages.threshold import threshold
from specml.stages.validate import costs as costs_of
from tests.conftest import problem_of, run_stages, spec_of

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


@settings(max_examples=25, deadline=None)
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
COSTS = "costs: {false_negative: 2, false_positive: 1"


@pytest.mark.parametrize(
    ("task", "decision", "key", "what"),
    [
        ("binary", "decision: {threshold: costs}", "decision.threshold", "nothing says what decisions cost"),
        ("binary", "decision: {metric: f1}", "decision.metric", "has no effect: the threshold is 0.5"),
        ("binary", "decision: {abstain_band: [0.6, 0.8]}", "decision.abstain_band", "does not hold the threshold, 0.5"),
        ("binary", "decision: {abstain_band: [0.6, 0.4]}", "decision", "needs abstain_band to rise"),
        ("binary", f"{COSTS}, abstention: 1}}", "costs.abstention", "every row is decided"),
        ("regression", "decision: {abstain_band: [0.4, 0.6]}", "decision", "has no effect on a regression problem"),
        ("multiclass", f"{COSTS}}}", "costs", "has no effect on a multiclass problem"),
        ("binary", "costs: {false_negative: 1, false_positive: 0}", "costs", "false_positive above true_negative"),
    ],
)
def test_a_decision_without_effect_is_refused(tmp_path: Path, task: str, decision: str, key: str, what: str) -> None:
    line = "ridge" if task == "regression" else "logistic_regression"
    text = BASE.replace("TASK", task).replace("DECISION", decision) + f"candidates: {{line: {line}}}\n"
    problem = problem_of(tmp_path, text)
    assert problem.key == f"problem.{key}"
    assert what in problem.what


def test_a_gate_of_costs_needs_costs(tmp_path: Path) -> None:
    text = BASE.replace("TASK", "binary").replace(", DECISION", "")
    text += "candidates: {line: logistic_regression}\ngates: {cost: {type: expected_cost, max: 3}}\n"
    problem = problem_of(tmp_path, text)
    assert problem.key == "gates.cost.type"
    assert "needs to know what decisions cost" in problem.what


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


@st.composite
def bands(draw: st.DrawFn) -> tuple[float, float, float, np.ndarray]:
    """Low, high, a threshold between, and probabilities: anything, the edges and their neighbours in float32."""
    low, high = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    if np.float32(low) == np.float32(high):
        low, high = 0.25, 0.75
    cut = draw(st.floats(low, high))
    ends = [np.float32(one) for one in (low, high, cut)]
    near = [np.nextafter(one, np.float32(way)) for one in ends for way in (0, 1)]
    free = draw(st.lists(st.floats(0, 1, width=32), max_size=20))
    return low, high, cut, np.array([*ends, *near, *free, 0.0, 1.0], np.float32)


class Told:
    """A model that answers with its only column."""

    def to_onnx(self, graph: Any) -> str:
        return str(graph.node("Cast", graph.input("p", "float64"), to=1))


@settings(max_examples=40, deadline=None)
@given(bands())
def test_graph_and_contract_decide_alike_at_the_edges_of_the_band(drawn: Any) -> None:
    from specml.bundle import predict

    low, high, cut, p = drawn
    contract = contract_of(low, high, cut)
    outputs = predict(session_of(contract), {"p": p.astype(np.float64)})
    expected = ["" if low <= one < high else "yes" if one >= cut else "no" for one in p.tolist()]
    # The edges themselves are rounded to float32, as the graph has them.
    ends = contract.abstain_band
    assert ends is not None
    exact = ["" if ends[0] <= one < ends[1] else "yes" if one >= ends[1] else "no" for one in p.tolist()]
    assert outputs["label"].tolist() == exact
    names = ["no", "yes", ""]
    assert [names[index] for index in contract.decide(outputs["probabilities"])] == exact
    far = [min(abs(one - low), abs(one - high)) > 1e-6 for one in p.tolist()]
    assert [a for a, ok in zip(exact, far, strict=True) if ok] == [a for a, ok in zip(expected, far, strict=True) if ok]


def contract_of(low: float, high: float, cut: float) -> Any:
    """A contract with one numeric column ``p``."""
    from specml.bundle import Contract
    from tests.conftest import column

    return Contract(
        name="told",
        task="binary",
        target="y",
        inputs=(column("p"),),
        classes=("no", "yes"),
        threshold=float(np.float32(cut)),
        abstain_band=(float(np.float32(low)), float(np.float32(high))),
        candidate="told",
    )


def session_of(contract: Any) -> Any:
    """A session over the graph that ``package`` builds."""
    import onnxruntime

    from specml.stages.package import build

    return onnxruntime.InferenceSession(build(contract, Told()), providers=["CPUExecutionProvider"])  # type: ignore[arg-type]


def test_no_decision_is_null_in_json_and_empty_in_tensors() -> None:
    from specml.bundle import predict
    from specml.serving.answer import predictions
    from specml.serving.infer import metadata
    from specml.serving.openapi import openapi

    contract = contract_of(0.4, 0.6, 0.5)
    outputs = predict(session_of(contract), {"p": np.array([0.1, 0.5, 0.9])})
    assert [one["label"] for one in predictions(outputs, contract)] == ["no", None, "yes"]
    assert outputs["label"].tolist() == ["no", "", "yes"]
    assert metadata(contract, "1")["abstain_band"] == list(contract.abstain_band)
    told = openapi(contract, version="1", max_rows=9, max_body=9, explained_rows=9, secured=False, notice={})
    answer = told["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    label = answer["properties"]["predictions"]["items"]["properties"]["label"]
    assert label["enum"] == ["no", "yes", None]
    assert "0.4 or more, and below 0.6" in label["description"]


def test_what_is_not_decided_is_captured_as_null_and_judged_as_such(tmp_path: Path) -> None:
    from specml.bundle import predict
    from specml.serving.capture import Capture
    from specml.serving.request import Rows
    from specml.signals.performance import Performance
    from specml.watch.feedback import _answers
    from specml.watch.live import labelled

    contract, p = contract_of(0.4, 0.6, 0.5), np.tile([0.1, 0.5, 0.9], 30)
    capture = Capture(tmp_path, contract, "sha256:0")
    capture.offer("one", Rows(90, {"p": p}), predict(session_of(contract), {"p": p}))
    capture.close()
    ids = pl.Series([f"one-{index}" for index in range(90)])
    (segment,) = tmp_path.glob("*.parquet")
    assert pl.read_parquet(segment)["outputs"].struct.field("label").to_list()[:3] == ["no", None, "yes"]
    found = _answers(tmp_path, contract, ids)
    assert found["decision"].to_list()[:3] == [0, -1, 1]
    # Wrong about every row that it decides would be wrong; of those that it leaves nothing is said.
    window = labelled(found.with_columns(y=pl.Series([0, 0, 1] * 30)))
    verdict = Performance(metric="accuracy", min=0.9, min_rows=50).judge({}, window)
    assert (verdict.outcome, verdict.value) == ("holds", 1.0)


def test_scores_of_decisions_are_those_of_the_decided_rows() -> None:
    from specml.metrics import TABLE

    y = np.array([0, 1, 1, 0, 1, 0])
    p, weight = np.array([0.1, 0.9, 0.5, 0.5, 0.2, 0.3]), np.arange(1.0, 7.0)
    decisions = np.array([0, 1, -1, -1, 0, 0])
    made = decisions >= 0
    for name in ("accuracy", "balanced_accuracy", "f1", "precision", "recall"):
        metric = TABLE[name]
        for w in (None, weight):
            alone = metric.measure(y[made], p[made], decisions[made], None if w is None else w[made])
            assert metric.measure(y, p, decisions, w) == pytest.approx(alone)
            assert metric.over(y, p, decisions, w)(np.arange(6)) == pytest.approx(alone)
    assert TABLE["roc_auc"].measure(y, p, decisions) == TABLE["roc_auc"].measure(y, p, np.abs(decisions))
    assert np.isnan(TABLE["accuracy"].measure(y, p, np.full(6, -1)))


def test_what_is_not_decided_costs_what_is_said_or_is_left_out() -> None:
    y, decisions = np.array([0, 1, 1]), np.array([-1, -1, 0])
    each = Costs(false_negative=10, false_positive=2).each(y, decisions)
    assert np.isnan(each).tolist() == [True, True, False]
    half = np.full(360, 0.5)
    evidence = Evidence("binary", np.tile(y, 120), half, np.tile(decisions, 120), half, half)
    assert ExpectedCost(max=11).check(replace(evidence, costs=np.tile(each, 120))).value == pytest.approx(10)
    looked_at = Costs(false_negative=10, false_positive=2, abstention=1).each(y, decisions)
    assert ExpectedCost(max=11).check(replace(evidence, costs=np.tile(looked_at, 120))).value == pytest.approx(4)
    told, none = Costs(false_negative=10, false_positive=2), np.full(360, -1)
    assert costs_of(told, replace(evidence, decisions=none, costs=told.each(evidence.y, none))) == {}


def test_the_decision_rate_is_judged_on_its_lower_bound() -> None:
    from specml.gates.decision_rate import DecisionRate

    half = np.full(1000, 0.5)
    decisions = np.where(np.arange(1000) < 900, 1, -1)
    evidence = Evidence("binary", np.ones(1000, np.int64), half, decisions, half, half)
    assert DecisionRate(min=0.85).check(evidence).outcome == "holds"
    assert DecisionRate(min=0.9).check(evidence).outcome == "refused"
    assert DecisionRate(min=0.9, min_rows=2000).check(evidence).outcome == "not measured"


def test_parity_refuses_a_graph_that_decides_otherwise_than_its_contract() -> None:
    from specml.gates.parity import Parity

    p = np.linspace(0, 1, 100)
    decisions = (p >= 0.5).astype(np.int64)
    evidence = Evidence("binary", decisions, p, decisions, p, p, recomputed=decisions.copy())
    assert Parity().check(evidence).outcome == "holds"
    assert evidence.recomputed is not None
    evidence.recomputed[7] = -1
    verdict = Parity().check(evidence)
    assert verdict.outcome == "refused"
    assert verdict.reason.startswith("1 of 100 rows")


@pytest.fixture(scope="module")
def banded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same project with an abstain band."""
    folder = tmp_path_factory.mktemp("band")
    write_people(folder)
    costs = {"false_negative": 6, "false_positive": 4, "abstention": 0.5, "currency": "EUR"}
    run_stages(people(costs=costs, decision={"threshold": "costs", "abstain_band": [0.3, 0.6]}), folder)
    return folder


def test_an_abstain_band_is_told_wherever_decisions_are(banded: Path) -> None:
    from specml.bundle import open_bundle, predict
    from specml.data import feature_array

    told = json.loads((banded / "artifacts/validate/verdicts.json").read_text())
    opened = open_bundle(banded / "artifacts/bundle")
    test = pl.read_parquet(banded / "artifacts/prepare/test.parquet")
    outputs = predict(opened.session(), {one.name: feature_array(test, one) for one in opened.contract.inputs})
    p = outputs["probabilities"][:, 1]
    made = ~((p >= np.float32(0.3)) & (p < np.float32(0.6)))
    assert 0.2 < made.mean() < 0.9
    assert [label != "" for label in outputs["label"]] == made.tolist()
    assert told["metrics"]["decision_rate"] == pytest.approx(made.mean())
    assert (told["decision_rate"]["decided"], told["decision_rate"]["rows"]) == (made.sum(), len(p))
    y = test["y"].to_numpy()
    assert told["metrics"]["accuracy"] == pytest.approx(((p >= 0.6) == y)[made].mean())
    each = np.where(made, np.where(y == (p >= 0.6), 0, np.where(y == 1, 6, 4)), 0.5)
    assert told["metrics"]["expected_cost"] == pytest.approx(each.mean())
    assert told["gates"]["parity"]["outcome"] == "holds"
    card = (banded / "artifacts/release/card.md").read_text()
    assert "Decides nothing from a probability of 0.3 on and below 0.6" in card
    assert f"Decided: {100 * made.mean():.1f} % of the held-out rows" in card
    assert "abstention 0.5 EUR" in card
    counts = json.loads((banded / "artifacts/validate/curves.json").read_text())["confusion"]["counts"]
    assert np.sum(counts) == made.sum()
    plotted = pl.read_csv(banded / "plots/confusion.csv")
    assert (plotted["predicted"] != "no decision").to_list() == made.tolist()


def test_the_contract_of_a_model_that_always_decides_says_nothing_of_a_band(ran: Path, banded: Path) -> None:
    assert "abstain_band" not in json.loads((ran / "artifacts/bundle/contract.json").read_text())
    found = json.loads((banded / "artifacts/bundle/contract.json").read_text())["abstain_band"]
    assert found == [float(np.float32(0.3)), float(np.float32(0.6))]


def test_a_band_away_from_the_threshold_that_is_found_stops_the_run(tmp_path: Path) -> None:
    from specml.errors import StageFailed

    write_people(tmp_path)
    spec = people(decision={"threshold": "auto", "abstain_band": [0.9, 0.95]})
    with pytest.raises(StageFailed, match="does not hold the threshold, which is 0"):
        run_stages(spec, tmp_path)


def test_a_band_holds_a_threshold_at_its_end_as_float32_has_them() -> None:
    for cut, band in ((0.6, (0.4, 0.6)), (0.42, (0.42, 0.58))):
        assert Decision(threshold=cut, abstain_band=band).within(float(np.float32(cut)))
    assert not Decision(abstain_band=(0.4, 0.6)).within(0.61)


def test_rows_without_an_error_leave_room_for_the_dearest() -> None:
    y = np.tile([0, 1], 100)
    told = Costs(false_negative=5200, false_positive=410)
    evidence = Evidence("binary", y, y * 0.8, y, y, y, costs=told.each(y, y), price=told.each)
    found = ExpectedCost(max=0.5).check(evidence)
    assert (found.outcome, found.value) == ("refused", 0)
    assert found.interval is not None
    assert found.interval.high == pytest.approx(5200 * wilson(0, 200, 0.95).high)
    assert ExpectedCost(max=200).check(evidence).outcome == "holds"


def test_rows_whose_cost_is_not_known_do_not_count() -> None:
    y = np.tile([0, 1], 500)
    decisions = np.where(np.arange(1000) < 20, y, -1)
    told = Costs(false_negative=5200, false_positive=410)
    evidence = Evidence("binary", y, y * 0.8, decisions, y, y, costs=told.each(y, decisions), price=told.each)
    found = ExpectedCost(max=5000).check(evidence)
    assert (found.outcome, found.n) == ("not measured", 20)
