"""Apache Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml.errors import DataCheckFailed
from specml.files import inside
from specml.kinds import Source
from specml.values import FilePath

if TYPE_CHECKING:
    import polars as pl


class Parquet(Source):
    """A Parquet file; its own types are kept."""

    type: Literal["parquet"] = "parquet"
    path: FilePath
    """The file, relative to the project folder."""
    allow_outside: bool = False
    """Whether the file may lie outside the project folder."""

    @override
    def files(self) -> tuple[str, ...]:
        return (self.path,)

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset()) -> pl.DataFrame:
        import polars as pl

        path = inside(folder, self.path, allow_outside=self.allow_outside)
        try:
            return pl.read_parquet(path, glob=False)
        except FileNotFoundError:
            raise DataCheckFailed("there is no such file.", where=self.path) from None
        except pl.exceptions.PolarsError as error:
            reason = str(error).strip().splitlines()[0]
            raise DataCheckFailed(f"can't be read as Parquet: {reason}", where=self.path) from None
