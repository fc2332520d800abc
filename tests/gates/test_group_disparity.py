"""The gate ``group_disparity``: fairlearn's numbers, verdicts that err as rarely as they say, planted disparity."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, precision_score

from specml.data import MISSING
from specml.evidence import Evidence
from specml.gates.group_disparity import GroupDisparity

if TYPE_CHECKING:
    from collections.abc import Callable

METRICS = GroupDisparity.model_fields["metric"].annotation.__args__  # type: ignore[union-attr]
ERRORS = tuple(name for name in METRICS if "error" in name)
GROUPS = ["ä", "b", "c=d", "e, f", "g", "h", MISSING, "other"]


def gate(metric: str = "selection_rate_ratio", **options: Any) -> GroupDisparity:
    """One whose bound all disparities meet, or those that are told."""
    bound = {"min": 1e-9} if metric.endswith("ratio") else {"max": 1e9 if metric in ERRORS else 0.999999}
    told = {"metric": metric, "by": ("g",), "min_group_size": 1} | options
    return GroupDisparity(**(told if {"min", "max"} & set(options) else told | bound))


def drawn(seed: int, task: str = "binary", n: int = 0) -> Evidence:
    """Two to eight groups with rates of their own in two columns, weighted in every other case."""
    generator = np.random.default_rng(seed)
    n = n or int(generator.integers(150, 600))
    k = int(generator.integers(2, 9))
    names = generator.permutation(GROUPS)[:k].astype(object)
    code = generator.choice(k, n, p=generator.dirichlet(np.full(k, 5.0)))
    shift = generator.normal(0, 0.7, k)[code]
    if task == "regression":
        y = generator.normal(10, 3, n)
        scores, decisions = y + shift + generator.normal(0, 1 + np.abs(shift)), None
        favourable = 1
    else:
        scores = 1 / (1 + np.exp(-shift - generator.normal(0, 1.5, n)))
        y = (generator.random(n) < scores).astype(np.int64)
        decisions, favourable = (generator.random(n) < scores).astype(np.int64), int(seed % 3 > 0)
    weight = generator.exponential(1, n) + 0.05 if seed % 2 else None
    groups = {"g": names[code], "h": generator.choice(np.array(["x", "y"], dtype=object), n)}
    return Evidence(
        "regression" if task == "regression" else "binary",
        y, scores, decisions, scores, scores, weight=weight, favourable=favourable, groups=groups,
    )  # fmt: skip


def theirs(metric: str, evidence: Evidence, by: Any, method: str) -> float:
    """What fairlearn makes of the same rows."""
    import fairlearn.metrics as fairlearn
    import pandas as pd

    def average(of: Callable[[Any, Any], Any]) -> Any:
        return lambda y, p, sample_weight=None: np.average(of(y, p), weights=sample_weight)

    name, _, kind = metric.rpartition("_")
    y, said = evidence.y, evidence.decisions
    if metric in ERRORS:
        said = evidence.scores
    else:
        y, said = (y == evidence.favourable).astype(int), (said == evidence.favourable).astype(int)
    if name == "calibration_gap":
        said = evidence.scores if evidence.favourable == 1 else 1 - evidence.scores
    columns = pd.DataFrame({one: evidence.groups[one] for one in ((by,) if isinstance(by, str) else by)})
    weights = {} if evidence.weight is None else {"sample_weight": evidence.weight}
    if name == "equalized_odds":
        odds = getattr(fairlearn, metric)
        return float(odds(y, said, sensitive_features=columns, method=method, **weights))
    functions = {
        "positive_predictive_value": lambda y, p, sample_weight=None: precision_score(
            y, p, sample_weight=sample_weight, zero_division=np.nan
        ),
        "calibration_gap": average(lambda y, p: p - y),
        "mean_absolute_error": mean_absolute_error,
        "mean_error": average(lambda y, p: p - y),
    }
    frame = fairlearn.MetricFrame(
        metrics=functions.get(name) or getattr(fairlearn, name),
        y_true=y, y_pred=said, sensitive_features=columns, sample_params=weights,
    )  # fmt: skip
    return float(getattr(frame, kind)(method=method))


def defined(metric: str, evidence: Evidence, by: Any) -> bool:
    """Whether each group has rows of both outcomes and decisions: of none fairlearn says 0, and this gate nothing."""
    columns = [evidence.groups[one] for one in ((by,) if isinstance(by, str) else by)]
    for key in set(zip(*columns, strict=True)):
        rows = np.all([column == one for column, one in zip(columns, key, strict=True)], axis=0)
        least = 10 if metric in ERRORS or "calibration" in metric else 1
        if rows.sum() < 2 * least or len({*evidence.y[rows].tolist()}) < 2:
            return False
        if evidence.decisions is not None and len({*evidence.decisions[rows].tolist()}) < 2:
            return False
    return True


@pytest.mark.parametrize("cases", [pytest.param(1, id="few"), pytest.param(200, id="many", marks=pytest.mark.sweep)])
@pytest.mark.parametrize("metric", METRICS)
def test_it_says_what_fairlearn_says(metric: str, cases: int) -> None:
    """Many: 200 cases of each of 16 metrics, 4 comparisons each: 12,800."""
    held = 0
    for seed in range(cases * 10):
        evidence = drawn(seed, "regression" if metric in ERRORS else "binary")
        if not defined(metric, evidence, ("g", "h")):
            continue
        for by in ("g", ("g", "h")):
            for compare, method in (("groups", "between_groups"), ("overall", "to_overall")):
                verdict = gate(metric, by=(by,), compare=compare).check(replace(evidence, seed=1))
                values = [one.value for one in verdict.slices if one.value is not None]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    wanted = theirs(metric, evidence, by, method)
                assert (min if metric.endswith("ratio") else max)(values) == pytest.approx(wanted, abs=1e-12), seed
                assert verdict.value in values
        held += 1
        if held == cases:
            return
    raise AssertionError("too few of the cases were defined")


def rates(one: float, other: float, n: int, seed: int, m: int = 0) -> Evidence:
    """Two groups, of ``n`` and of ``m`` rows, whose rows get the favourable class as often as told."""
    generator = np.random.default_rng(seed)
    names = np.repeat(np.array(["a", "b"], dtype=object), [n, m or n])
    got = (generator.random(len(names)) < np.where(names == "a", one, other)).astype(np.int64)
    scores = got.astype(float)
    return Evidence("binary", got, scores, got, scores, scores, groups={"g": names})


def share(outcome: str, made: Callable[[int], Evidence], seeds: int, judge: GroupDisparity) -> float:
    return float(np.mean([judge.check(made(seed)).outcome == outcome for seed in range(seeds)]))


SEEDS = [pytest.param(60, id="few"), pytest.param(2000, id="many", marks=pytest.mark.sweep)]


@pytest.mark.parametrize("seeds", SEEDS)
def test_equal_rates_are_rarely_refused_and_halved_ones_found(seeds: int) -> None:
    judge = gate(min=0.8)
    for n in (20, 50, 100, 500, 2000):
        for rate in (0.1, 0.3, 0.7):
            assert share("refused", lambda seed, n=n, rate=rate: rates(rate, rate, n, seed), seeds, judge) < 0.05, n
    for rate in (0.3, 0.5, 0.9):
        assert share("refused", lambda seed, rate=rate: rates(rate, rate / 2, 500, seed), seeds, judge) >= 0.95


@pytest.mark.sweep
@pytest.mark.parametrize("compare", ["groups", "overall"])
@pytest.mark.parametrize("metric", ["selection_rate_ratio", "selection_rate_difference", "equalized_odds_difference"])
@pytest.mark.parametrize("k", [3, 8])
def test_of_many_equal_groups_none_is_refused_often(metric: str, compare: Any, k: int) -> None:
    bound: dict[str, Any] = {"min": 0.8} if metric.endswith("ratio") else {"max": 0.1}
    judge = gate(metric, compare=compare, **bound)
    for n in (20, 50, 100, 500):
        refused = 0
        for seed in range(500):
            generator = np.random.default_rng(seed)
            names = np.repeat(np.array(GROUPS[:k], dtype=object), n)
            y, got = (generator.random((2, n * k)) < 0.4).astype(np.int64)
            scores = got.astype(float)
            refused += (
                judge.check(Evidence("binary", y, scores, got, scores, scores, groups={"g": names})).outcome
                == "refused"
            )
        assert refused < 25, n
