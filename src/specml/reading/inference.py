"""What texts say: numbers with marks of their own, and dates."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from specml.kinds import Tell

ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?$"
ORDERS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y")
DATES, UNCLEAR = "dates", "dates that are not clear, kept as text"
"""What is told of columns of dates: a format, or several."""
OR, SEVERAL = " or ", "more than one form"
CLOCKS = ("", " %H:%M", " %H:%M:%S")
FORMATS = tuple(f"{order}{clock}" for order in ORDERS for clock in CLOCKS)
"""Beside ISO 8601. Years of two digits are nobody's to guess."""
DATE = r"^\d{1,4}[./-]\d{1,2}[./-]\d{1,4}( \d{1,2}:\d{2}(:\d{2})?)?$"
"""What any of them look like: a cheap first look."""


def number_pattern(decimal: str, thousands: str | None) -> str:
    """Numbers as they are written with these marks; thousands in groups of three, or without the mark.

    ``007`` is a code, and stays text.
    """
    d = re.escape(decimal)
    whole = r"0|[1-9]\d*"
    if thousands:
        whole = rf"[1-9]\d{{0,2}}({re.escape(thousands)}\d{{3}})+|{whole}"
    return rf"^[+-]?(({whole})({d}\d*)?|{d}\d+)([eE][+-]?\d+)?$"


def numbers(values: pl.Series, decimal: str = ".", thousands: str | None = None) -> pl.Series | None:
    """Texts as Int64 or Float64, where every one that is not missing is a number; else None.

    Spaces around a number are left out.
    """
    import polars as pl

    texts = values.drop_nulls().str.strip_chars()
    if texts.is_empty() or not texts.str.contains(number_pattern(decimal, thousands)).all():
        return None
    plain = values.str.strip_chars()
    if thousands:
        plain = plain.str.replace_all(thousands, "", literal=True)
    if decimal != ".":
        plain = plain.str.replace(decimal, ".", literal=True)
    whole = plain.cast(pl.Int64, strict=False)
    if whole.null_count() == values.null_count():
        return whole
    return plain.cast(pl.Float64, strict=False)


def with_dates(table: pl.DataFrame, declared: Mapping[str, str], texts: frozenset[str], tell: Tell) -> pl.DataFrame:
    """``table`` with columns of dates as Datetime: texts that one format reads, every one.

    A column that two formats read, as 03/04/2026 is by two peoples, stays as it is, and that is told.
    """
    found: dict[str, str] = {}
    unclear: dict[str, str] = {}
    columns = []
    for values in table.get_columns():
        name = values.name
        if name in texts or name in declared or not values.dtype.is_(_string()):
            columns.append(values)
            continue
        formats, dates = _dates(values)
        if dates is not None:
            found[name] = formats[0]
        elif formats:
            unclear[name] = OR.join(formats)
        columns.append(values if dates is None else dates)
    if found:
        tell(DATES, found)
    if unclear:
        tell(UNCLEAR, unclear)
    return table.with_columns(columns)


def parsed_dates(values: pl.Series, form: str) -> pl.Series:
    """Texts as Datetime by strptime's ``form``; null where one is not of that form."""
    import polars as pl

    if form == "iso":
        iso = values.set(~values.str.contains(ISO).fill_null(value=False), None)
        try:
            return iso.str.to_datetime(strict=False, time_unit="us")
        except pl.exceptions.ComputeError:  # no format fits the first values
            return pl.Series(values.name, [None] * len(values), dtype=pl.Datetime("us"))
    return values.str.to_datetime(form, strict=False, time_unit="us")


def names_a_day(form: str) -> bool:
    """Whether strptime's ``form`` can be read, gives a whole date, and, where it tells an hour, that and its minute."""
    import polars as pl

    try:
        known = pl.Series([datetime(2024, 3, 14, 15, 7, 9, tzinfo=UTC)])
        told = known.dt.strftime(form)
        read = told.str.to_datetime(form, strict=False).dt.replace_time_zone("UTC")
    except pl.exceptions.PolarsError:
        return False
    clockless = told[0] == known.dt.offset_by("2h").dt.strftime(form)[0]
    return bool(
        read.dt.strftime("%F" if clockless else "%F %R")[0] == ("2024-03-14" if clockless else "2024-03-14 15:07")
    )


def _string() -> type[pl.String]:
    import polars as pl

    return pl.String


def _dates(values: pl.Series) -> tuple[list[str], pl.Series | None]:
    """The formats that read every text, and what the one of them gives; more than one that differ: none."""
    texts = values.drop_nulls()
    if texts.is_empty():
        return [], None
    sample = texts.head(100)
    if not (sample.str.contains(ISO) | sample.str.contains(DATE)).all():
        return [], None
    readings = {form: parsed_dates(values, form) for form in ("iso", *FORMATS) if not _lost(sample, form)}
    whole = {form: dates for form, dates in readings.items() if dates.null_count() == values.null_count()}
    if len(whole) == 1 or (whole and _alike(list(whole.values()))):
        form, dates = next(iter(whole.items()))
        return [form], dates
    if not whole and (texts.str.contains(ISO) | texts.str.contains(DATE)).all():
        return [SEVERAL], None
    return list(whole), None


def _lost(sample: pl.Series, form: str) -> bool:
    return parsed_dates(sample, form).null_count() > 0


def _alike(readings: list[pl.Series]) -> bool:
    return all(readings[0].equals(other, null_equal=True) for other in readings[1:])
