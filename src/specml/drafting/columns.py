"""What is declared about a column, guessed from its name and its values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from specml.casting import read
from specml.data import NAMES_ROWS
from specml.drafting import content, words
from specml.tables.repair import as_written

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from specml.data import DType

MANY = 0.5
"""Share of distinct values from which what is called as a person's phone may be one."""
FEW = 12
"""Numbers with at most this many different values are groups as they are; others get bands."""
SMALLEST_BAND = 0.05
"""Share of the rows that a band has at least."""
AGES = (25, 45, 65)
SHORT = 3
"""Significant digits of other edges, so that none is a person's number."""
MOSTLY_MISSING = 0.3
KEPT = 100
"""Categories that a model tells apart unless the spec says otherwise."""
TIMES = 20
"""Different times that an order of the rows has at least, or people that a division has."""
MOST_OF_ONE = 0.05
"""Share of the rows that a person has at most, for people to be divided."""


@dataclass(frozen=True)
class Facts:
    """A column as it was read."""

    name: str
    values: pl.Series
    """Blank texts are missing; texts that are all numbers are read as such, ISO times as times."""
    rows: int
    missing: int
    distinct: int
    """Of the values that are not missing."""
    texts: pl.Series | None = None
    """Numbers and booleans that stand as text, as such."""
    castable: bool = True
    """Whether a declared dtype reads these as well as the repair of what is undeclared does."""
    zeros: bool = False
    """Whole numbers that are written with zeros before them."""

    @property
    def known(self) -> int:
        """Rows with a value."""
        return self.rows - self.missing

    @property
    def is_text(self) -> bool:
        """Whether it holds texts."""
        import polars as pl

        return self.values.dtype in (pl.String, pl.Categorical, pl.Enum)

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers."""
        return self.values.dtype.is_integer()

    @property
    def is_time(self) -> bool:
        """Whether it holds dates or times of a day."""
        import polars as pl

        return self.values.dtype in (pl.Date, pl.Datetime)


@dataclass(frozen=True)
class Guess:
    """What is written under ``data.columns`` about a column, and why."""

    name: str
    declared: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    """A comment; empty where the values leave no doubt."""
    review: bool = False
    """Whether a person should look at it."""
    treated: dict[str, Any] | None = None
    """What is written under ``features.columns``."""

    @property
    def role(self) -> str:
        """Its role."""
        return str(self.declared.get("role", "ignore" if "action" in self.declared else "feature"))


def facts(values: pl.Series, written: pl.Series | None = None) -> Facts:
    """What is seen of a column; ``written``: the same as texts, where numbers were made of them."""
    import polars as pl

    zeros = written is not None and values.dtype.is_integer() and content.zero_led(written)
    if zeros and written is not None:
        values = written
    seen, texts, castable = values, None, True
    if values.dtype == pl.String:
        stripped = values.str.strip_chars()
        seen = values.set(stripped == "", None)
        if not zeros:
            number, _ = as_written(seen)
            texts = seen if number is not seen else None
            castable = texts is None or not _unreadable(texts, number)
            seen = _times(seen) if texts is None else number
    nested = seen.dtype.is_nested() or seen.dtype in (pl.Object, pl.Binary)
    distinct = 0 if nested else seen.drop_nulls().n_unique()
    return Facts(values.name, seen, len(seen), seen.null_count(), distinct, texts, castable, zeros)


def _unreadable(texts: pl.Series, repaired: pl.Series) -> bool:
    """Whether a declared dtype would lose a value that the repair of what is undeclared does not."""
    import polars as pl

    dtypes: dict[Any, DType] = {pl.Int64: "int", pl.Float64: "float", pl.Boolean: "bool"}
    _, unreadable = read(texts, dtypes[type(repaired.dtype)])
    return unreadable is not None and bool(unreadable.any())


def _times(values: pl.Series) -> pl.Series:
    """Texts that are all dates or times as in ISO 8601 as such."""
    known = values.drop_nulls()
    if not len(known) or not bool(known.head(100).str.contains(r"^\d{4}-\d{2}-\d{2}").all()):
        return values
    times, unreadable = read(values, "datetime")
    return values if unreadable is not None and unreadable.any() else times


def guess(one: Facts) -> Guess:
    """What is declared about a column that is not the target."""
    for rule in (_empty, _odd, _identifying, _time, _protected, _personal, _id, _text, _code):
        if found := rule(one):
            return found
    return _plain(one)


def _empty(one: Facts) -> Guess | None:
    if one.missing == one.rows:
        return Guess(one.name, {"role": "ignore"}, "no value")
    if one.distinct == 1 and not one.missing:
        return Guess(one.name, {"role": "ignore"}, "one value only")
    return None


def _odd(one: Facts) -> Guess | None:
    """Values that no model takes."""
    import polars as pl

    kind = one.values.dtype
    if kind.is_numeric() or one.is_text or one.is_time or kind == pl.Boolean:
        return None
    return Guess(
        one.name, {"role": "ignore"}, f"{str(kind).partition('(')[0]} values: no model takes them", review=True
    )


def _identifying(one: Facts) -> Guess | None:
    """What names people is forgotten as it is read."""
    if not (one.is_text or one.is_whole):
        return None
    found, how = content.identifying(one.values), "its values"
    told = words.meaning(one.name)
    if not found and told and told.kind == "identifying":
        names = one.is_text and told.what == words.NAMES  # namesakes are many
        found, how = (told.what, "its name") if names or one.distinct > MANY * one.known else ("", "")
    if not found or one.distinct <= FEW:
        return None
    why = f"by {how}: {found}; forgotten when it is read"
    return Guess(one.name, {"personal": "identifier", "action": "drop"}, why, review=True)


def _time(one: Facts) -> Guess | None:
    if not one.is_time:
        return None
    if words.says(one.name, words.BIRTH):
        why = "a day of birth tells the age"
        return Guess(one.name, {"role": "ignore", "personal": True}, why, review=True)
    return Guess(one.name, {"dtype": "datetime"}, "", treated={"type": "date"})


def orders_rows(one: Facts) -> bool:
    """Whether a column may be the time of the rows."""
    return one.is_time and not one.missing and one.distinct >= TIMES and not words.says(one.name, words.BIRTH)


def holds_together(one: Facts) -> bool:
    """Whether each person of a column of ids has several rows, and none very many."""
    if one.missing or not TIMES <= one.distinct < one.rows:
        return False
    return int(one.values.alias("value").value_counts()["count"].max() or 0) <= MOST_OF_ONE * one.rows  # type: ignore[arg-type]


def _protected(one: Facts) -> Guess | None:
    told = words.meaning(one.name)
    born = words.says(one.name, words.BIRTH)
    if born and not (told and told.kind == "protected"):
        told = words.Meaning("protected", "age")
    if told is None or told.kind != "protected" or (one.is_text and content.is_free_text(one.values)):
        return None
    declared: dict[str, Any] = {"role": "protected", "personal": "special" if told.what in words.SPECIAL else True}
    if not one.is_text and one.distinct > FEW:
        declared["bands"] = _bands(one, told.what)
        if not declared["bands"]:
            return None
        declared = {"dtype": "float", **declared}
    return Guess(one.name, declared, f"by its name: {told.what}; kept from the model, for gates", review=True)


def _bands(one: Facts, what: str) -> list[float]:
    """Edges of groups of numbers that each hold enough rows."""
    import polars as pl

    numbers = one.values.cast(pl.Float64).drop_nulls()
    numbers = numbers.filter(numbers.is_finite())
    if not len(numbers):
        return []
    low, high = float(numbers.min() or 0.0), float(numbers.max() or 0.0)  # type: ignore[arg-type]
    thirds = [float(numbers.quantile(share, "nearest") or 0.0) for share in (1 / 3, 2 / 3)]
    rounded = sorted({float(f"{one:.{SHORT}g}") for one in thirds})
    cuts = [int(one) if one.is_integer() else one for one in rounded]
    ages = what == "age" and low >= 0 and 40 <= high <= 130
    return (_filled(AGES, numbers) if ages else []) or _filled(cuts, numbers)


def _filled(edges: Sequence[float], numbers: pl.Series) -> list[float]:
    """The edges between which enough rows lie."""
    kept: list[float] = []
    for edge in edges:
        below = numbers.filter(numbers < edge)
        between = below.filter(below >= kept[-1]) if kept else below
        if min(len(between), len(numbers) - len(below)) >= max(1.0, SMALLEST_BAND * len(numbers)):
            kept.append(edge)
    return kept


def _personal(one: Facts) -> Guess | None:
    told = words.meaning(one.name)
    if told is None or told.kind != "personal" or one.values.dtype.is_float():
        return None
    if told.what == "address" and one.is_text and one.distinct > MANY * one.known:
        declared: dict[str, Any] = {"personal": "identifier", "action": "drop"}
        return Guess(one.name, declared, "by its name: addresses; forgotten when it is read", review=True)
    declared = {"dtype": "category", "personal": True}
    return Guess(one.name, declared, f"by its name: {told.what}; may stand for what is protected", review=True)


def _id(one: Facts) -> Guess | None:
    if not (one.is_text or one.is_whole) or one.distinct <= FEW:
        return None
    called, people = words.says(one.name, words.IDS), words.says(one.name, words.PEOPLE)
    share = one.distinct / one.known
    if called and people:
        return Guess(one.name, {"role": "id", "personal": "identifier"}, "by its name: names a person", review=True)
    if one.is_text and content.is_uuid(one.values):
        return Guess(one.name, {"role": "id"}, "by its values: UUIDs", review=True)
    if called and share > MANY:
        return Guess(one.name, {"role": "id"}, "by its name, and nearly all differ", review=True)
    if _counts_rows(one) or (share == 1 and one.is_whole and words.says(one.name, words.ROWS)):
        return Guess(one.name, {"role": "ignore"}, "it counts the rows", review=True)
    if one.is_text and share > NAMES_ROWS and not content.is_free_text(one.values):
        personal = {"personal": "identifier"} if people else {}
        return Guess(one.name, {"role": "id", **personal}, "nearly all its texts differ", review=True)
    if one.is_whole and words.says(one.name, words.KEYS):
        return Guess(one.name, {"dtype": "category"}, "by its name: names something that has many rows", review=True)
    return None


def _counts_rows(one: Facts) -> bool:
    """Whether each value is that of the row before and one."""
    if not one.is_whole or one.missing or one.distinct < one.rows:
        return False
    return bool((one.values.diff().drop_nulls() == 1).all())


def _text(one: Facts) -> Guess | None:
    if not one.is_text or not content.is_free_text(one.values):
        return None
    also = "; some hold e-mail addresses" if content.holds_addresses(one.values) else ""
    return Guess(one.name, {"dtype": "text"}, f"free text, which may tell about people{also}", review=True)


def _code(one: Facts) -> Guess | None:
    if one.zeros:
        return Guess(one.name, {"dtype": "category"}, "written with zeros before it: a code")
    if one.is_whole and 2 < one.distinct <= KEPT and words.says(one.name, words.CODES):
        return Guess(one.name, {"dtype": "category"}, "by its name: numbers that name kinds", review=True)
    return None


def _plain(one: Facts) -> Guess:
    """By its type alone."""
    import polars as pl

    kind = one.values.dtype
    remarks = []
    if one.texts is not None:
        remarks.append(f"{'booleans' if kind == pl.Boolean else 'numbers'} that stand as text; read as such")
    if one.missing > MOSTLY_MISSING * one.rows:
        remarks.append(f"{one.missing / one.rows:.0%} missing")
    if one.is_text and one.distinct > KEPT:
        remarks.append(f"{one.distinct:,} categories, of which the commonest {KEPT} are told apart")
    years = one.is_whole and words.says(one.name, words.YEARS) and _are_years(one.values)
    if years:
        remarks.append("if it is the next year that is to be predicted: role: time, and split by it")
    weighs = kind.is_numeric() and words.weighs(one.name)
    if weighs:
        remarks.append("by its name: how many people a row stands for; then role: weight")
    dtype = "category" if one.is_text else "bool" if kind == pl.Boolean else "int" if one.is_whole else "float"
    # What a cast might lose is left to the stage that reads it.
    exact = one.castable and not (kind.is_decimal() or kind in (pl.UInt64, pl.Int128, pl.UInt128))
    return Guess(one.name, {"dtype": dtype} if exact else {}, "; ".join(remarks), review=weighs or years)


def _are_years(values: pl.Series) -> bool:
    known = values.drop_nulls()
    return bool(((known >= 1900) & (known <= 2100)).all())
