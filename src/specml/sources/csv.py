"""Comma- (or otherwise) separated text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml.kinds import FileSource, untold
from specml.reading import CsvText, csv_batches, read_csv, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from specml.kinds import Tell


class Csv(FileSource, CsvText):
    """A CSV file with a header line, plain or packed by gzip."""

    type: Literal["csv"] = "csv"

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        path = self.located(folder)
        return read_csv(unpacked(path, self.path), self, self.path, texts, tell)

    @override
    def batches(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> Iterator[pl.DataFrame]:
        yield from csv_batches(self.located(folder), self, self.path, texts, tell)
