"""The contract of columns and table: what breaks it is counted, told, put aside; never a value is shown."""

# ruff: noqa: E501 - one case a line reads best
from __future__ import annotations

import json
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from specml.casting import as_groups
from specml.errors import DataCheckFailed
from specml.spec import Column, Spec
from specml.stages import ingest, prepare
from specml.stages.work import Work, narrowed
from specml.tables import contract, expression
from specml.tables.checks import ColumnChecks, Findings, Rows
from tests.conftest import spec_of, tree

if TYPE_CHECKING:
    from pathlib import Path

N = 200
SECRET = "Jane Doe"


def rows(**changes: Any) -> dict[str, Any]:
    base = {
        "id": [f"c{i:03}" for i in range(N)],
        "age": [20 + i % 50 for i in range(N)],
        "kind": [["new", "old"][i // 3 % 2] for i in range(N)],
        "day": [str((datetime(2026, 1, 1) + timedelta(days=i)).date()) for i in range(N)],
        "x": [float(i * 7 % 199) for i in range(N)],
        "y": [i // 2 % 2 for i in range(N)],
    }
    return {**base, **changes}


def put(column: str, *values: Any) -> dict[str, Any]:
    """The table with ``values`` in the first rows of a column."""
    whole = rows()[column]
    return rows(**{column: [*values, *whole[len(values) :]]})


COLUMNS: dict[str, Any] = {"id": {"role": "id"}, "day": {"role": "time"}}
SPLIT = {"method": "time", "column": "day"}


def prepared(
    folder: Path,
    table: dict[str, Any],
    columns: dict[str, Any] | None = None,
    checks: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[dict[str, Any], list[str]]:
    """Ingest and prepare; the metrics, and the notes."""
    pl.DataFrame(table, strict=False).write_csv(folder / "rows.csv")
    declared = {
        name: {**COLUMNS.get(name, {}), **(columns or {}).get(name, {})} for name in {**COLUMNS, **(columns or {})}
    }
    data = {**tree()["data"], "columns": declared, "checks": checks or {}, "split": SPLIT, **changes.pop("data", {})}
    spec = spec_of(data=data, **changes)
    assert not list(spec.contradictions())
    notes: list[str] = []

    def say(text: str, *_: Any, note: bool = False, **__: Any) -> None:
        notes.extend([text] if note else [])

    for module, key in ((ingest, "rows"), (prepare, "")):
        stage = module.declare(spec)  # type: ignore[attr-defined]
        module.work(Work(stage, folder, narrowed(spec, stage, key), say, key))  # type: ignore[attr-defined]
    return json.loads((folder / prepare.METRICS).read_bytes()), notes


BROKEN: list[Any] = [
    # what is wrong, what is asked, where it is told, what is told, bad rows
    (put("age", None, None, None), ("age", {"missing": {"max": 2}}), "missing", "3 of 200 values are missing. Wanted: ≤ 2 rows", 3),
    (put("age", None, None, None), ("age", {"missing": {"max": 0.01}}), "missing", "Wanted: ≤ 0.01 of the rows", 3),
    (put("kind", None), ("kind", {"missing": {}}), "missing", "1 of 200 values are missing", 1),
    (put("age", -1, 200, 7), ("age", {"valid_min": 0, "valid_max": 120}), "invalid", "2 of 200 values are invalid (1 by valid_min, 1 by valid_max)", 2),
    (put("kind", SECRET, "odd"), ("kind", {"valid_values": ["new", "old"]}), "invalid", "2 of 200 values are invalid (2 by valid_values)", 2),
    (put("age", 7, 8), ("age", {"valid_values": list(range(20, 70))}), "invalid", "2 of 200", 2),
    (put("id", SECRET), ("id", {"regex": r"^c\d{3}$"}), "invalid", "1 of 200 values are invalid (1 by regex)", 1),
    (put("id", "c005", "c005", "c005"), ("id", {"unique": {}}), "unique", "3 of 200 values stood in a row before", 3),
    (put("day", "2027-01-01", "2027-01-02"), ("day", {"valid_max": "2027-01-01"}), "invalid", "1 of 200 values are invalid (1 by valid_max)", 1),
    (put("day", "2025-12-31"), ("day", {"valid_min": "2026-01-01"}), "invalid", "1 by valid_min", 1),
    (put("age", SECRET, "12x"), ("age", {"dtype": {"max": 1}}), "dtype", "2 of 200 values can't be read as int", 2),
]  # fmt: skip


def declared(name: str, checks: dict[str, Any]) -> dict[str, Any]:
    return {name: {"checks": checks, **({"dtype": "int"} if "dtype" in checks else {})}}


@pytest.mark.parametrize(("table", "asked", "key", "message", "bad"), BROKEN)
def test_what_breaks_the_contract_of_a_column(
    table: dict[str, Any], asked: tuple[str, dict[str, Any]], key: str, message: str, bad: int, tmp_path: Path
) -> None:
    name, checks = asked
    where = f"data.columns.{name}.checks.{key}"
    with pytest.raises(DataCheckFailed) as error:
        prepared(tmp_path, table, declared(name, checks))
    assert error.value.where == where
    assert message in error.value.what
    assert SECRET not in str(error.value)
    limit = checks.get(key, {})
    metrics, notes = prepared(tmp_path, table, declared(name, {**checks, key: {**limit, "level": "warn"}}))
    told = metrics["checks"][where]
    assert (told["outcome"], told["level"], told["value"], told["n"]) == ("refused", "warn", bad, N)
    assert any(where in note for note in notes)
    allowed, quiet = prepared(tmp_path, table, declared(name, {**checks, key: {"max": bad}}))
    assert allowed["checks"][where]["outcome"] == "holds"
    assert not any(where in note for note in quiet)
    put_aside, notes = prepared(tmp_path, table, declared(name, {**checks, key: {"level": "quarantine"}}))
    apart = pl.read_parquet(tmp_path / prepare.QUARANTINE)
    assert put_aside["rows"]["quarantined"] == apart.height == bad
    assert set(apart["__reason__"]) == {where}
    assert sum(put_aside["rows"][side] for side in ("train", "test", "unlabelled")) == N - bad
    assert any(note.startswith(where) for note in notes)


TABLES: list[Any] = [
    (rows(), {"row_count": {"min": 500}}, "row_count", "there are 200 rows. Wanted: ≥ 500 rows"),
    (rows(), {"row_count": {"max": 100}}, "row_count", "≥ 1 rows, ≤ 100"),
    ({k: [*v, *v[:5]] for k, v in rows().items()}, {"duplicates": {}}, "duplicates", "5 of 205 rows stood there before"),
    (rows(), {"duplicates": {"columns": ["kind"], "max": 5}}, "duplicates", "198 of 200 rows"),
    (rows(), {"failed_rows": {"age": {"expression": "age > 60 AND kind = 'old'"}}}, "failed_rows.age", "of 200 rows meet the condition"),
    (rows(), {"freshness": {"at": "2026-12-31", "max": "7d"}}, "freshness", "the latest row is 166.0 days old at the end of 2026-12-31. Wanted: ≤ 7d"),
    (rows(), {"freshness": {"at": "2026-07-01", "max": "7d"}}, "freshness", "18 of 200 rows are later than 2026-07-01"),
    (rows(y=[int(i % 8 == 0) for i in range(N)]), {"class_balance": {"min": 0.2}}, "class_balance", "25 of 200 labelled rows (12.50%)"),
    (rows(age=[1] * N, x=[2] * N), {"conflicting_labels": {"max": 0.1}}, "conflicting_labels", "200 of 200 rows have the features of another row, but another label"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "checks", "key", "message"), TABLES)
def test_what_breaks_the_contract_of_the_table(
    table: dict[str, Any], checks: dict[str, Any], key: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataCheckFailed) as error:
        prepared(tmp_path, table, checks=checks)
    assert error.value.where == f"data.checks.{key}"
    assert message in error.value.what
    if key in checks:
        warned = {key: {**checks[key], "level": "warn"}}
    else:
        warned = {"failed_rows": {"age": {**checks["failed_rows"]["age"], "level": "warn"}}}
    metrics, notes = prepared(tmp_path, table, checks=warned)
    assert metrics["checks"][f"data.checks.{key}"]["outcome"] == "refused"
    assert any(note.startswith(f"data.checks.{key}: ") for note in notes)


def test_a_condition_finds_missing_values_only_where_it_asks_for_them(tmp_path: Path) -> None:
    table = put("kind", None, None, "odd") | {"age": [None, *rows()["age"][1:]]}
    asked = {
        "none": "kind IS NULL",
        "other": "kind NOT IN ('new', 'old')",
        "young": "age < 20",
        "both": "age IS NULL AND kind IS NULL",
    }
    checks = {name: {"expression": text, "level": "warn"} for name, text in asked.items()}
    found = prepared(tmp_path, table, checks={"failed_rows": checks})[0]["checks"]
    counts = {name: found[f"data.checks.failed_rows.{name}"]["value"] for name in asked}
    assert counts == {"none": 2, "other": 1, "young": 0, "both": 1}


def test_a_contract_that_holds_says_so(tmp_path: Path) -> None:
    columns = {
        "id": {"checks": {"unique": {}, "regex": "^c"}},
        "age": {"dtype": "int", "checks": {"missing": {}, "dtype": {}, "valid_min": 20, "valid_max": 69}},
        "day": {"checks": {"valid_min": "2026-01-01", "valid_max": "2026-07-19"}},
    }
    checks: dict[str, Any] = {
        "row_count": {"min": N, "max": N},
        "duplicates": {},
        "conflicting_labels": {},
        "class_balance": {"min": 0.5},
        "freshness": {"at": "2026-07-20", "max": "2d"},
        "failed_rows": {"never": {"expression": "age < 0 OR day > DATE '2030-01-01'"}},
    }
    metrics, notes = prepared(tmp_path, rows(), columns, checks)
    assert {one["outcome"] for one in metrics["checks"].values()} == {"holds"}
    assert len(metrics["checks"]) == 14
    assert not notes
    assert not (tmp_path / prepare.QUARANTINE).exists()


def test_all_that_fails_is_told_at_once(tmp_path: Path) -> None:
    columns = {"age": {"checks": {"valid_min": 30}}, "id": {"checks": {"regex": "^x"}}}
    with pytest.raises(DataCheckFailed, match="3 checks do not hold") as error:
        prepared(tmp_path, rows(), columns, {"row_count": {"min": 999}})
    for where in ("data.columns.age.checks.invalid", "data.columns.id.checks.invalid", "data.checks.row_count"):
        assert where in error.value.what


def test_the_quarantine_holds_what_was_written_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWS_KEY", "0123456789abcdef0123456789abcdef")
    table = put("age", -1, "many", -3) | {"name": [SECRET] * N, "sex": ["f", "m"] * (N // 2)}
    columns = {
        "id": {"action": "hash", "checks": {"regex": "^[0-9a-f]{64}$"}},
        "age": {"dtype": "int", "checks": {"valid_min": 0, "invalid": {"level": "quarantine"}, "dtype": {"level": "quarantine"}}},
        "name": {"personal": "identifier", "action": "drop"},
        "sex": {"role": "protected", "use": "audit_only"},
        "kind": {"role": "ignore"},
    }  # fmt: skip
    checks: dict[str, Any] = {
        "failed_rows": {"low": {"expression": "age < -2", "level": "quarantine"}},
        "quarantine": {"max": 3},
    }
    key = {"compliance": {"hash_key": "${secret:ROWS_KEY}"}}
    metrics, _ = prepared(tmp_path, table, columns, checks, **key)
    apart = pl.read_parquet(tmp_path / prepare.QUARANTINE)
    assert apart.columns == ["__row__", "__reason__", "id", "age", "day", "x", "y"]
    assert apart["__row__"].to_list() == [1, 2, 3]
    where = "data.columns.age.checks"
    assert apart["__reason__"].to_list() == [
        f"{where}.invalid",
        f"{where}.dtype",
        f"{where}.invalid; data.checks.failed_rows.low",
    ]
    assert apart["age"].to_list() == ["-1", "many", "-3"]
    assert set(apart["id"].str.len_chars()) == {64}
    assert metrics["rows"]["quarantined"] == 3
    assert metrics["checks"]["data.checks.quarantine"]["value"] == 3
    with pytest.raises(DataCheckFailed, match="3 rows are put aside") as error:
        prepared(tmp_path, table, columns, {**checks, "quarantine": {"max": 2}}, **key)
    assert error.value.where == "data.checks.quarantine"


LISTS, BYTES, CLOCKS = [[1], [2]], [b"a", b"\xff"], [time(1), time(2)]


@pytest.mark.parametrize(
    ("values", "column"),
    [
        *((LISTS, {"dtype": one}) for one in ("float", "int", "bool", "category", "datetime", "text")),
        *((one, {"checks": {"regex": "a"}}) for one in (LISTS, BYTES)),
        *((one, {"checks": {"valid_values": ["a"]}}) for one in (LISTS, BYTES)),
        (BYTES, {"dtype": "int"}),
        (CLOCKS, {"dtype": "datetime"}),
        (CLOCKS, {"checks": {"valid_min": "2026-01-01"}}),
        ([1700000000, 1700000001], {"dtype": "datetime"}),
    ],
)
def test_types_that_can_not_be_read_or_checked_are_refused(values: Any, column: dict[str, Any]) -> None:
    table = pl.DataFrame({"a": values, "y": [0, 1]})
    spec = spec_of(
        data={**tree()["data"], "columns": {"a": {**column, "checks": {"missing": {}, **column.get("checks", {})}}}}
    )
    with pytest.raises(DataCheckFailed, match=r"can't be read as|are no texts|the column holds") as error:
        contract.judged(spec, table, table, Findings())
    assert error.value.where.startswith("data.columns.a.")


def test_a_protected_list_and_a_clock_that_tells_no_age_are_refused() -> None:
    with pytest.raises(DataCheckFailed, match="are no texts"):
        as_groups(pl.Series("a", LISTS), Column(role="protected"))
    checks = {"freshness": {"column": "a", "at": "2026-01-01", "max": "1d"}}
    table = pl.DataFrame({"a": CLOCKS, "y": [0, 1]})
    with pytest.raises(DataCheckFailed, match="holds Time values, not times"):
        contract.Age(spec_of(data={**tree()["data"], "checks": checks})).add(table)


def test_limits_that_leave_nothing_valid_are_contradictions() -> None:
    def told(**checks: Any) -> list[Any]:
        data = {**tree()["data"], "columns": {"age": {"checks": checks}}}
        return [one.key[-1] for one in Spec.model_validate(tree(data=data)).contradictions()]

    assert told(valid_min=5, valid_max=1) == ["valid_max"]
    assert told(valid_min="2026-01-02", valid_max="2026-01-01") == ["valid_max"]
    assert told(valid_min=1, valid_max="2026-01-01") == ["valid_max"]
    assert told(valid_values=(1, 2), valid_min=2) == ["valid_values"]
    assert told(valid_values=(1, 2), valid_min=1, valid_max=2) == []


def test_a_check_bounds_its_own_quarantine(tmp_path: Path) -> None:
    columns = {"age": {"checks": {"valid_min": 0, "invalid": {"level": "quarantine", "max": 1}}}}
    with pytest.raises(DataCheckFailed, match="2 of 200 values are invalid") as error:
        prepared(tmp_path, put("age", -1, -2), columns)
    assert error.value.where == "data.columns.age.checks.invalid"


def test_a_column_that_is_called_as_the_quarantines_own_is_refused(tmp_path: Path) -> None:
    columns = {"age": {"checks": {"missing": {"level": "quarantine"}}}}
    with pytest.raises(DataCheckFailed, match="can't be called '__reason__'"):
        prepared(tmp_path, rows(__reason__=[1] * N), columns)


def test_dvc_is_told_of_the_quarantine_only_where_there_is_one() -> None:
    asked = {"y": {"checks": {"missing": {"level": "quarantine"}}}}
    assert prepare.QUARANTINE in prepare.declare(spec_of(data={**tree()["data"], "columns": asked})).outs
    assert prepare.QUARANTINE not in prepare.declare(spec_of()).outs


CONDITIONS = ["x > 1", "NOT (x IN (1, 2)) OR s LIKE 'a%'", "\"odd name\" IS NULL", "x BETWEEN 1 AND 2 AND abs(x) >= 0.5",
              "coalesce(x, 0) = 0", "lower(s) = 'it''s'", "x / 2 + 1 <> 3 AND s IS NOT NULL", "length(s) < 3"]  # fmt: skip
REFUSED = [
    "(SELECT 1)",
    "x > (select max(x) from t)",
    "sum(x) > 1",
    "x > 1; drop table t",
    "row_number() over (order by x) > 1",
    "read_csv('/etc/passwd')",
    "cast(x as int) > 1",
    "x >",
    "x ~ 'a'",
    "x -- y",
    "exists (values (1))",
    "x > 1 /* c */",
    "(" * 200 + "x" + ")" * 200,
    "x = 1 \\",
    "a.b.c.d > 1 $",
]


@pytest.mark.parametrize("text", CONDITIONS)
def test_a_condition_looks_at_one_row(text: str) -> None:
    table = pl.DataFrame({"x": [1.0, None, 3.0], "s": ["a", "b", None], "odd name": [1, 2, 3]})
    assert TypeAdapter(expression.Condition).validate_python(text) == text
    found = expression.holds(text, table)
    assert found is not None
    assert (found.dtype, len(found), found.null_count()) == (pl.Boolean, 3, 0)
    assert set(expression.columns(text)) <= set(table.columns)


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_condition_is_no_spec(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(expression.Condition).validate_python(text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="xs \"'()<>=%*/+-.,0123456789andorinselectfromlike", max_size=40))
def test_no_text_is_more_than_a_condition(text: str) -> None:
    """Whatever is accepted is a condition of one row, or refused when it meets the table."""
    try:
        TypeAdapter(expression.Condition).validate_python(text)
    except ValidationError:
        return
    table = pl.DataFrame({"x": [1.0, None, 3.0], "s": ["a", "b", None]})
    found = expression.holds(text, table)
    assert found is None or (len(found) == 3 and found.dtype == pl.Boolean)


@pytest.mark.parametrize("text", ["1", "x", "x + 1", "z > 1", "x = s"])
def test_what_compares_nothing_is_told(text: str, tmp_path: Path) -> None:
    table = rows(x=[float(i) for i in range(N)], s=["a", "b"] * (N // 2))
    with pytest.raises(DataCheckFailed) as error:
        prepared(tmp_path, table, checks={"failed_rows": {"odd": {"expression": text}}})
    assert error.value.where == "data.checks.failed_rows.odd.expression"


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1", "a{100000}{1000}", "x" * 1001])
def test_a_pattern_that_can_take_long_or_is_none_is_no_spec(pattern: str) -> None:
    with pytest.raises(ValidationError):
        ColumnChecks(regex=pattern)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"columns": {"x": {"checks": {"invalid": {"max": 3}}}}}, "nothing says what is valid"),
        ({"columns": {"x": {"checks": {"dtype": {}}}}}, "no dtype is declared"),
        ({"columns": {"x": {"checks": {"missing": {"max": 0, "level": "quarantine"}}}}}, "nothing could be put aside"),
        ({"checks": {"duplicates": {"max": 0, "level": "quarantine"}}}, "nothing could be put aside"),
        ({"checks": {"conflicting_labels": {"max": 0, "level": "quarantine"}}}, "nothing could be put aside"),
        (
            {"checks": {"failed_rows": {"odd": {"expression": "x > 1", "max": 0, "level": "quarantine"}}}},
            "nothing could be put aside",
        ),
        (
            {"checks": {"duplicates": {"level": "quarantine"}, "quarantine": {"max": 0}}},
            "nothing could be put aside",
        ),
        ({"columns": {"x": {"action": "drop", "checks": {"missing": {}}}}}, "the column is dropped"),
        ({"columns": {"x": {"role": "id", "known_after": "event"}}}, "has no effect: the column's role is id"),
        ({"checks": {"freshness": {"at": "2026-01-01", "max": "1d"}}}, "0 columns have the role time"),
        ({"checks": {"quarantine": {"max": 3}}}, "no check has level: quarantine"),
        ({"checks": {"row_count": {"min": 9, "max": 3}}}, "below min"),
    ],
)
def test_checks_without_effect_are_contradictions(data: dict[str, Any], message: str) -> None:
    found = Spec.model_validate(tree(data={**tree()["data"], **data})).contradictions()
    assert any(message in one.what for one in found)


def test_a_regression_has_no_classes_to_balance() -> None:
    checks = {"class_balance": {"min": 0.1}, "conflicting_labels": {}}
    spec = spec_of(
        problem={"task": "regression", "target": "y"},
        data={**tree()["data"], "checks": checks},
        candidates={"line": {"type": "ridge"}},
    )
    assert [one.key[-1] for one in spec.contradictions()] == ["class_balance", "conflicting_labels"]


@given(st.integers(0, 50), st.integers(0, 50), st.none() | st.integers(0, 60) | st.floats(0, 1, exclude_max=True))
def test_a_limit_is_a_share_or_a_count(bad: int, good: int, limit: float | None) -> None:
    findings, n = Findings(), bad + good
    findings.count("x", bad, n, Rows(max=limit), "rows are bad")
    allowed = 0 if limit is None else limit * n if 0 < limit < 1 else limit
    assert findings.verdicts["x"].outcome == ("holds" if bad <= allowed else "refused")


def test_a_limit_of_one_and_a_half_rows_is_none() -> None:
    with pytest.raises(ValidationError, match="a share below 1, or a whole number"):
        Rows(max=1.5)
