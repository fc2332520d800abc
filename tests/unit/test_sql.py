"""One SELECT of real databases: what comes, what is refused, and that nothing is ever changed."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from specml.errors import DataCheckFailed, SpecmlError
from specml.reading import database
from specml.reading.select import parse_select
from specml.sources.sql import Sql
from tests import servers
from tests.conftest import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ATTACK = "'; DROP TABLE flights; --"
MAKE = (
    "create table flights (id int, carrier varchar(40), delay float, day timestamp, late boolean)",
    "insert into flights values (2, 'UA', 7.5, '2013-01-02 10:00:00', true)",
    "insert into flights values (1, 'AA', -3, '2013-01-01 09:30:00', false)",
    f"insert into flights values (3, '{ATTACK.replace(chr(39), chr(39) * 2)}', null, null, null)",
)
Run = "Callable[[str], None]"


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with servers.postgresql() as url:
        yield url


def _run_postgres(url: str) -> Callable[[str], None]:
    import adbc_driver_postgresql.dbapi as adbc

    def run(statement: str) -> None:
        with adbc.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    return run


@pytest.fixture(scope="module")
def mariadb() -> Iterator[str]:
    pytest.importorskip("pymysql", reason="PyMySQL is not installed")
    with servers.mariadb() as url:
        yield url


def _run_mariadb(url: str) -> Callable[[str], None]:
    import sqlalchemy

    def run(statement: str) -> None:
        engine = sqlalchemy.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()

    return run


@pytest.fixture(params=["postgresql", "sqlite", "duckdb", "sqlalchemy", "mariadb"])
def base(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], Callable[[str], None]]:
    """The source's connection for each kind of database, and what runs a statement in it."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres")
        run = _run_postgres(url)
        run("drop table if exists flights")
        monkeypatch.setenv("FLIGHTS_URL", url)
    elif request.param == "mariadb":
        url = request.getfixturevalue("mariadb")
        run = _run_mariadb(url)
        run("drop table if exists flights")
        monkeypatch.setenv("FLIGHTS_URL", url)
    elif request.param == "duckdb":
        import duckdb

        def run(statement: str) -> None:
            with duckdb.connect(str(tmp_path / "flights.duckdb")) as connection:
                connection.execute(statement)

    else:

        def run(statement: str) -> None:
            with contextlib.closing(sqlite3.connect(tmp_path / "flights.db")) as connection, connection:
                connection.execute(statement)

        monkeypatch.setenv("FLIGHTS_URL", f"sqlite+pysqlite:///{tmp_path}/flights.db")
    for statement in MAKE:
        run(statement)
    plain = {"sqlite": "sqlite:///flights.db", "duckdb": "duckdb:///flights.duckdb"}
    return {"connection": plain.get(request.param, "${secret:FLIGHTS_URL}")}, run


Base = tuple[dict[str, Any], "Callable[[str], None]"]


def source(base: Base, query: str = "select * from flights", **more: Any) -> Sql:
    return Sql.model_validate({**base[0], "query": query, **more})


def counted(base: Base, folder: Path) -> int:
    return source(base).read(folder).height


def test_rows_come_with_their_types(base: Base, tmp_path: Path) -> None:
    table = source(base, "select * from flights where delay is not null;").read(tmp_path).sort("id")
    assert table.columns == ["id", "carrier", "delay", "day", "late"]
    assert table["id"].to_list() == [1, 2]
    assert table["delay"].to_list() == [-3.0, 7.5]
    assert table["day"].to_list()[0] == datetime(2013, 1, 1, 9, 30)
    assert [bool(one) for one in table["late"]] == [False, True]


@pytest.mark.parametrize("name", ["carrier", "a_b"])
def test_values_are_bound_never_written_into_the_query(base: Base, tmp_path: Path, name: str) -> None:
    query = f"select id, ':not_me' as x from flights where carrier = :{name} and (id > :least or ':{name}' = 'a')"
    found = source(base, query, params={name: ATTACK, "least": 0}).read(tmp_path)
    assert found.rows() == [(3, ":not_me")]
    assert counted(base, tmp_path) == 3


INJECTED = (
    "select 1; drop table flights",
    "drop table flights",
    "select * from flights; --",
    "insert into flights values (4)",
    "update flights set id = 0",
    "delete from flights",
    "with gone as (delete from flights returning *) select * from gone",
    "select * into other from flights",
    "select * from flights for update",
    "create table x as select * from flights",
    "explain analyze delete from flights",
    "copy flights to '/tmp/out'",
    "attach 'other.db' as other",
    "pragma user_version = 7",
    "call gone()",
    "set role owner",
    "vacuum",
    "",
    "select",
    "select * from flights where id = $1",
    "select * from flights where id = ?",
)


@pytest.mark.parametrize("query", INJECTED)
def test_anything_but_one_select_is_refused_before_the_database_sees_it(query: str) -> None:
    for dialect in ("postgres", "sqlite", "duckdb", "mysql", ""):
        with pytest.raises(DataCheckFailed):
            parse_select(query, dialect, (), "query")


@pytest.mark.parametrize("name", ["carrier'; drop table flights; --", "A", "1", ""])
def test_names_of_parameters_are_plain(name: str) -> None:
    with pytest.raises(ValueError, match="params"):
        Sql.model_validate({"connection": "sqlite:///x.db", "query": "select 1", "params": {name: 1}})


@pytest.mark.parametrize("wrong", [{"cursor": 'id"; drop table flights; --'}, {"params": {"x": 1}}])
def test_a_cursor_or_parameter_that_is_not_there_is_told(base: Base, tmp_path: Path, wrong: dict[str, Any]) -> None:
    asked = source(base, **wrong)
    with pytest.raises(DataCheckFailed):
        asked.read(tmp_path)
    with pytest.raises(DataCheckFailed):
        asked.fingerprint(tmp_path)
    if asked.cursor:
        with pytest.raises(DataCheckFailed):
            asked.read_on(tmp_path, ATTACK)
    assert counted(base, tmp_path) == 3


def passed(opened: Any, statement: str) -> None:
    """Give a statement to the driver itself."""
    if hasattr(opened._connection, "dialect"):
        opened._connection.exec_driver_sql(statement)
    else:
        opened._connection.cursor().execute(statement)


def test_a_transaction_only_reads_even_when_the_parser_is_passed(base: Base, tmp_path: Path) -> None:
    from specml.reading.database import database

    connection = source(base).connection
    url = connection if isinstance(connection, str) else connection.value("connection")
    for statement in ("delete from flights", "create table other (x int)"):
        with pytest.raises(DataCheckFailed, match="the database refused"), database(url, tmp_path, 9, "c") as opened:
            passed(opened, statement)
    assert counted(base, tmp_path) == 3


def test_files_of_the_machine_are_out_of_reach(tmp_path: Path) -> None:
    import duckdb

    duckdb.connect(str(tmp_path / "x.duckdb")).close()
    (tmp_path / "secret.csv").write_text("a\n1\n")
    asked = Sql(connection="duckdb:///x.duckdb", query=f"select * from read_csv('{tmp_path}/secret.csv')")
    with pytest.raises(DataCheckFailed, match="the database refused"):
        asked.read(tmp_path)
    with pytest.raises(DataCheckFailed, match="outside the project"):
        Sql(connection="sqlite:///../x.db", query="select 1").read(tmp_path)


def test_the_fingerprint_is_the_same_as_long_as_the_rows_are(base: Base, tmp_path: Path) -> None:
    by_cursor, whole = source(base, cursor="id"), source(base)
    first = by_cursor.fingerprint(tmp_path), whole.fingerprint(tmp_path)
    assert first == (by_cursor.fingerprint(tmp_path), whole.fingerprint(tmp_path))
    assert first[0] == {"rows": 3, "cursor": "3"}
    base[1]("update flights set delay = 8 where id = 2")
    assert by_cursor.fingerprint(tmp_path) == first[0]  # as the documents say: a cursor tells of new rows
    assert whole.fingerprint(tmp_path) != first[1]
    base[1]("insert into flights values (4, 'DL', 1, null, true)")
    assert by_cursor.fingerprint(tmp_path) == {"rows": 4, "cursor": "4"}


def test_only_later_rows_are_read_on(base: Base, tmp_path: Path) -> None:
    for cursor in ("id", "day"):
        asked = source(base, "select id, day from flights", cursor=cursor)
        known = asked.read(tmp_path)[cursor].max()
        later, total = asked.read_on(tmp_path, known)
        assert (later.height, total) == (1, 3)
        assert later[cursor].to_list() == [known]


def test_errors_tell_no_value_and_no_secret(postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLIGHTS_URL", postgres.replace("owner@", "owner:hunter2@"))
    secret = "${secret:FLIGHTS_URL}"
    for query, told in (
        ("select cast('Zaphod' as int) as x", "SQLSTATE 22P02"),
        ("select nothing from nowhere", 'relation "nowhere" does not exist'),
        ("select 1 as x, 2 as x", "more than one column called 'x'"),
        ("select pg_sleep(5)::text as x", "longer than 0.2 s"),
    ):
        with pytest.raises(DataCheckFailed) as refused:
            Sql.model_validate({"connection": secret, "query": query, "timeout": "200ms"}).read(tmp_path)
        assert told in str(refused.value)
        assert "Zaphod" not in str(refused.value)
    monkeypatch.setenv("FLIGHTS_URL", "postgresql://owner:hunter2@127.0.0.1:1/none")
    with pytest.raises(DataCheckFailed, match="refused") as refused:
        Sql.model_validate({"connection": secret, "query": "select 1"}).read(tmp_path)
    assert "hunter2" not in str(refused.value)
    monkeypatch.delenv("FLIGHTS_URL")
    with pytest.raises(SpecmlError, match="the environment variable FLIGHTS_URL is not set"):
        Sql.model_validate({"connection": secret, "query": "select 1"}).read(tmp_path)
    with pytest.raises(ValueError, match="must be a reference like"):
        Sql.model_validate({"connection": "postgresql://owner:hunter2@h/d", "query": "select 1"})


def test_every_type_of_postgresql_comes_as_something_usable(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run_postgres(postgres)
    run("create type mood as enum ('fine', 'bad')")
    run(
        "create table kinds as select 1.50::numeric n, 'fine'::mood m, '{\"a\": 1}'::jsonb j, '36 hours'::interval i,"
        " '2024-01-02'::date d, '2024-01-02 10:00+02'::timestamptz tz, '{1,2}'::int[] a, '1.2.3.4'::inet ip,"
        " 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid u, 'x'::char(3) c, 5::bigint b, 12.5::money as cash"
    )
    monkeypatch.setenv("FLIGHTS_URL", postgres)
    told: dict[str, Any] = {}
    asked = Sql.model_validate({"connection": "${secret:FLIGHTS_URL}", "query": "select * from kinds"})
    row = asked.read(tmp_path, frozenset(), told.__setitem__).row(0, named=True)
    assert told == {"i": "an interval, in seconds"}
    assert row == {
        "n": 1.5, "m": "fine", "j": '{"a": 1}', "i": 129600.0, "d": date(2024, 1, 2),
        "tz": datetime(2024, 1, 2, 8, tzinfo=UTC), "a": "{1,2}", "ip": "1.2.3.4/32",
        "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "c": "x  ", "b": 5, "cash": 12.5,
    }  # fmt: skip


def test_every_type_of_mariadb_comes_as_something_usable(
    mariadb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run_mariadb(mariadb)
    run(
        "create table kinds (n decimal(10, 2), d datetime(6), day date, t tinyint(1), s text character set utf8mb4,"
        " u bigint unsigned, y year, i time, j json, m enum('fine', 'bad'), f float, nothing int)"
    )
    run(
        "insert into kinds values (1.50, '2024-01-02 10:00:00.25', '2024-01-02', 1, '🚂 ü', 18446744073709551615, 2024,"
        " '36:30:00', '{\"a\": 1}', 'fine', 12.5, null)"
    )
    monkeypatch.setenv("FLIGHTS_URL", mariadb)
    told: dict[str, Any] = {}
    named = {"connection": "${secret:FLIGHTS_URL}", "params": {"begins": "🚂%"}}
    asked = Sql.model_validate({**named, "query": "select * from kinds where s like :begins or s like 'x%%'"})
    row = asked.read(tmp_path, frozenset(), told.__setitem__).row(0, named=True)
    assert told == {"i": "intervals, in seconds"}
    assert row == {
        "n": 1.5, "d": datetime(2024, 1, 2, 10, 0, 0, 250_000), "day": date(2024, 1, 2), "t": 1, "s": "🚂 ü",
        "u": 18446744073709551615, "y": 2024, "i": 131_400.0, "j": '{"a": 1}', "m": "fine", "f": 12.5, "nothing": None,
    }  # fmt: skip


def test_mariadb_tells_what_is_wrong_and_no_value(
    mariadb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run_mariadb(mariadb)
    run("create or replace table people (name varchar(40))")
    run("insert into people values ('Zaphod')")
    monkeypatch.setenv("FLIGHTS_URL", mariadb)
    secret = "${secret:FLIGHTS_URL}"
    for query, words in (
        ("select nothing from people", "Unknown column 'nothing'"),
        ("select x from nowhere", "Table 'data.nowhere' doesn't exist"),
        ("select sleep(5) as x from people", "longer than 0.2 s"),
        ("select (select name from people union select 'Ford') as x", "OperationalError, while it computed"),
        ("select st_geomfromtext(name) + extractvalue(name, concat('$', name)) as x from people", ""),
    ):
        with pytest.raises(DataCheckFailed) as refused:
            Sql.model_validate({"connection": secret, "query": query, "timeout": "200ms"}).read(tmp_path)
        assert words in str(refused.value)
        assert "Zaphod" not in str(refused.value)
    monkeypatch.setenv("FLIGHTS_URL", mariadb.replace("a%20word", "another%20word"))
    with pytest.raises(DataCheckFailed, match="Access denied for user 'owner'") as refused:
        Sql.model_validate({"connection": secret, "query": "select 1 as x"}).read(tmp_path)
    assert "another" not in str(refused.value)


@pytest.mark.parametrize("timeout", ["1m", "20m"])
def test_a_timeout_that_a_database_can_not_keep_is_refused(
    base: Base, tmp_path: Path, request: pytest.FixtureRequest, timeout: str
) -> None:
    asked = source(base, timeout=timeout)
    if request.node.callspec.params["base"] != "sqlalchemy":  # SQLite by SQLAlchemy knows no limit
        assert asked.read(tmp_path).height == 3
        return
    with pytest.raises(DataCheckFailed, match="has no effect") as refused:
        asked.read(tmp_path)
    assert refused.value.where == "timeout"


def test_what_speaks_like_mysql_and_knows_no_limit_is_read_all_the_same(
    mariadb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLIGHTS_URL", mariadb)
    monkeypatch.setitem(database.LIMITS, "mariadb", "set session no_such_variable = {ms}")
    asked = {"connection": "${secret:FLIGHTS_URL}", "query": "select 1 as x"}
    assert Sql.model_validate(asked).read(tmp_path).rows() == [(1,)]
    with pytest.raises(DataCheckFailed, match="has no effect"):
        Sql.model_validate({**asked, "timeout": "1m"}).read(tmp_path)


@pytest.mark.parametrize(
    ("connection", "found"), [("${secret:X_URL}", ["allow_outside"]), ("sqlite:///x.db", []), ("duckdb:///x.db", [])]
)
def test_allow_outside_is_said_of_files_alone(connection: str, found: list[str]) -> None:
    asked = {"type": "sql", "connection": connection, "query": "select * from t", "allow_outside": True}
    told = spec_of(data={"sources": {"rows": asked}}).contradictions()
    assert [one.key[-1] for one in told] == found


def test_a_column_of_sqlite_that_holds_several_types_is_counted(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        connection.execute("create table t (a)")
        connection.execute("insert into t values (1), (2.5), ('Zaphod'), (null)")
    asked = Sql(connection="sqlite:///x.db", query="select a from t")
    with pytest.raises(DataCheckFailed, match="1 float, 1 int, 1 str") as refused:
        asked.read(tmp_path)
    assert "Zaphod" not in str(refused.value)
    as_text = asked.read(tmp_path, frozenset({"a"}))
    assert as_text.schema == {"a": pl.String}
    assert as_text["a"].to_list() == ["1", "2.5", "Zaphod", None]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"columns": {"id": {"action": "drop"}}}, "is dropped"),
        ({"columns": {"id": {"role": "ignore"}}, "undeclared": "drop"}, "is forgotten"),
        ({"undeclared": "drop"}, "is forgotten"),
        ({"columns": {"id": {"role": "id"}}, "undeclared": "drop"}, ""),
        ({}, ""),
    ],
)
def test_a_cursor_that_is_not_kept_is_told(data: dict[str, Any], told: str) -> None:
    asked = {"type": "sql", "connection": "sqlite:///x.db", "query": "select * from t", "cursor": "id"}
    spec = spec_of(data={"sources": {"rows": asked}, **data})
    found = [one.what for one in spec.contradictions() if one.key[-1] == "cursor"]
    assert found == ([f"'id' {told}: nobody would know its last value."] if told else [])


@pytest.mark.parametrize("query", ["drop table t", "select * from t where a = :a", "select 1; select 2", "select from"])
def test_what_is_no_select_is_a_fault_of_the_spec(query: str) -> None:
    for connection in ("sqlite:///x.db", "${secret:X_URL}"):
        asked = {"type": "sql", "connection": connection, "query": query}
        found = [one for one in spec_of(data={"sources": {"rows": asked}}).contradictions() if one.key[-1] == "query"]
        assert found or query == "select from"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:Zap/ss@localhost/d",
        "postgresql://u:12/ss@localhost/d",
        "postgresql://u:Zap@ss@localhost/d",
        "postgresql://u:Zap?s@localhost/d",
        "postgresql://u:Zap#s@localhost/d",
        "postgresql://u:Zap%zz@localhost/d",
        "mysql+pymysql://u:Zap@h:notaport/d",
        "mysql+pymysql://u:Zap@[bad/d",
    ],
)
def test_a_url_that_is_none_is_refused_unquoted(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLIGHTS_URL", url)
    with pytest.raises(DataCheckFailed, match="is no URL of a database") as refused:
        Sql.model_validate({"connection": "${secret:FLIGHTS_URL}", "query": "select 1 as x"}).read(tmp_path)
    told = str(refused.value)
    assert not any(one in told for one in ("Zap", "ss@", "notaport"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%40ss@h1:1,h2:2/d?sslmode=require",
        "postgresql:///d?host=/run",
        "mysql+pymysql://u:e@[::1]:3306/d",
        "oracle+oracledb://u@h/?service_name=x",
    ],
)
def test_a_url_that_is_one_is_taken(url: str) -> None:
    database._refuse_malformed(url, "connection")


def test_a_short_password_is_not_looked_for_in_words() -> None:
    assert database._bare("there is no table e", "postgresql://u:e@h/d") == "there is no table e"


def test_sqlite_quotes_no_value(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as base:
        base.execute("create table people (name text)")
        base.execute("insert into people values (cast(x'5a6170686f64ff' as text))")
        base.commit()
    asked = Sql.model_validate({"connection": "sqlite:///x.db", "query": "select name from people"})
    with pytest.raises(DataCheckFailed, match="OperationalError, while it computed") as refused:
        asked.read(tmp_path)
    assert "Zaphod" not in str(refused.value)
    with pytest.raises(DataCheckFailed, match="no such table: nowhere"):
        Sql.model_validate({"connection": "sqlite:///x.db", "query": "select x from nowhere"}).read(tmp_path)


def test_bytes_and_intervals_do_not_panic(tmp_path: Path) -> None:
    import duckdb

    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as base:
        base.execute("create table t (a blob, n int)")
        base.execute("insert into t values (x'00ff', 1), (null, 2)")
        base.commit()
    with duckdb.connect(str(tmp_path / "x.duckdb")) as duck:
        duck.execute("create table t as select 'x'::blob as a, interval 90 minute as i")
    for url, rows in (("sqlite:///x.db", 2), ("duckdb:///x.duckdb", 1)):
        asked = Sql.model_validate({"connection": url, "query": "select * from t"})
        found = asked.fingerprint(tmp_path)
        assert found["rows"] == rows
        assert found == asked.fingerprint(tmp_path)
    told: dict[str, Any] = {}
    assert asked.read(tmp_path, tell=told.__setitem__)["i"].to_list() == [5400.0]
    assert told == {"i": "intervals, in seconds"}
    nested = Sql.model_validate({"connection": "duckdb:///x.duckdb", "query": "select [i] as x from t"})
    with pytest.raises(DataCheckFailed, match="of a type that no table can hold"):
        nested.read(tmp_path)


def test_a_file_outside_the_project_is_read_only_where_that_is_said(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as base:
        base.execute("create table t as select 1 as a")
    folder = tmp_path / "project"
    folder.mkdir()
    for url in (f"sqlite:///{tmp_path}/x.db", "sqlite:///../x.db"):
        asked = {"connection": url, "query": "select a from t"}
        with pytest.raises(DataCheckFailed, match="outside the project"):
            Sql.model_validate(asked).read(folder)
        assert Sql.model_validate({**asked, "allow_outside": True}).read(folder)["a"].to_list() == [1]


def test_comments_that_mysql_runs_are_refused() -> None:
    for query in ("select 1 as x /*!50000 into outfile 'x' */", "/*!select*/ select 1", "select /*M! 1 */ 2"):
        with pytest.raises(DataCheckFailed, match="which MySQL runs"):
            parse_select(query, "mysql", (), "query")
