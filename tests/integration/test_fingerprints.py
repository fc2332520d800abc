"""Sources that are no files: each run asks them, and reads only what came since."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from ruamel.yaml import YAML

from specml.compile import compile_plan
from specml.compile.dvc import dvc_yaml
from specml.errors import DataCheckFailed
from specml.sources.csv import Csv
from specml.sources.sql import Sql
from specml.stages import STAGES
from specml.stages.work import Work, narrowed
from tests.conftest import spec_of, specml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.spec import Spec


def fill(folder: Path, *ids: int) -> None:
    with contextlib.closing(sqlite3.connect(folder / "rows.db")) as base, base:
        base.execute("create table if not exists rows (id integer, person text, x real, y integer)")
        base.executemany("insert into rows values (?, ?, ?, ?)", [(i, f"p{i % 7}", i % 13 / 3, i % 2) for i in ids])


def small(query: str = "select * from rows", **data: Any) -> Spec:
    source = {"type": "sql", "connection": "sqlite:///rows.db", "query": query, "cursor": "id"}
    return spec_of(data={"sources": {"rows": source}, **data})


def ingest(folder: Path, spec: Spec) -> tuple[pl.DataFrame, str]:
    """The rows as ingest writes them, and what it says."""
    said: list[str] = []
    for name in ("fingerprint", "ingest"):
        stage = next(stage for stage in compile_plan(spec).stages if stage.name == name)
        STAGES[name].work(
            Work(stage, folder, narrowed(spec, stage, "rows"), lambda text, **_: said.append(text), "rows")
        )
    return pl.read_parquet(folder / "artifacts/ingest/rows.parquet"), said[-1]


def fingerprinted(folder: Path) -> list[str]:
    """What the stage ``fingerprint`` says."""
    said: list[str] = []
    spec = small()
    stage = next(stage for stage in compile_plan(spec).stages if stage.name == "fingerprint")
    STAGES["fingerprint"].work(
        Work(stage, folder, narrowed(spec, stage, "rows"), lambda text, **_: said.append(text), "rows")
    )
    return said


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """How the source was read, each time."""
    calls: list[str] = []
    whole, on = Sql.read, Sql.read_on
    monkeypatch.setattr(Sql, "read", lambda *a, **k: (calls.append("whole"), whole(*a, **k))[1])
    monkeypatch.setattr(Sql, "read_on", lambda *a, **k: (calls.append("on"), on(*a, **k))[1])
    return calls


def test_only_what_came_since_is_read(tmp_path: Path, asked: list[str]) -> None:
    fill(tmp_path, *range(50))
    first, said = ingest(tmp_path, small())
    assert (first.height, asked, said) == (50, ["whole"], "50 rows × 4 columns")
    assert fingerprinted(tmp_path) == ["rows 50"]  # and no value of the cursor
    fill(tmp_path, *range(50, 60))
    second, said = ingest(tmp_path, small())
    assert (asked, said) == (["whole", "on"], "60 rows × 4 columns, of which 50 were known")
    (tmp_path / "artifacts/ingest/rows.json").unlink()
    assert ingest(tmp_path, small())[0].equals(second)
    assert asked[-1] == "whole"


@pytest.mark.parametrize("change", ["removed", "late", "query", "columns", "altered", "none left"])
def test_all_is_read_again_where_the_known_rows_may_be_others(tmp_path: Path, asked: list[str], change: str) -> None:
    fill(tmp_path, *range(0, 50, 2))
    ingest(tmp_path, small())
    fill(tmp_path, 60, 61)
    after = small()
    if change == "removed":
        with contextlib.closing(sqlite3.connect(tmp_path / "rows.db")) as base, base:
            base.execute("delete from rows where id = 4")
    elif change == "late":
        fill(tmp_path, 7)
    elif change == "query":
        after = small("select id, x, y from rows")
    elif change == "columns":
        after = small(columns={"x": {"dtype": "float"}})
    elif change == "altered":
        known = tmp_path / "artifacts/ingest/rows.parquet"
        pl.read_parquet(known).with_columns(x=0.0).write_parquet(known)
    else:
        (tmp_path / "artifacts/ingest/rows.parquet").unlink()
    found, _ = ingest(tmp_path, after)
    assert asked[-1] == "whole"
    for file in (tmp_path / "artifacts/ingest").iterdir():
        file.unlink()
    assert ingest(tmp_path, after)[0].equals(found)


@pytest.mark.parametrize(
    ("known", "later", "read"),
    [
        (["25/12/2026"], "12/26/2026", "whole"),  # the month first
        (["25/12/2026", "01/02/2026"], "03/04/2026", "whole"),  # alone, they are unclear
        (["25/12/2026"], "26/12/2026", "on"),
        (["25/12/2026"], None, "on"),
    ],
)
def test_dates_of_later_rows_are_read_as_those_of_known_ones(
    tmp_path: Path, asked: list[str], known: list[str], later: str | None, read: str
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "rows.db")) as base, base:
        base.execute("create table rows (id integer, day text, x real, y integer)")
        base.executemany("insert into rows values (?, ?, 1, 1)", enumerate(known))
    ingest(tmp_path, small())
    with contextlib.closing(sqlite3.connect(tmp_path / "rows.db")) as base, base:
        base.execute("insert into rows values (9, ?, 1, 1)", [later])
    found, _ = ingest(tmp_path, small())
    facts = (tmp_path / "artifacts/ingest/rows.json").read_text()
    assert asked[-1] == read
    for file in (tmp_path / "artifacts/ingest").iterdir():
        file.unlink()
    assert ingest(tmp_path, small())[0].equals(found)
    assert (tmp_path / "artifacts/ingest/rows.json").read_text() == facts


def test_what_is_hashed_or_dropped_is_so_in_later_rows(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROWS_KEY", "0123456789abcdef0123456789abcdef")
    hashed = {"person": {"role": "id", "action": "hash"}, "x": {"action": "drop"}}
    spec = small(columns=hashed).model_copy()
    spec = type(spec).model_validate({**spec.model_dump(mode="json"), "compliance": {"hash_key": "${secret:ROWS_KEY}"}})
    fill(tmp_path, *range(30))
    ingest(tmp_path, spec)
    fill(tmp_path, *range(30, 40))
    table, _ = ingest(tmp_path, spec)
    assert asked == ["whole", "on"]
    assert table.columns == ["id", "person", "y"]
    assert table["person"].str.len_chars().unique().to_list() == [64]
    assert table["person"].n_unique() == 7


def test_a_file_that_is_changed_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("x,y\n" + "1,0\n2,1\n" * 50)
    whole = Csv.batches

    def slowly(self: Csv, *rest: Any) -> Iterator[pl.DataFrame]:
        yield from whole(self, *rest)
        with rows.open("a") as file:
            file.write("3,1\n")

    spec = spec_of()
    stage = next(stage for stage in compile_plan(spec).stages if stage.name == "ingest")
    work = Work(stage, tmp_path, narrowed(spec, stage, "rows"), lambda *_, **__: None, "rows")
    monkeypatch.setattr(Csv, "batches", slowly)
    with pytest.raises(DataCheckFailed, match="was changed while it was read"):
        STAGES["ingest"].work(work)
    assert not [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]


def test_only_a_spec_with_a_remote_source_asks() -> None:
    plan = compile_plan(spec_of())
    assert "fingerprint" not in {stage.name for stage in plan.stages}
    assert "always_changed" not in dvc_yaml(plan, "")


def test_each_source_waits_for_its_own_file() -> None:
    two = {
        "rows": {"type": "csv", "path": "rows.csv"},
        "base": {"type": "sql", "connection": "sqlite:///rows.db", "query": "select id, x from rows"},
    }
    spec = spec_of(data={"sources": two, "joins": [{"right": "base", "keys": ["id"]}]})
    stages = YAML(typ="safe").load(dvc_yaml(compile_plan(spec), ""))["stages"]
    assert stages["fingerprint"]["foreach"] == {"base": "sql"}
    assert stages["fingerprint"]["do"]["always_changed"] is True
    assert stages["ingest"]["foreach"] == {"rows": "rows.csv", "base": "artifacts/fingerprint/base.json"}
    assert stages["ingest"]["do"]["deps"] == ["artifacts/guard.txt", "${item}"]


@pytest.mark.slow
@pytest.mark.sweep
def test_a_run_asks_first_and_does_nothing_where_nothing_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, *range(300))
    (tmp_path / "more.csv").write_text("id,z\n" + "".join(f"{i},{i % 5}\n" for i in range(900)))
    base = tmp_path / "canary-of-a-password"  # stands in the database's URL, and nowhere else
    base.symlink_to(tmp_path / "rows.db")
    monkeypatch.setenv("ROWS_URL", f"sqlite+pysqlite:///{base}")
    spec = {
        "name": "asked",
        "problem": {"task": "binary", "target": "y"},
        "data": {
            "sources": {
                "rows": {
                    "type": "sql",
                    "connection": "${secret:ROWS_URL}",
                    "query": "select * from rows",
                    "cursor": "id",
                },
                "more": {"type": "csv", "path": "more.csv"},
            },
            "joins": [{"right": "more", "keys": ["id"]}],
        },
        "candidates": {"line": {"type": "logistic_regression"}},
    }
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    run = ("run", "--until", "prepare")
    first = specml(*run, folder=tmp_path).stderr
    assert "300 rows × 4 columns" in first
    told = specml(*run, folder=tmp_path)
    assert "asked rows: the rows are as they were" in told.stderr + told.stdout
    assert "nothing to do: every stage is up to date" in told.stderr + told.stdout
    planned = specml("plan", folder=tmp_path).stdout
    assert "asked at each run" in planned
    assert "may follow artifacts/fingerprint" not in planned
    before = (tmp_path / "artifacts/ingest/more.parquet").stat().st_mtime_ns
    fill(tmp_path, 300, 301)
    told = specml(*run, folder=tmp_path)
    assert "302 rows × 4 columns, of which 300 were known" in told.stderr
    assert (tmp_path / "artifacts/ingest/more.parquet").stat().st_mtime_ns == before
    fill(tmp_path, 302)
    programs = Path(sys.executable).parent
    path = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    for expected in ("Running stage 'prepare'", "Stage 'prepare' didn't change"):
        dvc = [programs / "dvc", "repro", "prepare"]
        done = subprocess.run(dvc, cwd=tmp_path, env=path, capture_output=True, text=True, check=True)
        assert expected in done.stdout + done.stderr
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and b"canary-of" in path.read_bytes()]
    assert holding == []
