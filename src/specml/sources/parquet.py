"""Apache Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml.kinds import FileSource, untold
from specml.reading import read_parquet

if TYPE_CHECKING:
    import polars as pl

    from specml.kinds import Tell


class Parquet(FileSource):
    """A Parquet file; its own types are kept."""

    type: Literal["parquet"] = "parquet"

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        return read_parquet(self.located(folder), self.path)
