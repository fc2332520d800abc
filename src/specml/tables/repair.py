"""Numbers that stand as text, read as what they are where nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

NUMBER = r"^[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"
"""A number as computers write it. ``007`` and ``02139`` are codes, and stay text."""
PUNCTUATED = r"^[+-]?\d{1,3}([.,' ]\d{3})*([.,]\d+)?$"
MOSTLY = 0.5
"""Share of numbers from which the rest of a text column is worth a word."""


def repaired(values: pl.Series) -> tuple[pl.Series, str]:
    """A text column as numbers if every text that is not blank is one; and what to say of it, empty for nothing.

    Blank texts are missing. Else the column stays as it is: what is not a number can't be dropped silently.
    """
    import polars as pl

    if values.dtype != pl.String:
        return values, ""
    texts = values.str.strip_chars()
    filled = texts.filter(texts.is_not_null() & (texts != ""))
    if not len(filled):
        return values, ""
    numbers = int(filled.str.contains(NUMBER).sum())
    if numbers == len(filled):
        read = texts.replace({"": None}).cast(pl.Float64)
        whole = not bool(filled.str.contains(r"[.eE]").any()) and bool((read.abs() < 2**53).all())
        blank = int((texts == "").sum())
        told = f"{numbers:,} numbers that stood as text are read as numbers"
        told += f", {blank:,} blank ones as missing" if blank else ""
        return (read.cast(pl.Int64) if whole else read), told
    if int(filled.str.contains(PUNCTUATED).sum()) == len(filled) and bool(filled.str.contains("[,' ]").any()):
        told = f"its {len(filled):,} texts look like numbers with separators of thousands or a decimal comma"
        return values, f"{told}; they are taken as categories, since which it is can't be told"
    if numbers > MOSTLY * len(filled):
        told = f"{numbers:,} of its {len(filled):,} texts are numbers, {len(filled) - numbers:,} are not"
        return values, f"{told}: all are taken as categories. Declare a dtype, or which texts mean missing"
    return values, ""
