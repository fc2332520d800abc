"""Signals: what they compute beside a direct computation, when they are raised, and how often by chance."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from specml.data import MISSING
from specml.errors import SpecmlError
from specml.kinds import Window
from specml.load import load
from specml.profile import Profile, profile
from specml.signals.data_drift import Bins, DataDrift, binned, chance, moved
from specml.signals.performance import Performance
from specml.stages.explore import describe
from tests.conftest import tree


def reference(table: pl.DataFrame) -> dict[str, Any]:
    return {"columns": {name: describe(table[name]) for name in table.columns}}


def window(table: pl.DataFrame) -> Window:
    return Window(table.height, profile=Profile.read(profile(table)))


def people(n: int, seed: int) -> pl.DataFrame:
    """A normal column, whole numbers with many ties, mostly zeros, a category with a long tail, a boolean; gaps."""
    g = np.random.default_rng(seed)
    income = np.where(g.random(n) < 0.8, 0.0, g.lognormal(3, 1, n))
    names = np.array(["a", "b", "c", *(f"rare {i}" for i in range(50))], dtype=object)
    town = g.choice(names, n, p=[0.5, 0.3, 0.15, *([0.05 / 50] * 50)])
    town[g.random(n) < 0.03] = MISSING
    age = [None if g.random() < 0.05 else float(value) for value in g.normal(40, 10, n)]
    return pl.DataFrame(
        {"age": age, "rooms": g.poisson(2, n), "income": income, "town": town.tolist(), "owner": g.random(n) < 0.3},
        schema_overrides={"age": pl.Float64},
    )


TRAIN = people(20_000, 0)
REFERENCE = reference(TRAIN)


def directly(name: str, live: pl.DataFrame) -> Bins:
    """The same bins, counted over the rows."""
    known, values = REFERENCE["columns"][name], live[name]
    if known["kind"] == "categorical":
        common = [c for c, share in known["shares"].items() if share >= 0.01]
        groups = [*common, None]

        def shares(column: pl.Series) -> list[float]:
            counts = [float((column == c).sum()) for c in common]
            gaps = float((column == MISSING).sum())
            return [*counts, len(column) - sum(counts) - gaps, gaps]

        assert len(shares(values)) == len(groups) + 1
        return Bins(np.array(shares(TRAIN[name])) / TRAIN.height, np.array(shares(values)))
    edges = [-np.inf, *(edge for edge, _ in known["cumulative"]), np.inf]

    def counts(column: pl.Series) -> np.ndarray:
        filled = column.drop_nulls().cast(pl.Float64).to_numpy()
        inside = [((filled > a) & (filled <= b)).sum() for a, b in pairwise(edges)]
        return np.array([*inside, column.null_count()], dtype=float)

    return Bins(counts(TRAIN[name]) / TRAIN.height, counts(values))


@pytest.mark.parametrize("name", TRAIN.columns)
def test_the_index_of_a_profile_is_that_of_the_rows(name: str) -> None:
    for seed, n in [(1, 600), (2, 30_000)]:
        live = people(n, seed).with_columns(pl.col("age") + 3, pl.col("rooms") + 1)
        found = binned(REFERENCE["columns"][name], Profile.read(profile(live)), name)
        rows = directly(name, live)
        np.testing.assert_allclose(found.shares, rows.shares, atol=1e-12)
        np.testing.assert_allclose(found.counts, rows.counts, atol=0.002 * n)
        assert moved(found) == pytest.approx(moved(rows), rel=0.02, abs=2e-4)


def test_the_index_and_the_p_value_are_the_textbooks() -> None:
    bins = Bins(np.array([0.5, 0.3, 0.2]), np.array([4000.0, 3500.0, 2500.0]))
    by_hand = (0.4 - 0.5) * np.log(0.4 / 0.5) + (0.35 - 0.3) * np.log(0.35 / 0.3) + (0.25 - 0.2) * np.log(0.25 / 0.2)
    assert moved(bins) == pytest.approx(by_hand, rel=1e-3)
    g = np.random.default_rng(3)
    ps = [
        chance(Bins(g.multinomial(5000, q) / 5000, g.multinomial(700, q).astype(float)), 5000)
        for q in [np.array([0.4, 0.3, 0.2, 0.09, 0.01])]
        for _ in range(2000)
    ]
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(0.05, abs=0.015)


def test_profiles_merge_to_the_profile_of_all_rows() -> None:
    whole = people(4000, 5)
    halves = Profile.read(profile(whole[:2500])).merge(Profile.read(profile(whole[2500:])))
    again = Profile.read(halves.write())
    for name in TRAIN.columns:
        known = REFERENCE["columns"][name]
        one, both = binned(known, Profile.read(profile(whole)), name), binned(known, again, name)
        np.testing.assert_allclose(one.counts, both.counts, atol=8)
    with pytest.raises(SpecmlError, match="no whylogs profile"):
        Profile.read(b"something else")


@pytest.mark.parametrize("n", [500, 1000, 20_000])
def test_the_same_distribution_is_quiet(n: int) -> None:
    verdict = DataDrift().judge(REFERENCE, window(people(n, n)))
    assert verdict.outcome == "holds", verdict.reason
    assert {one.name for one in verdict.slices} == set(TRAIN.columns)


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (pl.col("age") + 5.0, "age"),
        (pl.lit(None, dtype=pl.Float64).alias("age"), "age"),
        (pl.lit(MISSING).alias("town"), "town"),
        (pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("new")).otherwise("town").alias("town"), "town"),
        (~pl.col("owner"), "owner"),
        (pl.col("income") - 1.0, "income"),
        (pl.col("rooms") + 1, "rooms"),
    ],
)
def test_a_column_that_moves_or_goes_missing_is_told(change: pl.Expr, moved: str) -> None:
    verdict = DataDrift().judge(REFERENCE, window(people(1000, 11).with_columns(change)))
    assert verdict.outcome == "refused"
    assert [one.name for one in verdict.slices if one.outcome == "refused"] == [moved]
    assert moved in verdict.reason


def test_values_rounded_to_float32_have_not_moved() -> None:
    g = np.random.default_rng(4)
    tenths = pl.DataFrame({"x": g.integers(-5, 6, 5000) / 10, "y": g.normal(size=5000).round(1) * 1e-9})
    narrow = tenths.with_columns(pl.all().cast(pl.Float32).cast(pl.Float64))
    verdict = DataDrift().judge(reference(tenths), window(narrow))
    assert verdict.outcome == "holds"
    assert verdict.value == pytest.approx(0, abs=1e-3)
    assert DataDrift().judge(reference(tenths), window(tenths.with_columns(pl.col("x") + 0.01))).outcome == "refused"


def test_few_rows_are_not_measured_and_columns_can_be_chosen() -> None:
    live = people(499, 1).with_columns(pl.col("age") + 50.0)
    assert DataDrift().judge(REFERENCE, window(live)).outcome == "not measured"
    live = people(600, 1).with_columns(pl.col("age") + 50.0)
    assert DataDrift(columns=("town", "owner")).judge(REFERENCE, window(live)).outcome == "holds"
    assert DataDrift(columns=("age",)).judge(REFERENCE, window(live)).outcome == "refused"


def test_a_column_that_the_model_does_not_take_is_not_measured() -> None:
    told = DataDrift(columns=("age", "gone")).judge(REFERENCE, window(people(1000, 3)))
    assert (told.outcome, told.reason) == ("not measured", "the model does not take gone.")


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 200, 500, 2000])
def test_false_alarms_with_twenty_columns_are_rare(n: int) -> None:
    """An index alone alarms in about half of the windows of 100 rows; both conditions together do not."""
    g = np.random.default_rng(n)
    train = pl.DataFrame({f"x{i}": g.normal(size=20_000) for i in range(20)})
    known, signal, rounds = reference(train), DataDrift(min_rows=50), 100
    alarms = index_alone = 0
    for _ in range(rounds):
        live = window(pl.DataFrame({f"x{i}": g.normal(size=n) for i in range(20)}))
        verdict = signal.judge(known, live)
        alarms += verdict.outcome == "refused"
        index_alone += any((one.value or 0.0) > 0.2 for one in verdict.slices)
    assert alarms <= 10
    if n == 100:
        assert index_alone > 20
    if n >= 500:
        assert alarms == index_alone == 0


@pytest.mark.slow
def test_half_a_standard_deviation_is_found_among_twenty_columns() -> None:
    g = np.random.default_rng(9)
    known = reference(pl.DataFrame({f"x{i}": g.normal(size=20_000) for i in range(20)}))
    found = 0
    for _ in range(40):
        live = pl.DataFrame({f"x{i}": g.normal(loc=0.5 * (i == 7), size=2000) for i in range(20)})
        verdict = DataDrift().judge(known, window(live))
        found += [one.name for one in verdict.slices if one.outcome == "refused"] == ["x7"]
    assert found >= 36


def labelled(flipped: float, n: int = 1000) -> Window:
    g = np.random.default_rng(2)
    scores = g.random(n)
    y = (g.random(n) < scores).astype(np.int64)
    y = np.where(g.random(n) < flipped, 1 - y, y)
    return Window(n, y=y, scores=scores, decisions=(scores > 0.5).astype(np.int64))


def test_performance_is_raised_when_the_whole_interval_lies_beyond() -> None:
    signal = Performance(metric="roc_auc", min=0.82)
    quiet = signal.judge({}, labelled(0.0))
    assert quiet.outcome == "holds"
    assert quiet.interval is not None
    # What chance may have made accuses nobody, though a gate would refuse it.
    assert quiet.interval.low < 0.82 < quiet.interval.high
    raised = signal.judge({}, labelled(0.5))
    assert raised.outcome == "refused"
    assert Performance(metric="log_loss", max=0.7).judge({}, labelled(1.0)).outcome == "refused"
    assert Performance(metric="log_loss", max=0.7).judge({}, labelled(0.0)).outcome == "holds"
    assert signal.judge({}, labelled(0.0, 199)).outcome == "not measured"
    one_class = Window(300, y=np.ones(300, dtype=np.int64), scores=np.linspace(0, 1, 300))
    assert signal.judge({}, one_class).outcome == "not measured"


@pytest.mark.parametrize(
    ("monitoring", "key", "what"),
    [
        ({"signals": {"late": {"type": "performance", "metric": "roc_auc", "min": 0.7}}}, "late.type", "captured"),
        (
            {"capture": {}, "signals": {"late": {"type": "performance", "metric": "r2", "min": 0.7}}},
            "late.metric",
            "no metric for a binary",
        ),
        (
            {"capture": {}, "signals": {"late": {"type": "performance", "metric": "roc_auc", "max": 0.7}}},
            "late.max",
            "wrong side",
        ),
        ({"window": {"rows": 200}}, "drift.min_rows", "a window has 200 rows: never measured"),
        (
            {
                "capture": {},
                "window": {"labels": 100},
                "signals": {"late": {"type": "performance", "metric": "roc_auc", "min": 0.7}},
            },
            "late.min_rows",
            "a window has 100 labels: never measured",
        ),
        ({"signals": {"drift": {"type": "data_drift", "columns": ["y"]}}}, "columns.0", "role is target"),
    ],
)
def test_what_contradicts_the_spec_is_told(tmp_path: Any, monitoring: Any, key: str, what: str) -> None:
    import json

    (tmp_path / "spec.yaml").write_text(json.dumps(tree(monitoring=monitoring)))
    with pytest.raises(SpecmlError, match=what) as told:
        load(tmp_path)
    assert key in str(told.value)


def test_nothing_is_captured_unless_the_spec_says_so() -> None:
    from specml.spec import Spec

    assert Spec.model_validate(tree()).monitoring.capture is None
    with pytest.raises(ValidationError):
        Spec.model_validate(tree(monitoring={"capture": {"share": 0}}))


def test_time_moves_on_and_that_is_no_drift() -> None:
    from specml.kinds import Window
    from specml.profile import Profile, profile
    from specml.signals.data_drift import DataDrift

    then, now = pl.Series("at", np.arange(1000.0)), pl.Series("at", np.arange(1000.0) + 5000)
    reference = {"columns": {"at": {**describe(then), "kind": "datetime"}, "x": describe(then.alias("x"))}}
    window = Window(1000, profile=Profile.read(profile(pl.DataFrame([now, then.alias("x")]))))
    assert DataDrift().judge(reference, window).outcome == "holds"
    assert DataDrift(columns=("at",)).judge(reference, window).outcome == "refused"
    alone = {"columns": {"at": reference["columns"]["at"]}}
    assert DataDrift().judge(alone, window).outcome == "not measured"
