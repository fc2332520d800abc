"""Workbooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml.kinds import FileSource, untold
from specml.reading import read_workbook

if TYPE_CHECKING:
    import polars as pl

    from specml.kinds import Tell


class Excel(FileSource):
    """A sheet of a workbook (.xlsx, .xlsm, .xlsb, .xls, .ods); its first row names the columns."""

    type: Literal["excel"] = "excel"
    sheet: str | None = None
    """The sheet, by name; the first one unless said."""

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        path = self.located(folder)
        return read_workbook(path, self.path, self.sheet, texts, tell)
