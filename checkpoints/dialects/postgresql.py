"""PostgreSQL, through psycopg."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, ClassVar, cast

import psycopg
from sqlalchemy import Double, Text, create_engine, func, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from checkpoints.dialects.base import SPARE_CONNECTIONS, Dialect, last_of_each

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import URL, ColumnElement, Connection, Engine, Table
    from sqlalchemy.types import TypeEngine

    from checkpoints.dialects.base import Row, Settings, Statement

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT = {
    "40001",  # serialization failure
    "40P01",  # deadlock detected
    "55P03",  # lock not available
    "57P01",  # admin shutdown
    "57P02",  # crash shutdown
    "57P03",  # cannot connect now
    "53300",  # too many connections
    "25006",  # read-only transaction: a standby that is about to be promoted
}
_FATAL_CLASSES = {
    "08",  # connection
    "0A",  # feature not supported
    "28",  # authorization
    "3D",  # no such database
    "3F",  # no such schema
    "42",  # access rule, undefined table
    "53",  # resources, such as a full disk
    "57",  # operator intervention
    "58",  # system error
    "XX",  # internal error, corrupted data
}
_CONTENTION = {"40001", "40P01", "55P03"}
_FOREIGN_KEY = "23503"
_ARRAYS_FROM = 8  # rows; below, the driver takes longer for an array than for the values in it
_PIPELINE_UP_TO = 64 << 10  # bytes; in a pipeline the driver hangs when more than the socket takes is to be sent
_WAIT = "SET LOCAL lock_timeout = '1500ms'"  # who was stopped may hold a lock for ever; a deadlock is found after 1 s
_DIALECT = postgresql.dialect()
_ARRAYS = {"INTEGER": "bigint[]", "BIGINT": "bigint[]", "FLOAT": "float8[]", "DOUBLE PRECISION": "float8[]"}


class PostgreSQL(Dialect):
    """PostgreSQL 12 or newer."""

    name = "postgresql"
    error = (*Dialect.error, psycopg.Error)

    # Text here can't hold NUL. It is rare in keys, so it is escaped rather than every key made unreadable.
    _ESCAPES: ClassVar[Mapping[int, str]] = {0: "\x01" + "0", 1: "\x01" + "1"}

    def make_engine(self, url: URL, settings: Settings) -> Engine:
        patience = str(max(1, int(settings.timeout)))
        defaults = {
            "connect_timeout": patience,
            # A peer that vanished without a word is noticed in this time rather than never.
            "keepalives_idle": "30",
            "keepalives_interval": "10",
            "keepalives_count": "3",
            "tcp_user_timeout": "30000",
            "application_name": "checkpoints",
        }
        prepare = cast("str | None", url.query.get("prepare_threshold"))
        url = url.difference_update_query(["prepare_threshold"])
        missing = {name: value for name, value in defaults.items() if name not in url.query}
        return create_engine(
            url.update_query_dict(missing),
            poolclass=QueuePool,
            pool_size=settings.connections,
            max_overflow=SPARE_CONNECTIONS,
            pool_timeout=60,
            # A pooler such as PgBouncer gives each transaction another server, which knows no earlier statement, or
            # another one by the same name. Where there is none, the URL may say ?prepare_threshold=5.
            connect_args={"prepare_threshold": None if prepare is None else int(prepare)},
        )

    def lock(self, connection: Connection, name: str) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": zlib.crc32(name.encode())})

    def reading(self, engine: Engine) -> Engine:
        return engine.execution_options(isolation_level="AUTOCOMMIT")

    def snapshot(self, engine: Engine) -> Engine:
        return engine.execution_options(isolation_level="REPEATABLE READ")

    def key_type(self, length: int) -> TypeEngine[str]:  # noqa: ARG002 - checked before it comes here
        return Text(collation="C")

    def after_create(self, connection: Connection, table: Table) -> None:
        for column in table.c:
            if column.type.compile(connection.dialect) == "BYTEA":  # what pays is compressed before it comes here
                connection.execute(text(f"ALTER TABLE {table.fullname} ALTER {column.name} SET STORAGE EXTERNAL"))

    def key(self, text: str) -> Any:
        return text.translate(self._ESCAPES) if "\x00" in text or "\x01" in text else text

    def unkey(self, stored: Any) -> str:
        return stored.replace("\x010", "\x00").replace("\x011", "\x01") if "\x01" in stored else stored

    def begin(self, connection: Connection) -> None:
        connection.exec_driver_sql(_WAIT)

    def _inserts(self, statement: Statement, rows: Sequence[Row]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        if statement.replace:
            rows = last_of_each(statement, rows)
        if len(rows) < _ARRAYS_FROM:
            yield from super()._inserts(statement, rows)
            return
        # One statement for any number of rows: each column travels as an array.
        arrays = ", ".join(_array(column.type.compile(_DIALECT)) for column in statement.table.c)
        place = self._source(statement.table)
        for start in range(0, len(rows), self.rows_at_once):
            columns = zip(*rows[start : start + self.rows_at_once], strict=True)
            sql = statement.sql.replace(place, f"SELECT * FROM unnest({arrays})", 1)
            yield sql, tuple(list(column) for column in columns)

    def commit_rows(self, engine: Engine, gathered: Mapping[Statement, Sequence[Row]]) -> None:
        size = sum(len(row[-1]) for rows in gathered.values() for row in rows if isinstance(row[-1], bytes))
        if size > _PIPELINE_UP_TO:
            super().commit_rows(engine, gathered)
            return
        # All of the transaction in one round trip.
        with engine.connect() as connection:
            driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
            with driver.pipeline(), driver.cursor() as cursor:
                cursor.execute(_WAIT)
                for statement, rows in gathered.items():
                    for sql, parameters in self._inserts(statement, rows):
                        cursor.execute(cast("Any", sql), parameters)
                cursor.execute("COMMIT")

    def now(self) -> ColumnElement[float]:
        return func.extract("epoch", func.clock_timestamp()).cast(Double)

    def is_transient(self, error: BaseException) -> bool:
        state = _state(error)
        if state is not None:
            return state in _TRANSIENT or state.startswith("08")
        # Without a code of the server's it is the connection that failed.
        cause = getattr(error, "orig", error)
        return isinstance(cause, psycopg.OperationalError) or super().is_transient(error)

    def is_contention(self, error: BaseException) -> bool:
        return _state(error) in _CONTENTION

    def is_fatal(self, error: BaseException) -> bool:
        state = _state(error)
        return self.is_transient(error) if state is None else state[:2] in _FATAL_CLASSES

    def is_orphan(self, error: BaseException) -> bool:
        return _state(error) == _FOREIGN_KEY


def _array(name: str) -> str:
    return f"%s::{_ARRAYS.get(name, 'text[]')}" if name != "BYTEA" else "%b::bytea[]"


def _state(error: BaseException) -> str | None:
    cause = cast("Any", error.orig if isinstance(error, DBAPIError) else error)
    return getattr(cause, "sqlstate", None)
