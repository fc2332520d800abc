"""Columns that no declaration explains: read as what they are where nothing is lost, and what is odd is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specml.data import LARGEST

if TYPE_CHECKING:
    import polars as pl

    from specml.spec import Features, Spec

NUMBER = r"^[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"
"""A number as computers write it. ``007`` and ``02139`` are codes, and stay text."""
PUNCTUATED = r"^[+-]?\d{1,3}([.,' ]\d{3})*([.,]\d+)?$"
DAY = r"^\d{4}-\d{2}-\d{2}([T ].*)?$"
MOSTLY = 0.5
"""Share of numbers from which the rest of a text column is worth a word."""
HEAD = 1000
"""Texts of which none is odd speak for the column."""
EXACT = 2**53
"""Whole numbers up to here are exact in float64."""


def repaired(
    spec: Spec, features: Features, table: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, str], dict[str, str]]:
    """The table with undeclared texts as what they are; by column what was done, and what is odd."""
    done: dict[str, str] = {}
    odd: dict[str, str] = {}
    columns = []
    for values in table.get_columns():
        declared, read = spec.column(values.name), values
        counts = declared.role in ("feature", "weight") or (
            declared.role == "target" and spec.problem.task == "regression"
        )
        if counts and declared.dtype is None and features.dtype(values.name) is None:
            read, told = as_written(values)
            (done if read is not values else odd).update({values.name: told} if told else {})
        if counts and (told := lossy(read)):
            odd[values.name] = told
        columns.append(read)
    return table.with_columns(columns), done, odd


def as_written(values: pl.Series) -> tuple[pl.Series, str]:
    """A text column as numbers or booleans if every text that is not blank is one; and what to say, empty for nothing.

    Blank texts are missing. Else the column stays as it is: what is not a number can't be dropped silently.
    """
    import polars as pl

    if values.dtype != pl.String:
        return values, ""
    texts = values.str.strip_chars()
    filled = texts.filter(texts.is_not_null() & (texts != ""))
    if not bool(filled.head(HEAD).str.contains(f"{NUMBER}|{PUNCTUATED}|{DAY}|(?i)^(true|false)$").any()):
        return values, ""
    numbers = int(filled.str.contains(NUMBER).sum())
    if numbers == len(filled):
        read = texts.replace({"": None}).cast(pl.Float64)
        whole = not bool(filled.str.contains(r"[.eE]").any()) and bool((read.abs() < EXACT).all())
        return (read.cast(pl.Int64) if whole else read), f"{numbers:,} numbers {_read(texts)}"
    words = texts.str.to_lowercase()
    if bool(words.filter(words.is_not_null() & (words != "")).is_in(["true", "false"]).all()):
        truths = words.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
        return truths, f"{len(filled):,} booleans {_read(texts)}"
    return values, _odd(filled, numbers)


def _read(texts: pl.Series) -> str:
    missing = int((texts == "").sum()) + texts.null_count()
    return "that stood as text are read as such" + (f", {missing:,} are missing" if missing else "")


def _odd(filled: pl.Series, numbers: int) -> str:
    n = len(filled)
    if int(filled.str.contains(PUNCTUATED).sum()) == n and bool(filled.str.contains("[,' ]").any()):
        told = f"its {n:,} texts look like numbers with separators of thousands or a decimal comma"
        return f"{told}: they are taken as categories, since which of the two can't be told"
    if int(filled.str.contains(DAY).sum()) == n:
        told = f"its {n:,} texts are days: they are taken as categories"
        return f"{told}. Say date under features.columns, or declare its role"
    if numbers > MOSTLY * n:
        told = f"{numbers:,} of its {n:,} texts are numbers, {n - numbers:,} are not"
        return f"{told}: all are taken as categories. Declare a dtype, or which texts mean missing"
    return ""


def lossy(values: pl.Series) -> str:
    """What of a column of numbers will not be what it was; empty for nothing."""
    import polars as pl

    if values.dtype.is_float():
        infinite = int(values.is_infinite().sum())
        beyond = int((values.cast(pl.Float64).abs() > LARGEST).sum()) - infinite - int(values.is_nan().sum())
        told = [f"{infinite:,} infinite values are taken as missing"] if infinite else []
        return "; ".join(
            [*told, f"{beyond:,} beyond ±{LARGEST:g} are more than float32 holds: a model takes them as its largest"]
            if beyond
            else told
        )
    if values.dtype.is_integer():
        large = int((values.cast(pl.Float64).abs() > EXACT).sum())
        return f"{large:,} whole numbers beyond ±2^53 are rounded; is it an id? Declare its role" if large else ""
    return ""
