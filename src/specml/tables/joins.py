"""Several sources as one table: by keys, or with the latest row that was known before."""

from __future__ import annotations

from datetime import time, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from specml.casting import cast
from specml.component import Block, Disagreement
from specml.errors import DataCheckFailed
from specml.values import Duration, Slug

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import polars as pl


class Join(Block):
    """Adds the columns of a source to the rows of another: a row of the left takes those of one row of the right."""

    right: Slug
    """The source whose columns are added."""
    left: Slug | None = None
    """The source whose columns ``keys`` and ``as_of`` name. Unless said the base: the source that is nobody's
    ``right``, whose rows the table has."""
    keys: tuple[str, ...] | dict[str, str] = ()
    """Columns that must be equal, as ``[carrier, day]``, or ``{left: right}`` where their names differ. A missing
    key matches nothing."""
    as_of: str | Annotated[dict[str, str], Field(min_length=1, max_length=1)] | None = None
    """The time of the left, as ``submitted_at``, or ``{submitted_at: known_at}`` where the right calls its own
    otherwise: of the rows with the same keys the latest is taken that is earlier. No row sees its future."""
    tolerance: Annotated[Duration, Field(gt=0)] | None = None
    """How much earlier it may be, as ``90d``; as much as it likes unless said."""
    allow_exact_matches: bool = False
    """Whether a row of the very same time is early enough. Not unless said: of two that bear the same day nobody
    knows which was first. Where the right has days without a clock, the left's times count as their days."""
    cardinality: Literal["many_to_one", "one_to_one"] = "many_to_one"
    """``many_to_one``: the right has at most one row for each key (and time); ``one_to_one``: no two rows of the
    left share one either. What breaks it is counted, and stops the run."""
    how: Literal["left", "inner"] = "left"
    """``left``: a row without a match stays, with missing values; ``inner``: it goes."""
    prefix: str = ""
    """Put before the name of every column that is added; the right's keys, which equal the left's, are not."""

    @property
    def pairs(self) -> dict[str, str]:
        """The keys: right column by left column."""
        return dict(self.keys) if isinstance(self.keys, dict) else {key: key for key in self.keys}

    @property
    def times(self) -> tuple[str, str] | None:
        """The columns of ``as_of``: left, right."""
        if isinstance(self.as_of, dict):
            return next(iter(self.as_of.items()))
        return (self.as_of, self.as_of) if self.as_of is not None else None


Joins = tuple[Join, ...]


def named(joins: Joins, source: str, column: str) -> str:
    """What a source's column is called in the joined table."""
    join = next((one for one in joins if one.right == source), None)
    if join is None:
        return column
    key = next((left for left, right in join.pairs.items() if right == column), None)
    if key is None:
        return join.prefix + column
    return named(joins, join.left, key) if join.left else key


def own_name(joins: Joins, source: str, name: str) -> str:
    """What a source calls the column ``name`` of the joined table; empty if it can't be one of its own."""
    join = next((one for one in joins if one.right == source), None)
    if join is None:
        return name
    keys = {named(joins, source, right): right for right in join.pairs.values()}
    own = name.removeprefix(join.prefix) if name.startswith(join.prefix) else ""
    return keys.get(name, own)


def needed(joins: Joins, source: str) -> set[str]:
    """The columns of a source, as it calls them, without which a join can't be made."""
    found: set[str] = set()
    base = not any(join.right == source for join in joins)
    for join in joins:
        if join.right == source:
            found |= {*join.pairs.values(), *(join.times or ())[1:]}
        if join.left == source or (base and join.left is None):
            found |= {*join.pairs, *(join.times or ())[:1]}
    return found


def disagreements(sources: Collection[str], joins: Joins) -> Iterator[Disagreement]:
    """Joins that don't make one table of the sources; keys are paths from ``data``."""
    if len(sources) == 1 and joins:
        yield Disagreement(key=("joins",), what="has no effect: there is one source.")
        return
    rights = {join.right for join in joins}
    bases = [name for name in sources if name not in rights]
    there = set(bases[:1])
    for index, join in enumerate(joins):
        for key, what, hint in _wrong(join, sources, there):
            yield Disagreement(key=("joins", index, *([key] if key else [])), what=what, hint=hint)
        there.add(join.right)
    if not bases:
        yield Disagreement(key=("joins",), what="makes every source a right one: none is left whose rows to take.")
    for name in bases[1:]:
        hint = f"Add a join: {{right: {name}, keys: [...]}}"
        what = f"has {bases[0]!r} and {name!r}, but no join brings the two together."
        yield Disagreement(key=("sources",), what=what, hint=hint)


def _wrong(join: Join, sources: Collection[str], there: set[str]) -> Iterator[tuple[str, str, str]]:
    """Key, what and hint; ``there``: the sources that are in the table already."""
    for key, name in (("right", join.right), ("left", join.left)):
        if name is not None and name not in sources:
            yield key, f"names {name!r}, which is no source of this spec.", f"Its sources: {', '.join(sources)}."
    if join.left is not None and join.left in sources and join.left not in there:
        yield "left", f"names {join.left!r}, which no join before has brought in.", ""
    if join.right in there:
        yield "right", f"names {join.right!r}, which is in the table already.", ""
    if not join.keys and join.as_of is None:
        yield "", "needs keys, or as_of.", ""
    for key in ("tolerance", "allow_exact_matches"):
        if join.as_of is None and getattr(join, key):
            yield key, "has no effect without as_of.", ""


def joined(tables: Mapping[str, pl.DataFrame], joins: Joins) -> tuple[pl.DataFrame, dict[str, dict[str, int]]]:
    """One table, in the order of the base's rows, and what each join has found, by its right source.

    Raises:
        DataCheckFailed: a column is missing, names clash, keys can't be compared or repeat, or nothing matches.
    """
    base = next(name for name in tables if not any(join.right == name for join in joins))
    table, told = tables[base], {}
    for index, join in enumerate(joins):
        called = {name: named(joins, join.left or base, name) for name in tables[join.left or base].columns}
        table, told[join.right] = _added(join, table, tables[join.right], called, f"data.joins[{index}]")
    return table, told


def _added(
    join: Join, left: pl.DataFrame, right: pl.DataFrame, called: dict[str, str], where: str
) -> tuple[pl.DataFrame, dict[str, int]]:
    """``left`` with the columns of ``right``; ``called``: what ``left`` calls the columns that ``keys`` may name."""
    _refuse_lacking(called, [*join.pairs, *(join.times or ())[:1]], join.left or "the base", where)
    _refuse_lacking(right.columns, [*join.pairs.values(), *(join.times or ())[1:]], join.right, where)
    pairs = [_comparable(left[called[one]], right[other], where) for one, other in join.pairs.items()]
    if join.times:
        pairs.append(_times(left[called[join.times[0]]], right[join.times[1]], join, where))
        right = right.with_columns(pairs[-1][1])
    match, told = _match(join, pairs, where)
    added = right.drop(join.pairs.values()).rename(lambda name: join.prefix + name)
    _refuse_clashes(left, added, join, where)
    table = left.hstack([column.gather(match) for column in added])
    return (table.filter(match.is_not_null()) if join.how == "inner" else table), told


def _match(join: Join, pairs: list[tuple[pl.Series, pl.Series]], where: str) -> tuple[pl.Series, dict[str, int]]:
    """For each row of the left the index of its row of the right, null where there is none; and the counts.

    ``pairs``: of each key, and last of the time, both sides in one type.
    """
    import polars as pl

    names = [f"key{i}" for i in range(len(join.pairs))]
    every = [*names, "time"] if join.times else names
    left, right = (
        pl.DataFrame([pair[side].alias(name) for name, pair in zip(every, pairs, strict=True)]).with_row_index(index)
        for side, index in ((0, "left"), (1, "right"))
    )
    ours, theirs = left.drop_nulls(), right.drop_nulls()
    _refuse_repeated(theirs.select(every), join, where)
    if join.times:
        found = ours.sort("time", maintain_order=True).join_asof(
            theirs.sort("time", maintain_order=True),
            on="time",
            by=names or None,
            strategy="backward",
            tolerance=None if join.tolerance is None else timedelta(seconds=join.tolerance),
            allow_exact_matches=join.allow_exact_matches,
            check_sortedness=False,  # both are; within groups polars can't see it, and warns
        )
    else:
        found = ours.join(theirs, on=names, how="left")
    match = left.select("left").join(found.select("left", "right"), on="left", how="left", maintain_order="left")[
        "right"
    ]
    _refuse_shared(match, join, where)
    matched = left.height - match.null_count()
    if left.height and not matched:
        hint = "Are these the right keys, written the same way in both?"
        raise DataCheckFailed(f"no row matches one of {join.right!r}.", hint=hint, where=where)
    return match, {
        "rows": left.height,
        "matched": matched,
        "without_key": left.height - ours.height,
        "right_rows": right.height,
        "right_rows_without_key": right.height - theirs.height,
        "right_rows_used": match.drop_nulls().n_unique(),
    }


def _refuse_lacking(columns: Collection[str], names: Collection[str], whose: str, where: str) -> None:
    for name in names:
        if name not in columns:
            hint = f"It has: {', '.join(columns)}."
            raise DataCheckFailed(f"there is no column {name!r} in {whose}.", hint=hint, where=where)


def _refuse_repeated(keys: pl.DataFrame, join: Join, where: str) -> None:
    """A row of the left may match one row only."""
    import polars as pl

    counts = keys.group_by(keys.columns).len().filter(pl.col("len") > 1)["len"]
    if len(counts):
        what = "keys and times" if join.as_of else "keys"
        raise DataCheckFailed(
            f"{len(counts):,} {what} stand in more than one row of {join.right!r}, in {counts.sum():,} of its "
            f"{keys.height:,} rows.",
            hint=f"{join.cardinality} wants one row for each. Name more keys, or make the rows of the source unique.",
            where=f"{where}.cardinality",
        )


def _refuse_shared(match: pl.Series, join: Join, where: str) -> None:
    if join.cardinality != "one_to_one":
        return
    used = match.drop_nulls()
    shared = int((used.value_counts()["count"] > 1).sum())
    if shared:
        what = f"{shared:,} rows of {join.right!r} match more than one row of the left, which one_to_one forbids."
        raise DataCheckFailed(
            what, hint="Say cardinality: many_to_one where that is right.", where=f"{where}.cardinality"
        )


def _refuse_clashes(left: pl.DataFrame, added: pl.DataFrame, join: Join, where: str) -> None:
    twins = [name for name in added.columns if name in left.columns]
    if twins:
        what = f"{', '.join(map(repr, twins[:5]))}{' and more' if len(twins) > 5 else ''} would stand there twice."
        hint = f"Say data.joins: {{right: {join.right}, prefix: {join.right}_, ...}}"
        raise DataCheckFailed(what, hint=hint, where=f"{where}.prefix")


def _comparable(left: pl.Series, right: pl.Series, where: str) -> tuple[pl.Series, pl.Series]:
    """A key of both sides in one type."""
    import polars as pl

    left, right = _plain(left), _plain(right)
    kinds = {_kind(left), _kind(right)}
    if kinds == {"text", "time"}:
        left, right = (cast(one, "datetime") if _kind(one) == "text" else one for one in (left, right))
        kinds = {"time"}
    if len(kinds) > 1:
        raise DataCheckFailed(
            f"the key {left.name!r} holds {_kind(left)}s on the left, but {right.name!r} {_kind(right)}s on the right.",
            hint=f"Declare data.columns.{left.name}.dtype: category to compare them as they are written.",
            where=f"{where}.keys",
        )
    if kinds == {"number"} and left.dtype != right.dtype:
        whole = left.dtype.is_integer() and right.dtype.is_integer()
        wide: Any = pl.Int128 if whole else pl.Float64
        left, right = left.cast(wide), right.cast(wide)
    if kinds == {"time"}:
        left, right = _aligned(left, right, f"{where}.keys")
    return left, right


def _plain(values: pl.Series) -> pl.Series:
    """Categories as text, NaN as missing."""
    import polars as pl

    if values.dtype in (pl.Categorical, pl.Enum):
        return values.cast(pl.String)
    return values.fill_nan(None) if values.dtype.is_float() else values


def _kind(values: pl.Series) -> str:
    import polars as pl

    if values.dtype.is_numeric():
        return "number"
    if values.dtype in (pl.Date, pl.Datetime):
        return "time"
    return "text" if values.dtype == pl.String else f"{values.dtype} value"


def _times(left: pl.Series, right: pl.Series, join: Join, where: str) -> tuple[pl.Series, pl.Series]:
    """Both columns of ``as_of``, as times or numbers; texts are read as ISO 8601."""
    import polars as pl

    left, right = (cast(one, "datetime") if one.dtype == pl.String else _plain(one) for one in (left, right))
    where = f"{where}.as_of"
    if {_kind(left), _kind(right)} == {"number"}:
        if join.tolerance is not None:
            what = f"{left.name!r} holds numbers, of which a tolerance of {join.tolerance} says nothing."
            raise DataCheckFailed(what, where=where)
        whole = left.dtype.is_integer() and right.dtype.is_integer()
        large = {left.dtype, right.dtype} & {pl.UInt64(), pl.Int128()}
        wide: Any = (pl.Int128 if large else pl.Int64) if whole else pl.Float64
        return left.cast(wide), right.cast(wide)
    for one in (left, right):
        if _kind(one) != "time":
            raise DataCheckFailed(
                f"{one.name!r} holds {one.dtype} values, not times as {left.name!r} may.", where=where
            )
    _refuse_one_zone(left, right, where)
    if _days(right) and not _days(left):  # a day ends after every time in it
        left = left if (zone := _zone(right)) is None else left.dt.convert_time_zone(zone)
        left = left.dt.truncate("1d")
    return _aligned(left, right, where)


def _days(times: pl.Series) -> bool:
    """Whether they are days, without clocks: no text of a day says that it means midnight."""
    import polars as pl

    return times.dtype == pl.Date or bool((times.dt.time() == time()).all())


def _zone(times: pl.Series) -> str | None:
    return getattr(times.dtype, "time_zone", None)


def _aligned(left: pl.Series, right: pl.Series, where: str) -> tuple[pl.Series, pl.Series]:
    """Times of both sides in the finer of their units, at least microseconds, in UTC where they have a zone."""
    import polars as pl

    _refuse_one_zone(left, right, where)
    fine: Any = "ns" if "ns" in [getattr(one.dtype, "time_unit", None) for one in (left, right)] else "us"
    wide = pl.Datetime(fine, None if _zone(left) is None else "UTC")
    return _in_unit(left, wide, where), _in_unit(right, wide, where)


def _in_unit(times: pl.Series, wide: pl.Datetime, where: str) -> pl.Series:
    out = times.cast(wide, strict=False)
    if beyond := out.null_count() - times.null_count():
        what = f"{beyond:,} times of {times.name!r} are beyond 1677 to 2262, which is all that nanoseconds count."
        raise DataCheckFailed(what, hint="Give the other side's times in microseconds, or mend these.", where=where)
    return out


def _refuse_one_zone(left: pl.Series, right: pl.Series, where: str) -> None:
    zoned = [_zone(one) is not None for one in (left, right)]
    if zoned[0] != zoned[1]:
        one, other = (left, right) if zoned[0] else (right, left)
        what = f"the times of {one.name!r} have a time zone, those of {other.name!r} none: which is earlier is unknown."
        raise DataCheckFailed(what, where=where)
