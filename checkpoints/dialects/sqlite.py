"""SQLite: files in write-ahead mode, and databases in memory."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Text, create_engine, event, func
from sqlalchemy.pool import QueuePool

from checkpoints.dialects.base import SPARE_CONNECTIONS, Dialect

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from sqlalchemy import URL, ColumnElement, Connection, Engine, Table
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.types import TypeEngine

    from checkpoints.dialects.base import Row, Settings, Statement

_BEGIN = "checkpoints_begin"
"""The execution option that tells how a transaction begins; "" for single queries."""

# The whole database refuses, not one row: trying the callers one by one would not help any of them.
_FATAL = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
}


class SQLite(Dialect):
    """SQLite 3.35 or newer, through Python's own driver.

    The driver gives up Python's lock for each step of a statement, and waits for it afterwards, up to 5 ms if another
    thread is busy. So it pays to insert many rows in one step.
    """

    name = "sqlite"
    error = (*Dialect.error, sqlite3.Error)
    placeholder = "?"
    nested_loop = "CROSS JOIN"  # makes the keys the outer loop; else the whole table is scanned for them
    for_share = ""  # the transaction has the only lock there is
    has_schemas = False

    def make_engine(self, url: URL, settings: Settings) -> Engine:
        in_memory = url.database in {None, "", ":memory:"} or "memory" in url.query.get("mode", "")
        engine = create_engine(
            url,
            poolclass=QueuePool,
            # A database in memory lives as long as its only connection, which its users take in turn.
            pool_size=1 if in_memory else settings.connections,
            max_overflow=0 if in_memory else SPARE_CONNECTIONS,
            pool_timeout=60,
            # Statements for many rows are large: those for a few numbers of rows are kept, not for any number.
            connect_args={"check_same_thread": False, "timeout": settings.timeout, "cached_statements": 24},
        )

        def on_connect(connection: DBAPIConnection, _record: object) -> None:
            # None hands the transactions to us: the driver would begin them late, and never as a writer.
            connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA synchronous = {settings.synchronous}")
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.close()

        def on_begin(connection: Connection) -> None:
            begin = connection.get_execution_options().get(_BEGIN, "BEGIN")
            if begin:
                connection.exec_driver_sql(begin)

        event.listen(engine, "connect", on_connect)
        event.listen(engine, "begin", on_begin)
        return engine

    def prepare_database(self, engine: Engine) -> None:
        # Readers and the writer don't wait for each other then. It can't change in a transaction, which every
        # other way of getting a connection begins.
        connection = engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()

    @contextmanager
    def creating(self, engine: Engine, name: str) -> Generator[Connection]:
        with self.writing(engine).begin() as connection:
            self.lock(connection, name)
            yield connection

    def lock(self, connection: Connection, name: str) -> None:
        """The write lock is held already."""

    def writing(self, engine: Engine) -> Engine:
        # With the write lock from the start: a transaction that begins as a reader and writes later fails at once,
        # without waiting, when another process wrote in between.
        return engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})

    def reading(self, engine: Engine) -> Engine:
        return engine.execution_options(**{_BEGIN: ""})

    def key_type(self, length: int) -> TypeEngine[str]:  # noqa: ARG002 - text has no limit here
        return Text()

    def table_options(self) -> dict[str, Any]:
        # The key is most of these rows, so they live in the key's own tree rather than in a second one.
        return {"sqlite_with_rowid": False}

    def commit_rows(self, engine: Engine, gathered: Mapping[Statement, Sequence[Row]]) -> None:
        # Past SQLAlchemy, which would take as long for a small transaction as the disk does.
        pooled = engine.raw_connection()
        try:
            driver = cast("sqlite3.Connection", pooled.driver_connection)
            driver.execute("BEGIN IMMEDIATE")
            for statement, rows in gathered.items():
                for sql, parameters in self._inserts(statement, rows):
                    driver.execute(sql, parameters)
            driver.execute("COMMIT")
        finally:
            pooled.close()  # and roll back what is not committed

    def decoded(self, table: Table, rows: Sequence[Any]) -> Sequence[Any]:  # noqa: ARG002 - keys are text already
        return rows

    def now(self) -> ColumnElement[float]:
        return (func.julianday("now") - 2440587.5) * 86400.0

    def is_transient(self, error: BaseException) -> bool:
        return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

    def is_fatal(self, error: BaseException) -> bool:
        return _code(error) in _FATAL

    def is_orphan(self, error: BaseException) -> bool:
        cause: Any = getattr(error, "orig", error)
        return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY


def _code(error: BaseException) -> int | None:
    cause = getattr(error, "orig", error)
    code: int | None = getattr(cause, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # the low byte is the class, the rest is detail
