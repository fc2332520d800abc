"""What the model is to see of the columns, found out from the training rows alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self

from specml.casting import declared_groups
from specml.data import CATEGORIES_KEPT, FIRST, LAST, MISSING, NAMES_ROWS, Column, Layout, looks_back, watched
from specml.errors import DataCheckFailed
from specml.tables import history, splits

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from specml.batches import Batches
    from specml.data import DType, Pixels
    from specml.spec import Features, Spec

COUNTED = 100_000
"""Values that are counted on from one batch to the next, the commonest; of one batch all are."""
LEAST = 1 << 16
"""Hashes that are kept of a column's texts."""
OUTPUTS = ("label", "prediction", "probabilities")
"""What the packaged model's outputs are called."""


@dataclass(frozen=True)
class Hashes:
    """How many values differ, from the least of their hashes: exact up to ``LEAST``, beyond within half a percent.

    Bar-Yossef et al. 2002, *Counting Distinct Elements in a Data Stream*.
    """

    least: np.ndarray
    """uint64, ascending, each once."""
    counted: int | None
    """How many there are, where they were counted at once."""

    @classmethod
    def of(cls, values: pl.Series) -> Self:
        """Of values that differ."""
        import numpy as np

        return cls(np.unique(values.hash(seed=0).to_numpy())[:LEAST], len(values))

    def __add__(self, other: Self) -> Self:
        import numpy as np

        return type(self)(np.union1d(self.least, other.least)[:LEAST], None)

    @property
    def total(self) -> int:
        """How many there are."""
        n = len(self.least)
        if self.counted is not None:
            return self.counted
        return n if n < LEAST else round((n - 1) * 2.0**64 / float(self.least[-1]))


@dataclass(frozen=True)
class Seen:
    """What is known of a column after some batches of rows."""

    dtype: pl.DataType
    rows: int
    missing: int
    minimum: Any
    maximum: Any
    """Of texts as of anything else; of times as they are counted."""
    counts: pl.DataFrame | None = None
    """Texts: how often (``count``) each ``value`` stands there."""
    hashes: Hashes | None = None
    """Texts: of how many it is that there are."""

    @classmethod
    def of(cls, values: pl.Series) -> Self:
        """Look at a batch."""
        import polars as pl

        counts = values.alias("value").value_counts() if values.dtype == pl.String else None
        hashes = None if counts is None else Hashes.of(counts["value"])
        bare = values.to_physical() if values.dtype.is_temporal() else values  # years beyond 9999 are none to Python
        return cls(values.dtype, len(values), values.null_count(), bare.min(), bare.max(), counts, hashes)

    def __add__(self, other: Self) -> Self:
        import polars as pl

        counts = None
        if self.counts is not None and other.counts is not None:
            counts = pl.concat([self.counts, other.counts]).group_by("value").agg(pl.col("count").sum())
        hashes = None if self.hashes is None or other.hashes is None else self.hashes + other.hashes
        if counts is not None and counts.height > COUNTED:
            counts = counts.sort("count", "value", descending=[True, False]).head(COUNTED)
        return type(self)(
            self.dtype,
            self.rows + other.rows,
            self.missing + other.missing,
            min((one for one in (self.minimum, other.minimum) if one is not None), default=None),
            max((one for one in (self.maximum, other.maximum) if one is not None), default=None),
            counts,
            hashes,
        )

    @property
    def distinct(self) -> int:
        """Texts: how many there are."""
        return self.hashes.total if self.hashes else 0

    @property
    def names_rows(self) -> bool:
        """Whether it names its rows rather than describing them: nearly all texts differ."""
        return self.distinct > NAMES_ROWS * self.rows

    @property
    def constant(self) -> bool:
        """Whether every row has the same value, or none has one."""
        return self.missing == self.rows or (not self.missing and bool(self.minimum == self.maximum))


def seen(spec: Spec, chosen: Features, table: Batches) -> dict[str, Seen]:
    """Each column of some rows that may be a feature."""
    found: dict[str, Seen] = {}
    names = [name for name in table.schema.names() if _may_be_feature(spec, chosen, name)]
    for batch in table.only(names):
        for values in batch.get_columns() if batch.height else ():
            looked = Seen.of(values)
            found[values.name] = found[values.name] + looked if values.name in found else looked
    return found


def layout(
    spec: Spec,
    chosen: Features,
    columns: dict[str, Seen],
    classes: tuple[Any, ...],
    set_aside: dict[str, str],
    *,
    pixels: Pixels | None = None,
) -> Layout:
    """How the tables are to be read; what is set aside comes to ``set_aside``, with the reason.

    ``columns``: as the training rows have them. ``pixels``: how the source makes columns of images.

    Raises:
        DataCheckFailed: no feature is left, one has a name that is taken, or a derived one reads what is none.
    """
    features, read = [], chosen.read
    for name, column in columns.items():
        if not chosen.takes(name) and name not in read:
            set_aside[name] = "features.include and exclude leave it out"
            continue
        # What is derived for a forecast unless the spec says may look farther back than there are rows.
        far = spec.problem.forecast is not None and looks_back(name) is not None
        if column.constant and not far:
            alone = looks_back(name) and column.missing == column.rows
            set_aside[name] = (
                "no training row has so many rows before it" if alone else "it has one value only in the training rows"
            )
            continue
        dtype = spec.column(name).dtype or chosen.dtype(name)
        if column.names_rows and dtype is None:
            distinct = f"{column.distinct:,} of its {column.rows:,} texts are distinct"
            set_aside[name] = f"{distinct}; an id? Declare its role or dtype, as text"
            continue
        features.append(_column(name, column, dtype, nullable=spec.column(name).nullable))
    for feature in features:
        odd = re.fullmatch(r"_[cv]\d+", feature.name) or (looks_back(feature.name) and feature.name not in read)
        if feature.name in (*OUTPUTS, *splits.COLUMNS.values()) or odd:
            raise DataCheckFailed(
                f"a feature can't be called {feature.name!r}, which the model's graph needs as a name of its own.",
                hint=f"Rename it in the data, or declare data.columns.{feature.name}.role: ignore",
            )
    if not features:
        raise DataCheckFailed("no feature is left.", hint="Check the roles under data.columns.")
    _refuse_underivable(chosen, {column.name: column.kind for column in features}, set_aside)
    weights = spec.with_role("weight")
    return Layout(
        task=spec.problem.learns,
        target=spec.problem.target,
        classes=classes,
        features=tuple(features),
        protected=spec.with_role("protected"),
        groups={name: declared_groups(spec.column(name)) for name in spec.with_role("protected")},
        folding=splits.folding(spec.data.split, spec.problem.learns),
        weight=weights[0] if weights else None,
        image=pixels,
        history=history.past_rows(spec, chosen),
        quantiles=spec.problem.quantiles,
    )


def refuse_idle_patterns(features: Features, names: list[str]) -> None:
    """Make sure that each pattern fits one of the columns: else it is misspelt, or left from what has gone.

    Raises:
        DataCheckFailed: one does not.
    """
    for key, pattern in features.idle(names):
        close = get_close_matches(pattern, names, 1)
        hint = f"Did you mean {close[0]!r}?" if close else ""
        raise DataCheckFailed(f"{pattern!r} fits no column of the data.", where=f"features.{key}", hint=hint)


def _refuse_underivable(features: Features, kinds: dict[str, str], set_aside: dict[str, str]) -> None:
    """What derives must find the columns that it reads, of kinds that it can read."""
    for derived, feature in features.derive.items():
        where = f"features.derive.{derived}"
        if derived in kinds:
            raise DataCheckFailed("is the name of a column: a derived feature needs one of its own.", where=where)
        for name, allowed in feature.reads().items():
            if name not in kinds:
                why = f", which was set aside: {set_aside[name]}" if name in set_aside else ", which is no column"
                close = get_close_matches(name, kinds, 1)
                hint = f"Did you mean {close[0]!r}?" if close else ""
                raise DataCheckFailed(f"reads {name!r}{why}.", where=where, hint=hint)
            if kinds[name] not in allowed:
                what = f"reads {name!r} as {' or '.join(allowed)}; it is {kinds[name]}."
                of, _ = looks_back(name) or (name, 0)
                raise DataCheckFailed(what, where=where, hint=f"Declare data.columns.{of}.dtype, or mend the formula.")


def _may_be_feature(spec: Spec, chosen: Features, name: str) -> bool:
    """Whether its role lets a model see a column; one that orders the rows only where a feature asks for it."""
    role = spec.column(name).role
    if role == "time":
        return chosen.dtype(name) == "datetime" or name in chosen.read
    return role == "feature" and name != spec.problem.target


def _column(name: str, seen: Seen, dtype: DType | None, *, nullable: bool) -> Column:
    import polars as pl

    if dtype == "text":
        return Column(name=name, kind="text", nullable=nullable)
    if seen.dtype.is_temporal():
        ends = pl.Series([seen.minimum, seen.maximum], dtype=pl.Int64).cast(seen.dtype)
        times = watched(ends.alias(name), Column(name=name, kind="datetime")).clip(FIRST, LAST)
        return Column(name=name, kind="datetime", nullable=nullable, minimum=times[0], maximum=times[1])
    if seen.counts is not None:
        commonest = seen.counts.filter(pl.col("value") != MISSING).sort("count", "value", descending=[True, False])
        categories = commonest["value"].head(CATEGORIES_KEPT).sort().to_list()
        return Column(name=name, kind="categorical", nullable=nullable, categories=tuple(categories))
    return Column(
        name=name,
        kind="boolean" if seen.dtype == pl.Boolean else "numeric",
        integral=seen.dtype.is_integer(),
        nullable=nullable,
        minimum=_number(seen.minimum),
        maximum=_number(seen.maximum),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
