"""The rows of a file, so many at a time: read where ``specml deploy`` runs, or on a node of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml.bundle import read_contract
from specml.errors import DataCheckFailed
from specml.kinds import Source
from specml.tables.rows import source_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import polars as pl


@dataclass(frozen=True)
class Reading:
    """How a file is read for a model; what another machine has to know to read it to the same rows."""

    source: Source
    bundle: Path
    """The folder of the model's bundle."""
    part_rows: int

    @classmethod
    def of(cls, file: Path, bundle: Path, known: Iterable[Source], part_rows: int) -> Reading:
        """How ``source_of`` reads a file for this bundle."""
        _, times = _columns(bundle)
        return cls(source_of(file, known, frozenset(times)), bundle, part_rows)

    @classmethod
    def told(cls, told: dict[str, Any]) -> Reading:
        """From ``tell``'s JSON values."""
        import json

        kind: Any = Source.table[told["source"]["type"]]
        source: Source = kind.model_validate_json(json.dumps(told["source"]))
        return cls(source, Path(told["bundle"]), int(told["part_rows"]))

    def tell(self) -> dict[str, Any]:
        """As JSON values."""
        source = self.source.model_dump(mode="json")
        return {"source": source, "bundle": str(self.bundle), "part_rows": self.part_rows}

    def parts(self) -> Iterator[pl.DataFrame]:
        """Its rows, ``part_rows`` at a time, with what the model wants of the rows before each.

        Raises:
            SpecmlError: it can't be read.
        """
        return parts(self._batches(), self.part_rows)

    def _batches(self) -> Iterator[pl.DataFrame]:
        """The rows of a file, as the model takes them; at once where it looks at those before a row."""
        import polars as pl

        from specml.tables.history import beside

        contract = read_contract(self.bundle)
        texts, _ = _columns(self.bundle)
        batches = self.source.batches(self.bundle, frozenset(texts))  # its path is absolute
        if contract.history is None:
            return batches
        inputs = {column.name: column.kind for column in contract.inputs}
        return iter([beside(pl.concat(list(batches)), contract.history, inputs)])


def _columns(bundle: Path) -> tuple[set[str], set[str]]:
    """The columns that a bundle's model takes as texts, and as times."""
    from specml.data import TEXTS, looks_back

    contract = read_contract(bundle)
    history = contract.history
    kinds = {(looks_back(column.name) or (column.name,))[0]: column.kind for column in contract.inputs}
    texts = {name for name, kind in kinds.items() if kind in TEXTS}
    times = {name for name, kind in kinds.items() if kind == "datetime"}
    if history is not None:
        texts |= set(history.by) - kinds.keys()  # as numbers, "01" and "1" would be one group
        times |= {history.time}
    return texts, times


def parts(batches: Iterator[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """The rows of all batches, so many at a time.

    Raises:
        DataCheckFailed: a column is of another type later than at first.
    """
    import polars as pl

    rest: pl.DataFrame | None = None
    for batch in batches:
        try:
            joined = batch if rest is None else pl.concat([rest, batch.select(rest.columns).cast(rest.schema)])
        except pl.exceptions.PolarsError:
            what = "a column is of another type, or not there, in later rows than in the first ones."
            raise DataCheckFailed(what, hint="Parquet files say of what type their columns are.") from None
        for start in range(0, joined.height - rows + 1, rows):
            yield joined.slice(start, rows)
        rest = joined.slice(joined.height // rows * rows)
    if rest is not None and rest.height:
        yield rest
