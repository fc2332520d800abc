"""Read a source into a table of the project's own: what need not be kept is forgotten before anything is written."""

from __future__ import annotations

import hmac
import io
import os
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from specml.casting import as_categories
from specml.data import MISSING
from specml.errors import DataCheckFailed, SpecmlError
from specml.files import canonical_json, write_atomic
from specml.plan import Stage
from specml.stages import guard
from specml.tables import joins

if TYPE_CHECKING:
    import polars as pl

    from specml.spec import Data, Spec
    from specml.stages.work import Work
    from specml.values import Secret

OUT = "artifacts/ingest/${key}.parquet"
COLUMNS = "artifacts/ingest/${key}.json"
"""Which columns were kept, hashed and dropped; only where the spec has some dropped or hashed."""
SHORTEST_KEY = 32
"""Characters: with a short key the hashes of all likely ids could be made again."""


def declare(spec: Spec) -> Stage:
    """One for each source; it runs again when a file of a source changes."""
    files = sorted({file for source in spec.data.sources.values() for file in source.files()})
    params, outs = ["data.sources.${key}", "data.joins", "data.columns", "data.undeclared"], [OUT]
    if spec.data.undeclared == "drop":
        params.append("problem.target")
    if _hashed(spec.data):
        params.append("compliance.hash_key")
    if _forgets(spec.data):
        outs.append(COLUMNS)
    return Stage(
        name="ingest",
        summary="read the source",
        each="data.sources",
        keys=tuple(spec.data.sources),
        params=tuple(params),
        deps=(guard.OUT, *files),
        outs=tuple(outs),
    )


def columns_files(spec: Spec) -> dict[str, str]:
    """By source, the file that tells which columns were kept, hashed and dropped; none where all are kept."""
    return {name: COLUMNS.replace("${key}", name) for name in spec.data.sources} if _forgets(spec.data) else {}


def work(work: Work) -> None:
    """Source → Parquet.

    Raises:
        DataCheckFailed: a column that is declared is not there, or can't be hashed.
        SpecmlError: the key of the hashes is not in the environment.
    """
    data = work.spec.data
    texts = {
        joins.own_name(data.joins, work.key, name)
        for name, c in data.columns.items()
        if c.dtype == "category"
        or (c.role == "protected" and not c.bands)
        or c.action == "hash"
        or (c.checks and c.checks.regex)
    }
    table = data.sources[work.key].read(work.folder, frozenset(texts))
    if not data.joins:  # else a column may stand in another source: the stage that joins them looks
        refuse_missing({name: f"data.columns.{name}" for name in data.columns}, table.columns)
        if data.undeclared == "drop":
            refuse_missing({work.spec.problem.target: "problem.target"}, table.columns)
    called = {name: joins.named(data.joins, work.key, name) for name in table.columns}
    dropped = _dropped(work.spec, called, joins.needed(data.joins, work.key))
    gone = {name for names in dropped.values() for name in names}
    table = table.select(name for name in table.columns if name not in gone)
    hashed = [name for name in table.columns if called[name] in _hashed(data)]
    if hashed:
        assert work.spec.compliance.hash_key is not None
        key = _key(work.spec.compliance.hash_key)
        table = table.with_columns(pseudonyms(table[name], key) for name in hashed)
    write_table(work, OUT, table)
    if _forgets(data):
        told = {"rows": table.height, "kept": table.columns, "hashed": sorted(hashed), "dropped": dropped}
        write_atomic(work.path(COLUMNS), canonical_json(told))
    forgotten = [f"{', '.join(names)} ({why})" for why, names in dropped.items() if names]
    work.say("; forgotten: ".join([f"{table.height:,} rows × {table.width} columns", *forgotten]))


def refuse_missing(wanted: dict[str, str], names: list[str]) -> None:
    """Make sure that each column of ``wanted`` (by name: the key that names it) is among ``names``.

    Raises:
        DataCheckFailed: one is not, and this is what there is.
    """
    for name, where in wanted.items():
        if name not in names:
            close = get_close_matches(name, names, 1)
            raise DataCheckFailed(
                f"the data has no column {name!r}.",
                hint=f"Did you mean {close[0]!r}?" if close else f"It has: {', '.join(names)}.",
                where=where,
            )


def pseudonyms(values: pl.Series, key: bytes) -> pl.Series:
    """HMAC-SHA256 (RFC 2104) of each value's text under ``key``, in hexadecimal; a missing value stays missing.

    The same value has the same hash in every column and every run, and none without the key can tell whose it is:
    GDPR Art. 4(5) calls that pseudonymisation; the hashes remain personal data.

    Raises:
        DataCheckFailed: the values have no text.
    """
    import polars as pl

    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
        where = f"data.columns.{values.name}.action"
        raise DataCheckFailed(f"holds {values.dtype} values, which can't be hashed.", where=where)
    texts = as_categories(values)
    made: dict[str, Any] = {one: hmac.digest(key, one.encode(), "sha256").hex() for one in texts.unique().to_list()}
    return texts.replace_strict({**made, MISSING: None}, return_dtype=pl.String)


def write_table(work: Work, relative: str, table: pl.DataFrame) -> None:
    """Write a table as Parquet: the same table, the same bytes."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", statistics=False)
    write_atomic(work.path(relative), buffer.getvalue())


def _hashed(data: Data) -> list[str]:
    return sorted(name for name, column in data.columns.items() if column.action == "hash")


def _forgets(data: Data) -> bool:
    return data.undeclared == "drop" or any(column.action for column in data.columns.values())


def _dropped(spec: Spec, called: dict[str, str], needed: set[str]) -> dict[str, list[str]]:
    """What is not written, by the reason; ``called``: what the joined table calls a column."""
    columns, minimal = spec.data.columns, spec.data.undeclared == "drop"
    known = {*columns, spec.problem.target} if minimal else {*called.values()}
    declared = [name for name, final in called.items() if final in columns]
    ignored = [name for name in declared if minimal and columns[called[name]].role == "ignore"]
    return {
        "action: drop": [name for name in declared if columns[called[name]].action == "drop"],
        "ignored": [name for name in ignored if name not in needed],
        "undeclared": [name for name, final in called.items() if final not in known and name not in needed],
    }


def _key(secret: Secret) -> bytes:
    found = os.environ.get(secret.name, "")
    if len(found) < SHORTEST_KEY:
        wrong = f"holds fewer than {SHORTEST_KEY} characters" if found else "is not set"
        raise SpecmlError(
            f"the environment variable {secret.name} {wrong}; ids are hashed under it.",
            where="compliance.hash_key",
            hint=f'Make one, and keep it: export {secret.name}="$(openssl rand -hex 32)"',
        )
    return found.encode()
