"""Roles, types, groups and splits; what is wrong with the data is said in one message."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from specml.data import MISSING, Folding, Layout
from specml.errors import DataCheckFailed, SpecmlError
from specml.stages import explore, ingest, prepare
from specml.stages.work import Work, narrowed
from tests.conftest import spec_of, tree


def rows(n: int = 200) -> dict[str, Any]:
    return {
        "x": [float(i % 17) for i in range(n)],
        "colour": [["red", "blue", None][i % 3] for i in range(n)],
        "flag": [i % 4 == 0 for i in range(n)],
        "y": [i % 2 for i in range(n)],
    }


def prepared(folder: Path, table: dict[str, Any], **changes: Any) -> tuple[pl.DataFrame, pl.DataFrame, Layout]:
    pl.DataFrame(table).write_csv(folder / "rows.csv")
    spec = spec_of(**changes)
    for module, key in ((ingest, "rows"), (prepare, "")):
        stage = module.declare(spec)  # type: ignore[attr-defined]
        module.work(Work(stage, folder, narrowed(spec, stage, key), lambda *_, **__: None, key))  # type: ignore[attr-defined]
    layout = Layout.model_validate_json((folder / prepare.LAYOUT).read_bytes())
    return pl.read_parquet(folder / prepare.TRAIN), pl.read_parquet(folder / prepare.TEST), layout


def data(**changes: Any) -> dict[str, Any]:
    return {**tree()["data"], **changes}


def test_types_are_inferred_and_no_row_is_lost(tmp_path: Path) -> None:
    train, test, layout = prepared(tmp_path, rows())
    assert {c.name: c.kind for c in layout.features} == {"x": "numeric", "colour": "categorical", "flag": "boolean"}
    assert (train.height, test.height) == (160, 40)
    assert set(train["colour"]) == {"red", "blue", MISSING}
    assert layout.classes == (0, 1)
    assert next(c for c in layout.features if c.name == "colour").categories == ("blue", "red")


def test_protected_id_time_weight_and_ignored_columns_are_no_features(tmp_path: Path) -> None:
    roles = ("protected", "id", "time", "weight", "ignore")
    table = {**rows(), **{role: [float(i) for i in range(200)] for role in roles}}
    columns = {role: {"role": role} for role in roles}
    train, _, layout = prepared(tmp_path, table, data=data(columns=columns))
    assert {c.name for c in layout.features} == {"x", "colour", "flag"}
    assert (layout.protected, layout.weight) == (("protected",), "weight")
    assert set(train.columns) == {"x", "colour", "flag", "y", "protected", "weight"}


def test_bands_and_groups(tmp_path: Path) -> None:
    table = {**rows(), "age": [i % 90 for i in range(200)], "code": [i % 4 for i in range(200)]}
    columns = {
        "age": {"role": "protected", "bands": (25, 65)},
        "code": {"role": "protected", "groups": {"first": (0, 1), "second": (2,)}},
    }
    train, test, _ = prepared(tmp_path, table, data=data(columns=columns))
    both = pl.concat([train, test])
    assert set(both["age"]) == {"under 25", "25 to 65", "65 and over"}
    assert both["code"].value_counts().sort("code").rows() == [("first", 100), ("other", 50), ("second", 50)]


def test_time_split_holds_out_the_latest_and_keeps_a_time_together(tmp_path: Path) -> None:
    table = {**rows(), "year": [2015 + (i * 7) % 4 for i in range(200)]}
    split = {"method": "time", "column": "year", "test": 0.2}
    train, test, _ = prepared(tmp_path, table, data=data(columns={"year": {"role": "time"}}, split=split))
    assert (train.height, test.height) == (150, 50)


def test_text_labels_need_a_positive_class(tmp_path: Path) -> None:
    table = {**rows(), "y": [["no", "yes"][i % 2] for i in range(200)]}
    with pytest.raises(DataCheckFailed, match="which one is positive") as error:
        prepared(tmp_path, table)
    assert "problem.positive_class: 'yes'" in error.value.hint
    _, _, layout = prepared(tmp_path, table, problem={"task": "binary", "target": "y", "positive_class": "no"})
    assert layout.classes == ("yes", "no")


def test_no_value_of_a_wrong_target_is_told(tmp_path: Path) -> None:
    for y in (["p@example.org"] * 200, [f"p{i}@example.org" for i in range(200)]):
        with pytest.raises(SpecmlError, match=r"has one value only|has 200 values, not two") as error:
            prepared(tmp_path, {**rows(), "y": y})
        assert "example.org" not in str(error.value)


def test_a_column_may_be_called_count(tmp_path: Path) -> None:
    table = {("count" if name == "colour" else name): values for name, values in rows().items()}
    train, _, layout = prepared(tmp_path, table)
    assert next(c for c in layout.features if c.name == "count").categories == ("blue", "red")
    assert explore.describe(train["count"])["distinct"] == 2
    groups = {"count": {"role": "protected"}}
    few: dict[str, Any] = {**PROBLEM, "feasibility": {"min_rows_per_group": 5}}
    assert prepared(tmp_path, table, data=data(columns=groups), problem=few)[2].protected == ("count",)
    target = {("count" if name == "y" else name): values for name, values in rows().items()}
    balance = data(checks={"class_balance": {"min": 0.1}})
    assert prepared(tmp_path, target, data=balance, problem={**PROBLEM, "target": "count"})[2].target == "count"


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    table = rows()
    table["y"][:7] = [None] * 7
    train, test, _ = prepared(tmp_path, table)
    assert train.height + test.height == 193


def bad(**changes: Any) -> dict[str, Any]:
    return {**rows(), **changes}


PROBLEM: dict[str, Any] = {"task": "binary", "target": "y"}
WRONG = [
    pytest.param(rows(), {"problem": {**PROBLEM, "target": "Y"}}, "no column 'Y'", id="no target"),
    pytest.param(rows(), {"data": data(columns={"colr": {"role": "id"}})}, "no column 'colr'", id="no column"),
    pytest.param(rows(40), {}, "32 training rows, 100 are needed", id="few rows"),
    pytest.param(bad(y=[0] * 200), {}, "1 values|one value", id="one class"),
    pytest.param(bad(y=[i % 3 for i in range(200)]), {}, "3 values", id="three classes"),
    pytest.param(bad(y=[int(i < 10) for i in range(200)]), {}, "class 1 has 8 training rows", id="rare class"),
    pytest.param(bad(y=[None] * 200), {}, "no row has a value", id="no label"),
    pytest.param(rows(), {"data": data(columns={"colour": {"dtype": "float"}})}, "can't be read as float", id="dtype"),
    pytest.param(rows(), {"data": data(columns={"colour": {"nullable": False}})}, "values are missing", id="nullable"),
    pytest.param(rows(), {"problem": {**PROBLEM, "positive_class": 7}}, "is 7", id="positive class"),
    pytest.param(
        rows(), {"problem": {**PROBLEM, "task": "regression", "target": "colour"}}, "not numbers", id="text target"
    ),
    pytest.param(bad(label=list(range(200))), {}, "can't be called 'label'", id="name of an output"),
    pytest.param({"y": [0, 1] * 100}, {}, "no feature is left", id="no feature"),
]


@pytest.mark.parametrize(("table", "changes", "message"), WRONG)
def test_bad_data_is_one_message(table: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    if changes.get("problem", {}).get("task") == "regression":
        changes = {**changes, "candidates": {"line": {"type": "ridge"}}}
    with pytest.raises(SpecmlError, match=message) as error:
        prepared(tmp_path, table, **changes)
    assert error.value.status in (6, 7)


def test_constant_and_empty_columns_are_set_aside(tmp_path: Path) -> None:
    _, _, layout = prepared(tmp_path, {**rows(), "same": [1] * 200, "empty": [None] * 200})
    assert {c.name for c in layout.features} == {"x", "colour", "flag"}


def test_a_stage_that_reads_what_it_does_not_declare_is_caught() -> None:
    spec = spec_of()
    narrow = narrowed(spec, prepare.declare(spec))
    assert narrow.problem.target == "y"
    with pytest.raises(LookupError, match=r"reads search, which it does not declare"):
        _ = narrow.search
    with pytest.raises(LookupError, match=r"problem\.goal"):
        _ = narrow.problem.goal


def test_a_file_outside_the_project_needs_a_word(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    pl.DataFrame(rows()).write_csv(tmp_path / "rows.csv")
    from specml.sources.csv import Csv

    with pytest.raises(DataCheckFailed, match="outside the project"):
        Csv(path="../rows.csv").read(tmp_path / "project")
    assert Csv(path="../rows.csv", allow_outside=True).read(tmp_path / "project").height == 200


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    from specml.sources.csv import Csv
    from specml.sources.parquet import Parquet

    with pytest.raises(DataCheckFailed, match="no such file"):
        Csv(path="none.csv").read(tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataCheckFailed, match="can't be read as Parquet"):
        Parquet(path="broken.parquet").read(tmp_path)


WEIGHTED = {"columns": {"w": {"role": "weight"}}}


@pytest.mark.parametrize("weights", [[None] + [1.0] * 199, [-1.0] + [1.0] * 199, ["heavy"] * 200, [0.0] * 200])
def test_bad_weights_are_refused(weights: list[Any], tmp_path: Path) -> None:
    with pytest.raises(DataCheckFailed, match="weight"):
        prepared(tmp_path, {**rows(), "w": weights}, data=data(**WEIGHTED))


def test_codes_that_look_like_numbers_stay_as_they_are_written(tmp_path: Path) -> None:
    table = {**rows(), "zip": [["02139", "00501"][i // 2 % 2] for i in range(200)]}
    _, _, layout = prepared(tmp_path, table, data=data(columns={"zip": {"dtype": "category"}}))
    assert next(c for c in layout.features if c.name == "zip").categories == ("00501", "02139")


def test_times_as_text_are_read_or_refused_never_sorted_as_text(tmp_path: Path) -> None:
    split = {"method": "time", "column": "day", "test": 0.25}
    times = {"columns": {"day": {"role": "time"}}, "split": split}
    iso = [f"20{10 + i // 20}-0{1 + i % 9}-01" for i in range(200)]
    train, test, layout = prepared(tmp_path, {**rows(), "day": iso}, data=data(**times))
    assert (train.height, test.height) == (150, 50)
    assert layout.folding == Folding(method="time", column="__time__")
    assert train["__time__"].is_sorted()
    american = [f"0{1 + i % 9}/01/20{10 + i // 20}" for i in range(200)]
    with pytest.raises(DataCheckFailed, match="can't be read as datetime"):
        prepared(tmp_path, {**rows(), "day": american}, data=data(**times))
    with pytest.raises(DataCheckFailed, match="1 rows have no time"):
        prepared(tmp_path, {**rows(), "day": [None, *iso[1:]]}, data=data(**times))


def test_a_whole_number_loses_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataCheckFailed, match="can't be read as int"):
        prepared(tmp_path, {**rows(), "x": [0.5] * 200}, data=data(columns={"x": {"dtype": "int"}}))


def test_what_is_declared_about_the_target_holds(tmp_path: Path) -> None:
    table = {**rows(), "y": [None if i < 9 else i % 2 for i in range(200)]}
    with pytest.raises(DataCheckFailed, match="9 of 200 values are missing"):
        prepared(tmp_path, table, data=data(columns={"y": {"nullable": False}}))
    _, _, layout = prepared(tmp_path, rows(), data=data(columns={"y": {"dtype": "bool"}}))
    assert layout.classes == (False, True)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    from specml.sources.csv import Csv

    (tmp_path / "twins.csv").write_text("y,x,y\n1,2,1\n")
    with pytest.raises(DataCheckFailed, match="more than one column called 'y'"):
        Csv(path="twins.csv").read(tmp_path)


def test_unknown_favourable_class_is_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataCheckFailed, match="is 7, but the classes are 0, 1"):
        prepared(tmp_path, rows(), problem={**PROBLEM, "favourable_class": 7})


def test_a_text_that_names_its_row_is_set_aside_unless_declared(tmp_path: Path) -> None:
    table = {**rows(), "customer": [f"c{i}" for i in range(200)]}
    _, _, layout = prepared(tmp_path, table)
    assert "customer" not in {c.name for c in layout.features}
    _, _, layout = prepared(tmp_path, table, data=data(columns={"customer": {"dtype": "category"}}))
    assert "customer" in {c.name for c in layout.features}


def test_a_target_beyond_float32_is_refused(tmp_path: Path) -> None:
    table = {**rows(), "y": [3e40 + i for i in range(200)]}
    with pytest.raises(DataCheckFailed, match="beyond"):
        prepared(tmp_path, table, problem={"task": "regression", "target": "y"}, candidates={"line": {"type": "ridge"}})


def features(**changes: Any) -> dict[str, Any]:
    return {"features": changes}


def test_include_and_exclude_choose_the_features(tmp_path: Path) -> None:
    _, _, layout = prepared(tmp_path, rows(), **features(include=("x", "c*"), exclude=("colour",)))
    assert [c.name for c in layout.features] == ["x"]
    told = json.loads((tmp_path / prepare.METRICS).read_text())["set_aside"]
    assert set(told) == {"colour", "flag"}


def test_what_derived_features_read_is_kept_though_excluded(tmp_path: Path) -> None:
    derive = {"twice": {"type": "expression", "expr": "2 * x"}}
    _, _, layout = prepared(tmp_path, rows(), **features(exclude=("x",), derive=derive))
    assert [c.name for c in layout.features] == ["x", "colour", "flag"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exclude": ("colors",)}, "features.exclude: 'colors' fits no column.*colour"),
        (
            {"derive": {"d": {"type": "expression", "expr": "X + x"}}},
            "features.derive.d: reads 'X', which is no column",
        ),
        ({"derive": {"d": {"type": "expression", "expr": "colour + 1"}}}, "reads 'colour' as numeric or .*categorical"),
        ({"derive": {"flag": {"type": "expression", "expr": "x"}}}, "features.derive.flag: is the name of a column"),
    ],
)
def test_features_that_do_not_fit_the_data_are_told(tmp_path: Path, changes: Any, says: str) -> None:
    with pytest.raises(DataCheckFailed) as told:
        prepared(tmp_path, rows(), **features(**changes))
    assert re.search(says, f"{told.value.where}: {told.value.what} {told.value.hint}")


def test_prepare_depends_on_features_only_where_they_choose_columns() -> None:
    assert not any(key.startswith("features") for key in prepare.declare(spec_of()).params)
    chosen = spec_of(**features(exclude=("x",)))
    assert "features" in prepare.declare(chosen).params


def test_times_and_texts_become_features_where_a_treatment_asks_for_them(tmp_path: Path) -> None:
    table = {
        **rows(),
        "at": [f"2024-{1 + i % 11:02}-01T0{i % 9}:00:00" for i in range(200)],
        "built": [f"20{i % 19:02}-03-04" for i in range(200)],
        "seen": [f"2024-01-{1 + i % 28:02}" for i in range(200)],
        "message": [f"text {i}, of its own" for i in range(200)],
        "code": [i % 49 for i in range(200)],
    }
    columns = {"at": {"role": "time"}, "built": {"dtype": "datetime"}, "seen": {"dtype": "datetime"}, "code": {}}
    chosen = {
        "columns": {"at": {"type": "date"}, "message": {"type": "text"}, "code": {"type": "text"}},
        "derive": {"age": {"type": "expression", "expr": "(at - built) / 86400"}},
    }
    columns["seen"] = {"role": "ignore"}
    train, _, layout = prepared(tmp_path, table, data=data(columns=columns), **features(**chosen))
    kinds = {c.name: c.kind for c in layout.features}
    assert {name: kinds[name] for name in ("at", "built", "message", "code")} == {
        "at": "datetime",
        "built": "datetime",
        "message": "text",
        "code": "text",
    }
    at = next(c for c in layout.features if c.name == "at")
    assert (at.minimum, at.categories) == (1704067200.0, ())
    assert train["code"].dtype == pl.String
    assert "text 1, of its own" not in (tmp_path / prepare.LAYOUT).read_text()


def test_times_are_no_features_of_themselves(tmp_path: Path) -> None:
    table = pl.DataFrame(rows()).with_columns(
        at=pl.Series(["2024-01-01", "2024-02-01", "2024-02-01", "2024-01-01"] * 50).str.to_date()
    )
    table.write_parquet(tmp_path / "rows.parquet")
    source = {"rows": {"type": "parquet", "path": "rows.parquet"}}
    _, _, layout = prepared(tmp_path, rows(), data=data(sources=source))
    assert "at" not in {c.name for c in layout.features}
    assert "features.columns.at: date" in json.loads((tmp_path / prepare.METRICS).read_text())["set_aside"]["at"]
    everything = features(defaults={"datetime": {"type": "date"}})
    _, _, layout = prepared(tmp_path, rows(), data=data(sources=source), **everything)
    assert "at" in {c.name for c in layout.features}
