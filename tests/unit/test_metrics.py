"""Metrics: quick forms beside scikit-learn's, closed intervals beside references, and how often they hold the truth."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import ttest_1samp

from specml import intervals
from specml.evidence import ABSTAINED, Interval, Serial, wilson
from specml.metrics import TABLE, Judged, known
from tests.conftest import ROOT, spec_of


def judged(task: str, seed: int, n: int = 60, *, weighed: bool = False, abstains: bool = False) -> Judged:
    """Rows of a task, with ties among the scores."""
    generator = np.random.default_rng(seed)
    weight = generator.integers(1, 4, n).astype(float) if weighed else None
    if task == "regression":
        target = np.round(generator.gamma(2, 3, n), 1) + 0.1
        return Judged(target, np.abs(target + generator.normal(0, 2, n)) + 0.1, None, weight)
    k = 2 if task == "binary" else 6
    y = generator.integers(0, k, n)
    raw = np.round(generator.random((n, k)) + 0.4 * np.eye(k)[y], 1) + 0.01
    p = raw / raw.sum(axis=1, keepdims=True)
    decisions = p.argmax(axis=1)
    if abstains:
        decisions = np.where(p.max(axis=1) < 0.4, ABSTAINED, decisions)
    return Judged(y, p[:, 1] if task == "binary" else p, decisions, weight)


EVERY = [
    (name, task)
    for name, metric in TABLE.items()
    for task in metric.tasks
    if task != "forecast" and name != "mean_pinball_loss"
]


@pytest.mark.parametrize(("name", "task"), EVERY)
def test_every_metric_has_an_interval_about_its_value(name: str, task: str) -> None:
    metric, rows = TABLE[name], judged(task, 3, n=300)
    found, again = (metric.interval(rows, 0.95, 7) for _ in range(2))
    assert found is not None
    assert found == again
    assert found.low <= metric.measure(*rows) <= found.high
    assert (found.low < found.high) is (name != "max_error")


def test_what_scikit_learn_does_not_weigh_is_not_measured() -> None:
    rows = judged("multiclass", 1, weighed=True)
    assert np.isnan(TABLE["roc_auc_ovo"].measure(*rows))
    assert TABLE["roc_auc_ovo"].interval(rows, 0.95, 7) is None


def test_what_is_not_defined_is_nan() -> None:
    y, p = np.array([0.0, -2.0]), np.array([1.0, 1.0])
    for name in ("mean_squared_log_error", "mean_poisson_deviance", "mean_gamma_deviance"):
        assert np.isnan(TABLE[name].measure(y, p, None)), name
    same = Judged(np.zeros(50, dtype=int), np.linspace(0, 1, 50), np.zeros(50, dtype=int))
    for name in ("roc_auc", "average_precision", "d2_log_loss_score", "cohen_kappa"):
        assert np.isnan(TABLE[name].measure(*same)), name
        assert TABLE[name].interval(same, 0.95, 7) is None, name


def test_the_page_names_every_metric_and_which_are_told_unasked() -> None:
    table = (ROOT / "docs" / "metrics.md").read_text().split("## Metrics", 1)[1].split("## Intervals", 1)[0]
    assert set(TABLE) <= set(re.findall(r"[a-z]\w+", table))
    assert set(re.findall(r"\*\*(\w+)\*\*", table)) == {name for name, metric in TABLE.items() if metric.usual}


def test_only_the_usual_metrics_are_told_unasked() -> None:
    told = {name for name, metric in known(spec_of().problem).items() if metric.usual}
    assert {"roc_auc", "log_loss", "accuracy", "f1"} <= told
    assert "jaccard" in known(spec_of().problem).keys() - told


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_delong_is_that_of_all_pairs(data: st.DataObject) -> None:
    """Variance from the n by m table of pairs, as DeLong et al. (1988) write it."""
    draw = data.draw
    ups = draw(st.lists(st.integers(0, 6), min_size=2, max_size=20))
    downs = draw(st.lists(st.integers(0, 6), min_size=2, max_size=20))
    pairs = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in downs] for a in ups])
    y, scores = np.repeat([1, 0], [len(ups), len(downs)]), np.array([*ups, *downs], dtype=float)
    value = pairs.mean()
    assert intervals.placed(y, scores, None) == pytest.approx([*pairs.mean(axis=1), *pairs.mean(axis=0)])
    variance = pairs.mean(axis=1).var(ddof=1) / len(ups) + pairs.mean(axis=0).var(ddof=1) / len(downs)
    found = intervals.delong(y, scores, None, 0.95)
    assert found is not None
    assert found.low <= value <= found.high
    if variance > 1e-12 and 0 < value < 1:
        half = stats.norm.ppf(0.975) * variance**0.5 / (value * (1 - value))
        odds = np.log(value / (1 - value))
        assert (found.low, found.high) == pytest.approx(tuple(1 / (1 + np.exp(-odds - s * half)) for s in (-1, 1)))
    elif value in (0, 1):
        n = min(len(ups), len(downs))
        assert found == wilson(value * n, n, 0.95)


def test_rows_of_weight_two_are_two_rows_to_the_value() -> None:
    rows = judged("binary", 5, weighed=True)
    assert rows.weight is not None
    doubled = np.repeat(np.arange(len(rows.y)), rows.weight.astype(int))
    assert TABLE["roc_auc"].measure(*rows) == pytest.approx(
        TABLE["roc_auc"].measure(rows.y[doubled], rows.scores[doubled], None)
    )
    many, weighed = (
        TABLE["roc_auc"].interval(one, 0.95, 7)
        for one in (Judged(*(r[doubled] for r in rows[:3])), rows)  # type: ignore[index]
    )
    assert many is not None
    assert weighed is not None
    assert weighed.high - weighed.low > many.high - many.low


def test_the_interval_of_a_mean_is_students() -> None:
    values = np.random.default_rng(2).exponential(size=40)
    wanted = ttest_1samp(values, 0).confidence_interval(0.9)
    found = intervals.mean(values, None, 0.9)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    alike = intervals.mean(values, np.full(40, 3.0), 0.9)
    assert alike is not None
    assert (alike.low, alike.high) == pytest.approx((found.low, found.high))
    assert intervals.mean(values[:1], None, 0.9) is None
    assert intervals.mean(np.append(values, np.inf), None, 0.9) is None


def test_the_interval_of_a_spread_is_by_chi_square() -> None:
    values = [0.81, 0.84, 0.79, 0.83, 0.8]
    found, interval = intervals.spread(values, 0.95)
    assert found == pytest.approx(np.std(values, ddof=1))
    low, high = (found * (4 / stats.chi2.ppf(one, 4)) ** 0.5 for one in (0.975, 0.025))
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_precision_and_recall_have_wilsons_interval_of_their_own_rows() -> None:
    rows = judged("binary", 4, n=200)
    assert rows.decisions is not None
    both = int(((rows.y == 1) & (rows.decisions == 1)).sum())
    assert TABLE["precision"].interval(rows, 0.95, 7) == wilson(both, int((rows.decisions == 1).sum()), 0.95)
    assert TABLE["recall"].interval(rows, 0.95, 7) == wilson(both, int((rows.y == 1).sum()), 0.95)
    none = rows._replace(decisions=np.zeros(200, dtype=int))
    assert TABLE["precision"].interval(none, 0.95, 7) is None


def test_a_forecasts_interval_is_drawn_in_blocks_whatever_is_asked() -> None:
    rows = judged("regression", 4, n=200)
    found = TABLE["mean_absolute_error"].interval(rows, 0.95, 7, Serial(np.arange(200), 7), "analytic")
    assert found is not None
    assert found.method == "block bootstrap (400)"


def inside(name: str, task: str, n: int, how: Any, times: int) -> int:
    """How often the interval of ``n`` rows holds the value of very many."""
    metric = TABLE[name]
    truth = metric.measure(*judged(task, 99_999, n=200_000))

    def holds(interval: Interval | None) -> bool:
        return interval is not None and interval.low <= truth <= interval.high

    return sum(holds(metric.interval(judged(task, seed, n=n), 0.95, 7, None, how)) for seed in range(times))


@pytest.mark.parametrize(
    ("name", "task", "n"),
    [
        ("roc_auc", "binary", 40),
        ("roc_auc", "binary", 200),
        ("recall", "binary", 100),
        ("precision", "binary", 100),
        ("top_k_accuracy", "multiclass", 100),
        ("log_loss", "binary", 200),
        ("mean_absolute_error", "regression", 200),
        ("root_mean_squared_error", "regression", 200),
    ],
)
def test_closed_intervals_hold_the_truth_as_often_as_they_say(name: str, task: str, n: int) -> None:
    assert 180 <= inside(name, task, n, "analytic", 200) <= 199


@pytest.mark.slow
@pytest.mark.parametrize("name", ["f1", "matthews_corrcoef", "cohen_kappa", "jaccard", "average_precision"])
def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say(name: str) -> None:
    assert 270 <= inside(name, "binary", 300, "bootstrap", 300) <= 298
