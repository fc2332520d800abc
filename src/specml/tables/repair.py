"""Columns that no declaration explains: read as what they are where nothing is lost, and what is odd is said."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Self

from specml.data import LARGEST

if TYPE_CHECKING:
    from collections.abc import Iterable

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


class Repair:
    """What is done with columns that nothing is declared of: decided by all rows, done batch by batch."""

    def __init__(self, spec: Spec, features: Features, batches: Iterable[pl.DataFrame]) -> None:
        self._spec, self._features = spec, features
        self._texts: dict[str, Texts] = {}
        self._lost: dict[str, Lost] = {}
        for table in batches:
            for values in self._undeclared(table):
                looked = Texts.of(values)
                self._texts[values.name] = self._texts.get(values.name, Texts()) + looked

    def __call__(self, table: pl.DataFrame) -> pl.DataFrame:
        """A batch with its undeclared texts as what they are."""
        table = table.with_columns(self._texts[values.name].read(values) for values in self._undeclared(table))
        for values in table.get_columns():
            if self._counts(values.name):
                self._lost[values.name] = self._lost.get(values.name, Lost()) + Lost.of(values)
        return table

    @property
    def done(self) -> dict[str, str]:
        """By column what was done, in words."""
        return {name: texts.done for name, texts in self._texts.items() if texts.done}

    @property
    def odd(self) -> dict[str, str]:
        """By column what is odd, in words, of the batches that were repaired."""
        odd = {name: texts.odd for name, texts in self._texts.items() if texts.odd}
        return odd | {name: lost.told for name, lost in self._lost.items() if lost.told}

    def _counts(self, name: str) -> bool:
        """Whether a column holds what may be numbers."""
        role = self._spec.column(name).role
        return role in ("feature", "weight") or (role == "target" and self._spec.problem.learns == "regression")

    def _undeclared(self, table: pl.DataFrame) -> Iterable[pl.Series]:
        """The columns of texts of which nobody said what they are."""
        return [
            values
            for values in table.get_columns()
            if values.dtype == _string()
            and self._counts(values.name)
            and self._spec.column(values.name).dtype is None
            and self._features.dtype(values.name) is None
        ]


@dataclass(frozen=True)
class Texts:
    """What the texts of a column look like, in counts that add up over batches."""

    filled: int = 0
    """Texts that are not blank; blank ones are missing."""
    missing: int = 0
    numbers: int = 0
    fractions: int = 0
    """Numbers that Int64 does not hold exactly, or that are not written as whole ones."""
    booleans: int = 0
    punctuated: int = 0
    """Numbers if some of their marks group thousands, or are a decimal comma."""
    marked: int = 0
    """Texts with such marks."""
    days: int = 0

    @classmethod
    def of(cls, values: pl.Series) -> Self:
        """Count; ``values``: texts."""
        import polars as pl

        texts = values.str.strip_chars()
        filled = texts.filter(texts.is_not_null() & (texts != ""))
        found: dict[str, int] = {"filled": len(filled), "missing": len(texts) - len(filled)}
        if not bool(filled.head(HEAD).str.contains(f"{NUMBER}|{PUNCTUATED}|{DAY}|(?i)^(true|false)$").any()):
            return cls(**found)
        numbers = filled.filter(filled.str.contains(NUMBER))
        found["numbers"] = len(numbers)
        large = numbers.cast(pl.Float64).abs() >= EXACT
        found["fractions"] = int((numbers.str.contains(r"[.eE]") | large).sum())
        if len(numbers) < len(filled):
            found["booleans"] = int(filled.str.to_lowercase().is_in(["true", "false"]).sum())
            found["punctuated"] = int(filled.str.contains(PUNCTUATED).sum())
            found["marked"] = int(filled.str.contains("[,' ]").sum())
            found["days"] = int(filled.str.contains(DAY).sum())
        return cls(**found)

    def __add__(self, other: Self) -> Self:
        return type(self)(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    def read(self, values: pl.Series) -> pl.Series:
        """A text column as numbers or booleans if every text that is not blank is one, blank ones as missing.

        Else as it is: what is not a number can't be dropped silently.
        """
        import polars as pl

        if self._numeric:
            read = values.str.strip_chars().replace({"": None}).cast(pl.Float64)
            return read if self.fractions else read.cast(pl.Int64)
        if self._boolean:
            words = values.str.strip_chars().str.to_lowercase()
            return words.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
        return values

    @property
    def done(self) -> str:
        """What ``read`` does, in words; empty for nothing."""
        if not (self._numeric or self._boolean):
            return ""
        what = f"{self.numbers:,} numbers" if self._numeric else f"{self.booleans:,} booleans"
        missing = f", {self.missing:,} are missing" if self.missing else ""
        return f"{what} that stood as text are read as such{missing}"

    @property
    def odd(self) -> str:
        """What is odd of texts that stay texts, in words; empty for nothing."""
        n = self.filled
        if self.done or not n:
            return ""
        if self.punctuated == n and self.marked:
            told = f"its {n:,} texts look like numbers with separators of thousands or a decimal comma"
            return f"{told}: they are taken as categories, since which of the two can't be told"
        if self.days == n:
            told = f"its {n:,} texts are days: they are taken as categories"
            return f"{told}. Say date under features.columns, or declare its role"
        if self.numbers > MOSTLY * n:
            told = f"{self.numbers:,} of its {n:,} texts are numbers, {n - self.numbers:,} are not"
            return f"{told}: all are taken as categories. Declare a dtype, or which texts mean missing"
        return ""

    @property
    def _numeric(self) -> bool:
        return 0 < self.filled == self.numbers

    @property
    def _boolean(self) -> bool:
        return 0 < self.filled == self.booleans


@dataclass(frozen=True)
class Lost:
    """What of a column of numbers will not be what it was, in counts that add up over batches."""

    infinite: int = 0
    beyond: int = 0
    large: int = 0

    @classmethod
    def of(cls, values: pl.Series) -> Self:
        """Count."""
        import polars as pl

        if values.dtype.is_float():
            infinite = int(values.is_infinite().sum())
            beyond = int((values.cast(pl.Float64).abs() > LARGEST).sum()) - infinite - int(values.is_nan().sum())
            return cls(infinite=infinite, beyond=beyond)
        if values.dtype.is_integer():
            return cls(large=int((values.cast(pl.Float64).abs() > EXACT).sum()))
        return cls()

    def __add__(self, other: Self) -> Self:
        return type(self)(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    @property
    def told(self) -> str:
        """In words; empty for nothing."""
        told = {
            f"{self.infinite:,} infinite values are taken as missing": self.infinite,
            f"{self.beyond:,} beyond ±{LARGEST:g} are more than float32 holds: a model takes them as its largest": (
                self.beyond
            ),
            f"{self.large:,} whole numbers beyond ±2^53 are rounded; is it an id? Declare its role": self.large,
        }
        return "; ".join(what for what, count in told.items() if count)


def as_written(values: pl.Series) -> tuple[pl.Series, str]:
    """A column of which nothing is declared as what it is, and what is to be said about that; empty for nothing."""
    if values.dtype != _string():
        return values, ""
    texts = Texts.of(values)
    return texts.read(values), texts.done or texts.odd


def lossy(values: pl.Series) -> str:
    """What of a column of numbers will not be what it was; empty for nothing."""
    return Lost.of(values).told


def _string() -> Any:
    import polars as pl

    return pl.String
