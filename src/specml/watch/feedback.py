"""Late labels: joined to the captured answers that they belong to, and kept beside them."""

from __future__ import annotations

import io
import time
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from specml import ledger
from specml.casting import as_categories, cast
from specml.data import MISSING, category
from specml.errors import DataCheckFailed
from specml.evidence import ABSTAINED
from specml.files import digest, write_atomic
from specml.serving.capture import NAME, begun
from specml.watch import stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import polars as pl

    from specml.bundle import Contract

UNWRITTEN = 60.0
"""Seconds after which every captured row is written that will be."""


@dataclass(frozen=True)
class Taken:
    """What became of the rows of a file with labels."""

    rows: int
    kept: int = 0
    """New labels of captured rows."""
    known: int = 0
    """Labels that were told before, or twice in the file."""
    conflicting: int = 0
    """Labels of rows that have another one already; the first stays."""
    unknown: int = 0
    """Ids of no captured row."""
    unlabelled: int = 0
    """Rows without a label."""

    def __add__(self, other: Taken) -> Taken:
        """Both together."""
        return Taken(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def told(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


def feed(table: pl.DataFrame, project: Path, target: str, ids: str = "id") -> Taken:
    """Keep the labels in ``table`` (columns ``ids`` and ``target``); the same file twice changes nothing.

    Raises:
        DataCheckFailed: a column is lacking, or a label is none of the model's.
    """
    with stream.alone(project):
        return _fed(table, project, target, ids)


def collect(project: Path, target: str, say: Callable[[str], None]) -> None:
    """Keep the labels that were brought to the server (``POST /feedback``) and wait in ``stream.INBOX``.

    A label that belongs to no captured row stays there for a while: its row may not be written yet. The caller holds
    ``stream.alone``. ``say`` takes what a person should know.

    Raises:
        LedgerError: it can't be recorded.
    """
    files = sorted((project / stream.INBOX).glob("*.jsonl"))
    if not files:
        return
    with ledger.recorded(project, "feedback") as facts:
        total = Taken(0)
        for path in files:
            total += _collected(path, project, target, say)
        facts.update(total.told())
    say(f"{total.kept:,} of {total.rows:,} labels that the server was told are new and belong to captured rows.")


def _collected(path: Path, project: Path, target: str, say: Callable[[str], None]) -> Taken:
    import polars as pl

    try:
        table = pl.read_ndjson(path.read_bytes(), schema={"id": pl.String, "label": pl.String})
        taken = _fed(table.rename({"label": target}), project, target, "id")
    except (DataCheckFailed, pl.exceptions.PolarsError):
        # One file that can't be kept must not keep all others waiting for ever.
        path.rename(path.with_suffix(".refused"))
        say(f"{path.name} has labels of no class of the models that answered; it is put aside as .refused.")
        return Taken(0)
    if not taken.unknown or begun(path) < time.time() - UNWRITTEN:
        path.unlink(missing_ok=True)
    return taken


def _fed(table: pl.DataFrame, project: Path, target: str, ids: str) -> Taken:
    import polars as pl

    for name in (ids, target):
        if name not in table.columns:
            hint = f"They have: {', '.join(table.columns)}."
            raise DataCheckFailed(f"the labels have no column {name!r}.", hint=hint)
    given = pl.DataFrame([table[ids].cast(pl.String).alias("id"), table[target].alias("label")])
    texts = as_categories(given["label"])
    given = given.filter((texts != MISSING) & given["id"].is_not_null())
    kept = known = conflicting = matched = 0
    for folder, bundle in stream.bundles(project, stream.CAPTURES):
        if bundle is None or not any(folder.glob("*.parquet")):
            continue
        answers = _answers(folder, bundle.contract, given["id"])
        labels = given.select("id", y=_encoded(given["label"], bundle.contract)).join(answers, on="id", how="inner")
        told = _told(project / stream.FEEDBACK / folder.name, labels)
        new = labels.join(told, on="id", how="anti").unique("id", keep="first", maintain_order=True)
        settled = pl.concat([told, new.select("id", "y")]).rename({"y": "first"})
        differing = labels.join(settled, on="id").filter(pl.col("y") != pl.col("first")).height
        _write(project / stream.FEEDBACK / folder.name, new)
        matched += labels.height
        kept += new.height
        conflicting += differing
        known += labels.height - new.height - differing
    unlabelled, unknown = table.height - given.height, given.height - matched
    return Taken(table.height, kept, known, conflicting, unknown, unlabelled)


def _answers(folder: Path, contract: Contract, ids: pl.Series) -> pl.DataFrame:
    """The captured answers to the rows called ``ids``; the first where an id was used twice."""
    import polars as pl

    tables = [stream.read(one, "id", "outputs") for one in sorted(folder.glob("*.parquet"))]
    found = pl.concat([one.filter(pl.col("id").is_in(ids.implode())) for one in tables])
    found = found.unique("id", keep="first", maintain_order=True).unnest("outputs")
    if contract.task == "regression":
        return found
    places = {str(label): index for index, label in enumerate(contract.classes)}
    decision = pl.col("label").replace_strict(places, return_dtype=pl.Int64).fill_null(ABSTAINED)
    return found.select("id", "probabilities", decision=decision)


def _encoded(labels: pl.Series, contract: Contract) -> pl.Series:
    """Labels as class indices or numbers.

    Raises:
        DataCheckFailed: some are neither.
    """
    import polars as pl

    if contract.task == "regression":
        return cast(labels, "float")
    places = {category(label): index for index, label in enumerate(contract.classes)}
    y = as_categories(labels).replace_strict(places, default=None, return_dtype=pl.Int64)
    if strangers := y.null_count():
        raise DataCheckFailed(
            f"{strangers} of {len(y)} labels are no class of the model.",
            hint=f"Its classes: {', '.join(places)}.",
            where=contract.target,
        )
    return y


def _told(folder: Path, like: pl.DataFrame) -> pl.DataFrame:
    """``id`` and ``y`` of the labels that are kept already."""
    import polars as pl

    empty = like.select("id", "y").clear()
    return pl.concat([empty, *(stream.read(one, "id", "y") for one in sorted(folder.glob("*.parquet")))])


def _write(folder: Path, new: pl.DataFrame) -> None:
    if new.is_empty():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = io.BytesIO()
    new.write_parquet(content)
    raw = content.getvalue()
    write_atomic(folder / f"{datetime.now(UTC):{NAME}}-{digest(raw)[7:15]}.parquet", raw)
