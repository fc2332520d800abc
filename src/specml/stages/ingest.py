"""Read a source into a table of the project's own: what need not be kept is forgotten before anything is written."""

from __future__ import annotations

import hmac
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from specml import __version__, batches
from specml.casting import as_categories, blank_as_missing
from specml.data import MISSING
from specml.errors import DataCheckFailed, NotEnoughData, SpecmlError
from specml.files import canonical_json, digest, read_json, scratch, write_atomic
from specml.plan import Stage
from specml.reading.database import in_order
from specml.stages import fingerprint, guard
from specml.tables import joins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl

    from specml.batches import Batches
    from specml.kinds import Source, Tell
    from specml.spec import Data, Spec
    from specml.stages.work import Work
    from specml.values import Secret

OUT = "artifacts/ingest/${key}.parquet"
COLUMNS = "artifacts/ingest/${key}.json"
"""Rows, what was inferred of how they are written, and which columns were kept, hashed and dropped."""
PLAIN = {"encoding": "utf-8", "separator": ","}
"""What nobody needs to be told."""
SHORTEST_KEY = 32
"""Characters: with a short key the hashes of all likely ids could be made again."""


def declare(spec: Spec) -> Stage:
    """One for each source; it runs again when a file of it, or the fingerprint of a remote one, changes."""
    params = ["data.sources.${key}", "data.joins", "data.columns", "data.undeclared"]
    if spec.data.undeclared == "drop":
        params += ["problem.target", "data.labels"]
    if _hashed(spec.data):
        params.append("compliance.hash_key")
    if spec.features.history.by:
        params.append("features.history.by")
    watched = {
        name: [fingerprint.OUT.replace("${key}", name)] if source.remote else list(source.files())
        for name, source in spec.data.sources.items()
    }
    # DVC takes one text for each repetition: sources that are made of several files share theirs.
    own = len(watched) > 1 and all(len(paths) == 1 for paths in watched.values())
    return Stage(
        name="ingest",
        summary="read the source",
        each="data.sources",
        keys=tuple(spec.data.sources),
        items={name: paths[0] for name, paths in watched.items()} if own else {},
        params=tuple(params),
        deps=(guard.OUT, *(["${item}"] if own else sorted({path for paths in watched.values() for path in paths}))),
        outs=(OUT, COLUMNS),
        keeps=any(source.grows_by for source in spec.data.sources.values()),
    )


def columns_files(spec: Spec) -> dict[str, str]:
    """By source, the file that tells which columns were kept, hashed and dropped; none where all are kept."""
    return {name: COLUMNS.replace("${key}", name) for name in spec.data.sources} if _forgets(spec.data) else {}


def work(work: Work) -> None:
    """Source → Parquet.

    Raises:
        DataCheckFailed: a column that is declared is not there, or can't be hashed.
        NotEnoughData: there are no rows.
        SpecmlError: the key of the hashes is not in the environment.
    """
    source, inferred = work.spec.data.sources[work.key], dict[str, Any]()
    texts, tell = _texts(work), inferred.__setitem__
    with scratch(work.path(OUT)) as folder:
        found, known = _read_on(work, source, texts), 0
        if found is None:
            table, told = _read(work, source, texts, tell, folder)
        else:
            fresh, told, known, inferred = found
            table = batches.of(fresh, folder)
        rows, width = table.height, len(table.schema)
        if not rows:
            raise NotEnoughData("the source has no rows.", where=f"data.sources.{work.key}")
        if not source.ordered:
            table = batches.of(in_order(table.all(), source.grows_by), folder)
        content = batches.write(work.path(OUT), table)
    told |= {"rows": rows, "inferred": inferred}
    if source.grows_by:
        told["known"] = {"declared": _declared(work, source), "content": content}
    write_atomic(work.path(COLUMNS), canonical_json(told))
    _say(work, f"{rows:,} rows × {width} columns", told, known)


def _read(
    work: Work, source: Source, texts: frozenset[str], tell: Tell, folder: Path
) -> tuple[Batches, dict[str, Any]]:
    """What is written of the source's rows, if none of its files was changed meanwhile, and which columns these are.

    DVC notes what the files are afterwards.

    Raises:
        DataCheckFailed: one was.
    """
    import polars as pl

    def states() -> dict[str, tuple[int, int]]:
        files = (work.folder / file for file in source.files())
        each = (one for file in files for one in ([file, *file.rglob("*")] if file.is_dir() else [file]))
        return {str(file): (file.stat().st_mtime_ns, file.stat().st_size) for file in each if file.exists()}

    told: dict[str, Any] = {}

    def each() -> Iterator[pl.DataFrame]:
        for batch in source.batches(work.folder, texts, tell):
            table, facts = _kept(work, batch)
            told.update(facts)
            yield table

    def refuse_changed() -> None:
        if states() != before:
            hint = "Run again when whoever writes it is done; let him write another file and rename that."
            raise DataCheckFailed(
                "was changed while it was read.", hint=hint, where=", ".join(source.files())
            ) from None

    before = states()
    try:
        table = batches.kept(each(), folder)
    except (Exception, pl.exceptions.PanicException):  # nor does polars expect it
        refuse_changed()
        raise
    refuse_changed()
    return table, told


def _texts(work: Work) -> frozenset[str]:
    """Columns that are kept as they are written, by the source's own names."""
    data = work.spec.data
    by = work.spec.features.history.by if "features.history.by" in work.stage.params else ()
    return frozenset(
        joins.own_name(data.joins, work.key, name)
        for name, c in data.columns.items()
        if c.dtype in ("category", "text")
        or (c.role == "protected" and not c.bands)
        or (c.role == "id" and name in by)
        or c.action == "hash"
        or (c.checks and c.checks.regex)
    )


def _kept(work: Work, table: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
    """What is written of the rows, and which columns were kept, hashed and dropped."""
    data = work.spec.data
    table = table.with_columns(blank_as_missing(values) for values in table.get_columns())
    if not data.joins:  # else a column may stand in another source: the stage that joins them looks
        refuse_missing({name: f"data.columns.{name}" for name in data.columns}, table.columns)
        if data.undeclared == "drop" and not data.labels.rules:
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
    return table, {"kept": table.columns, "hashed": sorted(hashed), "dropped": dropped}


def _read_on(
    work: Work, source: Source, texts: frozenset[str]
) -> tuple[pl.DataFrame, dict[str, Any], int, dict[str, Any]] | None:
    """The rows that an earlier run has read and those that came since; None where they must be read whole.

    That is so where nothing is known, what is declared about them is another, other things are found out of the new
    ones (of dates, that the month stands first, say), or the source now has more or fewer rows than these: an old one
    was removed, or came late. Also: how many were known, and what was found out of them.
    """
    import polars as pl

    column, out, facts = source.grows_by, work.path(OUT), work.path(COLUMNS)
    if column is None or not (out.exists() and facts.exists()):
        return None
    told = read_json(facts)
    same = told.get("known") == {"declared": _declared(work, source), "content": digest(out)}
    if not same or column in told["hashed"]:
        return None
    before = pl.read_parquet(out)
    if column not in before.columns or (last := before[column].max()) is None:
        return None
    inferred, new = told["inferred"], dict[str, Any]()
    fresh, total = source.read_on(work.folder, last, texts, new.__setitem__)
    if not _agree(new, inferred):
        return None
    fresh, told = _kept(work, fresh)
    if any(
        None not in (pair := (_text(before[name]), _text(fresh[name]))) and pair[0] != pair[1]
        for name in before.columns
        if name in fresh.columns
    ):
        return None
    try:
        table = pl.concat([before.filter(pl.col(column) < last), fresh], how="vertical_relaxed")
    except pl.exceptions.PolarsError:  # other columns or types than before
        return None
    return (table, told, before.height, inferred) if table.height == total else None


def _agree(new: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether all that was found out of new rows was found out of the known ones, too."""
    return all(
        known.get(what) == found or (isinstance(found, dict) and found.items() <= (known.get(what) or {}).items())
        for what, found in new.items()
    )


def _text(values: pl.Series) -> bool | None:
    """Whether a column is text; None: nothing of it is known."""
    import polars as pl

    return None if values.null_count() == len(values) else values.dtype == pl.String


def _declared(work: Work, source: Source) -> str:
    """What identifies all that decides which rows are written, and how."""
    data = work.spec.data
    told: dict[str, Any] = {
        "specml": __version__,
        "source": source.model_dump(mode="json"),
        "columns": {name: column.model_dump(mode="json") for name, column in sorted(data.columns.items())},
        "joins": [join.model_dump(mode="json") for join in data.joins],
        "undeclared": data.undeclared,
        "target": work.spec.problem.target if data.undeclared == "drop" else "",
        "hash_key": str(work.spec.compliance.hash_key) if _hashed(data) else "",
    }
    return digest(canonical_json(told))


def _say(work: Work, rows: str, told: dict[str, Any], known: int) -> None:
    if known:
        rows += f", of which {known:,} were known"
    found = [f"{what} {_in_words(one)}" for what, one in told["inferred"].items() if PLAIN.get(what) != one]
    if found:
        rows += f"; found out: {', '.join(found)}"
    forgotten = [f"{', '.join(names)} ({why})" for why, names in told["dropped"].items() if names]
    work.say("; forgotten: ".join([rows, *forgotten]))


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


def _in_words(found: Any) -> str:
    if isinstance(found, dict):
        return "; ".join(f"{name} ({what})" for name, what in found.items())
    return repr(found) if isinstance(found, str) and not found.isalnum() else f"{found}"


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
    where, hint = "compliance.hash_key", f'Make one, and keep it: export {secret.name}="$(openssl rand -hex 32)"'
    found = secret.value(where, hint)
    if len(found) < SHORTEST_KEY:
        what = f"the environment variable {secret.name} holds fewer than {SHORTEST_KEY} characters."
        raise SpecmlError(what, where=where, hint=hint)
    return found.encode()
