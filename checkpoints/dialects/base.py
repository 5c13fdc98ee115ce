"""What every database must be able to do, and how most of them do it."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections import namedtuple
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    LargeBinary,
    Table,
    Text,
    TypeDecorator,
    delete,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from sqlalchemy.types import TypeEngine

Synchronous = Literal["FULL", "NORMAL"]

Row = tuple[Any, ...]
"""The values of one row, in the order of the table's columns, keys already as the database stores them."""

_KEYS_PER_QUERY = 2000  # SQLite takes 32,766 parameters in a statement, and a key has up to four
SPARE_CONNECTIONS = 16
"""How many connections may be opened for a while beyond those that are kept."""


@dataclass(frozen=True, eq=False, slots=True)
class Statement:
    """Insert rows into a table. One object each, so that the writer can gather rows by statement.

    Attributes:
        table: Where to.
        replace: Whether a row whose key is there already is replaced, or left as it is.
        sql: The statement, as the database's driver takes it.
    """

    table: Table
    replace: bool
    sql: str


@dataclass(frozen=True, slots=True)
class Settings:
    """How to open a database.

    Attributes:
        timeout: Seconds to keep trying while it is locked, restarting or out of reach.
        synchronous: SQLite only: ``"FULL"`` survives a power cut, ``"NORMAL"`` a crash of the process only.
        connections: How many connections are kept open.
    """

    timeout: float
    synchronous: Synchronous
    connections: int


class Dialect(ABC):
    """All that is particular to one kind of database."""

    name: ClassVar[str]
    error: ClassVar[tuple[type[BaseException], ...]] = (SQLAlchemyError,)
    placeholder: ClassVar[str] = "%s"
    values_row: str = ""
    nested_loop: ClassVar[str] = "JOIN"
    for_share: ClassVar[str] = "FOR SHARE"
    rows_at_once: ClassVar[int] = 200  # a statement for more takes much memory, and gains nothing
    has_schemas: ClassVar[bool] = True

    # Opening

    @abstractmethod
    def make_engine(self, url: URL, settings: Settings) -> Engine:
        """The engine; opening it connects to nothing."""

    def prepare_database(self, engine: Engine) -> None:  # noqa: B027 - most need nothing
        """Set what belongs to the database rather than to a connection, before its tables are made."""

    @contextmanager
    def creating(self, engine: Engine, name: str) -> Generator[Connection]:
        """A transaction that one process at a time is in, to make tables."""
        with engine.begin() as connection:
            self.lock(connection, name)
            yield connection

    @abstractmethod
    def lock(self, connection: Connection, name: str) -> None:
        """Wait until no other transaction holds the lock of this name, and hold it until this one ends."""

    def writing(self, engine: Engine) -> Engine:
        """The engine for transactions that write."""
        return engine

    def begin(self, connection: Connection) -> None:  # noqa: B027 - most need nothing
        """What a transaction that writes begins with."""

    def reading(self, engine: Engine) -> Engine:
        """The engine for single queries."""
        return engine

    def snapshot(self, engine: Engine) -> Engine:
        """The engine for queries that see one state of the database."""
        return engine

    # Types

    @abstractmethod
    def key_type(self, length: int) -> TypeEngine[str]:
        """Text of at most so many bytes of UTF-8, compared byte by byte. May hold any character, NUL included."""

    def text_type(self) -> TypeEngine[str]:
        """Text of any length, in ASCII."""
        return Text()

    def blob_type(self) -> TypeEngine[bytes]:
        """Bytes, up to a gigabyte."""
        return LargeBinary()

    def table_options(self) -> dict[str, Any]:
        """Options for tables that are mostly key, by SQLAlchemy's names."""
        return {}

    def after_create(self, connection: Connection, table: Table) -> None:  # noqa: B027 - most need nothing
        """What a new table needs that SQLAlchemy can't say."""

    def key(self, text: str) -> Any:
        """A key as the database stores it."""
        return text

    def unkey(self, stored: Any) -> str:
        """The key that was stored so."""
        return stored

    # Statements

    def statement(self, table: Table, *, replace: bool) -> Statement:
        """Compile an insert once, for the driver."""
        names = [column.name for column in table.c]
        conflict = self._conflict(table, replace=replace)
        sql = f"INSERT INTO {self._quoted(table)} ({', '.join(names)}) {self._source(table)} {conflict}"
        return Statement(table, replace, sql)

    def _source(self, table: Table) -> str:
        return f"VALUES ({', '.join([self.placeholder] * len(table.c))})"

    def _conflict(self, table: Table, *, replace: bool) -> str:
        key = ", ".join(column.name for column in table.primary_key)
        if not replace:
            return f"ON CONFLICT ({key}) DO NOTHING"
        changes = ", ".join(f"{column.name} = excluded.{column.name}" for column in table.c if not column.primary_key)
        return f"ON CONFLICT ({key}) DO UPDATE SET {changes}"

    @staticmethod
    def _quoted(table: Table) -> str:
        return table.fullname  # prefix and schema are checked names; none of ours is a reserved word

    def insert(self, connection: Connection, statement: Statement, rows: Sequence[Row]) -> None:
        """Insert rows."""
        for sql, parameters in self._inserts(statement, rows):
            connection.exec_driver_sql(sql, parameters)

    def _inserts(self, statement: Statement, rows: Sequence[Row]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Statements that insert rows, many at a time, each with its parameters."""
        place = self._source(statement.table).removeprefix("VALUES ")
        for start in range(0, len(rows), self.rows_at_once):
            part = rows[start : start + self.rows_at_once]
            sql = statement.sql if len(part) == 1 else statement.sql.replace(place, ", ".join([place] * len(part)), 1)
            yield sql, tuple(chain.from_iterable(part))

    def commit_rows(self, engine: Engine, gathered: Mapping[Statement, Sequence[Row]]) -> None:
        """Insert rows in a transaction of their own: the most frequent one, so a dialect may have a shorter way.

        Args:
            engine: From `writing`.
            gathered: The rows, by statement, in order.
        """
        with engine.begin() as connection:
            self.begin(connection)
            for statement, rows in gathered.items():
                self.insert(connection, statement, rows)

    def held_leases(
        self, connection: Connection, table: Table, leases: Sequence[tuple[str, str, int]]
    ) -> set[tuple[str, str, int]]:
        """Those of these leases (thread, owner, epoch) that are in force, and stay so until the transaction ends."""
        one = f"(thread_id = {self.placeholder} AND owner = {self.placeholder} AND epoch = {self.placeholder})"
        where = " OR ".join([one] * len(leases))
        query = f"SELECT thread_id, owner, epoch FROM {self._quoted(table)} WHERE {where} {self.for_share}"
        parameters = [(self.key(thread_id), self.key(owner), epoch) for thread_id, owner, epoch in leases]
        rows = connection.exec_driver_sql(query, tuple(chain.from_iterable(parameters)))
        return {(self.unkey(thread_id), self.unkey(owner), epoch) for thread_id, owner, epoch in rows}

    def delete_newest_first(self, connection: Connection, table: Table, thread_id: str) -> None:
        """Delete the rows of a thread that may refer to one another."""
        connection.execute(delete(table).where(table.c.thread_id == thread_id))

    def rows_by_key(
        self, connection: Connection, table: Table, columns: Sequence[str], keys: Sequence[tuple[str, ...]]
    ) -> list[Any]:
        """All rows whose columns equal one of the keys, each found through the primary key."""
        on = " AND ".join(f"t.{name} = k.{name}" for name in columns)
        what = ", ".join(f"t.{column.name}" for column in table.c)
        query = f"{{keys}} SELECT {what} FROM k {self.nested_loop} {self._quoted(table)} t ON {on}"
        return self._by_key(connection, table, columns, keys, query)

    def newest(
        self, connection: Connection, table: Table, columns: Sequence[str], prefix: tuple[str, ...]
    ) -> Sequence[Any]:
        """The row with the greatest last column of those whose other columns are these; none if there is none."""
        *shared, last = columns
        what = ", ".join(column.name for column in table.c)
        where = " AND ".join(f"{name} = {self.placeholder}" for name in shared)
        query = f"SELECT {what} FROM {self._quoted(table)} WHERE {where} ORDER BY {last} DESC LIMIT 1"
        found = connection.exec_driver_sql(query, tuple(self.key(text) for text in prefix))
        return self.decoded(table, found.all())

    def chains_by_key(
        self, connection: Connection, table: Table, columns: Sequence[str], keys: Sequence[tuple[str, ...]]
    ) -> list[Any]:
        """`rows_by_key`, with the rows these are a delta of, and the rows those are a delta of, and so on.

        Args:
            connection: Where to read.
            table: One whose column ``base`` holds what the last column of the key is in another row.
            columns: The columns of the primary key.
            keys: Their values.
        """
        *shared, last = columns
        names = ", ".join(columns)
        on_shared = " AND ".join(f"t.{name} = c.{name}" for name in shared)
        on_all = f"{on_shared} AND t.{last} = c.{last}"
        source = self._quoted(table)
        what = ", ".join(f"t.{column.name}" for column in table.c)
        begin = ", ".join(f"t.{name}" for name in columns)
        on_key = " AND ".join(f"t.{name} = k.{name}" for name in columns)
        # The recursion carries keys only; the values are fetched once, at the end.
        query = (
            f"{{keys}}, c({names}, base) AS ("
            f"SELECT {begin}, t.base FROM k {self.nested_loop} {source} t ON {on_key} "
            f"UNION SELECT {begin}, t.base FROM c {self.nested_loop} {source} t "
            f"ON {on_shared} AND t.{last} = c.base) "
            f"SELECT {what} FROM c {self.nested_loop} {source} t ON {on_all}"
        )
        return self._by_key(connection, table, columns, keys, query)

    def _by_key(
        self,
        connection: Connection,
        table: Table,
        columns: Sequence[str],
        keys: Sequence[tuple[str, ...]],
        query: str,
    ) -> list[Any]:
        row = f"{self.values_row}({', '.join([self.placeholder] * len(columns))})"
        found: list[Any] = []
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = keys[start : start + _KEYS_PER_QUERY]
            given = f"WITH RECURSIVE k({', '.join(columns)}) AS (VALUES {', '.join([row] * len(part))})"
            parameters = tuple(self.key(text) for text in chain.from_iterable(part))
            rows = connection.exec_driver_sql(query.format(keys=given), parameters)
            found += self.decoded(table, rows.all())
        return found

    def decoded(self, table: Table, rows: Sequence[Any]) -> Sequence[Any]:
        """Rows that came straight from the driver, with their keys as text."""
        is_key = [isinstance(column.type, Key) for column in table.c]
        record = _record(tuple(column.name for column in table.c))
        unkey = self.unkey
        return [
            record._make(
                unkey(value) if key and value is not None else value for key, value in zip(is_key, row, strict=True)
            )
            for row in rows
        ]

    @abstractmethod
    def now(self) -> ColumnElement[float]:
        """The database's clock: seconds since 1970, UTC, at least to the millisecond."""

    # Errors

    def is_transient(self, error: BaseException) -> bool:
        """Whether trying again may help: locked, deadlocked, restarting, out of reach."""
        return isinstance(error, PoolTimeout) or (isinstance(error, DBAPIError) and error.connection_invalidated)

    def is_contention(self, error: BaseException) -> bool:  # noqa: ARG002 - none, where there is one writer
        """Whether it is another transaction's locks that were in the way, of some rows only."""
        return False

    @abstractmethod
    def is_fatal(self, error: BaseException) -> bool:
        """Whether the whole database refuses, not one row of one caller."""

    @abstractmethod
    def is_orphan(self, error: BaseException) -> bool:
        """Whether a row refers to one that is not there."""

    def explain(self, error: BaseException) -> str:
        """The database's own words, without the statement."""
        cause = getattr(error, "orig", None) or error
        return f"{type(cause).__name__}: {str(cause).strip()}"


def last_of_each(statement: Statement, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows that remain when each replaces an earlier one with its key, in the order of their keys.

    One statement can't change a row twice. And two writers that lock rows in the same order can't wait for each other.
    """
    places = [i for i, column in enumerate(statement.table.c) if column.primary_key]
    latest = {tuple(row[i] for i in places): row for row in rows}
    return [latest[key] for key in sorted(latest)]


@functools.cache
def _record(names: tuple[str, ...]) -> Any:
    # The names are known at run time only.
    return namedtuple("Record", names)  # noqa: PYI024  # pyright: ignore[reportUntypedNamedTuple]


class Key(TypeDecorator[str]):
    """A key in SQLAlchemy's own statements: converted as `Dialect.key` and `Dialect.unkey` do."""

    impl = Text
    cache_ok = True

    def __init__(self, stored: TypeEngine[Any], key: Callable[[str], Any], unkey: Callable[[Any], str]) -> None:
        super().__init__()
        self._stored = stored
        self._key = key
        self._unkey = unkey

    def load_dialect_impl(self, dialect: Any) -> TypeEngine[Any]:
        return dialect.type_descriptor(self._stored)

    def process_bind_param(self, value: str | None, dialect: Any) -> Any:  # noqa: ARG002 - SQLAlchemy's
        return None if value is None else self._key(value)

    def process_result_value(self, value: Any, dialect: Any) -> str | None:  # noqa: ARG002 - SQLAlchemy's
        return None if value is None else self._unkey(value)
