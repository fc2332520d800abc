"""`specml predict` by a bundle: files as they come, and one message for each that can't be read."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import polars as pl
import pytest
from click.testing import CliRunner, Result

from specml.cli.predict import command, read_rows
from specml.errors import SpecmlError
from specml.serving.table import to_rows
from tests.bundles import binary_bundle, probability

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    binary_bundle(folder, category="02139")
    return folder


def predict(file: Path, bundle: Path, *more: str) -> Result:
    return CliRunner().invoke(command, [str(file), "--bundle", str(bundle), *more])


def test_a_category_in_a_csv_file_is_read_as_it_is_written(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("age,hours,member,workclass\n40,0,false,02139\n40,0,false,2139\n40,0,false,?\n")
    done = predict(file, bundle)
    assert done.exit_code == 0, done.output
    answered = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["workclass"] for row in answered] == ["02139", "2139", ""]
    row = {"age": 40, "hours": 0, "member": False, "workclass": "Private"}  # as the zip code weighs in this bundle
    assert float(answered[0]["probability_1"]) == pytest.approx(probability(row), rel=1e-5)
    assert float(answered[1]["probability_1"]) == pytest.approx(0.5, rel=1e-5)


def test_columns_that_the_file_lacks_are_told(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "people.jsonl"
    file.write_text(json.dumps({"id": 1, "age": 40, "member": True}) + "\n")
    done = predict(file, bundle)
    assert done.exit_code == 0, done.output
    assert "people.jsonl lacks hours, workclass: missing in every row." in done.stderr
    assert json.loads(done.stdout)["predicted"] == 1
    assert predict(file, bundle, "--quiet").stderr == ""


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.tsv", "rows.parquet"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"{", b'{"age": 1}\nxx\n', b"[1]\n", b"\xff\xfe\n", b"PAR1"])
def test_what_is_no_table_is_one_message(name: str, content: bytes, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    done = predict(tmp_path / name, bundle)
    assert isinstance(done.exception, SpecmlError), done.exception


def test_a_folder_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").mkdir()
    done = predict(tmp_path / "rows.csv", bundle)
    assert (done.exit_code, "is a directory" in done.output) == (2, True)


def test_columns_of_any_type_are_passed_through_or_told(bundle: Path, tmp_path: Path) -> None:
    table = pl.DataFrame({"age": [40], "member": [True], "raw": [b"\xff"], "list": [[1, 2]], "of": [{"a": b"1"}]})
    table.write_parquet(tmp_path / "rows.parquet")
    done = predict(tmp_path / "rows.parquet", bundle, "-o", str(tmp_path / "out.parquet"))
    assert done.exit_code == 0, done.output
    assert pl.read_parquet(tmp_path / "out.parquet").select(table.columns).equals(table)
    for out in ("out.csv", "out.jsonl"):
        done = predict(tmp_path / "rows.parquet", bundle, "-o", str(tmp_path / out))
        assert isinstance(done.exception, SpecmlError), done.exception
        assert "can't be written" in str(done.exception)
        assert not (tmp_path / out).exists()


def test_dates_are_passed_through_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("day;n\n25.11.2026;1,5\n")
    (tmp_path / "rows.jsonl").write_text('{"day": "2026-11-25", "n": 1.5}\n')
    assert read_rows(tmp_path / "rows.csv", None, frozenset())["day"].to_list() == ["25.11.2026"]
    assert read_rows(tmp_path / "rows.jsonl", None, frozenset())["day"].to_list() == ["2026-11-25"]
    taken = read_rows(tmp_path / "rows.csv", None, frozenset(), frozenset({"day"}))
    assert to_rows(taken, {"day": "datetime"}) == [{"day": "2026-11-25T00:00:00"}]
