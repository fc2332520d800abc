"""Separated text."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from specml.component import Block
from specml.errors import DataCheckFailed, NotEnoughData
from specml.reading.inference import names_a_day, numbers, parsed_dates, with_dates
from specml.reading.shape import refuse_misshapen
from specml.reading.text import utf8
from specml.values import Separator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from specml.kinds import Tell
    from specml.reading.shape import Shape

DASHES = "dashes among numbers, taken as missing"
BLANK = "blank lines left out"
SEPARATORS = (",", ";", "\t", "|")
LOOKED_AT = 100
"""Records that the separator is inferred from."""
NO_FILES = ("idna", "undefined", "punycode", "unicode-escape", "raw-unicode-escape")
"""Encodings of Python's in which no file is."""
MISSING_TEXTS = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "null", "NULL", "?")
DASH = "-"
"""Missing among numbers; among words it may be one, as the strand of a gene is."""


def _encoding(name: str) -> str:
    try:
        found = codecs.lookup(name)
    except LookupError:
        found = None
    if found is None or not found._is_text_encoding or found.name in NO_FILES:
        raise PydanticCustomError("encoding", "must be an encoding that Python knows, as utf-8, latin-1 or utf-16.")
    return name


def _date_format(form: str) -> str:
    if form != "iso" and not names_a_day(form):
        raise PydanticCustomError(
            "dates", "must be a format of whole dates, as %d/%m/%Y; with a clock, of hours and minutes, as %I:%M %p."
        )
    return form


class CsvText(Block):
    """How separated text is written; what is left out is inferred, and said by the stage ``ingest``."""

    encoding: Annotated[str, AfterValidator(_encoding)] | None = None
    """``utf-8``, ``utf-16``, ``latin-1`` or another that Python knows. Inferred: by the byte order mark, else UTF-8,
    else latin-1 or windows-1252 where no byte could be UTF-8; text that is UTF-8 but for some bytes is refused."""
    separator: Separator | None = None
    """What stands between two values of a line. Inferred: the one of comma, semicolon, tab and bar that gives the
    first 100 lines the same number of values, two or more."""
    decimal: Literal[".", ","] = "."
    """The decimal mark."""
    thousands: Literal[",", ".", " ", "'", "\u00a0", "\u202f"] | None = None
    """What groups the digits of large numbers. A column holds numbers only where every value is one."""
    dates: dict[str, Annotated[str, AfterValidator(_date_format)]] = {}
    """The format of columns with dates, as ``"%d/%m/%Y"`` (strptime; a clock needs hours and minutes). Inferred:
    columns that one format reads whole; where day and month can't be told apart, the column stays text."""
    missing: tuple[str, ...] = MISSING_TEXTS
    """Texts that stand for a missing value, in any column; blank ones always do."""

    @property
    def marked(self) -> bool:
        """Whether numbers are written otherwise than computers do."""
        return self.decimal != "." or self.thousands is not None


@dataclass(frozen=True)
class Known:
    """What is known of the columns of some records from others."""

    types: Mapping[str, Any]
    """Of numbers and truths; other columns are texts to the parser."""
    dashed: frozenset[str] = frozenset()
    """Columns of numbers among which dashes are missing values."""


def read_csv(
    content: bytes,
    how: CsvText,
    where: str,
    texts: frozenset[str],
    tell: Tell,
    *,
    known: Known | None = None,
) -> pl.DataFrame:
    """Separated text with a header line as a table.

    Args:
        content: the bytes, unpacked.
        how: what is declared about it.
        where: what errors name.
        texts: columns that stay as they are written.
        tell: is given what was inferred.
        known: what other records say of the columns; inferred from these unless given.

    Raises:
        DataCheckFailed: it is not in its encoding, misshapen, or a declared date is none.
        NotEnoughData: it is empty.
    """
    text = utf8(content, how.encoding, where, tell)
    if not text.strip():  # there was a byte order mark
        raise NotEnoughData("is empty.", where=where)
    separator = how.separator or likely_separator(text)
    if how.separator is None:
        tell("separator", separator)
    shape = refuse_misshapen(text, separator, where)
    names = _header(text, separator, where)
    table = without_unnamed(
        _parsed(text, how.model_copy(update={"separator": separator}), where, texts, known), names, tell
    )
    if shape.blank:
        table = _without(table, shape)
        tell(BLANK, len(shape.blank))
    table = _numbers(_without_dashes(table, how, texts, known.dashed if known else frozenset(), tell), how, texts)
    return with_dates(_declared_dates(table, how, where), how.dates, texts, tell)


def likely_separator(text: bytes) -> str:
    """The likeliest of ``SEPARATORS``; a comma where none is in the header."""
    from csv import Error, reader
    from itertools import islice

    head = text[: 1 << 16].decode(errors="ignore").splitlines(keepends=True)
    widths = {}
    for one in SEPARATORS:
        try:
            records = [len(row) for row in islice(reader(head[: LOOKED_AT + 1], delimiter=one), LOOKED_AT) if row]
        except Error:  # a value beyond csv's limit
            continue
        even = len(set(records)) == 1
        widths[one] = (even and records[0] > 1, records[0] if records else 1)
    best = max(SEPARATORS, key=lambda one: widths.get(one, (False, 1)))
    return best if widths.get(best, (False, 1))[1] > 1 else ","


def without_unnamed(table: pl.DataFrame, names: Sequence[str | None], tell: Tell) -> pl.DataFrame:
    """``table`` with the one column that ``names`` leaves blank called so, not by a name that a parser made up for it.

    Several such columns can't be told apart: they are left out, and that is told.
    """
    blank = [place for place, name in enumerate(names) if not (name or "").strip()]
    if not blank or table.width != len(names):
        return table
    if len(blank) == 1:
        return table.rename({table.columns[blank[0]]: ""})
    tell("columns without a name left out", len(blank))
    return table.select(name for place, name in enumerate(table.columns) if place not in blank)


def _header(text: bytes, separator: str, where: str) -> list[str]:
    """The columns' names; two of one name are refused: the second might be the target again."""
    from collections import Counter
    from csv import Error, reader

    lines = text[: 1 << 22].decode(errors="ignore").splitlines(keepends=True)
    try:
        header = next(reader(lines, delimiter=separator), [])
    except Error:
        raise DataCheckFailed("the header holds a name of more than 131,072 characters.", where=where) from None
    twins = sorted(name for name, times in Counter(header).items() if times > 1 and name)
    if twins:
        raise DataCheckFailed(f"has more than one column called {', '.join(map(repr, twins))}.", where=where)
    return header


def _parsed(text: bytes, how: CsvText, where: str, texts: frozenset[str], known: Known | None) -> pl.DataFrame:
    import polars as pl

    assert how.separator is not None

    written = dict.fromkeys({*texts, *how.dates}, pl.String)
    try:
        return pl.read_csv(
            text,
            schema_overrides=written if known is None else {**known.types, **written},
            separator=how.separator,
            null_values=list(how.missing),
            infer_schema=not how.marked and known is None,
            infer_schema_length=None,
            encoding="utf8",
        )
    except pl.exceptions.PolarsError as error:
        raise DataCheckFailed(f"can't be read as CSV: {_without_values(error)}", where=where) from None


def _without(table: pl.DataFrame, shape: Shape) -> pl.DataFrame:
    """Without the rows that the parser made of blank lines."""
    import polars as pl

    rows = pl.int_range(table.height, eager=True)
    return table.filter(~rows.is_in(shape.blank)) if table.height == shape.records else table


def _without_dashes(
    table: pl.DataFrame, how: CsvText, texts: frozenset[str], dashed: frozenset[str], tell: Tell
) -> pl.DataFrame:
    """Dashes as missing in columns whose other texts are numbers, every one."""
    import polars as pl

    found: dict[str, str] = {}
    columns = []
    for values in table.get_columns():
        if values.dtype == pl.String and values.name not in texts and values.name not in how.dates:
            dashes = dash(values)
            rest = values.filter(~dashes)
            known = values.name in dashed
            if dashes.any() and (known or numbers(rest, how.decimal, how.thousands) is not None):
                found[values.name] = f"{int(dashes.sum()):,}"
                values = values.set(dashes, None)  # noqa: PLW2901
        columns.append(values)
    if found:
        tell(DASHES, found)
    return table.with_columns(columns)


def dash(values: pl.Series) -> pl.Series:
    """Whether each text is a dash: bool [n]."""
    return (values.str.strip_chars() == DASH).fill_null(value=False)


def _numbers(table: pl.DataFrame, how: CsvText, texts: frozenset[str]) -> pl.DataFrame:
    """Where marks are declared: columns in which every text is a number with these, or true or false, as such.

    Without marks the parser has seen to it, and the stage ``prepare`` reads numbers among which some are blank.
    """
    import polars as pl

    from specml.casting import blank_as_missing

    if not how.marked:
        return table
    columns = []
    for values in table.get_columns():
        found = None
        if values.dtype == pl.String and values.name not in texts and values.name not in how.dates:
            filled = blank_as_missing(values)
            found = numbers(filled, how.decimal, how.thousands)
            found = _booleans(filled) if found is None else found
        columns.append(values if found is None else found)
    return table.with_columns(columns)


def _booleans(values: pl.Series) -> pl.Series | None:
    import polars as pl

    found = values.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
    return found if values.null_count() == found.null_count() < len(values) else None


def _declared_dates(table: pl.DataFrame, how: CsvText, where: str) -> pl.DataFrame:
    from specml.casting import blank_as_missing

    for name, form in how.dates.items():
        if name not in table.columns:
            raise DataCheckFailed(f"has no column {name!r}, for which dates are declared.", where=where)
        values = blank_as_missing(table[name])
        dates = parsed_dates(values, form)
        if lost := dates.null_count() - values.null_count():
            row = int((dates.is_null() & values.is_not_null()).arg_true()[0]) + 1
            what = f"{lost:,} of {len(values):,} values of {name!r} are no dates of the form {form}"
            what = f"{what}; the first in row {row:,}."
            raise DataCheckFailed(what, where=where)
        table = table.with_columns(dates)
    return table


def _without_values(error: Exception) -> str:
    """What polars says, less the piece of the file that it quotes: nobody knows whom that tells about."""
    text = str(error).strip()
    found = re.match(r"could not parse `.*` as dtype `\w+` at column '(.*)' \(column number \d+\)", text, re.DOTALL)
    if found:
        return f"a value of the column {found.group(1)!r} can't be parsed: is it a number of 39 digits or more?"
    return re.sub(r"`.*`", "…", text, flags=re.DOTALL).splitlines()[0]
