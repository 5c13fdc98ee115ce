"""All that is particular to SQLite: the engine, its settings, the statements that are not portable."""

from __future__ import annotations

import json
import sqlite3
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import create_engine, event, exists, func, literal, make_url, not_, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from checkpoints.errors import UnsupportedDatabase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import URL, Column, ColumnElement, Connection, Engine, Insert, Table
    from sqlalchemy.engine.interfaces import DBAPIConnection

Synchronous = Literal["FULL", "NORMAL"]

ERRORS = (SQLAlchemyError, sqlite3.Error)
"""What a database's own errors are instances of."""

# A transaction with this execution option takes the write lock at its start. One that begins as a reader and
# writes later fails at once, without waiting, when another process wrote in between.
WRITES = {"checkpoints_writes": True}

_KEYS_PER_QUERY = 2000  # a statement takes 32,766 parameters, and a key has up to four

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


def parse_url(url: str | URL) -> URL:
    """Return the URL with Python's own driver, or say why it can't be used.

    Raises:
        UnsupportedDatabase: It is not an SQLite URL.
    """
    try:
        parsed = make_url("sqlite://" if url == ":memory:" else url)
    except ArgumentError as error:
        raise UnsupportedDatabase(
            f"{url!r} is not the URL of a database; for a file next to you, use 'sqlite:///runs.db'"
        ) from error
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite"}:
        raise UnsupportedDatabase(
            f"{parsed.drivername!r} is not supported by this version: use 'sqlite:///path/to/file.db' "
            "(one synchronous engine serves both the sync and the async methods)"
        )
    return parsed


def make_engine(url: URL, *, synchronous: Synchronous, busy_timeout: float, connections: int) -> Engine:
    """Make the engine.

    Args:
        url: From `parse_url`. A database in memory gets one connection, which its users take in turn: it
            lives only as long as that connection.
        synchronous: ``"FULL"`` survives a power cut, ``"NORMAL"`` a crash of the process only.
        busy_timeout: Seconds that a statement waits for another process's lock.
        connections: How many connections are kept open for a file.
    """
    in_memory = url.database in {None, "", ":memory:"} or "memory" in url.query.get("mode", "")
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=1 if in_memory else connections,
        max_overflow=0 if in_memory else 64,
        pool_timeout=60,
        connect_args={"check_same_thread": False, "timeout": busy_timeout},
    )

    def on_connect(connection: DBAPIConnection, _record: object) -> None:
        # None hands the transactions to us: the driver would begin them late, and never as a writer.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().keys() >= WRITES.keys()
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


def prepare_database(engine: Engine) -> None:
    """Switch the file to a write-ahead log, so that readers and the writer don't wait for each other."""
    connection = engine.raw_connection()  # the mode can't change in a transaction, which every other way begins
    try:
        connection.cursor().execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def upsert(table: Table) -> Insert:
    """Insert rows; a row whose key is there already is replaced."""
    statement = insert(table)
    changes = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=changes)


def insert_or_ignore(table: Table) -> Insert:
    """Insert rows; a row whose key is there already is left as it is."""
    return insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))


def rows_by_key(
    connection: Connection, table: Table, columns: Sequence[str], keys: Sequence[tuple[str, ...]]
) -> list[Any]:
    """All rows whose columns equal one of the keys, each found through the primary key.

    SQLite scans the whole table for ``(a, b) IN (VALUES ...)`` with more than one row, so the keys are
    joined.
    """
    found: list[Any] = []
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        part = keys[start : start + _KEYS_PER_QUERY]
        statement = _rows_by_key(table.name, tuple(columns), len(part))
        found += connection.exec_driver_sql(statement, tuple(chain.from_iterable(part))).all()
    return found


def _rows_by_key(table: str, columns: tuple[str, ...], count: int) -> str:
    names = ", ".join(columns)
    row = f"({', '.join('?' * len(columns))})"
    places = ", ".join([row] * count)
    equal = " AND ".join(f"t.{name} = k.{name}" for name in columns)
    # CROSS JOIN makes the keys the outer loop. The names are ours, the prefix of the table is checked.
    return f"WITH k({names}) AS (VALUES {places}) SELECT t.* FROM k CROSS JOIN {table} t ON {equal}"  # noqa: S608


def json_equals(column: Column[str], key: str, value: Any) -> ColumnElement[bool]:
    """Whether the JSON object in a column has this value under this key; None also matches an absent key.

    The key is compared as data (no JSON path is built from it), so it may hold dots and quotes.
    """
    entry = func.json_each(column).table_valued("key", "value", "type")
    found = select(literal(1)).select_from(entry).where(entry.c.key == key)
    if value is None:
        return not_(exists(found.where(entry.c.type != "null")))
    if isinstance(value, str):
        return exists(found.where(entry.c.type == "text", entry.c.value == value))
    if isinstance(value, (int, float)):
        return exists(found.where(entry.c.type.not_in(["text", "array", "object"]), entry.c.value == value))
    return exists(found.where(entry.c.value == json.dumps(value, sort_keys=True, separators=(",", ":"))))


def now() -> ColumnElement[float]:
    """The database's clock: seconds since 1970, UTC, to the millisecond."""
    return (func.julianday("now") - 2440587.5) * 86400.0


def is_busy(error: BaseException) -> bool:
    """Whether another process holds the lock, so that trying again may help."""
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_fatal(error: BaseException) -> bool:
    """Whether the whole database refuses, not one row of one caller."""
    return _code(error) in _FATAL


def reason(error: BaseException) -> str:
    """The database's own words, without the statement."""
    cause = getattr(error, "orig", None) or error
    return f"{type(cause).__name__}: {cause}"


def _code(error: BaseException) -> int | None:
    cause = getattr(error, "orig", error)
    code: int | None = getattr(cause, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # the low byte is the class, the rest is detail
