"""Apache Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml.kinds import FileSource, untold
from specml.reading import parquet_batches, read_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from specml.kinds import Tell


class Parquet(FileSource):
    """A Parquet file; its own types are kept."""

    type: Literal["parquet"] = "parquet"

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        return read_parquet(self.located(folder), self.path)

    @override
    def batches(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> Iterator[pl.DataFrame]:
        yield from parquet_batches(self.located(folder), self.path)
