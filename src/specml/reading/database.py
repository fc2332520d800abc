"""Databases: one SELECT, asked in a transaction that can only read, as a table.

PostgreSQL by ADBC, SQLite and DuckDB by their own drivers, any other through SQLAlchemy, which is slower.
What a database says of an error is told only where it can't quote a value of the data.
"""

from __future__ import annotations

import io
import re
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, unquote

from typing_extensions import override

from specml.errors import DataCheckFailed
from specml.reading.formats import of_rows
from specml.reading.inference import with_dates
from specml.reading.select import Select

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import polars as pl

    from specml.kinds import Tell

Value = str | int | float | bool

SCHEMES = {"postgres": "postgresql", "postgresql": "postgresql", "sqlite": "sqlite", "duckdb": "duckdb"}
DIALECTS = {"postgresql": "postgres", "mariadb": "mysql", "mssql": "tsql"}
"""sqlglot's names, where they are not SQLAlchemy's."""
SPEAKING = ("08", "25", "28", "3D", "3F", "42", "53", "54", "55", "57")
"""Classes of SQLSTATE whose messages name tables, columns and users, not values."""

SQLITE_SAYS = re.compile(
    r"(no such (table|column|function|collation sequence)|ambiguous column name|wrong number of arguments|"
    r"unrecognized token|not authorized|near ).*|access to .* is prohibited|incomplete input|file is not a database|"
    r"database (table )?is locked.*|database disk image is malformed|unable to open database file|"
    r"attempt to write a readonly database|disk I/O error"
)
"""What SQLite says of tables, columns, the query and the file; anything else may quote a value."""
HOST = r"(?:\[[0-9A-Fa-f:.%]+\]|[^:@/?#,\[\]\s]*)(?::\d{1,5})?"
URL = re.compile(
    rf"[a-z][a-z0-9+_.-]*://(?:[^:@/?#\[\]\s]*(?::[^@/?#\s]*)?@)?{HOST}(?:,{HOST})*(?:/[^@?#]*)?(?:\?[^@#]*)?"
)
SHORTEST = 6
"""Characters of a password that is looked for in what a database says."""

READING = {
    "postgresql": "set transaction isolation level repeatable read, read only",
    "mysql": "set session transaction read only",
    "mariadb": "set session transaction read only",
    "oracle": "set transaction read only",
    "sqlite": "pragma query_only = on",
}
"""By SQLAlchemy's dialect: what makes that a transaction only reads."""
LIMITS = {
    "postgresql": "set local statement_timeout = {ms}",
    "mysql": "set session max_execution_time = {ms}",
    "mariadb": "set session max_statement_time = {s:.3f}",
}
"""What ends a statement that takes longer."""
MYSQL_LATE = (1317, 1969, 3024)
"""Numbers of MySQL's and MariaDB's errors that say that a statement took too long."""
MYSQL_UNKNOWN = 1193
"""That of a variable that it does not know."""
MYSQL_SAYS = (
    1044,
    1045,
    1049,
    1054,
    1064,
    1142,
    1143,
    1146,
    1227,
    1305,
    1370,
    1698,
    1792,
    2002,
    2003,
    2005,
    2006,
    2013,
)
"""Those whose messages name tables, columns, users and hosts, not values."""

TYPES = {"numeric": "float8", "money": "numeric::float8"}
"""PostgreSQL: what a column is cast to as it is read."""
PLAIN = {
    "boolean", "smallint", "integer", "bigint", "real", "double precision", "text", "character varying", "character",
    "name", "date", "timestamp without time zone", "timestamp with time zone", "bytea",
}  # fmt: skip
"""PostgreSQL: types that are read as they are; any other is read as text."""


def dialect_of(url: str) -> str:
    """The name by which sqlglot knows the language that the database of a URL speaks; empty: unknown."""
    import sqlglot

    name = url.partition("://")[0].partition("+")[0]
    name = SCHEMES.get(name, name)
    name = DIALECTS.get(name, name)
    return name if name in sqlglot.Dialects._value2member_map_ else ""


@contextmanager
def database(
    url: str, folder: Path, timeout: float, where: str, cursor: str | None = None, *, allow_outside: bool = False
) -> Iterator[Database]:
    """An open database; paths in a URL of SQLite or DuckDB start at ``folder``.

    ``allow_outside``: whether such a file may lie outside. ``cursor``: a column that comes as the database has it, so
    that it can be asked for the rows after it.

    Raises:
        DataCheckFailed: it can't be reached or opened, or, within the block, refuses what it is asked.
    """
    scheme = url.partition("://")[0]
    if SCHEMES.get(scheme) not in ("sqlite", "duckdb"):
        _refuse_malformed(url, where)
    kinds: dict[str, type[Database]] = {"postgresql": PostgreSQL, "sqlite": SQLite, "duckdb": DuckDB}
    from polars.exceptions import PanicException

    kind = kinds.get(SCHEMES.get(scheme, ""), Other)
    opened = kind(url, folder, timeout, where, cursor, allow_outside)
    try:
        with opened.connected():
            yield opened
    except DataCheckFailed:
        raise
    except PanicException:
        what = "the query gives a column of a type that no table can hold."
        raise DataCheckFailed(what, hint="Cast it in the query: to text, or to a number.", where=where) from None
    except Exception as error:
        told = opened.reason(error)
        if told is None:
            raise
        raise DataCheckFailed(f"the database refused: {_bare(told, url)}", where=where) from None


@dataclass
class Database(ABC):
    """A connection, and how it is asked."""

    url: str
    folder: Path
    timeout: float
    where: str
    cursor: str | None = None
    allow_outside: bool = False
    limited: bool = True
    """Whether it ends a statement that takes longer than ``timeout``; known once it is connected."""
    quote_mark: ClassVar[str] = '"'

    @abstractmethod
    def connected(self) -> Any:
        """A context in which it can be asked: a transaction that only reads and is always given up."""

    @abstractmethod
    def rows(self, query: str, values: Mapping[str, Any], texts: frozenset[str], tell: Tell) -> pl.DataFrame:
        """All rows of a query as ``written`` gives it."""

    @abstractmethod
    def written(self, select: Select) -> str:
        """The query in the database's own way of writing parameters."""

    @abstractmethod
    def reason(self, error: Exception) -> str | None:
        """What the database says, without a value of the data; None: the error is none of its own."""

    def one(self, query: str, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """The single row of a query."""
        return tuple(self.rows(query, values, frozenset(), lambda *_: None).row(0))

    def identifier(self, name: str) -> str:
        """A column's name, quoted."""
        mark = self.quote_mark
        return f"{mark}{name.replace(mark, mark * 2)}{mark}"

    def parameter(self, name: str) -> str:
        """How a parameter is written."""
        return f":{name}"

    def checksum(self, query: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The number of rows and what identifies them in any order; all rows are read for it."""
        from specml.files import digest

        rows, content = in_order(self.rows(query, values, frozenset(), lambda *_: None)), io.BytesIO()
        rows.write_parquet(content, compression="uncompressed", statistics=False)
        return {"rows": rows.height, "checksum": digest(content.getvalue())}


class PostgreSQL(Database):
    """By ADBC: columns come as Arrow."""

    @override
    @contextmanager
    def connected(self) -> Iterator[None]:
        import adbc_driver_postgresql.dbapi as adbc

        with adbc.connect(self.url, autocommit=False) as connection:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("set transaction isolation level repeatable read, read only")
                    cursor.execute(f"set local statement_timeout = {round(self.timeout * 1000)}")
                self._connection = connection
                yield
            finally:
                connection.rollback()

    @override
    def written(self, select: Select) -> str:
        self._names = list(dict.fromkeys(name for *_, name in select.places))
        return select.written(self.parameter)

    @override
    def parameter(self, name: str) -> str:
        if name not in self._names:
            self._names.append(name)
        return f"${self._names.index(name) + 1}"

    @override
    def rows(self, query: str, values: Mapping[str, Any], texts: frozenset[str], tell: Tell) -> pl.DataFrame:
        names = self._columns(query, values)
        kinds = self._asked(
            "select "
            + ", ".join(f'pg_typeof(q.{self.identifier(name)})::text as "{i}"' for i, name in enumerate(names))
            + f" from (select 1) one left join ({query}\n) q on false",
            values,
        ).row(0)
        wanted = []
        for name, kind in zip(names, kinds, strict=True):
            read = self.identifier(name)
            if kind == "interval":
                wanted.append(f"extract(epoch from {read})::float8 as {read}")
                tell(f"{name}", "an interval, in seconds")
            elif kind in PLAIN:
                wanted.append(read)
            else:
                wanted.append(f"{read}::{TYPES.get(kind, 'text')} as {read}")
        return self._asked(f"select {', '.join(wanted)} from ({query}\n) q", values)

    @override
    def checksum(self, query: str, values: Mapping[str, Any]) -> dict[str, Any]:
        total = "coalesce(sum(hashtextextended(q::text, 0)::numeric), 0)::text"
        rows, checksum = self._asked(f"select count(*) as n, {total} as c from ({query}\n) q", values).row(0)
        return {"rows": rows, "checksum": checksum}

    @override
    def reason(self, error: Exception) -> str | None:
        from adbc_driver_manager import Error
        from polars.exceptions import PolarsError

        text = str(error)
        if isinstance(error, PolarsError) and "statement timeout" in text:  # it comes while rows do
            return f"it took longer than {self.timeout:g} s."
        if isinstance(error, PolarsError):
            return "it broke off, while it computed the rows."
        if not isinstance(error, Error):
            return None
        state = error.sqlstate or (re.findall(r"SQLSTATE:? (\w{5})", text) or [""])[0]
        if state == "57014":
            return f"it took longer than {self.timeout:g} s."
        if state and not state.startswith(SPEAKING):
            return f"SQLSTATE {state}, while it computed the rows."
        found = re.search(r"(?:ERROR|FATAL): +(.*)|(connection to server .*|could not translate host name .*)", text)
        return (found[1] or found[2]) if found else "it can't be connected to."

    def _columns(self, query: str, values: Mapping[str, Any]) -> list[str]:
        import nanoarrow

        with self._connection.cursor() as cursor:
            cursor.execute(f"select * from ({query}\n) q limit 0", self._bound(values))
            # Not by polars: an interval makes it panic.
            schema = nanoarrow.c_array_stream(cursor.fetch_arrow()).get_schema()
            return _distinct([str(column.name) for column in schema.children], self.where)

    def _asked(self, query: str, values: Mapping[str, Any]) -> pl.DataFrame:
        with self._connection.cursor() as cursor:
            cursor.execute(query, self._bound(values))
            return cursor.fetch_polars()  # type: ignore[no-any-return]

    def _bound(self, values: Mapping[str, Any]) -> list[Any] | None:
        return [values[name] for name in self._names] or None


class SQLite(Database):
    """By Python's own driver: the file is opened read-only, and nothing but reading is authorised."""

    ALLOWED: ClassVar[set[int]] = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, 33}
    """33: SQLITE_RECURSIVE, which the module does not name."""

    @override
    @contextmanager
    def connected(self) -> Iterator[None]:
        path = _path(self.url, self.folder, self.where, allow_outside=self.allow_outside)
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
        try:
            connection.execute("begin")
            connection.set_authorizer(
                lambda action, *_: sqlite3.SQLITE_OK if action in self.ALLOWED else sqlite3.SQLITE_DENY
            )
            end = time.monotonic() + self.timeout
            connection.set_progress_handler(lambda: int(time.monotonic() > end), 10_000)
            self._connection = connection
            yield
        finally:
            connection.close()

    @override
    def written(self, select: Select) -> str:
        return select.text

    @override
    def rows(self, query: str, values: Mapping[str, Any], texts: frozenset[str], tell: Tell) -> pl.DataFrame:
        cursor = self._connection.execute(query, dict(values))
        names = _distinct([one[0] for one in cursor.description], self.where)
        return with_dates(of_rows(names, cursor.fetchall(), texts, self.where), {}, texts | {self.cursor or ""}, tell)

    @override
    def reason(self, error: Exception) -> str | None:
        if not isinstance(error, sqlite3.Error):
            return None
        return f"it took longer than {self.timeout:g} s." if str(error) == "interrupted" else _sqlite_says(error)


class DuckDB(Database):
    """By its own driver: the file is opened read-only, and no other file or server can be reached."""

    @override
    @contextmanager
    def connected(self) -> Iterator[None]:
        import duckdb

        path = _path(self.url, self.folder, self.where, allow_outside=self.allow_outside)
        config: dict[str, str | bool | int | float | list[str]] = {
            "enable_external_access": "false",
            "lock_configuration": "true",
        }
        connection = duckdb.connect(str(path), read_only=True, config=config)
        stop = threading.Timer(self.timeout, connection.interrupt)
        stop.start()
        try:
            connection.execute("begin transaction read only")
            self._connection = connection
            yield
        finally:
            stop.cancel()
            connection.close()

    @override
    def written(self, select: Select) -> str:
        return select.written(self.parameter)

    @override
    def parameter(self, name: str) -> str:
        return f"${name}"

    @override
    def rows(self, query: str, values: Mapping[str, Any], texts: frozenset[str], tell: Tell) -> pl.DataFrame:
        import polars as pl

        found = self._connection.sql(query, params=dict(values) or None)
        _distinct(found.columns, self.where)
        spans = [name for name, kind in zip(found.columns, found.types, strict=True) if str(kind) == "INTERVAL"]
        if spans:  # polars panics
            tell(", ".join(spans), "intervals, in seconds")
            named = {name: self.identifier(name) for name in found.columns}
            found = found.select(
                ", ".join(f"epoch({one}) as {one}" if name in spans else one for name, one in named.items())
            )
        table = pl.DataFrame(found)
        return table.with_columns(pl.col(pl.Decimal).cast(pl.Float64))

    @override
    def reason(self, error: Exception) -> str | None:
        import duckdb

        if not isinstance(error, duckdb.Error):
            return None
        if isinstance(error, duckdb.InterruptException):
            return f"it took longer than {self.timeout:g} s."
        speaking = (duckdb.CatalogException, duckdb.BinderException, duckdb.ParserException, duckdb.IOException)
        if isinstance(error, (*speaking, duckdb.PermissionException)):
            return str(error).partition("\n")[0]
        return f"{type(error).__name__}, while it computed the rows."


class Other(Database):
    """Through SQLAlchemy: rows come as Python's values, spans of time as seconds."""

    @override
    @contextmanager
    def connected(self) -> Iterator[None]:
        import sqlalchemy

        try:
            engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        except (sqlalchemy.exc.ArgumentError, ModuleNotFoundError, ValueError) as error:
            hint = "It is a URL of SQLAlchemy: dialect+driver://user:password@host/database."
            what = (
                f"needs the package {error.name}."
                if isinstance(error, ModuleNotFoundError)
                else "is no URL of a database."
            )
            raise DataCheckFailed(what, hint=hint, where=self.where) from None
        self._mark = engine.dialect.identifier_preparer.initial_quote
        with engine.connect() as connection:
            transaction = connection.begin()
            try:
                self._bounded(connection)
                self._connection = connection
                yield
            finally:
                transaction.rollback()

    def _bounded(self, connection: Any) -> None:
        """Make the transaction one that only reads, and for so long, where the dialect knows how."""
        import sqlalchemy

        dialect = connection.dialect
        name = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
        if name in READING:
            connection.execute(sqlalchemy.text(READING[name]))
        self.limited = name in LIMITS
        if not self.limited:
            return
        limit = LIMITS[name].format(ms=round(self.timeout * 1000), s=self.timeout)
        try:
            connection.execute(sqlalchemy.text(limit))
        except sqlalchemy.exc.DBAPIError as error:
            if _parted(error.orig)[1] != MYSQL_UNKNOWN:
                raise
            self.limited = False  # an old MySQL, or what only speaks like one

    @override
    def written(self, select: Select) -> str:
        return select.written(self.parameter, r"\:")

    @override
    def identifier(self, name: str) -> str:
        return f"{self._connection.dialect.identifier_preparer.quote_identifier(name)}".replace(":", r"\:")

    @override
    def rows(self, query: str, values: Mapping[str, Any], texts: frozenset[str], tell: Tell) -> pl.DataFrame:
        import polars as pl
        import sqlalchemy

        found = self._connection.execute(sqlalchemy.text(query), dict(values))
        names = _distinct(list(found.keys()), self.where)
        table = of_rows(names, [tuple(row) for row in found], texts, self.where)
        if spans := [name for name, kind in table.schema.items() if isinstance(kind, pl.Duration)]:
            tell(", ".join(spans), "intervals, in seconds")
            table = table.with_columns(pl.col(name).dt.total_microseconds() / 1e6 for name in spans)
        return with_dates(table, {}, texts | {self.cursor or ""}, tell)

    @override
    def reason(self, error: Exception) -> str | None:
        import sqlalchemy

        if isinstance(error, sqlalchemy.exc.DBAPIError):
            if isinstance(error.orig, sqlite3.Error):
                return _sqlite_says(error.orig)
            state, number, told = _parted(error.orig)
            if state == "57014" or number in MYSQL_LATE:
                return f"it took longer than {self.timeout:g} s."
            # Before a statement it speaks of the connection, of a wrong one of tables and columns.
            speaks = error.statement is None or isinstance(error, sqlalchemy.exc.ProgrammingError)
            if state.startswith(SPEAKING) or number in MYSQL_SAYS or (speaks and not state):
                return told.partition("\n")[0]
            return f"{type(error).__name__}, while it computed the rows."
        return str(error).partition("\n")[0] if isinstance(error, sqlalchemy.exc.SQLAlchemyError) else None


def _parted(error: Any) -> tuple[str, int, str]:
    """SQLSTATE, number and message of a driver's error; empty, and 0, where it has none."""
    first, *rest = error.args or ("",)
    if isinstance(first, int) and rest:
        return getattr(error, "sqlstate", None) or "", first, str(rest[0])
    return getattr(error, "sqlstate", None) or "", 0, str(error)


def in_order(table: pl.DataFrame, first: str | None = None) -> pl.DataFrame:
    """The rows sorted by ``first``, then by every column that has an order: a database's rows come in none."""
    names = [name for name, kind in table.schema.items() if not kind.is_nested()]
    if first in names:
        names = [first, *(name for name in names if name != first)]
    return table.sort(names, nulls_last=True, maintain_order=True) if names else table


def _path(url: str, folder: Path, where: str, *, allow_outside: bool) -> Path:
    from specml.files import inside

    name = url.partition("://")[2]
    path = inside(folder, name.removeprefix("/"), allow_outside=allow_outside)
    if not path.is_file():
        raise DataCheckFailed(f"there is no file {name.removeprefix('/')!r}.", where=where)
    return path


def _distinct(names: list[str], where: str) -> list[str]:
    twins = sorted({repr(name) for name in names if names.count(name) > 1})
    if twins:
        hint = "Name one of them otherwise: `select a.id, b.id as other_id`."
        raise DataCheckFailed(f"gives more than one column called {', '.join(twins)}.", hint=hint, where=where)
    return names


def _sqlite_says(error: sqlite3.Error) -> str:
    return f"{error}." if SQLITE_SAYS.fullmatch(str(error)) else f"{type(error).__name__}, while it computed the rows."


def _refuse_malformed(url: str, where: str) -> None:
    """Make sure that a URL is one: a driver that can't parse it tells parts of it, and so of the password."""
    if not URL.fullmatch(url) or re.search(r"%(?![0-9A-Fa-f]{2})|%00", url):
        hint = "dialect://user:password@host:port/database; within a password, / @ # ? % are %2F %40 %23 %3F %25."
        raise DataCheckFailed("is no URL of a database.", hint=hint, where=where)


def _bare(told: str, url: str) -> str:
    """Without what stands in the URL: it may be a secret. A short password would be found in any word."""
    password = re.search(r"://[^/@]*?:([^@/]+)@", url)
    found = [password[1], unquote(password[1])] if password else []
    for part in (url, *(one for one in found if len(one) >= SHORTEST)):
        told = told.replace(part, "…")
    return told
