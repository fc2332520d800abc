"""Better than a rule that decided before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error

from specml.decision import Costs
from specml.evidence import ABSTAINED, Evidence
from specml.gates.baseline import Baseline
from tests.gates.conftest import TASKS, spec_for

if TYPE_CHECKING:
    from collections.abc import Callable

RULES = {
    "binary": ("age > 45 and debt < 4", "0.08 * age - 0.5 * debt + 1.5 * (job == 'pilot') + owns > 3"),
    "regression": ("0.08 * age", "0.08 * age - 0.5 * where(isnan(debt), 3, debt) + 1.5 * (job == 'pilot') + owns"),
}
"""A simple one, and the truth."""


@pytest.mark.parametrize("task", RULES)
def test_a_real_model_beats_a_simple_rule_and_not_the_truth(real: Callable[[str], Evidence], task: str) -> None:
    evidence = real(task)
    simple, truth = (Baseline(rule=rule).check(evidence) for rule in RULES[task])
    assert (simple.outcome, truth.outcome) == ("holds", "refused")
    assert simple.value is not None
    assert "over the rule is" in simple.reason


@pytest.mark.parametrize("task", TASKS)
def test_a_real_model_beats_the_prior(real: Callable[[str], Evidence], task: str) -> None:
    evidence = real(task)
    assert Baseline().check(evidence).outcome == "holds"
    assert Baseline().check(replace(evidence, scores=evidence.prior)).outcome == "refused"


def test_both_are_judged_by_their_decisions(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert evidence.rows is not None
    said = ((evidence.rows["age"] > 45) & (evidence.rows["debt"].fill_null(np.inf) < 4)).to_numpy().astype(int)
    wanted = balanced_accuracy_score(evidence.y, evidence.decisions) - balanced_accuracy_score(evidence.y, said)
    assert Baseline(rule="age > 45 and debt < 4").check(evidence).value == pytest.approx(wanted)
    accuracy = Baseline(rule="age > 45 and debt < 4", metric="accuracy").check(evidence)
    assert accuracy.value == pytest.approx(np.mean(evidence.y == evidence.decisions) - np.mean(evidence.y == said))


def test_where_costs_are_told_they_decide(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    costs = Costs(false_negative=500.0, false_positive=1.0)
    priced = replace(evidence, price=costs.each)
    everybody = Baseline(rule="age > -1", min=-1000).check(priced)
    assert everybody.value == pytest.approx(
        np.mean(evidence.y == 0) - costs.each(evidence.y, evidence.decisions).mean()  # type: ignore[arg-type]
    )
    assert Baseline(rule="age > -1").check(priced).outcome == "refused"
    assert Baseline(rule="age > -1").check(evidence).outcome == "holds"


def test_rows_that_one_side_leaves_out_count_for_neither(real: Callable[[str], Evidence]) -> None:
    evidence = real("regression")
    assert evidence.rows is not None
    verdict = Baseline(rule="4 - debt", metric="mean_absolute_error").check(evidence)
    gaps = evidence.rows["debt"].is_null().to_numpy()
    debt = evidence.rows["debt"].to_numpy()
    wanted = mean_absolute_error(evidence.y[~gaps], 4 - debt[~gaps]) - mean_absolute_error(
        evidence.y[~gaps], evidence.scores[~gaps]
    )
    assert verdict.value == pytest.approx(wanted)
    assert f"it says nothing of {gaps.sum()} rows" in verdict.reason
    binary = real("binary")
    assert binary.decisions is not None
    undecided = replace(binary, decisions=np.where(np.arange(len(binary.y)) < 700, ABSTAINED, binary.decisions))
    last = Baseline(rule="age > 45").check(binary.only(np.arange(700, len(binary.y))))
    assert Baseline(rule="age > 45").check(undecided).value == pytest.approx(last.value)


def test_what_the_rule_cannot_say_is_not_measured(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    for rule in ("income > 3", "job > 3", "age == 'old'"):
        assert Baseline(rule=rule).check(evidence).outcome == "not measured", rule
    assert Baseline(rule="age > 45").check(replace(evidence, rows=None)).outcome == "not measured"
    assert Baseline(rule="age > 45").check(evidence.only(np.arange(29))).outcome == "not measured"
    assert Baseline(rule="log(age - 1000)").check(real("regression")).outcome == "not measured"


def test_what_makes_no_sense_is_told_beforehand() -> None:
    def wrong(task: str, **options: Any) -> list[Any]:
        return [one.key for one in Baseline(**options).disagreements(spec_for(task))]

    with pytest.raises(ValidationError, match="names no column"):
        Baseline(rule="1 + 1")
    assert wrong("multiclass", rule="age > 3") == [("rule",)]
    assert wrong("binary", rule="y == 'yes'") == [("rule",)]
    assert wrong("binary", metric="accuracy") == [("metric",)]
    assert wrong("binary", rule="age > 3", metric="roc_auc") == [("metric",)]
    assert wrong("regression", rule="age", metric="accuracy") == [("metric",)]
    assert not wrong("binary", rule="age > 3", metric="accuracy")


def test_rows_that_tell_nothing_do_not_count(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert evidence.decisions is not None
    first = np.arange(len(evidence.y)) < 20
    few = replace(evidence, decisions=np.where(first, evidence.decisions, ABSTAINED))
    found = Baseline(rule="age > 200").check(few)
    assert (found.outcome, found.n) == ("not measured", 20)
    found = Baseline().check(replace(evidence, weight=np.where(first, 1.0, 1e-9)))
    assert (found.outcome, found.n) == ("not measured", 20)
