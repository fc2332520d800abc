"""Columns that tell about people: what is dropped, hashed or kept for gates only, and what contradicts that."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from specml.cli import stage
from specml.compile import compile_plan
from specml.errors import DataCheckFailed, SpecmlError
from specml.load import load
from specml.stages import ingest, prepare
from specml.stages.work import Work, narrowed
from tests.conftest import EXAMPLES, spec_of, tree

if TYPE_CHECKING:
    from pathlib import Path

KEY = "0123456789abcdef0123456789abcdef"
HASHED = {"hash_key": "${secret:ROWS_KEY}"}


def table(n: int = 200) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "person": [f"{i % 50:05}" for i in range(n)],
            "name": [f"name-{i}" for i in range(n)],
            "sex": [["f", "m"][i % 2] for i in range(n)],
            "note": [f"note-{i}" for i in range(n)],
            "x": [float(i % 17) for i in range(n)],
            "y": [i // 3 % 2 for i in range(n)],
        }
    )


def data(columns: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**tree()["data"], "columns": columns, **changes}


def run(folder: Path, rows: pl.DataFrame, **changes: Any) -> list[str]:
    """Ingest and prepare; what they said."""
    rows.write_csv(folder / "rows.csv")
    said: list[str] = []
    spec = spec_of(**changes)
    for module, key in ((ingest, "rows"), (prepare, "")):
        stage = module.declare(spec)  # type: ignore[attr-defined]
        work = Work(stage, folder, narrowed(spec, stage, key), lambda text, **_: said.append(text), key)
        module.work(work)  # type: ignore[attr-defined]
    return said


def ingested(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "artifacts/ingest/rows.parquet")


def told(folder: Path) -> Any:
    return json.loads((folder / "artifacts/ingest/rows.json").read_bytes())


def test_what_is_dropped_is_never_written(tmp_path: Path) -> None:
    said = run(tmp_path, table(), data=data({"name": {"personal": "identifier", "action": "drop"}}))
    assert ingested(tmp_path).columns == ["person", "sex", "note", "x", "y"]
    assert told(tmp_path)["dropped"] == {"action: drop": ["name"], "ignored": [], "undeclared": []}
    assert "200 rows × 5 columns; forgotten: name (action: drop)" in said


def test_a_source_is_kept_as_it_is_unless_the_spec_says_otherwise(tmp_path: Path) -> None:
    run(tmp_path, table(), data=data({"name": {"role": "ignore"}}))
    assert ingested(tmp_path).columns == table().columns
    told = json.loads((tmp_path / "artifacts/ingest/rows.json").read_bytes())
    assert (told["hashed"], told["dropped"]) == ([], {"action: drop": [], "ignored": [], "undeclared": []})


def test_with_undeclared_drop_only_what_the_spec_names_is_written(tmp_path: Path) -> None:
    columns = {"name": {"role": "ignore"}, "x": {"dtype": "float"}, "sex": {"role": "protected"}}
    run(tmp_path, table(), data=data(columns, undeclared="drop"))
    assert ingested(tmp_path).columns == ["sex", "x", "y"]
    assert told(tmp_path)["dropped"] == {"action: drop": [], "ignored": ["name"], "undeclared": ["person", "note"]}


@pytest.mark.parametrize("name", ["persn", "y"])
def test_a_column_that_is_not_there_is_told_before_anything_is_dropped(name: str, tmp_path: Path) -> None:
    rows = table().rename({"y": "why"}) if name == "y" else table()
    columns = {} if name == "y" else {name: {"role": "id"}}
    with pytest.raises(DataCheckFailed, match=f"no column '{name}'") as error:
        run(tmp_path, rows, data=data(columns, undeclared="drop"))
    assert error.value.hint == ("Did you mean 'person'?" if name == "persn" else error.value.hint)


def test_an_id_is_hashed_under_the_key_and_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWS_KEY", KEY)
    rows = table().with_columns(person=pl.when(pl.col("x") > 0).then(pl.col("person")))
    run(tmp_path, rows, data=data({"person": {"role": "id", "action": "hash"}}), compliance=HASHED)
    found = ingested(tmp_path)["person"].to_list()
    wanted = [
        None if one is None else hmac.new(KEY.encode(), one.encode(), hashlib.sha256).hexdigest()
        for one in rows["person"]
    ]
    assert found == wanted
    assert told(tmp_path)["hashed"] == ["person"]


def test_a_number_and_its_text_have_the_same_hash() -> None:
    numbers, texts = pl.Series("id", [7, None, 12]), pl.Series("other", ["7", None, "12"])
    assert ingest.pseudonyms(numbers, b"k").to_list() == ingest.pseudonyms(texts, b"k").to_list()
    assert ingest.pseudonyms(numbers, b"k").to_list() != ingest.pseudonyms(numbers, b"l").to_list()


def test_what_has_no_text_is_refused_without_its_values() -> None:
    with pytest.raises(DataCheckFailed) as error:
        ingest.pseudonyms(pl.Series("id", [{"secret": "CANARY"}]), b"k")
    assert "CANARY" not in str(error.value)


@pytest.mark.parametrize(("value", "what"), [(None, "is not set"), ("short", "holds fewer than 32 characters")])
def test_without_a_key_nothing_is_written(
    value: str | None, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROWS_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("ROWS_KEY", value)
    with pytest.raises(SpecmlError, match=f"ROWS_KEY {what}"):
        run(tmp_path, table(), data=data({"person": {"role": "id", "action": "hash"}}), compliance=HASHED)
    assert not [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]


def test_the_key_is_no_business_of_other_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load(EXAMPLES / "loans").spec
    holding = []
    for one in compile_plan(spec).stages:
        for key in one.keys or ("",):
            monkeypatch.setenv("LOANS_KEY", "k" * 32)
            stage._hide(spec, one, key)
            if "LOANS_KEY" in os.environ:
                holding.append(one.name)
    assert holding == ["ingest"]


def test_audit_only_columns_stand_beside_the_held_out_rows_only(tmp_path: Path) -> None:
    columns = {"sex": {"role": "protected", "use": "audit_only"}, "x": {"dtype": "float"}}
    run(tmp_path, table(), data=data(columns, undeclared="drop"))
    assert pl.read_parquet(tmp_path / prepare.TRAIN).columns == ["x", "y"]
    assert pl.read_parquet(tmp_path / prepare.TEST).columns == ["x", "sex", "y"]


def test_a_quotation_mark_without_a_twin_is_told_without_what_follows_it(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('x,note,y\n1,fine,0\n2,"CANARY of a person,1\n')
    spec = spec_of()
    stage = ingest.declare(spec)
    with pytest.raises(DataCheckFailed, match="the quotation mark in line 3 lacks its twin") as error:
        ingest.work(Work(stage, tmp_path, narrowed(spec, stage, "rows"), lambda *_, **__: None, "rows"))
    assert "CANARY" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "key", "what"),
    [
        ({"a": {"personal": "identifier"}}, "data.columns.a.personal", "names a person"),
        ({"a": {"personal": "identifier", "role": "protected"}}, "data.columns.a.personal", "role is protected"),
        ({"a": {"use": "audit_only"}}, "data.columns.a.use", "role is feature: only gates may see it"),
        ({"y": {"action": "drop"}}, "data.columns.y.action", "the column is the target"),
        ({"y": {"action": "hash"}}, "data.columns.y.action", "the column is the target"),
        ({"a": {"action": "drop", "role": "protected"}}, "data.columns.a.action", "needs its values"),
        ({"a": {"action": "drop", "dtype": "int"}}, "data.columns.a.dtype", "has no effect: the column is dropped"),
        ({"a": {"action": "drop", "use": "audit_only"}}, "data.columns.a.use", "has no effect"),
        ({"a": {"action": "hash"}}, "data.columns.a.action", "role is feature"),
        ({"a": {"action": "hash", "role": "id"}}, "data.columns.a.action", "there is no key"),
    ],
)
def test_contradictions(columns: dict[str, Any], key: str, what: str) -> None:
    found = {".".join(map(str, one.key)): one.what for one in spec_of(data=data(columns)).contradictions()}
    assert what in found[key]


def test_a_key_for_nothing_is_told() -> None:
    found = list(spec_of(compliance=HASHED).contradictions())
    assert [one.key for one in found] == [("compliance", "hash_key")]
