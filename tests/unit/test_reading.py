"""Files as companies have them: every wart is read, and said, or refused by line and count."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.errors import DataCheckFailed, NotEnoughData, SpecmlError
from specml.reading import CsvText, format_of, read_csv, read_format, unpacked
from specml.reading import shape as shapes
from specml.reading.inference import numbers
from specml.reading.parquet import unpacked_size
from specml.sources.arrow import Arrow
from specml.sources.csv import Csv
from specml.sources.excel import Excel
from specml.sources.jsonl import Jsonl
from specml.sources.parquet import Parquet

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "Zaphod"
"""A value that no message may hold."""


def read(content: bytes | str, texts: frozenset[str] = frozenset(), **how: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
    """A table and what was inferred."""
    told: dict[str, Any] = {}
    raw = content.encode() if isinstance(content, str) else content
    return read_csv(unpacked(raw, "rows.csv"), CsvText(**how), "rows.csv", texts, told.__setitem__), told


ROWS = "name,n\nJürgen,1\nZoë,2\n"


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (ROWS.encode(), "utf-8"),
        (ROWS.encode("utf-8-sig"), "utf-8-sig"),
        (ROWS.encode("utf-16"), "utf-16"),
        (b"\xfe\xff" + ROWS.encode("utf-16-be"), "utf-16"),
        (ROWS.encode("utf-16-le"), "utf-16-le"),
        (ROWS.encode("utf-16-be"), "utf-16-be"),
        (ROWS.encode("latin-1"), "latin-1"),
        (ROWS.replace("Zoë", "Zo€").encode("windows-1252"), "windows-1252"),
        (gzip.compress(ROWS.encode("latin-1"), mtime=0), "latin-1"),
    ],
)
def test_encodings_are_found_out_and_said(raw: bytes, encoding: str) -> None:
    table, told = read(raw)
    assert table.columns == ["name", "n"]
    assert table["name"][0] == "Jürgen"
    assert table["n"].to_list() == [1, 2]
    assert told["encoding"] == encoding


def test_a_declared_encoding_is_taken() -> None:
    table, told = read("a,b\nЖ,1\n".encode("cp1251"), encoding="cp1251")
    assert table["a"].to_list() == ["Ж"]
    assert "encoding" not in told
    with pytest.raises(ValueError, match="must be an encoding"):
        CsvText(encoding="rot13")


@pytest.mark.parametrize(
    ("content", "separator"),
    [
        ("a;b\n1,5;x\n2,5;y\n", ";"),
        ("a\tb\n1,5\tx\n", "\t"),
        ("a|b\n1|2\n", "|"),
        ("a,b\n1;2,3\n4;5,6\n", ","),
        ("a\n1\n2\n", ","),
        ('"a;b",c\n1,2\n', ","),
    ],
)
def test_separators_are_found_out_and_said(content: str, separator: str) -> None:
    table, told = read(content)
    assert told["separator"] == separator
    assert table.width == (1 if content.startswith("a\n") else 2)


def test_decimal_commas_and_thousands_are_read_where_every_value_is_a_number() -> None:
    content = "price;part;flag;no\n1.234,50;1.234;true;1.234\n-12,5;0.5;false;2\n;7;true;3\n"
    table, _ = read(content, decimal=",", thousands=".")
    assert table["price"].to_list() == [1234.5, -12.5, None]
    assert table["part"].to_list() == ["1.234", "0.5", "7"]  # 0.5 is no number with these marks
    assert table["flag"].to_list() == [True, False, True]
    assert table["no"].to_list() == [1234, 2, 3]
    assert numbers(pl.Series(["1 000", "20", None]), ".", " ").to_list() == [1000, 20, None]  # type: ignore[union-attr]
    assert numbers(pl.Series(["1 00", "20"]), ".", " ") is None


def test_dashes_are_missing_among_numbers_only() -> None:
    table, told = read("n,strand,code\n1,-,-\n-,+,a\n2.5,-,-\n")
    assert [None if one is None else float(one) for one in table["n"]] == [1.0, None, 2.5]
    assert table["strand"].to_list() == ["-", "+", "-"]
    assert told["dashes among numbers, taken as missing"] == {"n": "1"}


def test_codes_are_kept_as_they_are_written() -> None:
    kept, _ = read("zip\n02139\n 00501\n", texts=frozenset({"zip"}))
    assert kept["zip"].to_list() == ["02139", " 00501"]
    marked, _ = read("zip;n\n02139;1,5\n00501;2\n", decimal=",")
    assert marked["zip"].to_list() == ["02139", "00501"]


@pytest.mark.parametrize(
    ("values", "form", "first"),
    [
        (["2026-11-25", "2026-01-02"], "iso", datetime(2026, 11, 25)),
        (["2026-11-25T10:30:00", "2026-01-02T00:00:00"], "iso", datetime(2026, 11, 25, 10, 30)),
        (["25.11.2026", "01.02.2026"], "%d.%m.%Y", datetime(2026, 11, 25)),
        (["01/02/2026", "25/11/2026"], "%d/%m/%Y", datetime(2026, 2, 1)),
        (["01/02/2026", "11/25/2026"], "%m/%d/%Y", datetime(2026, 1, 2)),
        (["25.11.2026 10:30", "01.02.2026 23:59"], "%d.%m.%Y %H:%M", datetime(2026, 11, 25, 10, 30)),
        (["05/05/2026", "06/06/2026"], "%d/%m/%Y", datetime(2026, 5, 5)),
    ],
)
def test_dates_are_found_out_and_said(values: list[str], form: str, first: datetime) -> None:
    table, told = read("day,n\n" + "".join(f"{value},1\n" for value in values) + ",2\n")
    assert told["dates"] == {"day": form}
    assert table["day"].dtype == pl.Datetime("us")
    assert table["day"].to_list()[0] == first
    assert table["day"].null_count() == 1


def test_dates_that_are_not_clear_stay_text_and_that_is_said() -> None:
    table, told = read("day,when\n03/04/2026,2026-01-02\n05/06/2026,03.04.2026\n")
    assert table["day"].dtype == table["when"].dtype == pl.String
    unclear = told["dates that are not clear, kept as text"]
    assert unclear == {"day": "%d/%m/%Y or %m/%d/%Y", "when": "more than one form"}
    declared, _ = read("day\n03/04/2026\n\n", dates={"day": "%m/%d/%Y"})
    assert declared["day"].to_list() == [datetime(2026, 3, 4), None]
    with pytest.raises(DataCheckFailed, match=r"1 of 3 values of 'day' are no dates of the form .*first in row 2"):
        read(f"day,n\n03/04/2026,1\n{SECRET},2\n,3\n", dates={"day": "%d/%m/%Y"})


REFUSED: dict[str, tuple[bytes, str]] = {
    "ragged": (b"a,b\n1,2\n1,2,3\n\n1\n", "2 of 3 rows have another number of values .*line 3, has 3"),
    "NUL": (b"a,b\n1,2\n3,\0\0\n", "2 NUL bytes, the first in line 3"),
    "invalid": ("a,b\nü,1\n".encode() + b"\xff\xfe,2\n", "2 bytes can't be read as utf-8, the first in line 3"),
    "open quotation": (b'a,b\n1,2\n1,"Zaphod\n3,4\n', "the quotation mark in line 3 lacks its twin"),
    "stray quotation": (b'a,b\n1,2\n5" Zaphod,3\n6" x,4\n', "open within a value, the first in line 3"),
    "twins": (b"y,x,y\n1,2,1\n", "more than one column called 'y'"),
    "huge": (b"a\n1\n" + b"9" * 45 + b"\n", "column 'a' can't be parsed"),
    "truncated gzip": (gzip.compress(random.Random(1).randbytes(999))[:-200], "truncated gzip"),
    "damaged gzip": (gzip.compress(b"a,b\n1,2\n")[:-8] + b"\0" * 8, "damaged gzip"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_damaged_is_refused_by_line_and_count(name: str) -> None:
    content, told = REFUSED[name]
    with pytest.raises(DataCheckFailed, match=told) as refused:
        read(content)
    assert SECRET not in str(refused.value)
    assert str(refused.value).startswith("rows.csv:")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_an_empty_file_is_not_enough(content: bytes) -> None:
    with pytest.raises(NotEnoughData, match="is empty"):
        read(content)


def test_line_ends_of_every_system_are_read() -> None:
    for end in ("\n", "\r\n", "\r"):
        table, _ = read(end.join(["a,b", "1,x", "2,y", ""]))
        assert table.rows() == [(1, "x"), (2, "y")]


def test_blank_lines_are_left_out_and_counted() -> None:
    table, told = read('a,b\r\n\r\n1,"x\r\n\r\ny"\r\n\r\n2,z\r\n\r\n')
    assert table.rows() == [(1, "x\r\n\r\ny"), (2, "z")]
    assert told["blank lines left out"] == 3


def test_quotations_hold_separators_line_ends_and_marks() -> None:
    table, _ = read('a,b\n"1,5","say ""hi""\nthere"\n"","x"\n')
    assert table.rows() == [("1,5", 'say "hi"\nthere'), (None, "x")]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.text(alphabet='ab,"\n\r é', max_size=6), min_size=3, max_size=3),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 40),
)
def test_what_a_writer_of_csv_writes_is_never_called_misshapen(rows: list[list[str]], chunk: int) -> None:
    import csv
    import io

    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([["x", "y", "z"], *rows])
    before, shapes.CHUNK = shapes.CHUNK, chunk
    try:
        shape = shapes.refuse_misshapen(out.getvalue().encode(), ",", "rows.csv")
    finally:
        shapes.CHUNK = before
    assert (shape.width, shape.records, shape.blank) == (3, len(rows), [])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(1, 30))
def test_ragged_rows_are_counted_whatever_the_chunks(widths: list[int], chunk: int) -> None:
    text = "a,b\n" + "".join(",".join(["1"] * width) + "\n" for width in widths)
    wrong = [number for number, width in enumerate(widths, 2) if width != 2]
    before, shapes.CHUNK = shapes.CHUNK, chunk
    try:
        shape = shapes._shape(shapes._chunks(text.encode()), ",")
    finally:
        shapes.CHUNK = before
    assert shape.ragged.count == len(wrong)
    assert shape.ragged.line == (wrong[0] if wrong else 0)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_table_or_one_clear_refusal(raw: bytes) -> None:
    try:
        told = read(b"a,b\n" + raw)[0].columns
    except SpecmlError as refused:
        told = str(refused).partition("\n")[0]
    assert told in (["a", "b"], "rows.csv:")


def test_a_column_of_large_numbers_or_many_columns_is_read() -> None:
    table, _ = read("a\n9223372036854775808\n1\n")
    assert table["a"].to_list() == [2**63, 1]
    wide, _ = read(",".join(f"c{i}" for i in range(10_000)) + "\n" + ",".join(["1"] * 10_000) + "\n")
    assert wide.width == 10_000


def test_names_are_kept_as_they_are_written() -> None:
    table, _ = read('"the name","a.b",_x,größe,select\n1,2,3,4,5\n')
    assert table.columns == ["the name", "a.b", "_x", "größe", "select"]


TABLE = pl.DataFrame({"n": [1, 2, None], "s": ["x", None, "ü"], "t": [datetime(2026, 1, 2)] * 3})


def test_typed_files_keep_their_types(tmp_path: Path) -> None:
    TABLE.write_parquet(tmp_path / "rows.parquet")
    TABLE.write_ipc(tmp_path / "rows.arrow")
    TABLE.write_ipc_stream(tmp_path / "stream.arrow")
    assert Parquet(path="rows.parquet").read(tmp_path).equals(TABLE)
    assert Arrow(path="rows.arrow").read(tmp_path).equals(TABLE)
    assert Arrow(path="stream.arrow").read(tmp_path).equals(TABLE)


@pytest.mark.parametrize(
    "source", [Parquet(path="f"), Arrow(path="f"), Jsonl(path="f"), Csv(path="f"), Excel(path="f")]
)
def test_what_is_missing_empty_or_something_else_is_said(source: Any, tmp_path: Path) -> None:
    with pytest.raises(DataCheckFailed, match="no such file"):
        source.read(tmp_path)
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(NotEnoughData, match="is empty"):
        source.read(tmp_path)
    whole = tmp_path / "whole"
    TABLE.write_parquet(whole)
    (tmp_path / "f").write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(DataCheckFailed, match="f:\n    "):
        source.read(tmp_path)
    (tmp_path / "f").unlink()
    (tmp_path / "f").mkdir()
    with pytest.raises(DataCheckFailed, match="is a folder"):
        source.read(tmp_path)


def test_json_lines(tmp_path: Path) -> None:
    lines = '{"a": 1, "b": {"c": "x", "d": 2.5}}\n\n{"a": 2.5, "zip": "02139", "day": "2026-01-02"}\n'
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    told: dict[str, Any] = {}
    table = Jsonl(path="rows.jsonl.gz").read(tmp_path, frozenset(), told.__setitem__)
    assert table.columns == ["a", "b.c", "b.d", "zip", "day"]
    assert table["a"].to_list() == [1.0, 2.5]
    assert told == {"dates": {"day": "iso"}}
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n[2]\n{"a": Zaphod}\n')
    with pytest.raises(DataCheckFailed, match="2 of 3 lines hold no JSON object; the first is line 2") as refused:
        Jsonl(path="bad.jsonl").read(tmp_path)
    assert SECRET not in str(refused.value)
    (tmp_path / "mixed.jsonl").write_text('{"a": 1}\n{"a": "Zaphod"}\n{"a": 3}\n')
    with pytest.raises(DataCheckFailed, match="column 'a' holds values of several types: 2 int, 1 str"):
        Jsonl(path="mixed.jsonl").read(tmp_path)
    assert Jsonl(path="mixed.jsonl").read(tmp_path, frozenset({"a"}))["a"].to_list() == ["1", SECRET, "3"]


def test_workbooks(tmp_path: Path) -> None:
    import xlsxwriter

    with xlsxwriter.Workbook(tmp_path / "rows.xlsx") as book:
        day = book.add_format({"num_format": "yyyy-mm-dd"})
        first, second = book.add_worksheet("people"), book.add_worksheet("twins")
        first.write_row(0, 0, ["name", "n", "day", "zip"])
        for row, (name, n, zip_code) in enumerate([("Zoë", 1, 2139), (" ", 2.5, 501), ("Jo", None, 7)], 1):
            first.write_row(row, 0, [name, n])
            first.write_datetime(row, 2, datetime(2026, 1, row), day)
            first.write(row, 3, zip_code)
        first.write_formula(2, 1, "=1/0", None, "#DIV/0!")
        second.write_row(0, 0, ["y", "x", "y"])
        second.write_row(1, 0, [1, 2, 3])
    told: dict[str, Any] = {}
    table = Excel(path="rows.xlsx").read(tmp_path, frozenset({"zip"}), told.__setitem__)
    assert told == {"sheet": "people"}
    assert table["n"].to_list() == [1.0, None, None]
    assert table["name"].to_list() == ["Zoë", None, "Jo"]
    assert table["day"].to_list() == [datetime(2026, 1, d) for d in (1, 2, 3)]
    assert table["zip"].to_list() == ["2139", "501", "7"]
    with pytest.raises(DataCheckFailed, match="more than one column called 'y'"):
        Excel(path="rows.xlsx", sheet="twins").read(tmp_path)
    with pytest.raises(DataCheckFailed, match="It has: people, twins"):
        Excel(path="rows.xlsx", sheet="none").read(tmp_path)


def test_formats_are_told_by_their_bytes_before_their_names() -> None:
    assert format_of(b"PAR1....", "rows.csv") == "parquet"
    assert format_of(b"ARROW1\0\0") == "arrow"
    assert format_of(b"a,b", "rows.csv.gz") == "csv"
    assert format_of(b"{}", media="application/json; charset=utf-8") == "json"
    assert format_of(b"{}", "rows.jsonl.gz") == "jsonl"
    assert format_of(b' [{"a": 1}]') == "json"


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("%d/%m/%Y %I:%M %p", "25/12/2026 03:07 PM"),
        ("%d/%m/%Y %R", "25/12/2026 15:07"),
        ("%d/%m/%Y %T", "25/12/2026 15:07:00"),
        ("%c", "Fri Dec 25 15:07:00 2026"),
        ("%d/%m/%Y %-H:%M", "25/12/2026 15:07"),
    ],
)
def test_a_declared_clock_is_read_however_it_is_written(form: str, text: str) -> None:
    table, _ = read(f"at,n\n{text},1\n", dates={"at": form})
    assert table["at"][0] == datetime(2026, 12, 25, 15, 7)


@pytest.mark.parametrize("form", ["%d/%m/%Y %I %p", "%d/%m/%Y %H", "%H:%M", "%d/%m", "%d/%m/%Y %", "%J", "", "date"])
def test_a_format_that_is_none_of_whole_dates_is_refused_in_the_spec(form: str) -> None:
    with pytest.raises(ValueError, match="must be a format of whole dates"):
        CsvText(dates={"at": form})


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%Y-%m-%dT%H:%M:%S%z", "%d %b %Y", "%D", "%s", "%d.%m.%Y %H:%M:%S%.f"])
def test_formats_of_whole_dates_are_taken(form: str) -> None:
    CsvText(dates={"at": form})


def test_a_column_without_a_name_gets_none() -> None:
    table, _ = read(",n\n1,2\n")
    assert table.columns == ["", "n"]
    table, told = read("a,, ,n\n1,2,3,4\n")
    assert table.columns == ["a", "n"]
    assert table.row(0) == (1, 4)
    assert told["columns without a name left out"] == 2


def test_workbooks_with_columns_without_a_name(tmp_path: Path) -> None:
    import xlsxwriter

    for name, header in (("one", ["a", None, "b"]), ("two", ["a", None, "b", None])):
        with xlsxwriter.Workbook(tmp_path / f"{name}.xlsx") as book:
            sheet = book.add_worksheet()
            sheet.write_row(0, 0, header)
            sheet.write_row(1, 0, [1, 2, 3, 4][: len(header)])
    told: dict[str, Any] = {}
    read = [Excel(path=f"{name}.xlsx").read(tmp_path, tell=told.__setitem__).columns for name in ("one", "two")]
    assert read == [["a", "", "b"], ["a", "b"]]
    assert told["columns without a name left out"] == 2


def test_an_open_quotation_in_a_long_header_is_refused() -> None:
    with pytest.raises(DataCheckFailed, match="lacks its twin"):
        read('a,"b\n' + "1,2\n" * 50_000)
    with pytest.raises(DataCheckFailed, match="a name of more than"):
        read(f'a,"{"b" * 140_000}"\n1,2\n')


def test_categories_of_records_are_called_as_everywhere(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"k": 1.0}\n{"k": 2.5}\n{"k": true}\n{"k": "x"}\n{"k": NaN}\n{"k": 3}\n')
    table = Jsonl(path="rows.jsonl").read(tmp_path, frozenset({"k"}))
    assert table["k"].to_list() == ["1", "2.5", "true", "x", None, "3"]


def test_what_parquet_and_arrow_unpack_to_is_bounded() -> None:
    table = pl.DataFrame({"a": pl.repeat(0, 1_000_000, eager=True), "b": ["x" * 50] * 1_000_000})
    parquet, arrow = io.BytesIO(), io.BytesIO()
    table.write_parquet(parquet)
    table.write_ipc(arrow, compression="zstd")
    for form, content in (("parquet", parquet.getvalue()), ("arrow", arrow.getvalue())):
        asked = partial(read_format, content, form, CsvText(), where="x", texts=frozenset(), tell=lambda *_: None)
        with pytest.raises(DataCheckFailed, match="unpacks to more than 1,000,000 bytes"):
            asked(limit=1_000_000)
        assert asked(limit=1 << 30).equals(table)
    with pytest.raises(DataCheckFailed, match="its end is damaged"):
        unpacked_size(b"PAR1" + b"\xff" * 40, "x")


@given(st.binary(max_size=60))
def test_any_end_of_parquet_is_a_size_or_one_clear_refusal(footer: bytes) -> None:
    with contextlib.suppress(DataCheckFailed):
        assert unpacked_size(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1", "x") >= 0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"a": "\\ud800"}', "holds values that no table can"),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", "1 of 2 lines hold no JSON object; the first is line 2"),
        ('{"a": ' + "[" * 60 + "]" * 60 + "}", "1 of 2 records are nested deeper"),
        ('{"a": ' * 60 + "1" + "}" * 60, "1 of 2 records are nested deeper"),
        ('{"y": 0, "y": 1}', "1 of 2 lines hold no JSON object; the first is line 2"),
        ('{"a.b": 1, "a": {"b": 2}}', "1 of 2 records hold a key with a dot"),
    ],
)
def test_json_of_which_something_would_be_lost_is_refused(line: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"z": 1}}\n{line}\n')
    with pytest.raises(DataCheckFailed, match=told):
        Jsonl(path="rows.jsonl").read(tmp_path)


@pytest.mark.parametrize("name", ["idna", "undefined", "punycode", "unicode_escape", "rot13", "nothing"])
def test_an_encoding_in_which_no_file_is_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be an encoding"):
        CsvText(encoding=name)
