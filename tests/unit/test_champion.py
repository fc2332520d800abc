"""The gate champion: its bound against SciPy's paired bootstrap, how often it errs, and what it can't compare."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from pydantic import ValidationError

from specml.bundle import Contract
from specml.component import Disagreement
from specml.data import Layout, PastRows
from specml.evidence import ABSTAINED, Champion, Evidence
from specml.gates.champion import Champion as Gate
from specml.stages.champion import unfit
from tests.conftest import column, spec_of

NAME = "sha256:" + "c" * 64


def pair(n: int = 1000, seed: int = 0, mine: float = 1.0, theirs: float = 1.0, **more: Any) -> Evidence:
    """Two models that see a signal through noise of their own; the more noise, the worse."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    y = (generator.random(n) < 1 / (1 + np.exp(-2 * signal))).astype(np.int64)
    scores = [1 / (1 + np.exp(-2 * (signal + generator.normal(scale=noise, size=n)))) for noise in (mine, theirs)]
    champion = Champion(NAME, scores[1], (scores[1] >= 0.5).astype(np.int64))
    prior = np.full(n, 0.5)
    decided = (scores[0] >= 0.5).astype(np.int64)
    facts = {"metric": "roc_auc", "champion": lambda: champion, "seed": seed, **more}
    return Evidence("binary", y, scores[0], decided, scores[0], prior, **facts)


def numbers(n: int = 2000, mine: float = 1.0, theirs: float = 1.0) -> Evidence:
    generator = np.random.default_rng(3)
    y = generator.normal(size=n) * 1000
    answers = [y + generator.normal(scale=100 * noise, size=n) for noise in (mine, theirs)]
    champion = Champion(NAME, answers[1])
    facts: Any = {"metric": "root_mean_squared_error", "champion": lambda: champion}
    return Evidence("regression", y, answers[0], None, answers[0], np.zeros(n), **facts)


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy"])
def test_the_interval_is_scipys_paired_bootstrap(metric: str) -> None:
    evidence = pair(300, mine=0.5)
    verdict = Gate(metric=metric, min=-1.0).check(evidence)
    found, champion = verdict.interval, evidence.champion and evidence.champion()
    assert found is not None
    assert champion is not None

    def gain(rows: Any) -> float:
        rows = rows.astype(int)
        if metric == "accuracy":
            right = [np.mean(one[rows] == evidence.y[rows]) for one in (evidence.decisions, champion.decisions)]
            return float(right[0] - right[1])
        area = sklearn.metrics.roc_auc_score
        return float(area(evidence.y[rows], evidence.scores[rows]) - area(evidence.y[rows], champion.scores[rows]))

    reference = scipy.stats.bootstrap(
        (np.arange(300),), gain, n_resamples=499, method="percentile", vectorized=False, rng=1
    ).confidence_interval
    width = reference.high - reference.low
    assert verdict.value == pytest.approx(gain(np.arange(300)))
    assert found.low == pytest.approx(reference.low, abs=0.12 * width)
    assert found.high == pytest.approx(reference.high, abs=0.12 * width)


def test_the_difference_is_known_better_than_either_score() -> None:
    evidence = pair(mine=0.1, theirs=0.1)
    paired = Gate().check(evidence).interval
    alone = Gate(metric="roc_auc").check(
        pair(champion=lambda: Champion(NAME, np.full(1000, 0.5), np.zeros(1000, dtype=np.int64)))
    ).interval  # fmt: skip
    assert paired is not None
    assert alone is not None
    assert 4 * (paired.high - paired.low) < alone.high - alone.low


def test_better_holds_worse_is_refused_and_itself_holds() -> None:
    assert Gate().check(pair(mine=0.3)).outcome == "holds"
    assert Gate(metric="log_loss").check(pair(200, mine=0.2, theirs=2.0)).outcome == "holds"
    refused = Gate().check(pair(theirs=0.3))
    assert refused.outcome == "refused"
    assert "gain in roc_auc over the champion cccccccccccc is -0." in refused.reason
    evidence = pair(champion=lambda: None)
    same = Champion(NAME, evidence.scores, evidence.decisions)
    verdict = Gate(min=0.0).check(pair(champion=lambda: same))
    assert (verdict.outcome, verdict.value) == ("holds", 0.0)


def test_an_error_in_the_targets_unit_is_compared_as_a_share() -> None:
    worse = Gate(min=-0.5).check(numbers(mine=1.2))
    assert worse.value == pytest.approx(-0.2, abs=0.06)
    assert worse.outcome == "holds"
    assert Gate(min=-0.15).check(numbers(mine=1.2)).outcome == "refused"
    assert Gate().check(numbers(mine=0.8)).outcome == "holds"
    perfect = Gate().check(numbers(theirs=0.0))
    assert perfect.outcome != "holds"


def test_without_a_champion_it_holds_and_says_so() -> None:
    verdict = Gate().check(pair(champion=lambda: None))
    assert (verdict.outcome, verdict.interval) == ("holds", None)
    assert "no champion yet" in verdict.reason


def test_a_champion_that_nobody_asked_for_is_not_measured() -> None:
    assert Gate().check(pair(champion=None)).outcome == "not measured"


def test_what_cannot_be_compared_is_not_measured() -> None:
    verdict = Gate().check(pair(champion=lambda: Champion(NAME, wanting="its bundle was altered.")))
    assert verdict.outcome == "not measured"
    assert verdict.blocking
    assert "its bundle was altered" in verdict.reason
    assert Gate().check(pair(99)).outcome == "not measured"


def decided(generator: np.random.Generator, n: int, mine: float, theirs: float) -> Evidence:
    """Two models that decide rightly in these shares of the rows, independently."""
    y = np.ones(n, dtype=np.int64)
    a, b = ((generator.random(n) < right).astype(np.int64) for right in (mine, theirs))
    champion = Champion(NAME, b.astype(float), b)
    facts: Any = {"metric": "accuracy", "champion": lambda: champion, "seed": int(generator.integers(2**31))}
    return Evidence("binary", y, a.astype(float), a, a.astype(float), a.astype(float), **facts)


@pytest.mark.slow
def test_a_challenger_at_the_margin_is_admitted_as_seldom_as_it_says() -> None:
    """Worse by just the margin, 3 points of accuracy: 1 in 40 may pass at 95 %; as good as the champion: most."""
    generator = np.random.default_rng(11)
    rounds = 80
    worse = [Gate(min=-0.03).check(decided(generator, 300, 0.80, 0.83)).outcome for _ in range(rounds)]
    assert scipy.stats.binomtest(worse.count("holds"), rounds, 0.025).pvalue > 0.01, worse.count("holds")
    equal = [Gate(min=-0.08).check(decided(generator, 300, 0.83, 0.83)).outcome for _ in range(20)]
    assert equal.count("holds") >= 14, equal.count("holds")


@pytest.mark.parametrize("options", [{"min": 0.1}, {"confidence": 0.5}, {"min_rows": 1}, {"max": 0.0}])
def test_what_makes_no_sense_is_no_option(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Gate(**options)


def test_a_metric_of_another_task_contradicts() -> None:
    spec = spec_of(gates={"champion": {"type": "champion", "metric": "r2"}})
    (found,) = [one for one in spec.contradictions() if isinstance(one, Disagreement)]
    assert found.key == ("gates", "champion", "metric")
    assert list(spec_of(gates={"champion": {"type": "champion"}}).contradictions()) == []


LAYOUT = Layout(task="binary", target="y", classes=(0, 1), features=(column("a"), column("b", "categorical")))


def contract(**changes: Any) -> Contract:
    facts = {
        "name": "x",
        "task": "binary",
        "target": "y",
        "classes": (0, 1),
        "candidate": "c",
        "inputs": (column("a"),),
    }
    return Contract(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"classes": (1, 0)}, ""),
        ({"target": "z"}, "it estimates z"),
        ({"task": "multiclass", "classes": (0, 1)}, "it estimates y (multiclass)"),
        ({"classes": ("no", "yes")}, "its classes are no, yes, not 0, 1"),
        ({"inputs": (column("a"), column("gone"))}, "no longer gone"),
        ({"inputs": (column("a", "categorical"),)}, "a is of another kind"),
    ],
)
def test_a_champion_must_be_able_to_answer_the_rows(changes: dict[str, Any], told: str) -> None:
    found = unfit(contract(**changes), LAYOUT)
    assert found.startswith(told) if told.startswith("it") else told in found
    assert bool(found) == bool(told)


def test_a_champion_that_looks_back_at_other_rows_cannot_answer() -> None:
    columns = (column("a"), column("a@-1"))
    told = PastRows(rows=1, columns=("a",), time="at", by=("shop",))
    layout = Layout(task="binary", target="y", classes=(0, 1), features=columns, history=told)
    shorter = contract(inputs=columns, history=told.model_copy(update={"rows": 5}))
    assert unfit(shorter, layout) == ""
    for change in ({"by": ()}, {"time": "day"}):
        other = contract(inputs=columns, history=told.model_copy(update=change))
        assert "looks back at other rows" in unfit(other, layout)


def test_rows_that_one_of_them_leaves_undecided_do_not_count() -> None:
    evidence = pair()
    assert evidence.decisions is not None
    made = np.where(np.arange(len(evidence.y)) < 50, evidence.decisions, ABSTAINED)
    found = Gate(metric="accuracy", min=-0.5).check(replace(evidence, decisions=made))
    assert (found.outcome, found.n) == ("not measured", 50)
