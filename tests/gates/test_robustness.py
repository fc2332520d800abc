"""Faults of the input: what they change, of which columns, and when that refuses a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from specml.evidence import Answers
from specml.gates.robustness import Robustness, spread
from tests.conftest import column, spec_of
from tests.gates.conftest import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from specml.evidence import Evidence


@pytest.mark.parametrize("task", TASKS)
def test_a_real_model_is_refused_and_admitted(real: Callable[[str], Evidence], task: str) -> None:
    evidence = real(task)
    verdict = Robustness(max=0.001).check(evidence)
    assert verdict.outcome == "refused"
    names = [one.name for one in verdict.slices]
    assert set(names) == {
        *(f"{kind} in {where}" for kind in ("noise", "rounding") for where in ("age", "debt", "all columns")),
        *(f"missing in {where}" for where in ("age", "debt", "job", "colour", "owns")),
    }
    bounds = [one.interval.high for one in verdict.slices if one.interval]
    assert bounds == sorted(bounds, reverse=True)
    assert names[0] in verdict.reason
    assert verdict.rows
    assert Robustness(max=0.9, perturbations=("noise", "rounding")).check(evidence).outcome == "holds"
    assert Robustness(max=0.001).check(evidence) == verdict


def test_a_share_is_that_of_the_rows_decided_otherwise(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert evidence.model is not None
    assert evidence.rows is not None
    verdict = Robustness(perturbations=("missing",), columns=("debt",)).check(evidence)
    without = evidence.model.answer(evidence.rows.with_columns(pl.lit(None, pl.Float64).alias("debt")))
    flipped = np.flatnonzero(without.decisions != evidence.decisions)
    assert verdict.value == pytest.approx(len(flipped) / len(evidence.y))
    assert verdict.interval is not None
    reference = binomtest(len(flipped), len(evidence.y)).proportion_ci(0.95, method="wilson")
    assert (verdict.interval.low, verdict.interval.high) == pytest.approx((reference.low, reference.high))
    assert list(verdict.rows) == flipped[:50].tolist()
    assert (
        f"with missing in debt, the share of rows that are decided otherwise is {verdict.value:.4g}" in verdict.reason
    )


def test_a_column_that_the_model_does_not_use_changes_nothing(real: Callable[[str], Evidence]) -> None:
    verdict = Robustness(perturbations=("stale",), columns=("colour",)).check(real("binary"))
    assert verdict.value is not None
    assert verdict.value < 0.03
    assert verdict.outcome == "holds"


def test_the_loss_of_the_metric_is_judged_where_it_is_bounded(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    mild, strict = Robustness(max=0.9, max_loss=0.9), Robustness(max=0.9, max_loss=0.001)
    assert mild.check(evidence).outcome == "holds"
    verdict = strict.check(evidence)
    assert verdict.outcome == "refused"
    assert "the loss of roc_auc with missing in" in verdict.reason
    assert verdict.threshold == "≤ 0.9, loss ≤ 0.001"


def test_what_can_not_be_measured_is_not(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert evidence.rows is not None
    few = replace(
        evidence,
        y=evidence.y[:20],
        rows=evidence.rows[:20],
        scores=evidence.scores[:20],
        decisions=None if evidence.decisions is None else evidence.decisions[:20],
    )
    verdict = Robustness(max=0.05, perturbations=("stale",), columns=("colour",)).check(few)
    assert verdict.outcome == "not measured"
    assert "20 rows are too few" in verdict.reason
    assert Robustness().check(replace(evidence, model=None)).outcome == "not measured"
    assert Robustness(columns=("no_such",)).check(evidence).outcome == "not measured"


def test_no_finite_prediction_is_refused(real: Callable[[str], Evidence]) -> None:
    evidence = real("regression")

    class Broken:
        inputs = evidence.model.inputs if evidence.model else ()

        def answer(self, rows: pl.DataFrame) -> Answers:
            return Answers(np.full(len(rows), np.nan), None)

    broken: Any = Broken()
    verdict = Robustness().check(replace(evidence, model=broken))
    assert verdict.outcome == "refused"
    assert "perturbed rows have no finite answer." in verdict.reason


def test_the_spread_is_that_of_the_middle_half() -> None:
    values = np.random.default_rng(0).normal(3, 2, 5000)
    values[:20] = 1e300
    assert spread(pl.DataFrame({"x": values}), "x") == pytest.approx(2, rel=0.05)
    assert spread(pl.DataFrame({"x": [0.0] * 90 + [1.0] * 10}), "x") == pytest.approx(0.3)


def test_whole_numbers_stay_whole_and_within_those_of_training(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    seen: list[pl.DataFrame] = []

    class Watched:
        inputs = (column("age", integral=True, minimum=20.0, maximum=70.0),)

        def answer(self, rows: pl.DataFrame) -> Answers:
            seen.append(rows)
            return evidence.model.answer(rows)  # type: ignore[union-attr]

    watched: Any = Watched()
    Robustness(perturbations=("noise",), noise=0.5).check(replace(evidence, model=watched))
    ages = seen[0]["age"].drop_nulls().to_numpy()
    assert (ages == ages.round()).all()
    assert (ages.min(), ages.max()) == (20, 70)
    assert (ages != evidence.rows["age"].to_numpy()).mean() > 0.5  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"perturbations": ("noise", "noise")}, ("perturbations",)),
        ({"perturbations": ("missing",), "noise": 0.2}, ("noise",)),
        ({"perturbations": ("stale",)}, ("perturbations",)),
        ({"columns": ("y",)}, ("columns", 0)),
    ],
)
def test_options_without_an_effect_are_refused(options: dict[str, Any], key: tuple[Any, ...]) -> None:
    assert [one.key for one in Robustness(**options).disagreements(spec_of())] == [key]
