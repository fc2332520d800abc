"""What a split refuses, and what it keeps in proportion; the properties are in tests/properties."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from specml.errors import DataCheckFailed, NotEnoughData, SpecmlError
from specml.stages import prepare
from specml.tables.splits import Split, digests, folding, folds, forward, hold_out, words
from tests.conftest import spec_of
from tests.unit.test_prepare import data, prepared, rows

ID = {"columns": {"id": {"role": "id"}}}


def told(split: dict[str, Any], **changes: Any) -> list[tuple[str, str]]:
    changes = {"task": "binary", "columns": {}, "undeclared": "feature", **changes}
    spec = spec_of(
        problem={"task": changes["task"], "target": "y"},
        candidates={"m": {"type": "lightgbm"}},
        data=data(split=split, columns=changes["columns"], undeclared=changes["undeclared"]),
    )
    return [(".".join(map(str, one.key[2:])), one.what) for one in spec.contradictions() if one.key[1] == "split"]


@pytest.mark.parametrize(
    ("split", "changes", "key", "says"),
    [
        ({"method": "random", "column": "x"}, {}, "column", "has no effect on a split by 'random'"),
        ({"embargo": "3d"}, {}, "embargo", "has no effect on a split by 'auto'"),
        ({"method": "group"}, {}, "column", "it says what stays together"),
        ({"method": "hash", "column": "y"}, {}, "column", "role is target"),
        ({"method": "group", "column": "x"}, {"undeclared": "drop"}, "column", "undeclared: drop forgets"),
        ({"method": "time", "column": "x"}, {}, "column", "role is feature"),
        ({"method": "column", "column": "x"}, {}, "column", "role is feature"),
        ({"method": "column", "column": "id", "test": 0.3}, ID, "test", "the column says which"),
        ({"method": "column", "column": "id", "seed": 3}, ID, "seed", "has no effect"),
        ({"method": "hash", "column": "id", "values": ("a",)}, ID, "values", "has no effect"),
        ({"method": "stratified"}, {"task": "regression"}, "method", "no classes"),
        ({"folds": {"column": "id"}}, ID, "folds.column", "folds are as the split"),
        ({"folds": {"method": "group"}}, {}, "folds.column", "is required"),
        ({"folds": {"method": "group", "column": "id", "embargo": "1d"}}, ID, "folds.embargo", "has no effect"),
        (
            {"method": "group", "column": "x"},
            {"columns": {"x": {"role": "protected", "use": "audit_only"}}},
            "column",
            "gates only",
        ),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(split: Any, changes: Any, key: str, says: str) -> None:
    ((found, what),) = told(split, **changes)
    assert found == key
    assert says in what


@pytest.mark.parametrize(
    "split",
    [
        {"method": "group", "column": "id"},
        {"method": "group", "column": "site"},
        {"method": "hash", "column": "id", "seed": 3, "test": 0.1},
        {"method": "column", "column": "id", "values": ("b", 3), "folds": {"method": "group", "column": "id"}},
        {"method": "column", "column": "id", "seed": 3, "folds": {"method": "hash", "column": "id"}},
    ],
)
def test_what_means_something_is_let_through(split: Any) -> None:
    assert told(split, **ID) == []


def test_groups_keep_their_classes_in_proportion() -> None:
    generator = np.random.default_rng(0)
    people = generator.integers(0, 60, 600)
    y = (generator.random(600) < np.where(people % 3 == 0, 0.6, 0.05)).astype(np.int64)
    table = pl.DataFrame({"y": y, "person": people})
    train, test = hold_out(Split(method="group", column="person", test=0.25), table, "y", "binary")
    assert abs(len(test) / 600 - 0.25) < 0.02
    assert abs(y[test].mean() - y[train].mean()) < 0.03
    how = folding(Split(method="group", column="person"), "binary")
    shares = [y[outside].mean() for _, outside in folds(how, people, y, 4, 7)]
    assert max(shares) - min(shares) < 0.05


def test_a_regression_is_split_by_group_too() -> None:
    table = pl.DataFrame({"y": np.linspace(0, 1, 200), "person": np.arange(200) // 4})
    train, test = hold_out(Split(method="group", column="person"), table, "y", "regression")
    assert abs(table["y"][test].mean() - table["y"][train].mean()) < 0.1  # type: ignore[operator]


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ({}, "by chance, the same share of each class"),
        ({"method": "group", "column": "id"}, "by chance, no id on both sides"),
        ({"method": "time", "column": "day"}, "the latest by day"),
        ({"method": "time", "column": "day", "embargo": "9d"}, "the latest by day; training ends 9d before them"),
        ({"method": "column", "column": "part"}, "as part says"),
        ({"method": "hash", "column": "id"}, "by a digest of id"),
    ],
)
def test_how_rows_are_held_out_is_said(split: dict[str, Any], says: str) -> None:
    assert words(Split.model_validate(split), "binary") == says


def test_too_few_groups_or_ids_are_told() -> None:
    table = pl.DataFrame({"y": [0, 1] * 20, "person": ["a"] * 40})
    with pytest.raises(NotEnoughData, match="1 groups can't be split"):
        hold_out(Split(method="group", column="person"), table, "y", "binary")
    with pytest.raises(NotEnoughData, match="all on one side"):
        hold_out(Split(method="hash", column="person"), table, "y", "binary")
    how = folding(Split(method="group", column="person"), "binary")
    with pytest.raises(NotEnoughData, match=r"3 folds|empty"):
        list(folds(how, np.repeat([0, 1], 20), np.arange(40) % 2, 3, 7))


def test_an_embargo_that_leaves_nothing_is_told() -> None:
    with pytest.raises(NotEnoughData, match="reaches back to the first time"):
        list(forward(np.arange(100), 4, 60))
    table = pl.DataFrame({"y": [0, 1] * 20, "year": np.arange(40)})
    with pytest.raises(DataCheckFailed, match="needs times"):
        hold_out(Split.model_validate({"method": "time", "column": "year", "embargo": "9d"}), table, "y", "binary")


def test_the_digest_is_what_the_page_says() -> None:
    want = hashlib.sha256(b"7:C042").digest()
    first, second = digests(pl.Series(["C042"]), 7)
    assert (int(first[0]), int(second[0])) == (int.from_bytes(want[:8], "big"), int.from_bytes(want[8:16], "big"))


def test_rows_are_marked_by_a_column_and_folds_by_a_group(tmp_path: Path) -> None:
    table = {**rows(), "part": ["test" if i % 5 == 2 else "train" for i in range(200)]}
    table |= {"person": [f"p{i // 2}" for i in range(200)], "x": [float(i) for i in range(200)]}
    columns = {"part": {"role": "id"}, "person": {"role": "id"}}
    split = {"method": "column", "column": "part", "folds": {"method": "group", "column": "person"}}
    train, test, layout = prepared(tmp_path, table, data=data(columns=columns, split=split))
    assert (train.height, test.height) == (160, 40)
    assert set(test["x"].cast(pl.Int64) % 5) == {2}
    assert layout.folding.column == "__group__"
    assert train["__group__"].n_unique() == 100
    assert "part" not in train.columns
    split["values"] = ("validate",)
    with pytest.raises(NotEnoughData, match="no row is held out"):
        prepared(tmp_path, table, data=data(columns=columns, split=split))


def test_the_embargo_is_counted_and_said(tmp_path: Path) -> None:
    day = [f"2026-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(200)]
    split = {"method": "time", "column": "day", "embargo": "10d"}
    changes = {"columns": {"day": {"role": "time"}}, "split": split}
    train, test, layout = prepared(tmp_path, {**rows(), "day": day}, data=data(**changes))
    assert (train.height, test.height) == (151, 40)
    assert json.loads((tmp_path / prepare.METRICS).read_text())["rows"]["embargoed"] == 9
    assert layout.folding.embargo == 10 * 86_400_000_000
    assert train["__time__"].is_sorted()


@pytest.mark.parametrize("method", ["group", "hash"])
def test_a_row_without_its_group_is_refused(method: str, tmp_path: Path) -> None:
    table = {**rows(), "id": [None, None, *(f"p{i // 2}" for i in range(198))]}
    with pytest.raises(SpecmlError, match="2 rows have no id, by which they are divided"):
        prepared(tmp_path, table, data=data(**ID, split={"method": method, "column": "id"}))


def test_a_column_that_was_set_aside_divides_nothing(tmp_path: Path) -> None:
    split = {"method": "group", "column": "empty"}
    with pytest.raises(DataCheckFailed, match="every value is missing"):
        prepared(tmp_path, {**rows(), "empty": [None] * 200}, data=data(split=split))


def test_a_hashed_split_writes_no_digest_of_an_id(tmp_path: Path) -> None:
    table = {**rows(400), "id": [f"c{i}" for i in range(400)]}
    train, _, _ = prepared(tmp_path, table, data=data(**ID, split={"method": "hash", "column": "id"}))
    assert "id" not in train.columns
    assert train["__hash__"].max() < 10_000  # type: ignore[operator]
