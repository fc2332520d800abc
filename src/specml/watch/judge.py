"""Windows of rows: profiled, judged, recorded."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from specml import ledger
from specml.casting import cast
from specml.data import watched
from specml.errors import DataCheckFailed
from specml.files import canonical_json, write_atomic
from specml.kinds import Window
from specml.profile import Profile, profile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl

    from specml.bundle import Bundle, Contract
    from specml.data import DType
    from specml.spec import Spec

RECORDS = ".specml/watch"
"""A record for each judged window (NAME.json), and the profile of its rows (NAME.profile)."""

DTYPES: dict[str, DType] = {
    "numeric": "float",
    "boolean": "bool",
    "categorical": "category",
    "datetime": "datetime",
    "text": "text",
}


@dataclass(frozen=True)
class Judged:
    """A window with its verdicts, as it is recorded."""

    name: str
    """Names the record; the same rows have the same name."""
    of: Literal["rows", "labels"]
    bundle: str
    window: Window
    verdicts: dict[str, dict[str, Any]]
    """By signal: its type and the verdict's fields."""
    origin: dict[str, Any] = field(default_factory=dict)
    """Where the rows came from."""

    @property
    def raised(self) -> tuple[str, ...]:
        """The signals that were raised."""
        return tuple(name for name, one in self.verdicts.items() if one["outcome"] == "refused")

    def told(self) -> dict[str, Any]:
        """The record; it holds figures, and no value of any row."""
        return {
            "schema_version": 1,
            "window": self.name,
            "of": self.of,
            "bundle": self.bundle,
            "rows": self.window.rows,
            "origin": self.origin,
            "signals": self.verdicts,
            "raised": list(self.raised),
        }

    def write(self, project: Path) -> None:
        """Keep profile and record; the record last: a window counts as judged from then on.

        A signal that was raised stands in the ledger before.
        """
        folder = project / RECORDS
        if self.raised:
            ledger.append(
                project, "signal", raised=self.raised, window=self.name, rows=self.window.rows, bundle=self.bundle
            )
        if self.window.profile is not None:
            write_atomic(folder / f"{self.name}.profile", self.window.profile.write())
        told = {**self.told(), "judged": datetime.now(UTC).isoformat(timespec="seconds")}
        write_atomic(folder / f"{self.name}.json", canonical_json(told))


def judge(spec: Spec, bundle: Bundle, window: Window, name: str, origin: dict[str, Any]) -> Judged:
    """The verdicts of every signal that judges such a window."""
    of: Literal["rows", "labels"] = "rows" if window.profile is not None else "labels"
    verdicts = {
        called: {"type": signal.type, **signal.judge(bundle.reference, window).model_dump(mode="json")}  # type: ignore[attr-defined]
        for called, signal in sorted(spec.monitoring.signals.items())
        if signal.judges == of
    }
    return Judged(name, of, bundle.digest, window, verdicts, origin)


def seen(table: pl.DataFrame, contract: Contract) -> Window:
    """Rows as a window: the model's columns in their types, profiled."""
    return Window(table.height, profile=Profile.read(profile(inputs(table, contract))))


def inputs(table: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """The model's columns in its types; one that ``table`` lacks is missing in every row.

    Raises:
        DataCheckFailed: the table has none of them, or a value can't be read as its column's type.
    """
    import polars as pl

    names = [column.name for column in contract.inputs]
    if not set(names) & set(table.columns):
        hint = f"It has: {', '.join(table.columns)}."
        raise DataCheckFailed(f"the rows have none of the model's columns: {', '.join(names)}.", hint=hint)
    return pl.DataFrame(
        [
            watched(
                cast(
                    table[one.name] if one.name in table.columns else _nothing(one.name, table.height), DTYPES[one.kind]
                ),
                one,
            )
            for one in contract.inputs
        ]
    )


def _nothing(name: str, rows: int) -> pl.Series:
    import polars as pl

    return pl.Series(name, [None] * rows, dtype=pl.Float64)


def parts(table: pl.DataFrame, by: str | None) -> Iterator[tuple[str, pl.DataFrame]]:
    """The table, or its rows by each value of a column in order, with ``by = value`` as their name.

    Raises:
        DataCheckFailed: there is no such column.
    """
    if by is None:
        yield "", table
        return
    if by not in table.columns:
        raise DataCheckFailed(f"the rows have no column {by!r}.", hint=f"They have: {', '.join(table.columns)}.")
    for value in table[by].unique().sort().to_list():
        yield f"{by} = {value}", table.filter(table[by].eq_missing(value))


def content(table: pl.DataFrame) -> bytes:
    """The rows as bytes: the same rows, the same bytes."""
    out = io.BytesIO()
    table.write_parquet(out)
    return out.getvalue()
