"""Comma- (or otherwise) separated text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml.files import inside
from specml.kinds import Source, untold
from specml.reading import CsvText, read_csv, unpacked
from specml.values import FilePath

if TYPE_CHECKING:
    import polars as pl

    from specml.kinds import Tell


class Csv(Source, CsvText):
    """A CSV file with a header line, plain or packed by gzip."""

    type: Literal["csv"] = "csv"
    path: FilePath
    """The file, relative to the project folder."""
    allow_outside: bool = False
    """Whether the file may lie outside the project folder."""

    @override
    def files(self) -> tuple[str, ...]:
        return (self.path,)

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        path = inside(folder, self.path, allow_outside=self.allow_outside)
        return read_csv(unpacked(path, self.path), self, self.path, texts, tell)
