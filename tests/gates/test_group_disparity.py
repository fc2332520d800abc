"""The gate ``group_disparity``: fairlearn's numbers, verdicts that err as rarely as they say, planted disparity."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import mean_absolute_error, precision_score

from specml.data import MISSING
from specml.disparity import _within, members
from specml.evidence import ROWS_TOLD, Evidence, Serial
from specml.gates.group_disparity import GroupDisparity
from tests.conftest import spec_of

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
        least = 25 if metric in ERRORS or "calibration" in metric else 1
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


def test_the_verdict_names_rows_of_the_worst_group_and_the_group_it_stands_beside() -> None:
    evidence = rates(0.6, 0.2, 500, 1)
    verdict = gate(min=0.8).check(evidence)
    assert verdict.outcome == "refused"
    assert verdict.rows == tuple(range(500, 500 + ROWS_TOLD))
    assert "g=b (0.174 beside 0.61 of a: 0.285" in verdict.reason
    assert verdict == gate(min=0.8).check(evidence)


def test_a_declared_reference_is_what_others_are_compared_with() -> None:
    evidence = rates(0.3, 0.6, 1000, 2)
    beside_best = gate(min=0.8).check(evidence).slices[0]
    beside_a = gate(min=0.8, reference={"g": "a"}).check(evidence).slices[0]
    assert (beside_best.name, beside_a.name) == ("g=a", "g=b")
    assert (beside_best.value, beside_best.interval) == (beside_a.value, beside_a.interval)
    absent = gate(min=0.8, reference={"g": "z"}).check(evidence)
    assert absent.outcome == "not measured"
    assert "g=z" in absent.reason
    small = gate(min=0.8, reference={"g": "b"}, min_group_size=100).check(rates(0.3, 0.6, 1000, 2, 20))
    assert [one.outcome for one in small.slices] == ["not measured"] * 2


def test_combinations_of_columns_show_what_no_column_does() -> None:
    generator = np.random.default_rng(3)
    n = 4000
    sex, race = (generator.choice(np.array(names, dtype=object), n) for names in (["f", "m"], ["x", "y"]))
    low = (sex == "f") == (race == "x")
    got = (generator.random(n) < np.where(low, 0.3, 0.6)).astype(np.int64)
    evidence = Evidence("binary", got, got * 1.0, got, got * 1.0, got * 1.0, groups={"sex": sex, "race": race})
    assert gate(min=0.8, by=("sex", "race")).check(evidence).outcome == "holds"
    verdict = gate(min=0.8, by=("sex", "race", ("sex", "race"))).check(evidence)
    assert verdict.outcome == "refused"
    assert {one.name for one in verdict.slices if one.outcome == "refused"} == {"sex=f, race=x", "sex=m, race=y"}
    both = gate(min=0.8, by=(("sex", "race"),), reference={"sex": "m", "race": "x"}).check(evidence)
    assert "sex=m, race=x" not in {one.name for one in both.slices}


def test_a_missing_value_is_a_group_of_its_own() -> None:
    evidence = rates(0.5, 0.2, 500, 4)
    missing = replace(evidence, groups={"g": np.where(evidence.groups["g"] == "b", MISSING, "a").astype(object)})
    verdict = gate(min=0.8).check(missing)
    assert [(one.name, one.n, one.outcome) for one in verdict.slices] == [(f"g={MISSING}", 500, "refused")]


def test_a_rate_over_no_rows_is_not_measured_where_fairlearn_says_0() -> None:
    evidence = rates(0.5, 0.5, 300, 5)
    y = np.where(evidence.groups["g"] == "b", 0, evidence.y)
    verdict = gate("true_positive_rate_ratio", min=0.8).check(replace(evidence, y=y))
    assert verdict.outcome == "not measured"
    assert theirs("true_positive_rate_ratio", replace(evidence, y=y), "g", "between_groups") == 0.0


def test_equalized_odds_is_the_worse_rate() -> None:
    generator = np.random.default_rng(6)
    n = 6000
    names = generator.choice(np.array(["a", "b"], dtype=object), n)
    y = generator.integers(0, 2, n)
    decisions = (generator.random(n) < np.where(y == 1, 0.8, np.where(names == "a", 0.4, 0.1))).astype(np.int64)
    evidence = Evidence("binary", y, y * 1.0, decisions, y * 1.0, y * 1.0, groups={"g": names})
    assert gate("true_positive_rate_ratio", min=0.8).check(evidence).outcome == "holds"
    verdict = gate("equalized_odds_ratio", min=0.8).check(evidence)
    assert verdict.outcome == "refused"
    assert "false positive rate" in verdict.reason


def means(n: int, seed: int, *, wider: float = 1.0, k: int = 2) -> Evidence:
    """Errors of groups of ``n`` rows, those of the last one ``wider``."""
    generator = np.random.default_rng(seed)
    names = np.repeat(np.array(GROUPS[:k], dtype=object), n)
    missed = generator.normal(0, np.where(names == GROUPS[k - 1], wider, 1.0))
    nothing = np.zeros(len(names))
    return Evidence("regression", nothing, missed, None, missed, missed, groups={"g": names})


@pytest.mark.parametrize("seeds", [pytest.param(20, id="few"), pytest.param(1000, id="many", marks=pytest.mark.sweep)])
def test_equal_errors_are_rarely_refused_and_doubled_ones_found(seeds: int) -> None:
    judge = gate("mean_absolute_error_ratio", min=0.8)
    for n in (20, 500):
        assert share("refused", lambda seed, n=n: means(n, seed), seeds, judge) < 0.05, n
    assert share("refused", lambda seed: means(500, seed, wider=2), seeds, judge) >= 0.95
    assert gate("mean_absolute_error_ratio", min=0.8).check(means(500, 1, wider=2)).slices[0].name == "g=b"


@pytest.mark.parametrize("overall", [False, True])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("kind", ["rate", pytest.param("mean", marks=pytest.mark.sweep)])
def test_intervals_hold_the_truth_as_often_as_they_say(kind: str, relative: bool, overall: bool) -> None:
    truths = {
        "rate": {(False, False): 0.1, (True, False): 0.75, (False, True): 0.08, (True, True): 0.3 / 0.38},
        "mean": {(False, False): 0.7979, (True, False): 0.5, (False, True): 0.6383, (True, True): 0.5556},
    }
    inside, truth = 0, truths[kind][relative, overall]
    for seed in range(300):
        if kind == "rate":
            evidence = rates(0.3, 0.4, 200, seed, 800)
        else:
            generator = np.random.default_rng(seed)
            names = np.repeat(np.array(["a", "b"], dtype=object), [200, 800])
            missed = generator.normal(0, np.where(names == "a", 1.0, 2.0))
            evidence = Evidence("regression", missed * 0, missed, None, missed, missed, groups={"g": names})
        metric = {"rate": "selection_rate", "mean": "mean_absolute_error"}[kind]
        judge = gate(f"{metric}_{'ratio' if relative else 'difference'}", compare="overall" if overall else "groups")
        told = {one.name: one for one in judge.check(evidence).slices}
        interval = (told.get("g=a") or next(iter(told.values()))).interval
        assert interval is not None
        inside += interval.low <= truth <= interval.high
    assert inside / 300 >= 0.92


def test_bins_vary_as_rows_do() -> None:
    generator = np.random.default_rng(0)
    sums = np.stack([generator.exponential(1, 20_000), np.ones(20_000)])
    whole, binned = (_within(sums, 1000, bins, np.random.default_rng(1)) for bins in (20_000, 500))
    spreads = [(one[0] / one[1]).std() for one in (whole, binned)]
    assert spreads[1] == pytest.approx(spreads[0], rel=0.12)


def test_of_a_forecast_blocks_of_time_are_drawn() -> None:
    """Errors that go together for ten steps are known less well than they would be if each stood by itself."""
    generator = np.random.default_rng(1)
    slow = np.repeat(generator.normal(0, 1, 60), 10)
    missed = np.concatenate([slow, slow + 1.0])
    names = np.repeat(np.array(["a", "b"], dtype=object), 600)
    alone = Evidence("regression", missed * 0, missed, None, missed, missed, groups={"g": names})
    serial = replace(alone, serial=Serial(np.tile(np.arange(600), 2), 10))
    single, paired = (gate("mean_error_difference").check(one).interval for one in (alone, serial))
    assert single is not None
    assert paired is not None
    assert paired.high - paired.low < 0.01 < single.high - single.low, "what moves both together moves no difference"
    judge = gate("mean_absolute_error_difference")
    single, paired = (judge.check(one).interval for one in (alone, serial))
    assert single is not None
    assert paired is not None
    assert paired.high - paired.low > 1.5 * (single.high - single.low)


def people(seed: int, planted: str, n: int = 4000) -> Evidence:
    """Held-out people of two groups and what a model, trained on others of them, says: with disparity where planted.

    ``labels``: half of group b's good outcomes were written down as bad; ``features``: its skill is read as
    less than it is; ``proxy``: the outcome hangs on a column that stands in for the group; ``size``: b has 30 rows.
    """
    import lightgbm

    generator = np.random.default_rng(seed)
    n = 2 * n
    b = generator.random(n) < (30 / 2000 if planted == "size" else 0.4)
    skill = generator.normal(size=n)
    district = b * (planted != "features") + generator.normal(0, 0.3, n)
    y = (skill + generator.normal(0, 0.7, n) > 0).astype(np.int64)
    if planted == "labels":
        y = np.where(b & (generator.random(n) < 0.5), 0, y)
    if planted == "proxy":
        y = (skill - 1.2 * district + generator.normal(0, 0.7, n) > -0.5).astype(np.int64)
    read = skill - 0.8 * b * (planted == "features")
    X = np.column_stack([read, district])
    settings = {"objective": "binary", "num_threads": 1, "verbosity": -1, "num_leaves": 7, "deterministic": True}
    half = slice(0, n // 2)
    scores = np.asarray(lightgbm.train(settings, lightgbm.Dataset(X[half], y[half]), 30).predict(X[n // 2 :]))
    names = np.where(b, "b", "a").astype(object)[n // 2 :]
    decisions = (scores >= 0.5).astype(np.int64)
    return Evidence("binary", y[n // 2 :], scores, decisions, scores, scores, groups={"g": names})


PLANTED = {"labels": "selection_rate_ratio", "features": "true_positive_rate_ratio", "proxy": "selection_rate_ratio"}


@pytest.mark.parametrize("seeds", [pytest.param(3, id="few"), pytest.param(100, id="many", marks=pytest.mark.sweep)])
def test_planted_disparity_is_flagged_and_clean_data_is_not(seeds: int) -> None:
    for planted, metric in PLANTED.items():
        judge = gate(metric, min=0.85, min_group_size=100)
        assert share("refused", lambda seed, planted=planted: people(seed, planted), seeds, judge) >= 0.95, planted
        # On as many rows, nothing is flagged where nothing was planted.
        assert share("refused", lambda seed: people(seed, "nothing"), seeds, judge) <= 0.05, planted
    judge = gate(min=0.8, min_group_size=100)
    assert share("not measured", lambda seed: people(seed, "size", 2000), seeds, judge) == 1


def test_options_that_make_no_sense_are_told() -> None:
    data = {
        "sources": {"rows": {"type": "csv", "path": "r.csv"}},
        "columns": {"g": {"role": "protected", "groups": {"a": (1,), "b": (2,)}}, "h": {"role": "protected"}},
    }
    spec = spec_of(data=data)

    def keys(**options: Any) -> list[Any]:
        return [one.key for one in gate(**options).disagreements(spec)]

    assert keys(by=("g", ("g", "h")), group_policy={"g=a, h=x, y": "warn", "g=other": "block"}) == []
    assert keys(by=(("g", "h"),), group_policy={"g=c, h=x": "warn"}) == [("group_policy", "g=c, h=x")]
    assert keys(by=(("g", "h"),), group_policy={"g=a": "warn"}) == [("group_policy", "g=a")]
    assert keys(reference={"g": "c"}) == [("reference", "g")]
    assert keys(reference={"h": "c"}) == [("reference", "h")]
    assert keys(reference={"g": "a"}, compare="overall") == [("reference",)]
    assert keys(by=("g", "g")) == [("by", 1)]
    assert keys(by=(("g",),)) == [("by", 0)]
    assert keys(metric="mean_error_difference") == [("metric",)]
    for wrong in ({"metric": "selection_rate_difference", "max": 1.5}, {"min": 0.8, "max": 0.1}):
        with pytest.raises(ValidationError, match="needs"):
            gate(**wrong)
    regression = spec_of(
        problem={"task": "regression", "target": "y"}, data=data, candidates={"line": {"type": "ridge"}}
    )
    assert list(gate("mean_absolute_error_ratio").disagreements(regression)) == []
    (told,) = gate("calibration_gap_difference").disagreements(regression)
    assert "needs probabilities" in told.what


def test_the_rows_of_each_group_are_found_at_once() -> None:
    generator = np.random.default_rng(0)
    code, over = generator.integers(0, 7, 500), generator.random(500) < 0.5
    for some in (None, over):
        found = members(code, 9, some)
        every = np.ones(500, dtype=bool) if some is None else some
        assert [one.tolist() for one in found] == [np.flatnonzero(every & (code == k)).tolist() for k in range(9)]


def test_tens_of_thousands_of_groups_take_no_minutes() -> None:
    names = np.array([f"g{one}" for one in range(60_000)], dtype=object)
    y = np.tile([0, 1], 30_000)
    evidence = Evidence("binary", y, y.astype(float), y, y, y, groups={"g": names})
    started = time.perf_counter()
    assert GroupDisparity(metric="selection_rate_ratio", by=("g",), min=0.8).check(evidence).outcome == "not measured"
    assert time.perf_counter() - started < 20  # by looking through all rows for each of them, minutes
