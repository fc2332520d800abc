"""Arrow IPC, also called Feather."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml.kinds import FileSource, untold
from specml.reading import read_arrow

if TYPE_CHECKING:
    import polars as pl

    from specml.kinds import Tell


class Arrow(FileSource):
    """An Arrow IPC (Feather) file or stream; its own types are kept."""

    type: Literal["arrow"] = "arrow"

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        return read_arrow(self.located(folder), self.path)
