"""Columns as their declared or inferred types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml.data import MISSING, band_names, category
from specml.errors import DataCheckFailed

if TYPE_CHECKING:
    import polars as pl

    from specml.data import DType
    from specml.spec import Column

BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}

HINTS = {"datetime": "Write times as in ISO 8601: 2026-11-23 or 2026-11-23T14:30:00."}


def cast(values: pl.Series, dtype: DType | None) -> pl.Series:
    """``values`` as Float64, Int64, Boolean, String (categories and texts) or Datetime; as they are when none is said.

    Numbers that are not finite are missing.

    Raises:
        DataCheckFailed: values can't be read as ``dtype`` without losing something.
    """
    out, unreadable = read(values, dtype)
    if unreadable is not None and (lost := int(unreadable.sum())):
        raise DataCheckFailed(
            f"{lost} of {len(values)} values can't be read as {dtype}.",
            hint=HINTS.get(dtype or "", "Declare another dtype, or list the texts that mean missing in the source."),
            where=f"data.columns.{values.name}.dtype",
        )
    return out


def read(values: pl.Series, dtype: DType | None) -> tuple[pl.Series, pl.Series | None]:
    """As ``cast``, what can't be read as missing; and where that is, bool [n], None where everything can be."""
    import polars as pl

    _refuse_unreadable(values, dtype)
    if dtype in ("category", "text") or (dtype is None and values.dtype in (pl.String, pl.Categorical, pl.Enum)):
        return as_categories(values), None
    if dtype is None:
        wide = values.dtype.is_decimal() or values.dtype in (pl.UInt64, pl.Int128, pl.UInt128)
        return finite(values.cast(pl.Float64) if wide else values), None
    out = _read(values, dtype)
    return finite(out), out.is_null() & values.is_not_null() & ~_not_finite(values)


def blank_as_missing(values: pl.Series) -> pl.Series:
    """Texts that are empty, white space or ``MISSING`` as null: no missing value has another name than that one.

    Anything but texts stays as it is.
    """
    import polars as pl

    if values.dtype != pl.String:
        return values
    stripped = values.str.strip_chars()
    return values.set((stripped == "") | (stripped == MISSING), None)


def finite(values: pl.Series) -> pl.Series:
    """Floats as Float64 with null for NaN and infinities; anything else as it is."""
    import polars as pl

    if not values.dtype.is_float():
        return values
    wide = values.cast(pl.Float64)
    return pl.select(pl.when(wide.is_finite()).then(wide)).to_series().alias(values.name)


def as_categories(values: pl.Series) -> pl.Series:
    """Text, each value by its name (``data.category``), a missing one as ``MISSING``.

    Raises:
        DataCheckFailed: the values are of a type that has no names.
    """
    import polars as pl

    refuse_nameless(values, f"data.columns.{values.name}")
    values = finite(values)
    if values.dtype.is_float():
        names = {value: category(value) for value in values.drop_nulls().unique().to_list()}
        values = values.replace_strict(names, default=None, return_dtype=pl.String)
    return values.cast(pl.String).fill_null(MISSING)


def refuse_nameless(values: pl.Series, where: str) -> None:
    """Lists, records, bytes and spans of time have no names by which they could be told or searched.

    Raises:
        DataCheckFailed: the values are of such a type.
    """
    if _nameless(values):
        what = f"the column holds {values.dtype} values, which are no texts, numbers or times."
        raise DataCheckFailed(what, where=where, hint=f"Declare data.columns.{values.name}.role: ignore")


def as_groups(values: pl.Series, column: Column) -> pl.Series:
    """A protected column as the names of its groups; a missing value forms a group of its own."""
    import numpy as np
    import polars as pl

    if column.bands:
        numbers = cast(values, "float").to_numpy()
        names = band_names(column.bands)
        places = np.searchsorted(np.array(column.bands), numbers, side="right").tolist()
        groups = [MISSING if np.isnan(x) else names[place] for x, place in zip(numbers, places, strict=True)]
        return pl.Series(values.name, groups, dtype=pl.String)
    texts = as_categories(values)
    if not column.groups:
        return texts
    named: dict[str, str] = {category(one): group for group, members in column.groups.items() for one in members}
    return texts.replace_strict({**named, MISSING: MISSING}, default="other", return_dtype=pl.String)


def declared_groups(column: Column) -> tuple[str, ...]:
    """The groups that a declaration names; none when each value is a group of its own."""
    return tuple(band_names(column.bands)) if column.bands else tuple(column.groups)


def _nameless(values: pl.Series) -> bool:
    import polars as pl

    return values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object, pl.Duration)


def _refuse_unreadable(values: pl.Series, dtype: DType | None) -> None:
    """What no value of could be read as ``dtype``, or could be read in more ways than one."""
    import polars as pl

    if dtype is None:
        return
    where = f"data.columns.{values.name}.dtype"
    if dtype == "datetime" and (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        what = f"{values.dtype} values can't be read as datetime: in which unit they count, and since when, is unknown."
        hint = "Give ISO 8601 texts. To order rows, numbers need no dtype."
        raise DataCheckFailed(what, hint=hint, where=where)
    if _nameless(values) or (values.dtype == pl.Time and dtype not in ("category", "text")):
        hint = f"Declare data.columns.{values.name}.role: ignore"
        raise DataCheckFailed(f"{values.dtype} values can't be read as {dtype}.", hint=hint, where=where)


def _read(values: pl.Series, dtype: DType) -> pl.Series:
    import polars as pl

    types: dict[Any, Any] = {"float": pl.Float64, "int": pl.Int64, "bool": pl.Boolean, "datetime": pl.Datetime}
    if dtype == "datetime" and values.dtype == pl.String:
        return _times(values)
    if dtype == "bool" and values.dtype == pl.String:
        return values.str.to_lowercase().replace_strict(BOOLEANS, default=None, return_dtype=pl.Boolean)
    if dtype == "bool" and values.dtype.is_numeric():
        return values.cast(pl.Float64).replace_strict({0.0: False, 1.0: True}, default=None, return_dtype=pl.Boolean)
    out = values.cast(types[dtype], strict=False)
    if dtype == "int" and values.dtype.is_float():
        whole = values == values.round()
        return pl.select(pl.when(whole).then(out)).to_series().alias(values.name)
    return out


def _times(values: pl.Series) -> pl.Series:
    """ISO 8601 dates and times, with or without a zone; day and month in another order can't be told apart."""
    import polars as pl

    iso = values.str.contains(r"^\d{4}-\d{2}-\d{2}([T ].*)?$")
    try:
        return values.set(~iso.fill_null(value=True), None).str.to_datetime(strict=False)
    except pl.exceptions.ComputeError:  # no format fits the first values
        return pl.Series(values.name, [None] * len(values), dtype=pl.Datetime)


def _not_finite(values: pl.Series) -> pl.Series:
    import polars as pl

    if values.dtype.is_float():
        return (~values.is_finite()).fill_null(value=False)
    return pl.repeat(value=False, n=len(values), eager=True)
