"""A user's database, which is only ever read: SQLite, PostgreSQL, MariaDB or MySQL.

Every query passes the gate (`_service_gate`) and then runs where the database itself refuses to write: on SQLite a
connection with `mode=ro`, `PRAGMA query_only` and an authorizer that knows reading only; on PostgreSQL a transaction
that is `READ ONLY`; on MariaDB and MySQL one started by `START TRANSACTION READ ONLY`, in a session that is read-only
too. A query has a time limit and a limit of rows. What the database's user may read is not decided here: give the desk
a user with SELECT on what it should see, and nothing else.
"""

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from checkpoints.dialects import open_dialect
from checkpoints.errors import UnsupportedDatabase
from graphs._service_gate import QueryRefused, checked, may_call
from graphs._service_schema import Schema, read_schema
from graphs._types import Frozen
from orchestra import RequestError

MAX_ROWS = 200  # of an answer
SECONDS = 5.0  # that a query may take
MAX_TEXT = 500  # characters of a value
_OPTIONS = frozenset({"host", "port", "unix_socket", "charset", "sslmode", "sslrootcert", "ssl_ca"})
_READING = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)  # fmt: skip

Value = str | int | float | None


class QueryFailed(ValueError):
    """The database could not run the query, or not in time."""


class Rows(Frozen):
    """What a query gave.

    Attributes:
        sql: the statement, as it ran.
        columns: their names.
        rows: at most as many as were wanted.
        cut: there are more rows than these.
    """

    sql: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    cut: bool = False


class Database:
    """A database that is only read.

    Args:
        url: where it is, as SQLAlchemy writes it.
        sample: it is our own sample shop.

    Raises:
        RequestError: the URL is no good.
    """

    def __init__(self, url: str, *, sample: bool = False) -> None:
        try:
            _, self._url = open_dialect(url)
        except UnsupportedDatabase as error:
            raise RequestError(f"The database can't be used: {error}.") from error
        if odd := sorted(set(self._url.query) - _OPTIONS):
            raise RequestError(f"The database's URL has the option {odd[0]!r}, which is not allowed: leave it out.")
        self.sample = sample
        self.dialect = self._url.get_backend_name()
        self.name = "the sample shop" if sample else self._url.render_as_string(hide_password=True)
        self._engine = create_engine(_sqlite(self._url) if self.dialect == "sqlite" else self._url, **self._options())

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"poolclass": NullPool}
        if self.dialect == "sqlite":
            options["creator"] = self._open
        else:
            options["connect_args"] = {"connect_timeout": 5}
        return options

    def _open(self) -> sqlite3.Connection:
        path = Path(self._url.database or "")
        if not path.is_file():
            raise RequestError(f"There is no database file {str(path)!r}: write sqlite:///PATH of one that exists.")
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000_000)
        return connection

    def schema(self) -> Schema:
        """The tables, read anew: somebody may have changed them.

        Raises:
            RequestError: the database can't be reached, or has no tables.
        """
        try:
            with self._engine.connect() as connection:
                schema = read_schema(inspect(connection))
        except SQLAlchemyError as error:
            raise RequestError(f"The database {self.name} can't be read: {_why(error)}.") from error
        if not schema.tables:
            raise RequestError(f"The database {self.name} has no tables that can be asked.")
        return schema

    def query(self, sql: str, *, limit: int = MAX_ROWS, seconds: float = SECONDS) -> Rows:
        """Run one SELECT.

        Args:
            sql: the statement.
            limit: how many rows are wanted.
            seconds: how long it may take.

        Raises:
            QueryRefused: it may do more than read.
            QueryFailed: the database refuses it, or it takes too long.
        """
        sql = checked(sql)
        try:
            with self._engine.connect() as connection, self._reading(connection, seconds, limit):
                connection.execution_options(no_parameters=True, stream_results=True)
                result = connection.exec_driver_sql(sql)
                found = result.fetchmany(limit + 1)
                rows = tuple(tuple(map(_value, row)) for row in found[:limit])
                columns = tuple(result.keys())
                result.close()
        except SQLAlchemyError as error:
            why = _why(error)
            if re.search(r"interrupted|statement timeout|max_statement_time|execution time exceeded", why):
                why = f"it took longer than {seconds:g} seconds"
            raise QueryFailed(f"the database did not run the query: {why}") from error
        return Rows(sql=sql, columns=columns, rows=rows, cut=len(found) > limit)

    @contextlib.contextmanager
    def _reading(self, connection: Connection, seconds: float, limit: int) -> Iterator[None]:
        """Make the database refuse to write, and to take long."""
        if self.dialect == "sqlite":
            raw: Any = connection.connection.driver_connection
            deadline = time.monotonic() + seconds
            raw.set_authorizer(_authorize)
            raw.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        elif self.dialect == "postgresql":
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(seconds * 1000)}")
        else:
            is_mariadb = getattr(connection.dialect, "is_mariadb", False)
            limits = f"max_statement_time = {seconds}" if is_mariadb else f"max_execution_time = {int(seconds * 1000)}"
            connection.exec_driver_sql(f"SET SESSION {limits}")
            connection.exec_driver_sql(f"SET SESSION sql_select_limit = {limit + 1}")
            # Alone, the transaction would let DROP and ALTER through on MariaDB: they commit it first.
            connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
            connection.exec_driver_sql("START TRANSACTION READ ONLY")
        yield

    def literal(self, value: object) -> str:
        """A value as it is written in a statement.

        Raises:
            QueryRefused: it holds what can't be written safely.
        """
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return str(value)
        text = str(value)
        if "\\" in text or "\0" in text:
            raise QueryRefused(f"a value with a backslash can't be looked for: {text[:40]!r}")
        return "'" + text.replace("'", "''") + "'"

    def named(self, name: str) -> str:
        """A table or column as it is written in a statement."""
        return self._engine.dialect.identifier_preparer.quote(name)


@lru_cache(maxsize=8)
def open_database(url: str, *, sample: bool = False) -> Database:
    """A database; the same object for the same URL."""
    return Database(url, sample=sample)


def _sqlite(url: URL) -> URL:
    if not url.database or url.database == ":memory:":
        raise RequestError("A SQLite database in memory holds nothing: write sqlite:///PATH of a file.")
    return url.set(database=":memory:")  # the file is opened by us, as a file that is only read


def _authorize(action: int, _first: str | None, second: str | None, *_: object) -> int:
    """Let SQLite read, and call functions that only compute."""
    if action not in _READING or (action == sqlite3.SQLITE_FUNCTION and not may_call(second or "")):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _value(value: object) -> Value:
    if value is None or isinstance(value, int | float):
        return int(value) if isinstance(value, bool) else value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    if isinstance(value, date):
        return value.isoformat()
    text = f"({len(value)} bytes)" if isinstance(value, bytes | memoryview) else str(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _why(error: SQLAlchemyError) -> str:
    """What the driver said, on one line and without the statement."""
    said = getattr(error, "orig", None) or error
    parts = [str(part) for part in getattr(said, "args", ()) if not isinstance(part, int)]
    return " ".join((" ".join(parts) or str(said)).split())[:300].rstrip(".")
