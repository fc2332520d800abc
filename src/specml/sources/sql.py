"""Rows of a database."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from typing_extensions import override

from specml.component import Disagreement
from specml.errors import DataCheckFailed
from specml.kinds import Source, untold
from specml.reading.database import Database, database, dialect_of
from specml.reading.select import parse_select
from specml.values import Duration, Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from specml.kinds import Tell
    from specml.spec import Spec


def _file_url(url: str) -> str:
    if not url.startswith(("sqlite:///", "duckdb:///")):
        raise PydanticCustomError(
            "database", "must be a reference like ${secret:DATABASE_URL}, or sqlite:///FILE or duckdb:///FILE."
        )
    return url


SINCE = "specml_since"
"""The parameter that holds the last known value of the cursor."""


class Sql(Source):
    """The rows of one SELECT, asked in a transaction that only reads."""

    type: Literal["sql"] = "sql"
    remote: ClassVar[bool] = True
    ordered: ClassVar[bool] = False

    connection: Secret | Annotated[str, AfterValidator(_file_url)]
    """The database's URL, as ``${secret:DATABASE_URL}``: ``postgresql://user:password@host/name``, or any of
    SQLAlchemy's, which is slower. A file without a password may be named itself: ``sqlite:///rows.db``,
    ``duckdb:///rows.duckdb``, relative to the project."""
    query: Annotated[str, Field(min_length=1)]
    """Exactly one SELECT; anything else is refused before the database sees it. Values are written ``:name``."""
    params: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], str | int | float | bool] = {}
    """The values of ``:name`` in the query: bound by the database's driver, never written into the text."""
    cursor: str | None = None
    """A column of the result that only grows, as an id or a time of change: then only the rows from its last value on
    are read, and joined to those that are known. Every row is read again when the counts don't agree."""
    allow_outside: bool = False
    """Whether the file of SQLite or DuckDB that ``connection`` names may lie outside the project folder."""
    timeout: Annotated[Duration, Field(gt=0)] = Duration(600.0)
    """How long the database may take for one statement. Of what is asked through SQLAlchemy, MySQL, MariaDB and
    PostgreSQL keep to it; for any other it is refused where it is said."""

    @override
    def files(self) -> tuple[str, ...]:
        return ()

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        if self.allow_outside and isinstance(self.connection, Secret):
            hint = "A file names itself: connection: sqlite:///FILE or duckdb:///FILE."
            yield Disagreement(key=("allow_outside",), what="has no effect on a server.", hint=hint)
        dialect = "" if isinstance(self.connection, Secret) else dialect_of(self.connection)
        try:
            parse_select(self.query, dialect, self.params, "query")
        except DataCheckFailed as refused:
            # What can't be parsed may be right in the language of a database that only its secret URL names.
            if dialect or not refused.what.startswith("can't be parsed"):
                yield Disagreement(key=("query",), what=refused.what, hint=refused.hint)
        if self.cursor is not None and (lost := self._lost(spec)):
            hint = "Keep it as it is, with role: ignore, or read all rows each time: without a cursor."
            yield Disagreement(
                key=("cursor",), what=f"{self.cursor!r} {lost}: nobody would know its last value.", hint=hint
            )

    def _lost(self, spec: Spec) -> str:
        """Why the cursor does not come through ``ingest``; empty where it does."""
        declared = spec.data.columns.get(self.cursor or "")
        if declared is not None and declared.action:
            return "is dropped" if declared.action == "drop" else "is hashed"
        forgets = spec.data.undeclared == "drop" and not spec.data.joins
        return "is forgotten" if forgets and (declared is None or declared.role == "ignore") else ""

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        with self._asked(folder) as (base, query, values):
            return self._whole(base.rows(query, values, texts, tell))

    @property
    @override
    def grows_by(self) -> str | None:
        return self.cursor

    @override
    def read_on(
        self, folder: Path, since: Any, texts: frozenset[str] = frozenset(), tell: Tell = untold
    ) -> tuple[pl.DataFrame, int]:
        assert self.cursor is not None
        with self._asked(folder) as (base, query, values):
            (total,) = base.one(f"select count(*) as n from ({query}\n) q", values)
            later = f"select * from ({query}\n) q where q.{base.identifier(self.cursor)} >= {base.parameter(SINCE)}"
            rows = base.rows(later, {**values, SINCE: since}, texts, tell)
            return self._whole(rows), int(total)

    @override
    def fingerprint(self, folder: Path) -> dict[str, Any]:
        with self._asked(folder) as (base, query, values):
            if self.cursor is None:
                return base.checksum(query, values)
            column = f"q.{base.identifier(self.cursor)}"
            rows, last = base.one(f"select count(*) as n, max({column}) as last from ({query}\n) q", values)
        return {"rows": rows, "cursor": None if last is None else str(last)}

    def _whole(self, table: pl.DataFrame) -> pl.DataFrame:
        if self.cursor is not None and self.cursor not in table.columns:
            hint = f"It gives: {', '.join(table.columns)}."
            raise DataCheckFailed(f"the query gives no column {self.cursor!r}.", hint=hint, where="cursor")
        return table

    @contextmanager
    def _asked(self, folder: Path) -> Iterator[tuple[Database, str, dict[str, Any]]]:
        url = self.connection if isinstance(self.connection, str) else self.connection.value("connection")
        select = parse_select(self.query, dialect_of(url), self.params, "query")
        with database(url, folder, self.timeout, "connection", self.cursor, allow_outside=self.allow_outside) as base:
            if not base.limited and self.timeout != type(self).model_fields["timeout"].default:
                what = "has no effect: this database is not known to end a statement that takes too long."
                raise DataCheckFailed(what, hint="Leave it out, and bound it in the database itself.", where="timeout")
            yield base, base.written(select), dict(self.params)
