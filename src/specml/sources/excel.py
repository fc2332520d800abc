"""Workbooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml.files import inside
from specml.kinds import Source, untold
from specml.reading import read_workbook
from specml.values import FilePath

if TYPE_CHECKING:
    import polars as pl

    from specml.kinds import Tell


class Excel(Source):
    """A sheet of a workbook (.xlsx, .xlsm, .xlsb, .xls, .ods); its first row names the columns."""

    type: Literal["excel"] = "excel"
    path: FilePath
    """The file, relative to the project folder."""
    sheet: str | None = None
    """The sheet, by name; the first one unless said."""
    allow_outside: bool = False
    """Whether the file may lie outside the project folder."""

    @override
    def files(self) -> tuple[str, ...]:
        return (self.path,)

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        path = inside(folder, self.path, allow_outside=self.allow_outside)
        return read_workbook(path, self.path, self.sheet, texts, tell)
