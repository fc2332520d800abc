"""One model out of the candidates: the rule, and the mean of several."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.graph import Graph
from specml.load import load
from specml.metrics import TABLE
from specml.stages.ensemble import STEPS, Blend, ensemble
from specml.stages.select import spread, taken
from tests.conftest import spec_of

AUC, LOSS = TABLE["roc_auc"], TABLE["log_loss"]


def row(name: str, *scores: float, **facts: Any) -> dict[str, Any]:
    return {"candidate": name, **spread(list(scores)), **facts}


def rule(board: list[dict[str, Any]], metric: Any = AUC, **selection: Any) -> tuple[str, str]:
    candidates = {
        "net": "tabular_mlp",
        "gbm": "lightgbm",
        "line": "logistic_regression",
        "line2": "logistic_regression",
    }
    spec = spec_of(candidates=candidates, selection={"rule": "one_standard_error", **selection})
    found, reason = taken(board, metric, spec)
    return found["candidate"], reason


def test_the_standard_error_is_that_of_the_mean_over_the_folds() -> None:
    told = spread([0.7, 0.8, 0.9, 0.8])
    assert told["mean"] == pytest.approx(0.8)
    assert told["standard_error"] == pytest.approx(np.std([0.7, 0.8, 0.9, 0.8], ddof=1) / 2)
    assert spread([0.7])["standard_error"] == 0.0


def test_the_simplest_within_one_standard_error_is_taken() -> None:
    board = [row("net", 0.80, 0.90), row("gbm", 0.81, 0.88), row("line", 0.79, 0.83), row("line2", 0.70, 0.72)]
    assert rule(board) == ("line", "simpler, and within one standard error (0.05) of the best, net (0.8500)")
    assert rule(board, prefer=["gbm"])[0] == "gbm"
    assert "preferred" in rule(board, prefer=["gbm"])[1]
    assert rule(board, rule="best") == ("net", "the best mean over the folds of 4")


def test_what_is_further_than_one_standard_error_is_not_taken_however_simple_or_preferred() -> None:
    board = [row("gbm", 0.84, 0.85), row("line", 0.80, 0.81)]
    assert rule(board, prefer=["line"])[0] == "gbm"
    smaller = [row("gbm", 0.31, 0.32), row("line", 0.35, 0.36)]
    assert rule(smaller, LOSS)[0] == "gbm"
    assert rule([row("gbm", 0.31, 0.37), row("line", 0.35, 0.36)], LOSS)[0] == "line"


def test_an_ensemble_is_the_most_complex() -> None:
    board = [row("ensemble", 0.80, 0.90, members={"net": 0.5, "gbm": 0.5}), row("net", 0.80, 0.89)]
    spec = spec_of(
        candidates={"net": "tabular_mlp", "gbm": "lightgbm"},
        selection={"rule": "one_standard_error", "ensemble": "greedy"},
    )
    assert taken(board, AUC, spec)[0]["candidate"] == "net"


def test_an_ensemble_that_is_asked_for_is_taken_unless_one_alone_is_clearly_better() -> None:
    def chosen(*folds: float) -> tuple[str, str]:
        members = {"net": 0.5, "gbm": 0.5}
        return rule([row("net", 0.80, 0.86, 0.83), row("ensemble", *folds, members=members)], rule="best")

    assert chosen(0.81, 0.84, 0.82) == (
        "ensemble",
        "asked for, and no candidate alone is clearly better: the best, net, has 0.8300",
    )
    assert chosen(0.79, 0.85, 0.82) == ("net", "the best mean over the folds of 2")
    losses = [row("net", 0.30, 0.33), row("ensemble", 0.29, 0.35, members={"net": 0.5, "gbm": 0.5})]
    assert rule(losses, LOSS, rule="best")[0] == "ensemble"


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], list[np.ndarray], np.ndarray]:
    """Out-of-fold predictions of several candidates, the folds, and the classes."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, k = draw(st.integers(30, 80)), draw(st.integers(2, 4))
    y = generator.integers(0, 2, n)
    y[: 2 * k] = [0, 1] * k
    found = {}
    for name in draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True)):
        noise = generator.normal(scale=draw(st.floats(0.1, 3)), size=n)
        found[name] = 1 / (1 + np.exp(-(y - 0.5 + noise)))
    if draw(st.booleans()):
        found["g"] = next(iter(found.values())).copy()
    # Each fold has both classes.
    return found, [np.r_[2 * i : 2 * i + 2, np.arange(2 * k + i, n, k)] for i in range(k)], y


@settings(max_examples=15, deadline=None)
@given(problems(), st.sampled_from(["roc_auc", "log_loss"]), st.integers(2, 4), st.randoms())
def test_a_greedy_mean(problem: Any, name: str, most: int, random: Any) -> None:
    """No member alone is better where it was chosen, weights are shares, and the candidates' order says nothing."""
    predictions, folds, y = problem
    metric = TABLE[name]

    def measure(rows: np.ndarray, scores: np.ndarray) -> float:
        return metric.over(y[rows], scores, None)(np.arange(len(rows)))

    def found(names: list[str]) -> Any:
        ordered = {one: predictions[one] for one in names}
        return ensemble(ordered, folds, measure, larger_is_better=metric.larger_is_better, most=most)

    names = sorted(predictions)
    chosen = found(names)
    assert sum(chosen.weights.values()) == pytest.approx(1)
    assert all(weight > 0 for weight in chosen.weights.values())
    assert len(chosen.weights) <= most
    random.shuffle(names)
    assert found(names) == chosen

    def worth(weights: dict[str, float]) -> float:
        mean: Any = sum(predictions[one] * weight for one, weight in sorted(weights.items()))
        return float(np.mean([measure(rows, mean[rows]) for rows in folds]))

    for one in predictions:
        assert metric.gain(worth(chosen.weights), worth({one: 1.0})) >= -1e-12


def test_of_a_fold_nothing_is_known_to_what_it_scores() -> None:
    """Spoil a fold's rows: what the others choose for it stays as it was."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 300)
    predictions = {
        name: y + generator.normal(scale=one, size=300) for name, one in (("a", 1.0), ("b", 1.1), ("c", 1.2))
    }
    folds = [np.arange(start, 300, 3) for start in range(3)]

    def weights(values: dict[str, np.ndarray]) -> dict[str, int]:
        blend = Blend(values, folds, lambda rows, scores: AUC.measure(y[rows], scores, None), larger_is_better=True)
        return blend.greedy([1, 2], 4)

    spoiled = {name: one.copy() for name, one in predictions.items()}
    spoiled["c"][folds[0]] = y[folds[0]]
    assert weights(spoiled) == weights(predictions)
    assert sum(weights(predictions).values()) <= STEPS


def test_candidates_that_are_the_same_are_one() -> None:
    y = np.array([0, 1] * 20)
    same = np.linspace(0, 1, 40)
    folds = [np.arange(0, 20), np.arange(20, 40)]
    measure = lambda rows, scores: AUC.measure(y[rows], scores, None)  # noqa: E731
    found = ensemble({"b": same, "a": same}, folds, measure, larger_is_better=True, most=4)
    assert found.weights == {"a": 1.0}


def test_ten_thousand_columns_are_declared_in_no_time() -> None:
    graph = Graph("g")
    started = time.process_time()
    for number in range(10_000):
        graph.node("Cast", graph.input(f"x{number}", "float64"), to=1)
    assert time.process_time() - started < 5


def test_what_is_done_twice_in_a_graph_is_done_once() -> None:
    graph = Graph("g")
    x = graph.input("x", "float32")
    assert graph.input("x", "float32") == x
    one, other = (graph.node("Add", x, graph.constant(np.array(1, np.float32))) for _ in range(2))
    assert one == other
    assert graph.node("Add", x, graph.constant(np.array(1, np.float64))) != one
    assert graph.node("Cast", x, to=11) != graph.node("Cast", x, to=7)
    words = [graph.constant(np.array([["red"]], dtype=object)) for _ in range(2)]
    assert words[0] == words[1] != graph.constant(np.array([["blue"]], dtype=object))


@pytest.mark.parametrize(
    ("selection", "what"),
    [
        ("{prefer: [line]}", "has no effect by selection.rule: best"),
        ("{rule: one_standard_error, prefer: [lines]}", "'lines' is no candidate"),
        ("{rule: one_standard_error, prefer: [line, line]}", "names 'line' twice"),
        ("{max_members: 3}", "no effect without an ensemble"),
        ("{ensemble: greedy}", "there is one candidate"),
        ("{calibration: temperature}", "calibrates no binary problem"),
    ],
)
def test_a_selection_without_effect_is_refused(tmp_path: Any, selection: str, what: str) -> None:
    text = (
        "name: small\nproblem: {task: binary, target: y}\ndata: {sources: {rows: {type: csv, path: rows.csv}}}\n"
        f"candidates: {{line: logistic_regression}}\nselection: {selection}\n"
    )
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(Exception, match=what):
        load(tmp_path / "spec.yaml")


def test_no_candidate_takes_the_name_of_the_ensemble(tmp_path: Any) -> None:
    text = (
        "name: small\nproblem: {task: binary, target: y}\ndata: {sources: {rows: {type: csv, path: rows.csv}}}\n"
        "candidates: {ensemble: logistic_regression, gbm: lightgbm}\nselection: {ensemble: greedy}\n"
    )
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(Exception, match=r"the name of what selection\.ensemble makes"):
        load(tmp_path / "spec.yaml")
