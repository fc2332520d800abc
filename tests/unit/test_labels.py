"""Late labels and labels by rule: what can't be known yet is unlabelled, and what is unlabelled trains nothing."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.data import MISSING
from specml.errors import DataCheckFailed
from specml.stages import ingest, prepare
from specml.stages.work import Work, narrowed
from specml.tables.checks import Findings
from specml.tables.labels import labelled, notes
from tests.conftest import spec_of
from tests.unit.test_prepare import data, prepared, rows

START = datetime(2026, 1, 1)
COLUMNS = {"seen": {"role": "time"}, "known": {"role": "time"}}
DELAY = {"time": "seen", "delay": "30d", "at": "2026-03-31"}


def made(table: dict[str, Any], labels: dict[str, Any], columns: Any = COLUMNS) -> tuple[list[Any], dict[str, Any]]:
    spec = spec_of(data=data(columns=columns, labels=labels))
    target, told = labelled(spec, pl.DataFrame(table), Findings())
    assert target is not None
    return target.to_list(), told


def days(*numbers: int | None) -> list[datetime | None]:
    return [None if n is None else START + timedelta(days=n) for n in numbers]


def test_a_row_whose_label_can_not_be_known_yet_has_none() -> None:
    # 2026-03-31 ends with day 90: what was seen after day 60 is too young, whatever stands in it.
    table = {"seen": days(0, 59, 60, 61, None), "y": [1, None, 0, 1, 1]}
    assert made(table, DELAY) == ([1, None, 0, None, None], {"not_due": 2, "absent": 1})
    assert made(table, {**DELAY, "absent": 0})[0] == [1, 0, 0, None, None]


def test_a_target_without_any_value_takes_the_type_of_its_labels() -> None:
    table = {"seen": days(0, 1, 90), "x": [1, 9, 9], "y": pl.Series([None] * 3, dtype=pl.Null)}
    assert made(table, {**DELAY, "absent": "no"})[0] == ["no", "no", None]
    assert made(table, {"rules": {"big": {"expression": "x > 5", "label": True}}})[0] == [None, True, True]
    assert made(table, DELAY)[0] == [None] * 3


def test_a_label_that_came_after_the_delay_does_not_count() -> None:
    table = {"seen": days(0, 0, 0, 0), "known": days(29, 30, 31, None), "y": [1, 1, 1, 1]}
    found, told = made(table, {**DELAY, "known_at": "known", "absent": 0})
    assert found == [1, 1, 0, 0]
    assert told == {"late": 2, "not_due": 0, "absent": 2}


def test_times_may_have_a_zone_or_be_texts() -> None:
    zoned = pl.Series([START - timedelta(hours=1)]).dt.replace_time_zone("America/New_York").to_list()
    for seen in (zoned, ["2026-01-01"], [START.date()]):
        assert made({"seen": seen, "y": [1]}, {**DELAY, "at": "2026-01-31"})[0] == [1]
        assert made({"seen": seen, "y": [1]}, {**DELAY, "at": "2026-01-29"})[0] == [None]


RULES = {
    "big": {"expression": "x > 5", "label": 1},
    "red": {"expression": "colour = 'red'", "label": 0},
    "huge": {"expression": "x > 8", "label": 1, "priority": 2},
}


def test_rules_label_what_has_no_label_and_conflicts_are_counted() -> None:
    table = {"x": [1, 6, 6, 9, 9, 1], "colour": ["red", "blue", "red", "red", "red", None], "y": [None] * 4 + [0, None]}
    found, told = made(table, {"rules": RULES, "conflicts": {"max": 1}})
    assert found == [0, 1, None, 1, 0, None]
    assert (told["conflicts"], told["unsettled"]) == (3, 1)
    assert told["rules"]["red"] == {"rows": 4, "known": 1, "agrees": 1}
    assert told["rules"]["huge"] == {"rows": 2, "known": 1, "agrees": 0}
    labels = spec_of(data=data(labels={"rules": RULES})).data.labels
    assert [note.split(":")[0] for note in notes(labels, told)] == [
        "data.labels.rules.big", "data.labels.rules.huge", "data.labels.rules.red", "data.labels.rules",
    ]  # fmt: skip


def test_a_missing_text_is_no_value_that_a_rule_compares() -> None:
    table = {"city": ["paris", "rome", MISSING, None], "y": [None] * 4}
    columns = {"city": {"dtype": "category"}}
    rules = {"away": {"expression": "city <> 'paris'", "label": 1}, "lost": {"expression": "city IS NULL", "label": 0}}
    assert made(table, {"rules": rules}, columns)[0] == [None, 1, 0, 0]


def test_a_label_that_the_target_can_not_hold_is_refused() -> None:
    table = {"x": [1, 9], "y": [1, None], "seen": days(0, 1)}
    with pytest.raises(DataCheckFailed, match="of Int64 values, can't hold"):
        made(table, {"rules": {"half": {"expression": "x > 5", "label": 0.5}}})
    with pytest.raises(DataCheckFailed, match=r"is 0\.5, but 'y' holds Int64 values"):
        made(table, {**DELAY, "absent": 0.5})
    assert made(table, {**DELAY, "absent": 0.0})[0] == [1, 0]


def test_rules_make_a_target_that_the_data_lacks(tmp_path: Path) -> None:
    table = rows()
    del table["y"]
    rules = {"even": {"expression": "x % 2 = 0", "label": "even"}, "odd": {"expression": "x % 2 = 1", "label": "odd"}}
    spec: Any = {"problem": {"task": "binary", "target": "y", "positive_class": "odd"}}
    train, _, layout = prepared(tmp_path, table, data=data(labels={"rules": rules}), **spec)
    assert layout.classes == ("even", "odd")
    assert "x" not in train.columns
    told = json.loads((tmp_path / prepare.METRICS).read_text())
    assert told["set_aside"]["x"] == "a rule under data.labels reads it"
    assert told["labels"]["rules"]["even"]["rows"] + told["labels"]["rules"]["odd"]["rows"] == 200
    columns = {"x": {"dtype": "float"}, "colour": {"dtype": "category"}, "flag": {"dtype": "bool"}}
    minimal = data(labels={"rules": rules}, undeclared="drop", columns=columns)
    assert prepared(tmp_path, table, data=minimal, **spec)[2].classes == ("even", "odd")


def test_conflicts_that_no_priority_settles_stop_the_run_unless_said(tmp_path: Path) -> None:
    rules = {"a": {"expression": "x > 3", "label": 1}, "b": {"expression": "x > 14", "label": 0}}
    table = {**rows(), "y": [None] * 200}
    with pytest.raises(DataCheckFailed, match=r"rules of the same priority differ about 2\d of 200 rows") as error:
        prepared(tmp_path, table, data=data(labels={"rules": rules}))
    assert error.value.where == "data.labels.conflicts"


def test_what_is_unlabelled_is_counted_said_and_bounded(tmp_path: Path) -> None:
    table = rows()
    table["y"][:30] = [None] * 30
    prepared(tmp_path, table)
    told = json.loads((tmp_path / prepare.METRICS).read_text())
    assert told["rows"]["unlabelled"] == 30
    assert told["checks"]["data.labels.unlabelled"]["outcome"] == "refused"
    with pytest.raises(DataCheckFailed, match=r"30 of 200 rows have no label\. Wanted: ≤ 0\.1 of the rows"):
        prepared(tmp_path, table, data=data(labels={"unlabelled": {"level": "fail"}}))
    prepared(tmp_path, table, data=data(labels={"unlabelled": {"level": "fail", "max": 30}}))


def test_labels_from_a_source_of_their_own(tmp_path: Path) -> None:
    """Frauds alone are recorded, some late; what is young is neither fraud nor none."""
    table = {
        "id": list(range(400)),
        "x": [float(i % 17) for i in range(400)],
        "seen": days(*(i // 4 for i in range(400))),
    }
    frauds = {
        "id": list(range(0, 400, 3)),
        "known": days(*(i // 4 + (40 if i % 9 == 0 else 5) for i in range(0, 400, 3))),
    }
    pl.DataFrame(table).write_parquet(tmp_path / "rows.parquet")
    pl.DataFrame({**frauds, "y": 1}).write_parquet(tmp_path / "frauds.parquet")
    sources = {
        "rows": {"type": "parquet", "path": "rows.parquet"},
        "frauds": {"type": "parquet", "path": "frauds.parquet"},
    }
    spec = spec_of(
        data={
            "sources": sources,
            "joins": ({"right": "frauds", "keys": ("id",)},),
            "columns": {"id": {"role": "id"}, **COLUMNS},
            "labels": {**DELAY, "known_at": "known", "absent": 0},
        }
    )
    assert list(spec.contradictions()) == []
    said: list[str] = []
    for module, key in ((ingest, "rows"), (ingest, "frauds"), (prepare, "")):
        stage = module.declare(spec)  # type: ignore[attr-defined]
        module.work(Work(stage, tmp_path, narrowed(spec, stage, key), lambda text, **_: said.append(text), key))  # type: ignore[attr-defined]
    told = json.loads((tmp_path / prepare.METRICS).read_text())
    assert told["rows"]["unlabelled"] == told["labels"]["not_due"] == 400 - 61 * 4
    assert told["labels"]["late"] == len(range(0, 400, 9))
    assert sum(told["train_rows_by_class"].values()) == told["rows"]["train"]
    assert "data.labels.delay: 156 rows are younger than 30d: their label can't be known yet" in said


@pytest.mark.parametrize(
    ("labels", "changes", "key", "says"),
    [
        ({"delay": "30d"}, {}, "labels", "says delay, but not time, at"),
        ({**DELAY, "time": "x"}, {}, "time", "whose role is feature"),
        ({"known_at": "known"}, {}, "known_at", "has no effect without delay"),
        ({"absent": 0}, {}, "absent", "nothing says when a label would be known"),
        ({"conflicts": {"max": 3}}, {}, "conflicts", "there are no rules"),
        ({"rules": {"r": {"expression": "y > 1", "label": 1}}}, {}, "rules", "read the target"),
    ],
)
def test_what_contradicts_is_told(labels: Any, changes: Any, key: str, says: str) -> None:
    spec = spec_of(data=data(columns=COLUMNS, labels=labels))
    (found,) = spec.contradictions()
    assert found.key[-1] == key
    assert says in found.what


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"rules": {"r": {"expression": "nope > 1", "label": 1}}}, "'nope', which is no column"),
        ({"rules": {"r": {"expression": "colour > 1", "label": 1}}}, "is no condition over these columns"),
        (
            {"rules": {"r": {"expression": "x > 1", "label": "many"}}},
            "give labels that 'y', of Int64 values",
        ),
        ({**DELAY, "time": "gone"}, "'gone', which is no column"),
        ({**DELAY, "absent": "none"}, "is 'none', but 'y' holds Int64 values"),
        ({**DELAY, "known_at": "x"}, "holds Int64 values, not times"),
    ],
)
def test_what_the_data_can_not_do_is_one_message(labels: Any, says: str) -> None:
    table = {"x": [1, 2], "colour": ["a", "b"], "seen": days(0, 1), "y": [1, None]}
    with pytest.raises(DataCheckFailed, match=says):
        made(table, labels)


row = st.tuples(
    st.one_of(st.none(), st.integers(0, 120)), st.one_of(st.none(), st.integers(0, 200)), st.sampled_from([None, 0, 1])
)


@settings(max_examples=30, deadline=None)
@given(st.lists(row, min_size=1, max_size=30), st.integers(1, 60))
def test_no_label_is_from_after_the_delay_or_of_a_row_too_young(found: list[Any], delay: int) -> None:
    seen, known, y = (list(one) for one in zip(*found, strict=True))
    table = {
        "seen": pl.Series(days(*seen), dtype=pl.Datetime("us")),
        "known": pl.Series(days(*known), dtype=pl.Datetime("us")),
        "y": pl.Series(y, dtype=pl.Int64),
    }
    labels = {**DELAY, "delay": f"{delay}d", "known_at": "known", "absent": 0}
    for s, k, before, after in zip(seen, known, y, made(table, labels)[0], strict=True):
        if s is None or s + delay > 90:
            assert after is None
        else:
            assert after == (before if before is not None and k is not None and k <= s + delay else 0)
