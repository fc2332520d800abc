"""Tables in batches of rows: of what memory should not hold at once, one batch is at hand and the others are files."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from specml.errors import DataCheckFailed
from specml.files import digest, file_atomic, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    import polars as pl

WHOLE = 1 << 25
"""Values of a table that is a single batch, in memory: 2.8 million rows of twelve columns."""
BATCH = 1 << 23
"""Values of a batch of a larger one."""


@dataclass(frozen=True)
class Batches:
    """The rows of a table, in their order."""

    parts: tuple[pl.LazyFrame, ...]
    """Each batch: in memory where there is only one, else a file or a part of it."""
    folder: Path
    """Where batches that are made of these are kept, as long as they are needed."""
    files: tuple[Path, ...] = ()
    """Of these, those that lie there."""

    def __iter__(self) -> Iterator[pl.DataFrame]:
        return (part.collect() for part in self.parts)

    @property
    def single(self) -> bool:
        """Whether all rows are at hand at once."""
        return len(self.parts) == 1

    @property
    def height(self) -> int:
        """How many rows there are."""
        import polars as pl

        return sum(part.select(pl.len()).collect().item() for part in self.parts)

    @property
    def schema(self) -> pl.Schema:
        """Names and types of the columns."""
        return self.parts[0].collect_schema()

    def map(self, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Batches:
        """What ``change`` makes of each batch, now and in their order.

        Raises:
            DataCheckFailed: ``change`` raises it, and the rows are told, too; or a column is of another type in one
                batch than in another.
        """
        if self.single:
            return of(change(self.all()), self.folder)
        return kept(self._changed(change), self.folder)

    def _changed(self, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Iterator[pl.DataFrame]:
        first = 1
        for batch in self:
            last = first + batch.height - 1
            try:
                yield change(batch)
            except DataCheckFailed as error:
                if not error.where.startswith("data.columns."):
                    raise
                what = f"{error.what} Said of the rows {first:,} to {last:,} of those that were not put aside before."
                raise DataCheckFailed(what, hint=error.hint, where=error.where) from None
            first = last + 1

    def all(self) -> pl.DataFrame:
        """All rows at once."""
        import polars as pl

        return pl.concat(list(self))

    def only(self, names: Sequence[str]) -> Batches:
        """Some columns."""
        return Batches(tuple(part.select(names) for part in self.parts), self.folder, self.files)

    def narrow(self, names: Sequence[str]) -> pl.DataFrame:
        """Some columns, of all rows at once; of several batches texts are categories, and integers small ones."""
        import polars as pl

        if self.single:
            return self.only(names).all()
        made = pl.concat([batch.cast({pl.String: pl.Categorical}) for batch in self.only(names)])
        return made.with_columns(one.shrink_dtype() for one in made.get_columns() if one.dtype.is_integer())

    def unique(self, name: str) -> pl.Series:
        """The values of a column, each once, without the missing one."""
        import polars as pl

        return pl.concat([batch[name].unique() for batch in self.only([name])]).unique().drop_nulls()

    def taken(self, rows: np.ndarray) -> Batches:
        """The rows at these places, counted over all batches; of more than one batch they must ascend."""
        if self.single:
            return self.map(lambda batch: batch[rows])
        return self._by_place(lambda batch, first: batch[_within(rows, first, batch.height)])

    def with_column(self, values: pl.Series | None) -> Batches:
        """With one more column, of all rows; the same where there is none."""
        if values is None:
            return self
        return self._by_place(lambda batch, first: batch.with_columns(values.slice(first, batch.height)))

    def sampled(self, rows: int) -> pl.DataFrame:
        """At most so many rows, evenly spaced."""
        import numpy as np

        wanted = np.unique(np.linspace(0, max(0, self.height - 1), min(rows, self.height)).astype(int))
        return self.taken(wanted).all()

    def forget(self) -> None:
        """Remove the files of batches that are needed no more."""
        for file in self.files:
            file.unlink()

    def _by_place(self, change: Callable[[pl.DataFrame, int], pl.DataFrame]) -> Batches:
        """``map`` by a function that is also told which row of all the first of a batch is, from 0 on."""
        first = 0

        def changed(batch: pl.DataFrame) -> pl.DataFrame:
            nonlocal first
            first += batch.height
            return change(batch, first - batch.height)

        return self.map(changed)


def write(path: Path, table: Batches) -> str:
    """Write them as one Parquet file: the same rows, the same bytes. Returns their digest."""
    import polars as pl

    if table.single:
        buffer = io.BytesIO()
        table.all().write_parquet(buffer, compression="zstd", statistics=False)
        content = buffer.getvalue()
        write_atomic(path, content)
        return digest(content)
    step = max(1, BATCH // max(1, len(table.schema)))
    with file_atomic(path) as file, _told_by_name(path):
        pl.concat(table.parts).sink_parquet(file, compression="zstd", statistics=False, row_group_size=step)
        return digest(file)


def _within(rows: np.ndarray, first: int, height: int) -> np.ndarray:
    """Those of ascending ``rows`` that lie in a batch, counted from its first."""
    start, end = rows.searchsorted([first, first + height])
    found: np.ndarray = rows[start:end] - first
    return found


def of(table: pl.DataFrame, folder: Path) -> Batches:
    """A table that is in memory anyway."""
    return Batches((table.lazy(),), folder)


def read(path: Path, folder: Path, *, whole: bool = False) -> Batches:
    """The rows of a Parquet file; ``whole``: as a single batch, however many there are."""
    import polars as pl

    parts = parted(path)
    return of(pl.read_parquet(path, glob=False), folder) if whole or len(parts) == 1 else Batches(parts, folder)


def parted(path: Path) -> tuple[pl.LazyFrame, ...]:
    """A Parquet file as one part, or as several where it holds many values.

    Raises:
        polars.exceptions.PolarsError: it is none.
    """
    import polars as pl

    scanned = pl.scan_parquet(path, glob=False)
    rows, width = scanned.select(pl.len()).collect().item(), max(1, len(scanned.collect_schema()))
    if rows * width <= WHOLE:
        return (scanned,)
    step = max(1, BATCH // width)
    return tuple(scanned.slice(start, step) for start in range(0, rows, step))


def kept(batches: Iterable[pl.DataFrame], folder: Path) -> Batches:
    """Batches as they come: a single one in memory, more as files of ``folder``.

    Raises:
        DataCheckFailed: a column is of another type in one batch than in another.
    """
    import polars as pl

    files: list[Path] = []
    for batch, last in _with_last(batches):
        if last and not files:
            return of(batch, folder)
        handle, name = tempfile.mkstemp(suffix=".parquet", dir=folder)
        os.close(handle)
        files.append(Path(name))
        with _told_by_name(files[-1]):
            batch.write_parquet(files[-1], compression="lz4", statistics=False)
    return Batches(_of_one_schema(tuple(pl.scan_parquet(file, glob=False) for file in files)), folder, tuple(files))


def _of_one_schema(parts: tuple[pl.LazyFrame, ...]) -> tuple[pl.LazyFrame, ...]:
    """Parts whose columns are of one type: that of those in which there is a value."""
    import polars as pl

    schemas = [part.collect_schema() for part in parts]
    casts: dict[str, pl.DataType] = {}
    for name, dtype in schemas[0].items():
        if all(schema.get(name) == dtype for schema in schemas):
            continue
        rows, found = 0, dict[pl.DataType, int]()
        for part, schema in zip(parts, schemas, strict=True):
            height, known = part.select(pl.len(), pl.col(name).count().alias("known")).collect().row(0)
            if known:
                found.setdefault(schema[name], rows)
            rows += height
        if len(found) > 1:
            (first, _), (other, row) = list(found.items())[:2]
            what = f"{name!r} holds {first} values first, and from row {row + 1:,} on {other} values."
            raise DataCheckFailed(what, where=f"data.columns.{name}.dtype", hint="Declare its dtype.")
        casts[name] = next(iter(found), dtype)
    return tuple(part.cast(casts) for part in parts) if casts else parts  # type: ignore[arg-type]


def _with_last(batches: Iterable[pl.DataFrame]) -> Iterator[tuple[pl.DataFrame, bool]]:
    """Each with whether it is the last one."""
    ahead = iter(batches)
    batch = next(ahead, None)
    while batch is not None:
        following = next(ahead, None)
        yield batch, following is None
        batch = following


@contextlib.contextmanager
def _told_by_name(path: Path) -> Iterator[None]:
    """What the disk refuses as an ``OSError`` about ``path``: polars tells neither."""
    import polars as pl

    try:
        yield
    except pl.exceptions.PolarsError as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None
        raise
