"""Gates: the three verdicts, their bounds against references, and how often they err."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binomtest

from specml.disparity import Rate, difference, ratio
from specml.evidence import Evidence, Packaged, wilson
from specml.gates.baseline import Baseline
from specml.gates.calibration import Calibration
from specml.gates.group_disparity import GroupDisparity
from specml.gates.latency import Latency, calls, quantile
from specml.gates.metric import MetricGate
from specml.gates.parity import Parity
from specml.metrics import TABLE
from specml.values import Duration
from tests.conftest import spec_of


def binary(n: int = 2000, seed: int = 0, signal: float = 2.0) -> Evidence:
    """A calibrated model with some signal."""
    generator = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-signal * generator.normal(size=n)))
    y = (generator.random(n) < p).astype(np.int64)
    prior = np.full(n, y.mean() if n else 0.5)
    return Evidence("binary", y, p, (p >= 0.5).astype(np.int64), p.copy(), prior)


def grouped(rates: dict[str, float], n: int, seed: int = 0) -> Evidence:
    """Groups of ``n`` rows with the given selection rates."""
    generator = np.random.default_rng(seed)
    names = np.repeat(np.array(list(rates), dtype=object), n)
    decisions = np.concatenate([(generator.random(n) < rate) for rate in rates.values()]).astype(np.int64)
    scores = decisions.astype(float)
    return Evidence("binary", decisions, scores, decisions, scores, scores, groups={"g": names})


def disparity(**options: Any) -> GroupDisparity:
    return GroupDisparity(**{"metric": "selection_rate_ratio", "by": ("g",), "min": 0.8, **options})


def test_metric_is_judged_on_its_bound_not_its_value() -> None:
    evidence = binary()
    value = MetricGate(metric="roc_auc", min=0.0).check(evidence).value
    assert value is not None
    verdict = MetricGate(metric="roc_auc", min=value - 0.001).check(evidence)
    assert verdict.outcome == "refused"
    assert verdict.interval is not None
    assert verdict.interval.low < value - 0.001
    assert MetricGate(metric="roc_auc", min=verdict.interval.low).check(evidence).outcome == "holds"
    assert MetricGate(metric="log_loss", max=1.0).check(evidence).outcome == "holds"
    assert MetricGate(metric="log_loss", max=0.1).check(evidence).outcome == "refused"


@pytest.mark.slow
def test_metric_covers_the_truth_as_often_as_it_says() -> None:
    many = binary(400_000, 999)
    truth = float((many.decisions == many.y).mean())
    inside = 0
    for seed in range(30):
        interval = MetricGate(metric="accuracy", min=0.1).check(binary(400, seed)).interval
        assert interval is not None
        inside += interval.low <= truth <= interval.high
    assert inside >= 26


@pytest.mark.parametrize("n", [0, 1, 99])
def test_metric_on_too_few_rows_is_not_measured(n: int) -> None:
    verdict = MetricGate(metric="roc_auc", min=0.0).check(binary(n))
    assert verdict.outcome == "not measured"
    assert verdict.blocking
    assert not n or verdict.reason == f"roc_auc: {n} rows are fewer than 100."


def test_metric_of_one_class_is_not_measured() -> None:
    evidence = binary(200)
    one = Evidence(
        "binary", np.zeros(200, np.int64), evidence.scores, evidence.decisions, evidence.native, evidence.prior
    )
    assert MetricGate(metric="roc_auc", min=0.0).check(one).outcome == "not measured"


def test_metric_needs_one_bound_on_the_right_side() -> None:
    with pytest.raises(ValidationError, match="either min or max"):
        MetricGate(metric="roc_auc")
    wrong = list(MetricGate(metric="roc_auc", max=0.9).disagreements(spec_of()))
    assert [(one.key, one.hint) for one in wrong] == [(("max",), "Use min.")]


def test_baseline_admits_signal_and_refuses_noise() -> None:
    assert Baseline().check(binary()).outcome == "holds"
    evidence = binary()
    noise = np.random.default_rng(5).permutation(evidence.scores)
    shuffled = Evidence("binary", evidence.y, noise, evidence.decisions, noise, evidence.prior)
    assert Baseline().check(shuffled).outcome == "refused"


def test_baseline_on_a_handful_of_rows_is_not_measured() -> None:
    assert Baseline().check(binary(29)).outcome == "not measured"


def test_baseline_refuses_the_prior_itself() -> None:
    evidence = binary()
    same = Evidence("binary", evidence.y, evidence.prior, evidence.decisions, evidence.prior, evidence.prior)
    assert Baseline().check(same).outcome == "refused"


def test_parity() -> None:
    evidence = binary(500)
    assert Parity().check(evidence).outcome == "holds"
    native = evidence.native.copy()
    native[3] += 2e-5
    verdict = Parity().check(
        Evidence("binary", evidence.y, evidence.scores, evidence.decisions, native, evidence.prior)
    )
    assert verdict.outcome == "refused"
    assert "1 of 500 rows" in verdict.reason
    native[3] = np.nan
    verdict = Parity().check(
        Evidence("binary", evidence.y, evidence.scores, evidence.decisions, native, evidence.prior)
    )
    assert verdict.outcome == "refused"
    nothing = np.empty(0)
    assert Parity().check(Evidence("regression", nothing, nothing, None, nothing, nothing)).outcome == "not measured"


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 17), (50, 100), (100, 100)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    reference = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    ours = wilson(hits, n, 0.95)
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high), abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17:873-890, table II, method 10, examples (a), (b), (c), (f).
        (Rate(56, 70), Rate(48, 80), 0.0524, 0.3339),
        (Rate(9, 10), Rate(3, 10), 0.1705, 0.8090),
        (Rate(6, 7), Rate(2, 7), 0.0582, 0.8062),
        (Rate(0, 10), Rate(0, 20), -0.1611, 0.2775),
    ],
)
def test_difference_is_newcombes(a: Rate, b: Rate, low: float, high: float) -> None:
    interval = difference(a, b, 0.95)[1]
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_ratio_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    inside = 0
    for _ in range(500):
        a, b = Rate(int(generator.binomial(200, 0.24)), 200), Rate(int(generator.binomial(300, 0.3)), 300)
        interval = ratio(a, b, 0.95)[1]
        assert interval is not None
        inside += interval.low <= 0.8 <= interval.high
    assert 0.92 <= inside / 500 <= 0.98


def test_disparity_holds_refuses_and_says_when_it_cannot_tell() -> None:
    assert disparity().check(grouped({"a": 0.5, "b": 0.5}, 3000)).outcome == "holds"
    refused = disparity().check(grouped({"a": 0.5, "b": 0.2}, 3000))
    assert refused.outcome == "refused"
    assert refused.slices[0].name == "g=b"
    unsure = disparity().check(grouped({"a": 0.5, "b": 0.41}, 200))
    assert unsure.outcome == "not measured"


def test_small_groups_are_not_measured_and_block_unless_the_policy_says_otherwise() -> None:
    evidence = grouped({"a": 0.5, "b": 0.5}, 50)
    verdict = disparity().check(evidence)
    assert (verdict.outcome, verdict.blocking) == ("not measured", True)
    assert "50 rows, fewer than 100" in verdict.reason
    assert not disparity(policy="warn").check(evidence).blocking
    both: dict[str, Any] = {"g=a": "warn", "g=b": "warn"}
    assert not disparity(group_policy=both).check(evidence).blocking
    assert disparity(group_policy={"g=a": "warn"}).check(evidence).blocking
    for policy in ("block", "warn"):  # of a group that is not there
        told = disparity(group_policy={"g=bb": policy}).check(grouped({"a": 0.5, "b": 0.5}, 3000))
        assert (told.outcome, told.blocking) == ("not measured", policy == "block")
        assert told.reason.endswith("not measured for g=bb (0 rows; group_policy names it).")


def test_one_group_and_rates_of_zero_are_never_a_pass() -> None:
    assert disparity().check(grouped({"a": 0.5}, 1000)).outcome == "not measured"
    assert disparity().check(grouped({"a": 0.0, "b": 0.0}, 1000)).outcome == "not measured"


def test_equal_groups_are_rarely_refused_and_halved_ones_nearly_always() -> None:
    for n in (100, 500, 2000):
        wrong = sum(
            disparity().check(grouped({"a": 0.3, "b": 0.3, "c": 0.3}, n, s)).outcome == "refused" for s in range(200)
        )
        assert wrong <= 10, n
    found = sum(disparity().check(grouped({"a": 0.5, "b": 0.25}, 500, s)).outcome == "refused" for s in range(200))
    assert found >= 190


def test_true_and_false_positive_rates_look_at_their_own_rows() -> None:
    y = np.array([1, 1, 0, 0] * 500)
    decisions = np.array([1, 0, 1, 0] * 500)
    groups = np.array((["a"] * 4 + ["b"] * 4) * 250, dtype=object)
    same = Evidence("binary", y, decisions * 1.0, decisions, decisions * 1.0, y * 1.0, groups={"g": groups})
    for metric in ("true_positive_rate_difference", "false_positive_rate_difference"):
        verdict = disparity(metric=metric, min=None, max=0.2).check(same)
        assert verdict.slices[0].n == 500
        assert verdict.outcome == "holds"


def test_disparity_names_a_protected_column() -> None:
    found = list(disparity().disagreements(spec_of()))
    assert found[0].key == ("by", 0)
    assert "protected" in found[0].what


def test_a_declared_group_without_rows_is_not_measured() -> None:
    evidence = grouped({"a": 0.5, "b": 0.5}, 3000)
    absent = replace(evidence, declared_groups={"g": ("a", "b", "c")})
    verdict = disparity().check(absent)
    assert verdict.outcome == "not measured"
    assert [(one.name, one.n) for one in verdict.slices if one.outcome == "not measured"] == [("g=c", 0)]


def test_weights_move_the_rates_and_shrink_what_is_known() -> None:
    evidence = grouped({"a": 0.5, "b": 0.5}, 3000)
    assert evidence.decisions is not None
    selected_b = (evidence.groups["g"] == "b") & (evidence.decisions == 1)
    weight = np.where(selected_b, 0.1, 1.0)
    assert disparity().check(replace(evidence, weight=weight)).outcome == "refused"
    even = disparity().check(replace(evidence, weight=np.full(6000, 3.0)))
    assert even.slices == disparity().check(evidence).slices


def test_parity_is_relative_to_the_spread_of_a_regression() -> None:
    native = np.linspace(1, 2, 500) * 1e-6
    wrong = Evidence("regression", native, -3 * native, None, native, native)
    assert Parity().check(wrong).outcome == "refused"
    large = np.linspace(1, 2, 500) * 1e6
    close = Evidence("regression", large, large.astype(np.float32).astype(float), None, large, large)
    assert Parity().check(close).outcome == "holds"


def test_more_confidence_takes_more_resamples() -> None:
    interval = MetricGate(metric="f1", min=0.0, confidence=0.99).check(binary(300)).interval
    assert interval is not None
    assert interval.method == "bootstrap (2000)"


def test_the_gates_of_every_release_cannot_be_replaced() -> None:
    spec = spec_of(gates={"baseline": {"type": "metric", "metric": "roc_auc", "min": 0.0}})
    assert [one.key for one in spec.contradictions()] == [("gates", "baseline", "type")]


def test_disparity_of_several_classes_needs_the_favourable_one() -> None:
    spec = spec_of(
        problem={"task": "multiclass", "target": "y"},
        data={"sources": {"rows": {"type": "csv", "path": "r.csv"}}, "columns": {"g": {"role": "protected"}}},
    )
    assert "which of several classes" in next(iter(disparity().disagreements(spec))).what


def test_a_policy_for_a_group_that_is_none_is_told() -> None:
    columns = {"g": {"role": "protected", "groups": {"a": (1,), "b": (2,)}}}
    spec = spec_of(data={"sources": {"rows": {"type": "csv", "path": "r.csv"}}, "columns": columns})
    (found,) = disparity(group_policy={"g=bb": "warn"}).disagreements(spec)
    assert found.key == ("group_policy", "g=bb")


def stretched(n: int, seed: int, signal: float = 1.5, *, by: float = 1.0, shift: float = 0.0, k: int = 2) -> Evidence:
    """Probabilities whose logits are ``by`` times too large, and ``shift`` off."""
    generator = np.random.default_rng(seed)
    logits = signal * generator.normal(size=(n, k))
    logits[:, 0] = 0 if k == 2 else logits[:, 0]
    said, true = (np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in (logits * by, logits))
    if k == 2:
        said = 1 / (1 + np.exp(-(logits[:, 1] * by + shift)))
    y = (true.cumsum(axis=1) < generator.random((n, 1))).sum(axis=1)
    decisions = (said >= 0.5).astype(np.int64) if k == 2 else said.argmax(axis=1)
    return Evidence("binary" if k == 2 else "multiclass", y, said, decisions, said, said)


def share_held(n: int, **options: Any) -> float:
    return float(np.mean([Calibration().check(stretched(n, s, **options)).outcome == "holds" for s in range(200)]))


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (1000, {"signal": 3.0}),
        (1000, {"signal": 3.0, "k": 3}),
        (2000, {"signal": 1.5}),
        (5000, {"signal": 0.5}),
        (5000, {"k": 4}),
    ],
)
def test_calibrated_models_are_held(n: int, options: dict[str, Any]) -> None:
    assert share_held(n, **options) >= 0.95


@pytest.mark.parametrize("n", [1000, 5000])
@pytest.mark.parametrize("options", [{"shift": 0.5}, {"by": 2.0}, {"by": 0.5}, {"by": 2.0, "k": 4}])
def test_planted_miscalibration_is_refused(n: int, options: dict[str, Any]) -> None:
    assert share_held(n, **options) <= 0.05


def test_calibration_error_is_not_inflated_by_chance() -> None:
    truth = Calibration().check(stretched(500_000, 1, by=1.7)).value
    assert truth is not None
    many = [Calibration().check(stretched(1000, seed, by=1.7)) for seed in range(200)]
    assert np.mean([one.value for one in many]) == pytest.approx(truth, abs=0.006)
    above = [one.interval.high >= truth for one in many if one.interval]
    assert np.mean(above) >= 0.87


def test_calibration_of_too_few_rows_or_of_no_probabilities_is_not_measured() -> None:
    assert Calibration().check(stretched(999, 0)).outcome == "not measured"
    spec = spec_of(problem={"task": "regression", "target": "y"}, candidates={"line": {"type": "ridge"}})
    (told,) = Calibration().disagreements(spec)
    assert "needs probabilities" in told.what


def test_calibration_of_one_probability_for_all() -> None:
    one = stretched(4000, 0, signal=0.0)
    assert Calibration().check(one).outcome == "holds"
    assert Calibration().check(replace(one, scores=np.full(4000, 0.7))).outcome == "refused"


def timed(seconds: float) -> Evidence:
    """Calls that take about ``seconds``, one in fifty of them ten times as long."""
    generator = np.random.default_rng(3)

    def measure(rows: int, calls: int) -> list[float]:
        slow = np.where(generator.random(calls) < 0.02, 10.0, 1.0)
        return (seconds * rows * slow * generator.uniform(0.9, 1.1, calls)).tolist()

    return replace(binary(10), model=Mock(spec=Packaged, timed=measure))


def test_latency_is_judged_on_its_percentile() -> None:
    fast = timed(0.001)
    verdict = Latency(max=Duration(0.012)).check(fast)
    assert verdict.outcome == "holds"
    assert verdict.value == pytest.approx(10, abs=1.2)
    assert verdict.threshold == "≤ 12 ms"
    assert "not through HTTP" in verdict.reason
    assert Latency(max=Duration(0.008)).check(fast).outcome == "refused"
    assert Latency(max=Duration(0.002), percentile=90).check(fast).outcome == "holds"
    assert Latency(max=Duration(0.002), percentile=90, rows=64).check(fast).outcome == "refused"


def test_latency_that_was_not_timed_is_not_measured() -> None:
    verdict = Latency(max=Duration(1)).check(binary(100))
    assert (verdict.outcome, verdict.blocking) == ("not measured", True)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_quantile_is_covered_as_often_as_it_says(share: float) -> None:
    n = calls(share, 0.95)
    truth = -np.log(1 - share)
    generator = np.random.default_rng(0)
    found = [quantile(generator.exponential(size=n).tolist(), share, 0.95)[1] for _ in range(400)]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.93


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("name", "task"), [(name, task) for name in sorted(TABLE) for task in TABLE[name].tasks if task != "forecast"]
)
def test_a_metric_over_resamples_is_the_metric(name: str, task: str, weighted: bool) -> None:
    """What is prepared once, for speed, equals what scikit-learn says of the same rows; ties and weights included."""
    metric, generator, n = TABLE[name], np.random.default_rng(5), 300
    weight = generator.random(n) * (generator.random(n) < 0.9) if weighted else None
    if task == "multiclass":
        y, scores = generator.integers(0, 3, n), generator.dirichlet(np.ones(3), n)
        scores[0], y[0] = (0.0, 0.0, 1.0), 1
        decisions = scores.argmax(axis=1)
    elif task == "binary":
        y, scores = generator.integers(0, 2, n), np.round(generator.random(n), 1)
        decisions = (scores >= 0.5).astype(np.int64)
    else:
        y, scores, decisions = generator.gamma(2, size=n), generator.gamma(2, size=n), None
    quick = metric.over(y, scores, decisions, weight)
    for _ in range(8):
        rows = generator.integers(0, n, n)
        chosen = (None if one is None else one[rows] for one in (decisions, weight))
        wanted = metric.measure(y[rows], scores[rows], *chosen)
        assert bool(np.isfinite(wanted)) == (metric.weighs or not weighted)
        if np.isfinite(wanted):
            assert quick(rows) == pytest.approx(wanted, rel=1e-10, abs=1e-14)
    if name == "roc_auc":
        assert np.isnan(quick(np.flatnonzero(y == 1)))
