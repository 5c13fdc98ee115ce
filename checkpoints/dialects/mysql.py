"""MariaDB and MySQL, through PyMySQL."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pymysql
from sqlalchemy import Double, create_engine, event, literal_column, text
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT, VARBINARY
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from checkpoints.dialects.base import SPARE_CONNECTIONS, Dialect, last_of_each
from checkpoints.errors import WriteFailed

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from sqlalchemy import URL, ColumnElement, Connection, Engine, Table
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.types import TypeEngine

    from checkpoints.dialects.base import Row, Settings, Statement

# https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference
_TRANSIENT = {
    1020,  # the record changed since it was read
    1040,  # too many connections
    1053,  # server shutdown in progress
    1205,  # lock wait timeout
    1213,  # deadlock
    1927,  # connection was killed
    2002,  # can't connect through the socket
    2003,  # can't connect
    2006,  # server has gone away
    2013,  # connection lost during a query
    2014,  # commands out of sync: a reply was lost
}
_FATAL = {
    1021,  # disk full
    1044,  # access denied to the database
    1045,  # access denied
    1049,  # no such database
    1114,  # table full
    1142,  # command denied
    1146,  # no such table
    1290,  # server is read-only
    1836,  # running in read-only mode
}
_FOREIGN_KEY = {1216, 1217, 1451, 1452}
_CONTENTION = {1020, 1205, 1213}
_READ_TIMEOUT = 120
_ROW = 1024  # bytes, roughly, that a row takes besides
_PACKET = "checkpoints_max_allowed_packet"


class MySQL(Dialect):
    """MariaDB 10.6 or newer, MySQL 8.0.19 or newer."""

    name = "mysql"
    error = (*Dialect.error, pymysql.MySQLError)
    for_share = "LOCK IN SHARE MODE"  # what both call it

    def __init__(self, *, is_mariadb: bool) -> None:
        # The one is not asked for its name before the first connection; a URL that says "mariadb" is believed.
        self.values_row = "" if is_mariadb else "ROW"

    def make_engine(self, url: URL, settings: Settings) -> Engine:
        defaults = {
            "connect_timeout": str(max(1, int(settings.timeout))),
            # A peer that vanished without a word is noticed in this time rather than never.
            "read_timeout": str(_READ_TIMEOUT),
            "write_timeout": str(_READ_TIMEOUT),
            "charset": "utf8mb4",
        }
        missing = {name: value for name, value in defaults.items() if name not in url.query}
        engine = create_engine(
            url.update_query_dict(missing),
            poolclass=QueuePool,
            pool_size=settings.connections,
            max_overflow=SPARE_CONNECTIONS,
            pool_timeout=60,
        )

        def on_connect(connection: DBAPIConnection, record: Any) -> None:
            cursor = connection.cursor()
            # Strict, so that nothing is cut to fit; UTC, since a session's clock may be turned back.
            # And a short wait, since a process that was stopped may hold a lock for ever.
            cursor.execute(
                "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), time_zone = '+00:00', "
                "innodb_lock_wait_timeout = 1"
            )
            cursor.execute("SELECT @@max_allowed_packet, VERSION()")
            packet, version = cast("Any", cursor.fetchone())
            record.info[_PACKET] = packet
            self.values_row = "" if "mariadb" in str(version).lower() else "ROW"
            cursor.close()

        event.listen(engine, "connect", on_connect)
        return engine

    @contextmanager
    def creating(self, engine: Engine, name: str) -> Generator[Connection]:
        with engine.connect() as connection:  # DDL commits, so the lock must be the connection's
            connection.execute(text("SELECT GET_LOCK(:name, 60)"), {"name": name[-60:]})
            try:
                yield connection
                connection.commit()
            finally:
                connection.rollback()
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name[-60:]})

    def lock(self, connection: Connection, name: str) -> None:
        """`creating` holds it."""

    def writing(self, engine: Engine) -> Engine:
        # The gaps between rows need no locks here, and two writers would deadlock on them.
        return engine.execution_options(isolation_level="READ COMMITTED")

    def reading(self, engine: Engine) -> Engine:
        return engine.execution_options(isolation_level="AUTOCOMMIT")

    def snapshot(self, engine: Engine) -> Engine:
        return engine.execution_options(isolation_level="REPEATABLE READ")

    def key_type(self, length: int) -> TypeEngine[str]:
        return cast("TypeEngine[str]", VARBINARY(length))  # every text collation takes some keys for equal

    def text_type(self) -> TypeEngine[str]:
        return LONGTEXT(charset="ascii", collation="ascii_bin")

    def blob_type(self) -> TypeEngine[bytes]:
        return LONGBLOB()

    def table_options(self) -> dict[str, Any]:
        return {"mysql_engine": "InnoDB", "mariadb_engine": "InnoDB"}

    def key(self, text: str) -> Any:
        return text.encode()

    def unkey(self, stored: Any) -> str:
        return stored.decode(errors="backslashreplace")  # what is damaged shows in the checksum

    def _conflict(self, table: Table, *, replace: bool) -> str:
        # INSERT IGNORE would also ignore a value that does not fit and a base that is not there.
        first = next(iter(table.primary_key)).name
        changes = ", ".join(f"{column.name} = VALUES({column.name})" for column in table.c if not column.primary_key)
        return f"ON DUPLICATE KEY UPDATE {changes if replace else f'{first} = {first}'}"

    def insert(self, connection: Connection, statement: Statement, rows: Sequence[Row]) -> None:
        if statement.replace:
            rows = last_of_each(statement, rows)
        limit = connection.connection.info[_PACKET]
        part: list[Row] = []
        room = limit // 2  # in text, a byte may take two
        for row in rows:
            size = sum(len(value) for value in row if isinstance(value, bytes)) + _ROW
            if size > limit:
                raise WriteFailed(
                    f"a row of {size:,} bytes for {statement.table.name} is larger than the server takes "
                    f"(max_allowed_packet = {limit:,}): raise max_allowed_packet on the server"
                )
            if size > room:
                super().insert(connection, statement, part)
                part, room = [], limit // 2
            part.append(row)
            room -= size
        super().insert(connection, statement, part)

    def delete_newest_first(self, connection: Connection, table: Table, thread_id: str) -> None:
        # References are checked row by row here, not when the statement ends.
        order = ", ".join(f"{column.name} DESC" for column in table.primary_key)
        query = f"DELETE FROM {self._quoted(table)} WHERE thread_id = %s ORDER BY {order}"
        connection.exec_driver_sql(query, (self.key(thread_id),))

    def now(self) -> ColumnElement[float]:
        return literal_column("UNIX_TIMESTAMP(SYSDATE(6))", Double())  # as a parameter, the 6 would not count

    def is_transient(self, error: BaseException) -> bool:
        return _code(error) in _TRANSIENT or super().is_transient(error)

    def is_contention(self, error: BaseException) -> bool:
        return _code(error) in _CONTENTION

    def is_fatal(self, error: BaseException) -> bool:
        return _code(error) in _FATAL or (self.is_transient(error) and not self.is_contention(error))

    def is_orphan(self, error: BaseException) -> bool:
        return _code(error) in _FOREIGN_KEY


def _code(error: BaseException) -> int | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, pymysql.MySQLError) and cause.args and isinstance(cause.args[0], int):
        return cause.args[0]
    return None
