"""Parquet, JSON lines, Arrow and workbooks."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from specml.batches import parted
from specml.data import category
from specml.errors import DataCheckFailed, NotEnoughData, first_line
from specml.reading.csv import CsvText, read_csv, without_unnamed
from specml.reading.inference import with_dates
from specml.reading.parquet import unpacked_size
from specml.reading.text import utf8

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from specml.kinds import Tell

Format = Literal["csv", "parquet", "jsonl", "json", "arrow"]

TWICE = "An object that says a key twice, or that is nested too deep, is none."
DEEPEST = 50
"""Lists and objects within each other."""
PARQUET = b"PAR1"
ARROW = b"ARROW1"


def format_of(content: bytes, name: str = "", media: str = "") -> Format:
    """The format of some bytes: by what they begin with, else by their media type, else by their name's end."""
    if content.startswith(PARQUET):
        return "parquet"
    if content.startswith(ARROW):
        return "arrow"
    ends = name.lower().removesuffix(".gz")
    if ends.endswith((".jsonl", ".ndjson")) or "ndjson" in media or "jsonl" in media or "json-lines" in media:
        return "jsonl"
    if "json" in media or ends.endswith(".json") or (not media and content.lstrip()[:1] in (b"[", b"{")):
        return "json"
    return "csv"


def read_format(
    content: bytes,
    form: Format,
    how: CsvText,
    *,
    where: str,
    texts: frozenset[str],
    tell: Tell,
    limit: int | None = None,
) -> pl.DataFrame:
    """The table in bytes of a format, unpacked; ``json``: a list of records (see ``of_records``).

    ``limit``: most bytes that the columns of Parquet, which are packed each by itself, may unpack to; of Arrow, most
    bytes of the table.

    Raises:
        DataCheckFailed: they are more, or it is not of that format.
    """
    if form == "csv":
        return read_csv(content, how, where, texts, tell)
    if form == "parquet":
        size = 0 if limit is None else unpacked_size(content, where)
        _refuse_large(size, limit, where)
        return read_parquet(content, where)
    if form == "arrow":
        table = read_arrow(content, where)
        _refuse_large(round(table.estimated_size()), limit, where)
        return table
    if form == "jsonl":
        return read_jsonl(content, where, texts, tell)
    return of_records(parse_json(content, where), where, texts, tell)


def _refuse_large(size: int, limit: int | None, where: str) -> None:
    if limit is not None and size > limit:
        raise DataCheckFailed(f"unpacks to more than {limit:,} bytes.", hint="Raise max_bytes.", where=where)


def read_parquet(content: bytes | Path, where: str) -> pl.DataFrame:
    """A Parquet file in its own types.

    Raises:
        DataCheckFailed: there is no such file, or it is damaged.
    """
    import polars as pl

    source = io.BytesIO(content) if isinstance(content, bytes) else _there(content, where)
    try:
        return pl.read_parquet(source, glob=False) if isinstance(source, Path) else pl.read_parquet(source)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _refused("Parquet", error, where) from None


def parquet_batches(path: Path, where: str) -> Iterator[pl.DataFrame]:
    """A Parquet file in its own types, a part of its rows after another where there are many.

    Raises:
        DataCheckFailed: there is no such file, or it is damaged.
    """
    import polars as pl

    try:
        parts = parted(_there(path, where))
        if len(parts) == 1:
            yield read_parquet(path, where)
            return
        for part in parts:
            yield part.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _refused("Parquet", error, where) from None


def read_arrow(content: bytes | Path, where: str) -> pl.DataFrame:
    """An Arrow IPC file (also called Feather) or stream, in its own types.

    Raises:
        DataCheckFailed: there is no such file, or it is damaged.
    """
    import polars as pl

    raw = content if isinstance(content, bytes) else _there(content, where).read_bytes()
    try:
        return pl.read_ipc(io.BytesIO(raw)) if raw.startswith(ARROW) else pl.read_ipc_stream(io.BytesIO(raw))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _refused("Arrow", error, where) from None


def read_jsonl(content: bytes, where: str, texts: frozenset[str], tell: Tell) -> pl.DataFrame:
    """JSON lines: a record a line; a key that a record lacks is missing there.

    Raises:
        DataCheckFailed: a line is no JSON object; the first is told.
        NotEnoughData: it is empty.
    """
    raw = utf8(content, None, where, lambda *_: None)
    records, bad = [], []
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json_value(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            bad.append(number)
        records.append(record)
    if bad:
        what = f"{len(bad):,} of {len(records):,} lines hold no JSON object; the first is line {bad[0]:,}."
        raise DataCheckFailed(what, hint=TWICE, where=where)
    return of_records(records, where, texts, tell)


def of_records(records: object, where: str, texts: frozenset[str], tell: Tell) -> pl.DataFrame:
    """JSON objects as a table: keys of objects within them are joined by a dot, dates found as in CSV.

    Raises:
        DataCheckFailed: ``records`` is no list of objects, or a key holds both numbers and texts.
        NotEnoughData: there are none.
    """
    if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
        kind = type(records).__name__
        what = (
            f"holds {kind}, not a list of objects."
            if not isinstance(records, list)
            else "holds other things than objects."
        )
        raise DataCheckFailed(what, where=where)
    if not records:
        raise NotEnoughData("has no rows.", where=where)
    if deep := sum(_too_deep(one) for one in records):
        raise DataCheckFailed(f"{deep:,} of {len(records):,} records are nested deeper than {DEEPEST}.", where=where)
    pairs = [_flat(one) for one in records]
    flat = [dict(one) for one in pairs]
    if lost := sum(len(one) < len(told) for one, told in zip(flat, pairs, strict=True)):
        what = f"{lost:,} of {len(records):,} records hold a key with a dot that an object within them gives, too."
        raise DataCheckFailed(what, where=where)
    names = list(dict.fromkeys(name for one in flat for name in one))
    columns = [_column(name, [one.get(name) for one in flat], name in texts, where) for name in names]
    return with_dates(_table(columns), {}, texts, tell)


def of_rows(names: list[str], rows: list[tuple[Any, ...]], texts: frozenset[str], where: str) -> pl.DataFrame:
    """Tuples of Python's values as a table.

    Raises:
        DataCheckFailed: a column holds values of several types.
    """
    by_column = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    columns = [_column(name, list(values), name in texts, where) for name, values in zip(names, by_column, strict=True)]
    return _table(columns)


def _table(columns: list[pl.Series]) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame({one.name: one for one in columns})  # of a list, polars names one that has no name


def parse_json(content: bytes, where: str) -> Any:
    """The value that bytes of JSON hold.

    Raises:
        DataCheckFailed: they hold none.
    """
    try:
        return json_value(utf8(content, None, where, lambda *_: None))
    except ValueError:
        raise DataCheckFailed("is no JSON.", hint=TWICE, where=where) from None


def json_value(raw: bytes) -> Any:
    """The value that bytes of JSON hold.

    Raises:
        ValueError: they hold none, nested too deep, or an object that says a key twice: which is meant, nobody knows.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError
        return found

    try:
        return json.loads(raw, object_pairs_hook=once)
    except RecursionError:
        raise ValueError from None


def read_workbook(path: Path, where: str, sheet: str | None, texts: frozenset[str], tell: Tell) -> pl.DataFrame:
    """A sheet of an Excel workbook (.xlsx, .xlsm, .xlsb, .xls, .ods) whose first row names the columns.

    Cells with an error, as #N/A, and blank ones are missing.

    Raises:
        DataCheckFailed: there is no such file or sheet, or it is no workbook.
        NotEnoughData: the sheet is empty.
    """
    import fastexcel
    import polars as pl

    try:
        book = fastexcel.read_excel(_there(path, where))
        if sheet is not None and sheet not in book.sheet_names:
            hint = f"It has: {', '.join(book.sheet_names)}."
            raise DataCheckFailed(f"has no sheet {sheet!r}.", hint=hint, where=where)
        if sheet is None and len(book.sheet_names) > 1:
            tell("sheet", book.sheet_names[0])
        here = 0 if sheet is None else sheet
        head = book.load_sheet(here, header_row=None, n_rows=1, dtypes="string").to_polars()
        if not head.height:
            raise NotEnoughData("has no rows.", where=where)
        names = [name for name in head.row(0) if name]
        if twins := sorted({repr(name) for name in names if names.count(name) > 1}):
            raise DataCheckFailed(f"has more than one column called {', '.join(twins)}.", where=where)
        kept: dict[str | int, fastexcel.DType] = {name: "string" for name in texts if name in names}
        sheet_read = book.load_sheet(here, schema_sample_rows=None, dtypes=kept, whitespace_as_null=True)
        table = without_unnamed(sheet_read.to_polars(), head.row(0), tell)
    except fastexcel.FastExcelError as error:
        raise _refused("a workbook", error, where) from None
    table = table.with_columns(pl.col(pl.Date, pl.Datetime).cast(pl.Datetime("us")))
    return with_dates(table, {}, texts, tell)


def _flat(record: dict[str, object], before: str = "") -> list[tuple[str, object]]:
    out: list[tuple[str, object]] = []
    for key, value in record.items():
        out += _flat(value, f"{before}{key}.") if isinstance(value, dict) else [(f"{before}{key}", value)]
    return out


def _too_deep(value: object, left: int = DEEPEST) -> bool:
    if not isinstance(value, dict | list):
        return False
    return left < 0 or any(_too_deep(one, left - 1) for one in (value.values() if isinstance(value, dict) else value))


def _column(name: str, values: list[Any], text: bool, where: str) -> pl.Series:
    import decimal

    import polars as pl

    values = [float(value) if isinstance(value, decimal.Decimal) else value for value in values]
    kinds = {type(value) for value in values} - {type(None)}
    if text and kinds <= {str, int, float, bool}:
        # By its name, as from any other format; what is not finite is missing.
        values = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
        values = [None if value is None else category(value) for value in values]
    elif kinds == {int, float}:
        values = [float(value) if isinstance(value, int) else value for value in values]
    elif len(kinds) > 1:
        named = sorted(kinds, key=lambda kind: kind.__name__)
        counts = ", ".join(f"{sum(type(value) is kind for value in values):,} {kind.__name__}" for kind in named)
        hint = f"Say data.columns.{name}.dtype: category to take all as text."
        raise DataCheckFailed(f"the column {name!r} holds values of several types: {counts}.", hint=hint, where=where)
    try:
        found = pl.Series(name, values)
    except (TypeError, OverflowError, UnicodeEncodeError, pl.exceptions.PolarsError):  # half a character, say
        found = None
    if found is None or found.dtype == pl.Object:
        raise DataCheckFailed(f"the column {name!r} holds values that no table can.", where=where)
    return found


def _there(path: Path, where: str) -> Path:
    if not path.exists():
        raise DataCheckFailed("there is no such file.", where=where)
    if path.is_dir():
        raise DataCheckFailed("is a folder, not a file.", where=where)
    if path.stat().st_size == 0:
        raise NotEnoughData("is empty.", where=where)
    return path


def _refused(what: str, error: Exception, where: str) -> DataCheckFailed:
    return DataCheckFailed(f"can't be read as {what}: {first_line(error)}", where=where)
