"""Spread over the folds, and the gap between training and held-out rows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from specml import intervals
from specml.evidence import Evidence, Interval
from specml.gates.stability import Stability
from specml.metrics import TABLE
from tests.gates.conftest import TASKS, spec_for

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("task", TASKS)
def test_folds_and_gap_of_a_real_model_are_admitted_and_refused(real: Callable[[str], Evidence], task: str) -> None:
    evidence = real(task)
    for of in ("folds", "gap"):
        outcomes = [Stability.model_validate({"of": of, "max": most}).check(evidence).outcome for most in (1.0, 0.001)]
        assert outcomes == ["holds", "refused"], of


def test_the_gap_is_how_much_better_the_training_rows_look(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert evidence.training is not None
    training = evidence.training()
    verdict = Stability(of="gap", metric="accuracy", max=0.5).check(evidence)
    assert verdict.value == pytest.approx(
        np.mean(training.y == training.decisions) - np.mean(evidence.y == evidence.decisions)
    )
    assert f"{len(training.y):,} training rows" in verdict.reason
    error = Stability(of="gap", metric="log_loss", max=1).check(evidence).value
    assert error is not None
    assert error > 0


def test_an_error_in_the_targets_unit_has_a_relative_gap(real: Callable[[str], Evidence]) -> None:
    evidence = real("regression")
    assert evidence.training is not None
    metric, training = TABLE["mean_absolute_error"], evidence.training()
    inner, outer = (metric.measure(*one.at(slice(None))) for one in (training, evidence))
    verdict = Stability(of="gap", metric="mean_absolute_error", max=0.5).check(evidence)
    assert verdict.value == pytest.approx(1 - inner / outer)
    thousandfold = replace(
        evidence,
        y=evidence.y * 1000,
        scores=evidence.scores * 1000,
        training=lambda: replace(training, y=training.y * 1000, scores=training.scores * 1000),
    )
    other = Stability(of="gap", metric="mean_absolute_error", max=0.5).check(thousandfold)
    assert other.interval is not None
    assert verdict.interval is not None
    assert (other.interval.low, other.interval.high) == pytest.approx((verdict.interval.low, verdict.interval.high))


def test_what_is_not_there_is_not_measured(real: Callable[[str], Evidence]) -> None:
    evidence = real("binary")
    assert Stability(of="folds", max=1).check(replace(evidence, folds=(0.9, 0.8))).outcome == "not measured"
    assert Stability(of="folds", max=1).check(replace(evidence, folds=(0.9, 0.8, np.nan))).outcome == "not measured"
    assert Stability(of="gap", max=1).check(replace(evidence, training=None)).outcome == "not measured"
    assert Stability(of="gap", max=1).check(evidence.only(np.arange(50))).outcome == "not measured"


def test_what_makes_no_sense_is_told_beforehand() -> None:
    def wrong(search: dict[str, Any], **options: Any) -> list[Any]:
        gate = Stability.model_validate({"max": 0.1, **options})
        return [one.key for one in gate.disagreements(spec_for("binary", search=search))]

    assert wrong({"folds": 2}, of="folds", metric="accuracy") == [("metric",), ("of",)]
    assert wrong({"folds": 3}, of="gap", metric="r2") == [("metric",)]
    assert not wrong({"folds": 3}, of="gap", metric="accuracy")


def test_a_ratios_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator, inside = np.random.default_rng(0), 0
    for _ in range(400):
        a, b = generator.exponential(1.0, 200), generator.exponential(1.25, 120)
        sides = intervals.mean(a, None, 0.95), intervals.mean(b, None, 0.95)
        assert sides[0] is not None
        assert sides[1] is not None
        found = intervals.ratio(a.mean(), b.mean(), sides[0], sides[1])
        assert found is not None
        inside += found.low <= 0.8 <= found.high
    assert 370 <= inside <= 396


def test_a_ratio_to_what_may_be_zero_has_no_interval() -> None:
    some = Interval(low=1, high=2, confidence=0.95, method="x")
    assert intervals.ratio(1.5, 0.5, some, some.model_copy(update={"low": 0.0, "high": 0.9})) is None
    assert intervals.ratio(1.5, 0.5, some, some.model_copy(update={"low": 0.1, "high": 1.5})) is None


@pytest.mark.parametrize("n", [100, 400])
def test_the_gaps_interval_holds_the_truth_as_often_as_it_says(n: int) -> None:
    """Two independent samples of one model: the truth is 0."""

    def sample(seed: int) -> Evidence:
        generator = np.random.default_rng(seed)
        p = 1 / (1 + np.exp(-1.5 * generator.normal(size=n)))
        y = (generator.random(n) < p).astype(np.int64)
        return Evidence("binary", y, p, (p >= 0.5).astype(np.int64), p, p, metric="roc_auc")

    gate, inside = Stability(of="gap", max=1), 0
    for seed in range(200):
        inner = (seed,)
        found = gate.check(replace(sample(10_000 + seed), training=partial(sample, *inner))).interval
        assert found is not None
        inside += found.low <= 0 <= found.high
    assert 182 <= inside <= 199
