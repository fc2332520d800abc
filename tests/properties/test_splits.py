"""Splits and folds: each row on one side, nothing that belongs together on both, nothing from its own future."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from specml.errors import NotEnoughData
from specml.tables.splits import Split, digests, divide, fold_column, folding, folds, hold_out

START = datetime(2026, 1, 1)
DAY = 86_400_000_000
few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
METHODS = ("random", "stratified", "group", "time", "column", "hash")


@st.composite
def tables(draw: Any) -> pl.DataFrame:
    """Rows with a class, a person, a day and a mark; some persons have most of the rows."""
    n = draw(st.integers(60, 150))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    people = generator.zipf(1.6, n) % draw(st.integers(8, 40))
    return pl.DataFrame(
        {
            "y": generator.permutation(np.arange(n) % 2),
            "person": [f"p{one}" for one in people],
            "day": [START + timedelta(days=int(one)) for one in generator.integers(0, 90, n)],
            "mark": [bool(one) for one in generator.random(n) < 0.3],
        }
    )


def split_of(method: str, **options: Any) -> Split:
    column = {"group": "person", "hash": "person", "time": "day", "column": "mark"}.get(method)
    return Split.model_validate({"method": method, "column": column, **options})


def held_out(split: Split, table: pl.DataFrame, task: str = "binary") -> tuple[np.ndarray, np.ndarray]:
    try:
        return hold_out(split, table, "y", task)
    except NotEnoughData:
        assume(False)
        raise


def every_fold(split: Split, train: pl.DataFrame, n: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    how = folding(split, "binary")
    key = fold_column(split, train, how).to_numpy() if how.column else None
    try:
        return list(folds(how, key, train["y"].to_numpy(), n, 7))
    except NotEnoughData:
        assume(False)
        raise


@few
@given(tables(), st.sampled_from(METHODS), st.sampled_from([0.1, 0.25, 0.5]))
def test_every_row_is_on_exactly_one_side_the_same_each_time(table: pl.DataFrame, method: str, share: float) -> None:
    split = split_of(method, **({} if method == "column" else {"test": share}))
    train, test = held_out(split, table)
    assert sorted([*train, *test]) == list(range(table.height))
    again = held_out(split, table)
    assert all(np.array_equal(one, other) for one, other in zip((train, test), again, strict=True))


@few
@given(tables(), st.sampled_from(["group", "hash", "time"]))
def test_nothing_that_belongs_together_is_on_both_sides(table: pl.DataFrame, method: str) -> None:
    split = split_of(method)
    train, test = held_out(split, table)
    what = table[split.column or ""].to_numpy()
    assert not set(what[train]) & set(what[test])
    for inside, outside in every_fold(split, table[train]):
        assert not set(what[train][inside]) & set(what[train][outside])
        assert len(outside) > 0


@few
@given(tables(), st.sampled_from(["random", "stratified", "group", "hash"]))
def test_folds_judge_every_training_row_once(table: pl.DataFrame, method: str) -> None:
    split = split_of(method)
    train = table[held_out(split, table)[0]]
    found = every_fold(split, train)
    assert sorted(row for _, outside in found for row in outside) == list(range(train.height))
    for inside, outside in found:
        assert sorted([*inside, *outside]) == list(range(train.height))


@few
@given(tables(), st.integers(1, 20))
def test_nothing_trains_within_the_embargo_or_after(table: pl.DataFrame, days: int) -> None:
    split, plain = split_of("time", embargo=f"{days}d"), split_of("time")
    train, test = held_out(split, table)
    times = table["day"].to_physical().to_numpy()
    assert times[test].min() - times[train].max() >= days * DAY
    without, same = held_out(plain, table)
    assert np.array_equal(test, same)
    dropped = np.setdiff1d(without, train)
    assert all(times[test].min() - times[dropped] < days * DAY)
    for inside, outside in every_fold(split, table[train]):
        assert times[train][outside].min() - times[train][inside].max() >= days * DAY


@few
@given(tables(), st.integers(1, 59))
def test_a_hash_keeps_each_row_on_its_side_when_others_are_added(table: pl.DataFrame, n: int) -> None:
    split = split_of("hash")
    fewer = table.sample(n, seed=n).with_columns(y=pl.int_range(pl.len()) % 2)
    sides = {row: side for side, rows in enumerate(held_out(split, table)) for row in table["person"].gather(rows)}
    for side, rows in enumerate(held_out(split, fewer)):
        assert {sides[one] for one in fewer["person"].gather(rows)} == {side}
    how = folding(split, "binary")
    numbers = [dict(zip(one["person"], fold_column(split, one, how), strict=True)) for one in (table, fewer)]
    assert numbers[1].items() <= numbers[0].items()


@few
@given(tables(), st.sampled_from(["random", "stratified", "group", "time", "hash"]))
def test_rows_that_stop_a_candidate_are_divided_as_the_folds_are(table: pl.DataFrame, method: str) -> None:
    split = split_of(method, **({"embargo": "3d"} if method == "time" else {}))
    how = folding(split, "binary")
    key = fold_column(split, table, how).to_numpy() if how.column else None
    try:
        fit, stop = divide(how, key, table["y"].to_numpy(), 0.2, 7)
    except NotEnoughData:
        assume(False)
    assert not set(fit) & set(stop)
    if method in ("group", "hash"):
        person = table["person"].to_numpy()
        assert not set(person[fit]) & set(person[stop])
    if method == "time":
        times = table["day"].to_physical().to_numpy()
        assert len(fit) == 0 or times[stop].min() - times[fit].max() >= 3 * DAY


@few
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=20, unique=True), st.integers(0, 2**32 - 1))
def test_a_digest_depends_on_the_id_and_the_seed_alone(ids: list[int], seed: int) -> None:
    whole = digests(pl.Series("id", ids), seed)
    texts = digests(pl.Series("id", [str(one) for one in ids]), seed)
    floats = digests(pl.Series("id", [float(one) for one in ids]), seed)
    for other in (texts, floats):
        assert all(np.array_equal(one, two) for one, two in zip(whole, other, strict=True))
    alone = digests(pl.Series("id", ids[:1]), seed)
    assert (alone[0][0], alone[1][0]) == (whole[0][0], whole[1][0])
