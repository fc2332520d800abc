"""A spec drafted from a table: what its columns seem to be, the problem, gates and split, each guess marked.

It runs as it is. Of the data it holds names of columns, counts, labels of the target, and nothing else.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml.drafting import columns, problem, sections, words
from specml.drafting.written import Remark, yaml
from specml.errors import DataCheckFailed, NotEnoughData
from specml.kinds import Source
from specml.load.render import escaped

if TYPE_CHECKING:
    import polars as pl

    from specml.data import Task
    from specml.drafting.columns import Facts, Guess
    from specml.drafting.written import Keys

SOURCES = {
    "csv": (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz"),
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"),
    "arrow": (".arrow", ".feather", ".ipc"),
    "excel": (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"),
}
"""By type, what its files end in."""
GENERAL = frozenset({"data", "dataset", "train", "training", "rows", "table", "input", "export"})
"""Names of files that name nothing: the folder's is taken."""
BLOCKS = frozenset(
    tuple(keys.split("."))
    for keys in (
        "problem",
        "data",
        "data.sources",
        "data.columns",
        "features",
        "features.columns",
        "candidates",
        "gates",
    )
)
"""What is written out line by line."""
MOST_COLUMNS = 200
"""Columns that are all named; of more only those with something to say."""


@dataclass(frozen=True)
class Draft:
    """A spec and what a person should know of it."""

    text: str
    """The YAML."""
    task: Task
    rows: int
    columns: int
    review: tuple[str, ...]
    """The keys that were guessed."""


def draft(data: Path, target: str, folder: Path, *, task: Task | None = None, name: str = "") -> Draft:
    """A spec for predicting ``target`` from the file ``data``, to stand in the project ``folder``.

    Args:
        data: a file that a source can read; its type by the name's end.
        target: the column to predict; empty: the error lists the columns.
        folder: what the spec's paths start at.
        task: instead of a guess from the target's values.
        name: of the spec; unless given the file's, or its folder's.

    Raises:
        DataCheckFailed: the file can't be read, has no such column, or no task fits the target.
        NotEnoughData: there is nothing to predict.
    """
    source, table = _read(data, folder)
    _refuse_missing(target, table.columns)
    if not table.height:
        raise NotEnoughData("has no rows.", where=str(data))
    written = _as_written(source, folder, table)
    seen = [columns.facts(values, written.get(values.name)) for values in table.get_columns() if values.name]
    of_target = next(one for one in seen if one.name == target)
    guessed = problem.guess(of_target, task)
    features = {one.name: one for one in seen if one.name != target}
    time = sections.time_column(list(features.values()), of_target, guessed.task)
    guesses = tuple(_ordering(columns.guess(one), time) for one in features.values())
    known = _Known(features, guesses, of_target, guessed, time)
    return _written(known, name or _name(data), {"type": source.type, **_options(source)})  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Known:
    """What was seen, and what is made of it."""

    features: dict[str, Facts]
    guesses: tuple[Guess, ...]
    target: Facts
    guessed: problem.Guessed
    time: str | None


def _written(known: _Known, name: str, source: dict[str, Any]) -> Draft:
    guessed, target = known.guessed, known.target.name
    compared = [(one, known.features[one.name]) for one in known.guesses if one.role == "protected"]
    of_problem, remarks = sections.problem(guessed, target, groups=bool(compared))
    of_split, of_the_split = sections.split(known.time, sections.person_column(known.guesses, known.features), guessed)
    of_gates, of_the_gates = sections.gates(guessed, compared)
    declared, of_the_columns = _columns(known)
    remarks |= of_the_columns | of_the_split | of_the_gates
    data = {"sources": {_slug(name): source}, "columns": declared, "split": of_split}
    tree: dict[str, Any] = {"spec": 1, "name": name, "problem": of_problem, "data": data}
    if treated := {one.name: one.treated for one in known.guesses if one.treated and one.name != known.time}:
        tree["features"] = {"columns": treated}
    tree |= {"candidates": sections.candidates(guessed.task), "gates": of_gates}
    width = len(known.features) + 1
    head = [
        f"Drafted by `specml init` from {known.target.rows:,} rows × {width:,} columns. Guesses are marked `review`.",
        "`specml render` shows every default, `specml schema` what else there is.",
    ]
    text = yaml({key: escaped(value) for key, value in tree.items()}, remarks, head, BLOCKS)
    review = tuple(".".join(keys) for keys, told in remarks.items() if told.review)
    return Draft(text, guessed.task, known.target.rows, width, review)


def _columns(known: _Known) -> tuple[dict[str, Any], dict[Keys, Remark]]:
    """``data.columns`` in the order of the table, the target last, and the remarks."""
    every = len(known.guesses) <= MOST_COLUMNS
    shown = [one for one in known.guesses if every or one.why or one.role != "feature" or one.treated]
    shown = [one for one in shown if one.declared or one.why]
    remarks: dict[Keys, Remark] = {
        ("data", "columns", one.name): Remark(one.why, one.review) for one in shown if one.why
    }
    if not every:
        told = f"{len(known.guesses) - len(shown):,} more are features whose type is inferred"
        remarks["data", "columns"] = Remark(told, review=False)
    return {**{one.name: one.declared for one in shown}, known.target.name: {"role": "target"}}, remarks


def _ordering(guess: Guess, time: str | None) -> Guess:
    if guess.name != time:
        return guess
    return columns.Guess(guess.name, {**guess.declared, "role": "time"})


def _read(data: Path, folder: Path) -> tuple[Source, pl.DataFrame]:
    """The source that reads the file, and what it reads."""
    lower = data.name.lower()
    known = {kind: ends for kind, ends in SOURCES.items() if kind in Source.table}
    kind = next((kind for kind, ends in known.items() if lower.endswith(ends)), None)
    if not data.is_file():
        raise DataCheckFailed("there is no such file.", where=str(data))
    if kind is None:
        hint = f"Known are files that end in {', '.join(end for ends in known.values() for end in ends)}."
        raise DataCheckFailed("is of no type that its name tells.", where=str(data), hint=hint)
    path = os.path.relpath(data.resolve(), folder.resolve())
    outside = path.startswith("..")
    options: dict[str, Any] = {"path": data.resolve().as_posix() if outside else Path(path).as_posix()}
    source = Source.table[kind].model_validate(options | ({"allow_outside": True} if outside else {}))
    assert isinstance(source, Source)
    return source, source.read(folder, frozenset())


def _as_written(source: Source, folder: Path, table: pl.DataFrame) -> dict[str, pl.Series]:
    """Whole numbers as the file writes them, where it is text: ``02139`` is none."""
    whole = frozenset(values.name for values in table.get_columns() if values.dtype.is_integer())
    if source.type != "csv" or not whole:  # type: ignore[attr-defined]
        return {}
    texts = source.read(folder, whole)
    return {name: texts[name] for name in whole}


def _options(source: Source) -> dict[str, Any]:
    return source.model_dump(mode="json", exclude_defaults=True, exclude={"type"})


def _refuse_missing(target: str, names: list[str]) -> None:
    if target in names and target:
        return
    listed = ", ".join(names[:50]) + (f" and {len(names) - 50:,} more" if len(names) > 50 else "")
    if not target:
        raise DataCheckFailed("must be said: which column is to be predicted?", where="--target", hint=f"Of: {listed}.")
    close = get_close_matches(target, names, 1)
    hint = f"Did you mean {close[0]!r}?" if close else f"It has: {listed}."
    raise DataCheckFailed(f"the data has no column {target!r}.", where="--target", hint=hint)


def _name(data: Path) -> str:
    """A name for the spec, from the file's, or from its folder's where that says nothing."""
    stem = data.name.partition(".")[0]
    told = data.resolve().parent.name if stem.lower() in GENERAL else stem
    slug = re.sub(r"[^a-z0-9]+", "-", "-".join(words.tokens(told) or ("data",)).lower()).strip("-")
    return slug[:63].strip("-") or "data"


def _slug(name: str) -> str:
    slug = name.replace("-", "_")[:40]
    return slug if slug[:1].isalpha() else f"rows_{slug}"[:40]
