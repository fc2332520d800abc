"""Rows of a table scored from a bundle, in a process of its own: ``python -m specml.serving.scoring``.

``Wanted`` comes in as a line of JSON on the standard input; then, part after part, a line ``Part`` and the rows as
Arrow IPC. For each a line ``Scored`` goes out, once its files have their final names. It lives until its standard input
is closed, and ends with the process that started it.
"""

from __future__ import annotations

import io
import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from pydantic import BaseModel

from specml.bundle import open_bundle
from specml.casting import as_categories, blank_as_missing, finite
from specml.data import MISSING, TEXTS, category, seconds
from specml.errors import DataCheckFailed, SpecmlError
from specml.files import digest, write_atomic
from specml.processes import die_with_parent
from specml.serving.request import beyond, text_array
from specml.serving.session import Session
from specml.serving.table import BOOLEANS

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from specml.bundle import Contract
    from specml.data import Column


class Wanted(BaseModel):
    """What all parts have in common."""

    parent: int
    """The process that started this one."""
    bundle: str
    digest: str
    """Of the bundle, which was verified before."""
    rows_at_once: int
    """Most rows in one call of the model."""
    keep: tuple[str, ...] | None
    """The columns of the table that stand beside the answers; None: all."""
    format: Literal["parquet", "csv"]


class Part(BaseModel):
    """Some rows in a row of a table."""

    first: int
    """The number of the first of them, counted from 1."""
    size: int
    """Bytes of Arrow IPC that follow."""
    file: str
    """Where the answers go."""
    aside: str
    """Where rows go that have none; empty where nothing is to be written if there are any."""


class Scored(BaseModel):
    """What became of a part, or of all of them."""

    rows: int = 0
    """With an answer."""
    bad: int = 0
    """Without."""
    row: int = 0
    """The number of the first one without."""
    why: str = ""
    """What is wrong with it; holds no value of it."""
    digest: str = ""
    """Of the file of answers; empty where none was written."""
    failed: str = ""
    """What is wrong with the whole table."""


class Scorer:
    """A bundle that answers tables."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        bundle = open_bundle(Path(wanted.bundle), audited=wanted.digest)
        self._contract = bundle.contract
        self._session = Session(bundle, gpu=False)

    def score(self, table: pl.DataFrame, part: Part) -> Scored:
        """Write the answers to a part's rows, and put the rows aside that have none.

        Raises:
            DataCheckFailed: none of the model's columns is there, one holds no values of any use, or one that is to
                be kept is not there.
        """
        import polars as pl

        kept = self._kept(table)
        columns, wrong = read(table, self._contract)
        good = np.array([row for row in range(table.height) if row not in wrong], dtype=np.int64)
        outputs, failed = self._run(columns, good)
        wrong |= {int(row): why for row, why in failed.items()}
        first = min(wrong, default=0)
        told = Scored(rows=table.height - len(wrong), bad=len(wrong))
        if wrong:
            told = told.model_copy(update={"row": part.first + first, "why": wrong[first]})
            if not part.aside:
                return told
        good = np.array([row for row in good if row not in failed], dtype=np.int64)
        answered = beside(kept[good], answers(outputs, self._contract))
        if wrong:
            places = sorted(wrong)
            numbers = pl.Series("row", [part.first + row for row in places])
            reasons = pl.Series("why", [wrong[row] for row in places])
            self._write(Path(part.aside), beside(table[places], [numbers, reasons]))
        return told.model_copy(update={"digest": self._write(Path(part.file), answered)})

    def told(self, rows: bytes, part: Part) -> Scored:
        """``score`` of rows as Arrow IPC, and whatever is wrong with them."""
        import polars as pl

        try:
            return self.score(pl.read_ipc(io.BytesIO(rows)), part)
        except SpecmlError as error:
            return Scored(failed=f"{error.what} {error.hint}".strip())
        except OSError as error:
            return Scored(failed=f"{error.filename} can't be written: {error.strerror}.")

    def _kept(self, table: pl.DataFrame) -> pl.DataFrame:
        if self._wanted.keep is None:
            return table
        lacking = [name for name in self._wanted.keep if name not in table.columns]
        if lacking:
            what = f"the table has no column {lacking[0]!r} to keep."
            raise DataCheckFailed(what, hint=f"It has: {', '.join(table.columns)}.")
        return table.select(self._wanted.keep)

    def _run(self, columns: dict[str, np.ndarray], good: np.ndarray) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """The outputs of those of the rows ``good`` that have some, and why others have none."""
        failed: dict[int, str] = {}
        parts = [_nothing(self._contract)]
        for start in range(0, len(good), self._wanted.rows_at_once):
            parts.extend(self._answered(columns, good[start : start + self._wanted.rows_at_once], failed))
        return {name: np.concatenate([part[name] for part in parts]) for name in self._contract.outputs()}, failed

    def _answered(
        self, columns: dict[str, np.ndarray], rows: np.ndarray, failed: dict[int, str]
    ) -> list[dict[str, np.ndarray]]:
        """Of a call that fails, each half by itself: a row on which the model fails does so alone."""
        try:
            outputs = self._session.run({name: array[rows] for name, array in columns.items()})
        except Exception:  # whatever onnxruntime raises
            if len(rows) > 1:
                halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
                return [part for half in halves for part in self._answered(columns, half, failed)]
            failed[int(rows[0])] = "the model can't be run on it."
            return []
        whole = np.ones(len(rows), dtype=bool)
        for array in outputs.values():
            if array.dtype.kind == "f":
                whole &= np.isfinite(array).reshape(len(rows), -1).all(axis=1)
        for row in rows[~whole]:
            failed[int(row)] = "its values lead the model to a number that is not finite."
        named = self._contract.outputs()
        return [{name: array[whole] for name, array in outputs.items() if name in named}]

    def _write(self, path: Path, table: pl.DataFrame) -> str:
        content = io.BytesIO()
        if self._wanted.format == "csv":
            nested = [name for name, dtype in table.schema.items() if dtype.is_nested() or "Binary" in str(dtype)]
            if nested:
                what = f"the column {nested[0]!r} holds values that a CSV file can't."
                raise DataCheckFailed(what, hint="Say format: parquet, or name the columns to keep.")
            table.write_csv(content)
        else:
            table.write_parquet(content, compression="zstd")
        write_atomic(path, content.getvalue())
        return digest(content.getvalue())


class InPool:
    """A scorer in an actor of Ray Data, which hands it tables of one row: ``job``, as JSON, and ``rows``, as Arrow IPC.

    Where ``job`` has a ``part``, that is scored; its files' names end in what is told as ``attempt``: an actor that
    was lost may still write while another one does the same again.
    """

    def __init__(self, wanted: dict[str, Any]) -> None:
        self._scorer = Scorer(Wanted.model_validate({**wanted, "parent": 0}))

    def __call__(self, table: pa.Table) -> dict[str, list[str]]:
        job, rows = table["job"][0].as_py(), table["rows"][0]
        told, attempt = Scored(), f".{uuid.uuid4().hex}"
        if (part := json.loads(job).get("part")) is not None:
            names = {key: f"{part[key]}{attempt}" if part[key] else "" for key in ("file", "aside")}
            told = self._scorer.told(rows.as_buffer(), Part.model_validate({**part, **names, "size": 0}))
        return {"job": [job], "told": [told.model_dump_json()], "attempt": [attempt]}


def read(table: pl.DataFrame, contract: Contract) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """The model's columns [n] of a table, as ``/predict`` would take its rows; and why rows can't be taken, by place.

    Raises:
        DataCheckFailed: none of them is there, or one holds lists, records or the like.
    """
    inputs = contract.inputs
    if not any(column.name in table.columns for column in inputs):
        what = f"the table has none of the model's columns: {', '.join(column.name for column in inputs)}."
        raise DataCheckFailed(what, hint=f"It has: {', '.join(table.columns)}.")
    columns: dict[str, np.ndarray] = {}
    wrong: dict[int, str] = {}
    for column in inputs:
        array, unfit = _column(table, column)
        columns[column.name] = array
        missing = array == (MISSING if column.kind == "categorical" else "") if column.tensor == "string" else (
            np.isnan(array) & ~unfit
        )  # fmt: skip
        for row in np.flatnonzero(unfit):
            wrong.setdefault(int(row), f"{column.name} is not {_WANTED[column.kind]}.")
        if not column.nullable:
            for row in np.flatnonzero(missing):
                wrong.setdefault(int(row), f"{column.name} is missing, and always needs a value.")
    return columns, wrong


def answers(outputs: dict[str, np.ndarray], contract: Contract) -> list[pl.Series]:
    """What ``specml predict`` puts beside a row, as columns; numbers are the graph's float32."""
    import polars as pl

    if contract.task == "regression":
        names = {"prediction": "predicted"}
        return [pl.Series(names.get(name, name), outputs[name].ravel()) for name in contract.outputs()]
    named = [category(label) for label in contract.classes]
    labels = {**{str(label): label for label in contract.classes}, **dict(zip(named, contract.classes, strict=True))}
    told = [labels.get(label) for label in outputs["label"].ravel().tolist()]  # an empty one: not decided
    probabilities = outputs["probabilities"]
    return [
        pl.Series("predicted", told, dtype=pl.Series(contract.classes).dtype),
        *(pl.Series(f"probability_{name}", probabilities[:, place]) for place, name in enumerate(named)),
    ]


def _nothing(contract: Contract) -> dict[str, np.ndarray]:
    """The outputs of no rows."""
    shapes = {"probabilities": (0, len(contract.classes))}
    types: dict[str, Any] = {"float32": np.float32, "string": object}
    return {name: np.empty(shapes.get(name, (0,)), types[dtype]) for name, dtype in contract.outputs().items()}


def beside(table: pl.DataFrame, columns: list[pl.Series]) -> pl.DataFrame:
    """A table with more columns, each of which gets another name where its own is taken."""
    for one in columns:
        name = one.name
        while name in table.columns:
            name += "_"
        table = table.with_columns(one.alias(name))
    return table


_WANTED = {"numeric": "a number", "boolean": "true or false", "datetime": "a time as in ISO 8601"}


def _column(table: pl.DataFrame, column: Column) -> tuple[np.ndarray, np.ndarray]:
    """A column as the graph takes it, and where its values can't be read."""
    import polars as pl

    readable = np.zeros(table.height, dtype=bool)
    if column.name not in table.columns:
        nothing = pl.Series(column.name, [None] * table.height, dtype=pl.String)
        return _texts(nothing, column) if column.kind in TEXTS else np.full(table.height, np.nan), readable
    values = table[column.name]
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    if column.kind in TEXTS:
        return _texts(blank_as_missing(values), column), readable
    if column.kind == "datetime":
        if values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
            since = values.cast(pl.Datetime("us")) if values.dtype == pl.Date else values
            array = since.dt.epoch("us").cast(pl.Float64).to_numpy() / 1e6
        else:
            array, readable = _by_value(values, _time)
        while (far := beyond(array)) is not None:
            array = np.where(np.arange(len(array)) == far, np.nan, array)
            readable[far] = True
        return array, readable
    if values.dtype == pl.Boolean or (column.kind == "numeric" and values.dtype.is_numeric()):
        return finite(values.cast(pl.Float64)).to_numpy(), readable
    return _by_value(values, _number if column.kind == "numeric" else _boolean)


def _number(value: Any) -> float:
    if isinstance(value, str) and "_" in value:  # Python alone takes 1_000 for a number
        raise ValueError
    return float(value)


def _texts(values: pl.Series, column: Column) -> np.ndarray:
    names = as_categories(values).to_list()
    if column.kind == "text":
        return text_array([None if name == MISSING else name for name in names])
    array = np.empty(len(names), dtype=object)
    array[:] = names
    return array


def _by_value(values: pl.Series, number: Callable[[Any], float]) -> tuple[np.ndarray, np.ndarray]:
    """Each value by ``number``, NaN where it is missing; and where it can't be read."""
    import polars as pl

    if values.dtype.is_nested() or values.dtype == pl.Object:
        return np.full(len(values), np.nan), values.is_not_null().to_numpy()
    values = blank_as_missing(finite(values))
    known: dict[Any, float | None] = {None: np.nan}
    for value in values.unique().drop_nulls().to_list():
        try:
            found = number(value)
            known[value] = found if np.isfinite(found) else np.nan
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError):
            known[value] = None
    found_ = [known[value] for value in values.to_list()]
    return np.array([np.nan if one is None else one for one in found_]), np.array([one is None for one in found_])


def _boolean(value: Any) -> float:
    return float(BOOLEANS[str(value).strip().lower()])


def _time(value: Any) -> float:
    return seconds(value if isinstance(value, str) else value.isoformat())


def main(source: BinaryIO, target: BinaryIO) -> None:
    """Score part after part until there are no more."""
    wanted = Wanted.model_validate_json(source.readline())
    die_with_parent(wanted.parent)
    scorer = Scorer(wanted)
    while line := source.readline():
        part = Part.model_validate_json(line)
        told = scorer.told(source.read(part.size), part)
        target.write(told.model_dump_json().encode() + b"\n")
        target.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
