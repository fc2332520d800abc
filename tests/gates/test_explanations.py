"""Additivity, and what named columns carry."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.special import logit, softmax
from typing_extensions import override

from specml.evidence import Evidence
from specml.explain import Explained
from specml.gates.explanations import Explanations, summed
from specml.testing import Told
from tests.gates.conftest import TASKS, spec_for

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl


class Lying(Told):
    """A packaged model whose reasons leave out what one column did."""

    @override
    def explain(self, rows: pl.DataFrame) -> Explained:
        told = self._model.explain(rows)
        return Explained(told.base, told.contributions * (np.arange(told.contributions.shape[2]) != 0))


@pytest.mark.parametrize("task", TASKS)
def test_reasons_of_a_real_model_add_up_and_those_that_leave_something_out_do_not(
    real: Callable[[str], Evidence], task: str
) -> None:
    evidence = real(task)
    assert Explanations().check(evidence).outcome == "holds"
    assert evidence.model is not None
    verdict = Explanations().check(replace(evidence, model=Lying(evidence.model, set())))
    assert verdict.outcome == "refused"
    assert verdict.rows
    assert verdict.slices[0].name == "additivity"


@pytest.mark.parametrize("task", TASKS)
def test_named_columns_that_carry_little_are_admitted_and_others_refused(
    real: Callable[[str], Evidence], task: str
) -> None:
    evidence = real(task)
    assert Explanations(columns=("colour",), max=0.1, top=3).check(evidence).outcome == "holds"
    share = Explanations(columns=("age", "debt"), max=0.1).check(evidence)
    assert share.outcome == "refused"
    assert share.value is not None
    assert share.value > 0.5
    top = Explanations(columns=("colour", "debt"), top=1).check(evidence)
    assert [one.outcome for one in top.slices] == ["holds", "refused"]


def test_the_share_is_that_of_the_contributions(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary").only(np.arange(200))
    assert evidence.model is not None
    assert evidence.rows is not None
    names = [one.name for one in evidence.model.inputs]
    moved = np.abs(evidence.model.explain(evidence.rows).contributions).sum(axis=(0, 1))
    verdict = Explanations(columns=("job",), max=0.9).check(evidence)
    assert verdict.value == pytest.approx(moved[names.index("job")] / moved.sum())


def test_what_cannot_be_asked_is_not_measured(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    for lesser in (replace(evidence, model=None), replace(evidence, rows=None), evidence.only(np.arange(9))):
        assert Explanations().check(lesser).outcome == "not measured"
    unknown = Explanations(columns=("postcode",), max=0.1).check(evidence)
    assert unknown.outcome == "not measured"
    assert "postcode" in unknown.reason


def test_what_makes_no_sense_is_told_beforehand() -> None:
    def wrong(**options: Any) -> list[Any]:
        return [one.key for one in Explanations(**options).disagreements(spec_for("binary"))]

    assert wrong(columns=("debt",)) == [("columns",)]
    assert wrong(max=0.1, top=2) == [("max",), ("top",)]
    assert wrong(columns=("sex", "y", "debt"), max=0.1) == [("columns", 0), ("columns", 1)]
    assert not wrong()


def test_reasons_are_compared_as_answers() -> None:
    p = np.array([0.1, 0.7])
    assert summed(logit(p)[:, None], "log_odds", p) == pytest.approx(p)
    scores = np.array([[1.0, 2.0, -1.0]])
    assert summed(scores, "score", scores) == pytest.approx(softmax(scores, axis=1))
    assert summed(p[:, None], "prediction", p) == pytest.approx(p)
