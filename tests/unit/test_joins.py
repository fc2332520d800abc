"""Several sources as one table: by keys, as of a time, and what breaks a join is counted."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from specml.errors import DataCheckFailed, SpecmlError
from specml.spec import Spec
from specml.stages import ingest, prepare
from specml.stages.work import Work, narrowed
from specml.tables.joins import Join, joined, named, own_name
from tests.conftest import spec_of, tree

if TYPE_CHECKING:
    from pathlib import Path


def day(n: float) -> datetime:
    return datetime(2020, 1, 1) + timedelta(days=n)


def join(left: dict[str, Any], right: dict[str, Any], **options: Any) -> tuple[pl.DataFrame, dict[str, int]]:
    table, told = joined({"a": pl.DataFrame(left), "b": pl.DataFrame(right)}, (Join(right="b", **options),))
    return table, told["b"]


def test_every_row_of_the_left_stays_once_and_in_its_order() -> None:
    left = {"k": [3, 1, None, 2, 1], "x": [0, 1, 2, 3, 4]}
    table, told = join(left, {"k": [1, 2, 9, None], "y": ["one", "two", "nine", "none"]}, keys=["k"])
    assert table.to_dict(as_series=False) == {**left, "y": [None, "one", None, "two", "one"]}
    assert told == {
        "rows": 5,
        "matched": 3,
        "without_key": 1,
        "right_rows": 4,
        "right_rows_without_key": 1,
        "right_rows_used": 2,
    }
    inner, _ = join(left, {"k": [1], "y": ["one"]}, keys=["k"], how="inner")
    assert inner["x"].to_list() == [1, 4]


def test_keys_of_other_names_and_types() -> None:
    table, _ = join({"k": [1, 2]}, {"id": [2.0, float("nan")], "y": [5, 6]}, keys={"k": "id"})
    assert table.to_dict(as_series=False) == {"k": [1, 2], "y": [None, 5]}
    days = pl.Series([day(0).date(), day(1).date()])
    table, _ = join({"k": ["2020-01-02", "2020-01-05"]}, {"k": days, "y": [0, 1]}, keys=["k"])
    assert table["y"].to_list() == [1, None]


def test_as_of_takes_the_latest_row_that_was_known_before() -> None:
    left = {"k": [1, 1, 2, 1], "t": [day(10), day(3), day(3), None], "x": [0, 1, 2, 3]}
    right = {"k": [1, 1, 1, 2], "s": [day(9), day(2), day(10), day(4)], "y": [9, 2, 10, 4]}
    table, told = join(left, right, keys=["k"], as_of={"t": "s"})
    assert table["y"].to_list() == [9, 2, None, None]
    assert table["s"].to_list() == [day(9), day(2), None, None]
    assert (told["matched"], told["without_key"]) == (2, 1)
    table, _ = join(left, right, keys=["k"], as_of={"t": "s"}, allow_exact_matches=True)
    assert table["y"].to_list() == [10, 2, None, None]
    right = {**right, "s": [day(9), day(2), day(10), day(4.5)]}
    table, _ = join(
        {**left, "t": [day(9.4), day(3), day(3), None]}, right, keys=["k"], as_of={"t": "s"}, tolerance="12h"
    )
    assert table["y"].to_list() == [9, None, None, None]


@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_of_days_without_a_clock_the_same_day_is_not_before(zone: str | None) -> None:
    times = pl.Series([day(1.4), day(2.99), day(3)]).dt.replace_time_zone(zone)
    days = pl.Series([day(1), day(2)]).dt.replace_time_zone(zone)
    for right in [days] if zone else [days, days.cast(pl.Date), days.dt.strftime("%Y-%m-%d")]:
        table, _ = join({"t": times}, {"s": right, "y": [1, 2]}, as_of={"t": "s"})
        assert table["y"].to_list() == [None, 1, 2]
        table, _ = join({"t": times}, {"s": right, "y": [1, 2]}, as_of={"t": "s"}, allow_exact_matches=True)
        assert table["y"].to_list() == [1, 2, 2]


def test_times_are_compared_in_the_finer_unit() -> None:
    fine = pl.Series([day(1.5)]).cast(pl.Datetime("ns"))
    known = (fine.to_physical() + pl.Series([-3600 * 10**9, 999])).cast(pl.Datetime("ns"))
    right: dict[str, Any] = {"s": known, "y": [0, 1]}
    table, _ = join({"t": [day(1.5)]}, right, as_of={"t": "s"}, allow_exact_matches=True)
    assert table["y"].to_list() == [0]
    with pytest.raises(DataCheckFailed, match="1 times of 't' are beyond 1677 to 2262") as error:
        join({"t": [datetime(9999, 12, 31)]}, right, as_of={"t": "s"})
    assert "9999" not in str(error.value)


@pytest.mark.parametrize("dtype", [pl.UInt64, pl.Int128])
def test_large_numbers_may_order_the_rows(dtype: Any) -> None:
    late = pl.Series([2**63 + 5, 3], dtype=dtype)
    table, _ = join({"t": late}, {"t": pl.Series([2, 2**63 + 1], dtype=dtype), "y": [0, 1]}, as_of="t", prefix="b_")
    assert table["b_y"].to_list() == [1, 0]


def test_times_may_be_texts_or_numbers_and_need_no_key() -> None:
    table, _ = join({"t": ["2020-01-03", "2020-01-01"]}, {"t": [day(0), day(1)], "y": [0, 1]}, as_of="t", prefix="b_")
    assert table.to_dict(as_series=False) == {
        "t": ["2020-01-03", "2020-01-01"],
        "b_t": [day(1), None],
        "b_y": [1, None],
    }
    table, _ = join({"year": [2020, 2018]}, {"since": [2019], "y": [7]}, as_of={"year": "since"})
    assert table["y"].to_list() == [7, None]


LEFT: dict[str, Any] = {"k": [1, 1, 2], "t": [day(1), day(2), day(3)]}
RIGHT: dict[str, Any] = {"k": [1, 1, 2], "s": [day(0), day(0), day(0)], "y": [1, 2, 3]}
BROKEN: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, str]] = [
    (LEFT, RIGHT, {"keys": ["k"]}, "1 keys stand in more than one row of 'b', in 2 of its 3 rows", "cardinality"),
    (LEFT, RIGHT, {"keys": ["k"], "as_of": {"t": "s"}}, "1 keys and times stand in more", "cardinality"),
    (LEFT, {"k": [1, 2]}, {"keys": ["k"], "cardinality": "one_to_one"}, "1 rows of 'b' match more", "cardinality"),
    (LEFT, {"k": [7]}, {"keys": ["k"]}, "no row matches", "joins[0]"),
    (LEFT, {"k": []}, {"keys": ["k"]}, "no row matches|values on the right", "joins[0]"),
    (LEFT, {"k": ["1"]}, {"keys": ["k"]}, "holds numbers on the left, but 'k' texts on the right", "keys"),
    (LEFT, {"k": [1], "t": [3]}, {"keys": ["k"]}, "'t' would stand there twice", "prefix"),
    (LEFT, RIGHT, {"keys": {"key": "k"}}, "no column 'key' in the base", "joins[0]"),
    (LEFT, RIGHT, {"keys": {"k": "key"}}, "no column 'key' in b", "joins[0]"),
    (LEFT, RIGHT, {"as_of": {"t": "y"}}, "'y' holds Int64 values, not times", "as_of"),
    ({"t": [1]}, {"t": [0]}, {"as_of": "t", "tolerance": "1d"}, "a tolerance of 1d says nothing", "as_of"),
    (LEFT, {"s": pl.Series([day(0)]).dt.replace_time_zone("UTC")}, {"as_of": {"t": "s"}}, "have a time zone", "as_of"),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right", "options", "message", "where"), BROKEN)
def test_what_breaks_a_join_is_counted(
    left: dict[str, Any], right: dict[str, Any], options: dict[str, Any], message: str, where: str
) -> None:
    with pytest.raises(DataCheckFailed, match=message) as error:
        join(left, right, **options)
    assert where in error.value.where


TIMES = st.none() | st.integers(0, 12)
KEYS = st.sampled_from([None, "a", "b"])


@settings(max_examples=60, deadline=None)
@given(
    left=st.lists(st.tuples(KEYS, TIMES), min_size=1, max_size=12),
    right=st.lists(st.tuples(KEYS, TIMES), max_size=12, unique=True),
    exact=st.booleans(),
    tolerance=st.none() | st.integers(1, 6),
)
def test_no_row_ever_sees_its_future(
    left: list[tuple[Any, Any]], right: list[tuple[Any, Any]], exact: bool, tolerance: int | None
) -> None:
    """Against the definition, row by row."""
    schema = {"k": pl.String, "t": pl.Int64}
    ours = pl.DataFrame(left, schema=schema, orient="row").with_columns(t=pl.lit(day(0)) + pl.duration(days="t"))
    theirs = pl.DataFrame(right, schema=schema, orient="row").with_columns(
        s=pl.lit(day(0)) + pl.duration(days="t"), row=pl.int_range(len(right))
    )

    def known(key: Any, time: Any) -> int | None:
        before = [
            (other, row)
            for row, (one, other) in enumerate(right)
            if None not in (key, time, one, other)
            and one == key
            and (other < time or (exact and other == time))
            and (tolerance is None or time - other <= tolerance)
        ]
        return max(before)[1] if before else None

    wanted = [known(key, time) for key, time in left]
    options: dict[str, Any] = {"tolerance": f"{tolerance}d"} if tolerance else {}
    made = Join(right="b", keys=("k",), as_of={"t": "s"}, allow_exact_matches=exact, **options)
    tables = {"a": ours, "b": theirs.drop("t")}
    if not any(row is not None for row in wanted):
        with pytest.raises(DataCheckFailed, match="no row matches"):
            joined(tables, (made,))
        return
    table, _ = joined(tables, (made,))
    assert table["row"].to_list() == wanted


def test_names_in_the_joined_table() -> None:
    joins = (
        Join(right="b", keys={"k": "id"}, prefix="b_"),
        Join(left="b", right="c", keys={"id": "key", "x": "y"}),
    )
    assert [named(joins, "b", name) for name in ("id", "x")] == ["k", "b_x"]
    assert [named(joins, "c", name) for name in ("key", "y", "z")] == ["k", "b_x", "z"]
    assert [own_name(joins, "c", name) for name in ("k", "b_x", "z")] == ["key", "y", "z"]
    assert [own_name(joins, "b", name) for name in ("k", "b_x", "x")] == ["id", "x", ""]
    tables = {
        "a": pl.DataFrame({"k": [1, 2]}),
        "b": pl.DataFrame({"id": [2, 1], "x": [5, 6]}),
        "c": pl.DataFrame({"key": [1], "y": [6], "z": ["here"]}),
    }
    table, _ = joined(tables, joins)
    assert table.to_dict(as_series=False) == {"k": [1, 2], "b_x": [6, 5], "z": ["here", None]}


SOURCES = {name: {"type": "csv", "path": f"{name}.csv"} for name in ("rows", "people", "shops")}
WRONG = [
    ([], "no join brings the two together"),
    ([{"right": "people", "keys": ["k"]}], "no join brings the two together"),
    ([{"right": "peple", "keys": ["k"]}], "names 'peple', which is no source"),
    ([{"right": "people", "keys": ["k"]}, {"right": "people", "keys": ["k"]}], "in the table already"),
    ([{"right": "people", "left": "shops", "keys": ["k"]}, {"right": "shops", "keys": ["k"]}], "no join before"),
    ([{"right": "people"}, {"right": "shops", "keys": ["k"]}], "needs keys, or as_of"),
    ([{"right": "people", "keys": ["k"], "tolerance": "3d"}, {"right": "shops", "keys": ["k"]}], "without as_of"),
    ([{"right": name, "keys": ["k"]} for name in SOURCES], "none is left whose rows"),
]


@pytest.mark.parametrize(("joins", "message"), WRONG)
def test_joins_that_make_no_table_are_contradictions(joins: list[Any], message: str) -> None:
    found = Spec.model_validate(tree(data={"sources": SOURCES, "joins": joins})).contradictions()
    assert any(message in one.what and one.key[0] == "data" for one in found)


def test_one_source_needs_no_join() -> None:
    one = {"sources": {"rows": SOURCES["rows"]}}
    assert not list(spec_of(data=one).contradictions())
    (found,) = spec_of(data={**one, "joins": [{"right": "rows", "keys": ["k"]}]}).contradictions()
    assert found.what == "has no effect: there is one source."
    with pytest.raises(ValidationError):
        spec_of(data={"sources": {}})


def run(folder: Path, tables: dict[str, dict[str, Any]], **data: Any) -> tuple[Any, list[str]]:
    """Ingest and prepare; the metrics, and what was said."""
    for name, table in tables.items():
        pl.DataFrame(table).write_csv(folder / f"{name}.csv")
    sources = {name: SOURCES[name] for name in tables}
    spec = spec_of(data={"sources": sources, **data}, compliance={"hash_key": "${secret:ROWS_KEY}"})
    said: list[str] = []
    for module, keys in ((ingest, tuple(tables)), (prepare, ("",))):
        stage = module.declare(spec)  # type: ignore[attr-defined]
        for key in keys:
            work = Work(stage, folder, narrowed(spec, stage, key), lambda text, **_: said.append(text), key)
            module.work(work)  # type: ignore[attr-defined]
    return json.loads((folder / prepare.METRICS).read_bytes()), said


def three(n: int = 300) -> dict[str, dict[str, Any]]:
    return {
        "rows": {
            "person": [f"{i % 60:05}" for i in range(n)],
            "shop": [i % 4 for i in range(n)],
            "day": [f"2020-01-{1 + i % 28:02}" for i in range(n)],
            "x": [float(i % 17) for i in range(n)],
            "y": [i // 3 % 2 for i in range(n)],
        },
        "people": {
            "id": [f"{i:05}" for i in range(50)],
            "name": [f"name-{i}" for i in range(50)],
            "age": [20 + i for i in range(50)],
        },
        "shops": {
            "shop": [0, 0, 1, 2, 3],
            "since": ["2020-01-01", "2020-01-15", "2020-01-10", "2020-01-01", "2020-01-20"],
            "size": [1.0, 2.0, 3.0, 4.0, 5.0],
        },
    }


JOINS = [
    {"right": "people", "keys": {"person": "id"}, "prefix": "p_"},
    {"right": "shops", "keys": ["shop"], "as_of": {"day": "since"}},
]


def test_three_sources_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWS_KEY", "0123456789abcdef0123456789abcdef")
    columns = {
        "person": {"role": "id", "action": "hash"},
        "p_name": {"personal": "identifier", "action": "drop"},
        "shop": {"dtype": "category"},
        "day": {"role": "time"},
        "since": {"role": "time"},
    }
    metrics, said = run(tmp_path, three(), columns=columns, joins=JOINS)
    assert metrics["joins"]["people"] == {
        "rows": 300,
        "matched": 250,
        "without_key": 0,
        "right_rows": 50,
        "right_rows_without_key": 0,
        "right_rows_used": 50,
    }
    assert "people joined: 250 of 300 rows match one of its 50" in said
    people = pl.read_parquet(tmp_path / "artifacts/ingest/people.parquet")
    assert people.columns == ["id", "age"]
    assert people["id"].str.len_chars().unique().to_list() == [64]
    train = pl.read_parquet(tmp_path / prepare.TRAIN)
    assert set(train.columns) == {"x", "shop", "p_age", "size", "y"}


def test_a_column_that_no_source_has_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWS_KEY", "0123456789abcdef0123456789abcdef")
    columns: dict[str, Any] = {"shop": {"dtype": "category"}, "name": {"personal": True, "action": "drop"}}
    with pytest.raises(SpecmlError, match="no column 'name'") as error:
        run(tmp_path, three(), columns=columns, joins=JOINS)
    assert "'p_name'" in str(error.value)


def test_with_undeclared_drop_the_keys_stay_for_the_join(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"x": {"dtype": "float"}, "size": {"dtype": "float"}, "p_age": {"dtype": "int"}}
    columns |= {"day": {"role": "time"}}
    run(tmp_path, three(), columns=columns, joins=JOINS, undeclared="drop")
    kept = {name: pl.read_parquet(tmp_path / f"artifacts/ingest/{name}.parquet").columns for name in SOURCES}
    assert kept == {
        "rows": ["person", "shop", "day", "x", "y"],
        "people": ["id", "age"],
        "shops": ["shop", "since", "size"],
    }
    assert set(pl.read_parquet(tmp_path / prepare.TRAIN).columns) == {"x", "p_age", "size", "y"}
