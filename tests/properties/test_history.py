"""What a row is told of the rows before it: as one would count by hand, and nothing that came later."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.data import PastRows, past
from specml.tables.history import beside

TOLD = PastRows(rows=4, columns=("x", "word"), time="at", by=("shop", "item"))
INPUTS = [past(of, back) for of in TOLD.columns for back in (1, 2, 4)]
START = datetime(2024, 1, 1)

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.integers(0, 5).map(lambda hours: START + timedelta(hours=hours)),
            "shop": st.sampled_from(["a", "b"]),
            "item": st.integers(0, 1),
            "x": st.none() | st.floats(-10, 10),
            "word": st.none() | st.sampled_from(["u", "v"]),
        }
    ),
    min_size=1,
    max_size=30,
)
SCHEMA = {"at": pl.Datetime, "shop": pl.String, "item": pl.Int64, "x": pl.Float64, "word": pl.String}


def told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return beside(pl.DataFrame(rows, schema=SCHEMA), TOLD, INPUTS).select(INPUTS).to_dicts()


def by_hand(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    out = []
    for row in rows:
        before = [one for one in rows if (one["shop"], one["item"]) == (row["shop"], row["item"])]
        before = sorted((one for one in before if one["at"] < row["at"]), key=lambda one: one["at"])
        seen = {}
        for back in (1, 2, 4):
            known = before[-back] if back <= len(before) else {}
            seen[past("x", back)], seen[past("word", back)] = known.get("x"), known.get("word") or "__missing__"
        out.append({name: seen[name] for name in INPUTS})
    return out


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_it_is_what_one_counts_by_hand(rows: list[dict[str, Any]]) -> None:
    assert told(rows) == by_hand(rows)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 5), st.floats(20, 30), st.booleans())
def test_nothing_that_comes_later_changes_it(rows: list[dict[str, Any]], hour: int, x: float, left_out: bool) -> None:
    now = START + timedelta(hours=hour)
    later = [{**row, "x": x, "word": "w"} if row["at"] >= now else row for row in rows]
    kept = [not left_out or row["at"] <= now for row in rows]
    changed = [row for row, stays in zip(later, kept, strict=True) if stays]
    if not changed:
        return
    known = [one for one, stays in zip(told(rows), kept, strict=True) if stays]
    for row, before, after in zip(changed, known, told(changed), strict=True):
        if row["at"] <= now:
            assert before == after


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_the_table_does_not_matter(rows: list[dict[str, Any]], chance: Any) -> None:
    rows = list({(row["at"], row["shop"], row["item"]): row for row in rows}.values())  # of rows of one time it does
    mixed = list(range(len(rows)))
    chance.shuffle(mixed)
    again = told([rows[place] for place in mixed])
    assert [again[mixed.index(place)] for place in range(len(rows))] == told(rows)
