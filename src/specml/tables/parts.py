"""A column in parts of ten rows and more: what is told of a part tells of no single row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from specml.curves import FEWEST, merged
from specml.data import MISSING, Column, iso, watched

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

MOST = 12
"""Categories, or different numbers, that are parts of their own; of more numbers, parts have equally many rows."""
EQUAL = 10
BARS = 24
"""Bins of a histogram, about."""
SHORT = 3
"""Significant digits of an edge, so that it is nobody's value."""
LONGEST = 60
"""Characters of a category's name."""


@dataclass(frozen=True)
class Parts:
    """The part of each row, and what the parts are called."""

    codes: np.ndarray
    """int64 [n]; -1 for rows of what would have been too small a part."""
    names: tuple[str, ...]

    @property
    def counts(self) -> np.ndarray:
        """Rows of each part: int64 [k]."""
        import numpy as np

        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))


def parts(values: pl.Series, column: Column) -> Parts:
    """A feature as the prepared tables hold it, in parts; of texts by their length, missing values by themselves."""
    import polars as pl

    if column.kind == "categorical":
        return of_categories(values)
    if column.kind == "boolean":
        names = {True: "true", False: "false"}
        return of_categories(values.replace_strict(names, default=MISSING, return_dtype=pl.String))
    return _of_numbers(numbers(values, column), column.kind)


def numbers(values: pl.Series, column: Column) -> np.ndarray:
    """A feature that is no category as numbers, float64 [n] with NaN for missing: times in seconds, texts by length."""
    import numpy as np
    import polars as pl

    return np.asarray(watched(values, column).cast(pl.Float64).to_numpy(), dtype=np.float64)


def of_categories(values: pl.Series, most: int = MOST, *, rest: bool = True) -> Parts:
    """The commonest categories and, unless ``rest`` is false, all others together."""
    import numpy as np
    import polars as pl

    counts = values.alias("name").value_counts(name="n").sort(["n", "name"], descending=[True, False])
    found = {str(name): int(n) for name, n in counts.iter_rows() if name != MISSING}
    kept = [name for name, n in found.items() if n >= FEWEST][:most]
    others = {name: n for name, n in found.items() if name not in set(kept)}
    names = [cut(name) for name in kept]
    places: dict[str, int] = {name: place for place, name in enumerate(kept)}
    if rest and sum(others.values()) >= FEWEST:
        names.append(f"{len(others):,} others")
        places |= dict.fromkeys(others, len(names) - 1)
    if int((values == MISSING).sum()) >= FEWEST:
        names.append("missing")
        places[MISSING] = len(names) - 1
    if not places:
        return Parts(np.full(len(values), -1), ())
    codes = values.replace_strict(places, default=-1, return_dtype=pl.Int64)
    return Parts(codes.fill_null(-1).to_numpy().astype(np.int64), tuple(names))


def _of_numbers(values: np.ndarray, kind: str) -> Parts:
    """Each of few values; else parts of equally many rows, beside a value that more rows have than such a part."""
    import numpy as np

    known = values[np.isfinite(values)]
    different, counts = np.unique(known, return_counts=True)
    if len(different) <= MOST:
        codes = np.searchsorted(different, values)
        return _large(np.where(np.isfinite(values), codes, len(different)), [_said(x, kind) for x in different])
    mode = float(different[counts.argmax()])
    common = float(counts.max()) > len(known) / EQUAL
    rest = known[known != mode] if common else known
    edges = np.unique([_rounded(one, kind) for one in np.quantile(rest, np.linspace(0, 1, EQUAL + 1)[1:-1])])
    words = [_said(one, kind) for one in edges]
    names = [f"under {words[0]}", *(f"{low} to {high}" for low, high in pairwise(words)), f"{words[-1]} and over"]
    codes = np.searchsorted(edges, values, side="right")
    if common:
        codes, names = np.where(values == mode, 0, codes + 1), [_said(mode, kind), *names]
    return _large(np.where(np.isfinite(values), codes, len(names)), names)


def _large(codes: np.ndarray, names: list[str]) -> Parts:
    """Without the parts of too few rows; the code after the last name is that of missing values."""
    import numpy as np

    names = [*names, "missing"]
    counts = np.bincount(codes, minlength=len(names))
    kept = [place for place, n in enumerate(counts) if n >= FEWEST]
    new = np.full(len(names), -1)
    new[kept] = np.arange(len(kept))
    return Parts(new[codes], tuple(names[place] for place in kept))


def bins(values: np.ndarray) -> list[dict[str, float]]:
    """A histogram of numbers: ``low``, ``high`` and ``n`` of bins of ten rows and more, with round edges.

    It goes from the first hundredth of the numbers to the last; what is beyond is in the outer bins.
    """
    import numpy as np

    known = values[np.isfinite(values)]
    if not len(known):
        return []
    low, high = (float(one) for one in np.quantile(known, [0.01, 0.99]))
    if high <= low:
        low, high = float(known.min()), float(known.max())
    if high <= low:
        return [{"low": low, "high": high, "n": len(known)}] if len(known) >= FEWEST else []
    step = round_step((high - low) / BARS)
    if bool((known == np.round(known)).all()):
        step = max(1.0, step)
    first, last = math.floor(low / step), math.floor(high / step) + 1
    edges = [place * step for place in range(first, last + 1)]
    counts, _ = np.histogram(np.clip(known, edges[0], edges[-1]), bins=edges)
    return merged([int(n) for n in counts], edges)


def round_step(size: float) -> float:
    """The least of 1, 2, 2.5, 5 and 10 times a power of ten that is not below ``size``."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= size * (1 - 1e-9))


def _rounded(value: float, kind: str) -> float:
    if kind == "datetime":
        return float(round(value / 86400) * 86400)
    return float(f"{value:.{SHORT}g}")


def _said(value: Any, kind: str) -> str:
    if kind == "datetime":
        return iso(float(value))[:10]
    return f"{float(value):.6g}"


def cut(name: str) -> str:
    """A name from the data, shortened."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
