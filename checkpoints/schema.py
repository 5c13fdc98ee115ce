"""The tables, and the row that tells which version of them a database has."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    insert,
    inspect,
    select,
    text,
    update,
)

from checkpoints.dialects import Dialect, Key
from checkpoints.errors import SchemaTooNew, SchemaTooOld

if TYPE_CHECKING:
    from sqlalchemy import Engine

VERSION = 2
"""The version of the tables below. Raise it with every change, and add a migration."""

LIMITS = {
    "thread_id": 512,
    "checkpoint_ns": 1024,
    "checkpoint_id": 128,
    "parent_id": 128,
    "run_id": 256,
    "channel": 512,
    "version": 128,
    "base": 128,
    "task_id": 256,
    "task_path": 4096,
    "owner": 512,
    "namespace": 1024,
    "item_key": 512,
}
"""How many bytes of UTF-8 each id may have: the same on every database, and what the index of each can hold."""

Migration = Callable[[Connection, "Schema"], None]

MIGRATIONS: dict[int, Migration] = {}
"""By the version they start from: what turns the tables of that version into those of the next.

Version 1 was never released.
"""

_ATTEMPTS = 5


class Schema:
    """The tables under one prefix.

    Args:
        dialect: The kind of database they are in.
        place: What messages call the database.
        prefix: What every table name begins with, so that the tables can live beside those of an application.
        schema: The schema (in MySQL and MariaDB: the database) they are in; the connection's own if None.

    Raises:
        ValueError: The prefix or the schema's name is not made of letters, digits and underscores, or the database
            has no schemas.
    """

    def __init__(self, dialect: Dialect, place: str, prefix: str, schema: str | None = None) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,30}", prefix):
            raise ValueError(f"table prefix {prefix!r}: use 1-31 letters, digits and underscores")
        if schema is not None:
            if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
                raise ValueError(f"schema {schema!r}: use 1-63 small letters, digits and underscores")
            if not dialect.has_schemas:
                raise ValueError(f"schema {schema!r}: {dialect.name} has no schemas, use another file or prefix")
        self.dialect = dialect
        self.place = place
        self.prefix = prefix.lower() if dialect.has_schemas else prefix  # unquoted names fold there
        self.name = schema
        self._tables = MetaData(schema=schema)
        self._ready = False
        self._lock = threading.Lock()
        self._make_tables()
        # One statement object each: the writer gathers rows by statement.
        self.put_checkpoint = dialect.statement(self.checkpoints, replace=True)
        self.put_value = dialect.statement(self.values, replace=False)
        self.put_write = dialect.statement(self.writes, replace=True)
        self.add_write = dialect.statement(self.writes, replace=False)
        self.add_lease = dialect.statement(self.leases, replace=False)
        self.put_item = dialect.statement(self.items, replace=True)

    def _make_tables(self) -> None:
        # Blobs stand last in each: what is before them is read without them.
        self.version = self._version_table()
        self.checkpoints = self._checkpoints_table()
        self.values = self._values_table()
        self.writes = self._writes_table()
        self.leases = self._leases_table()
        self.items = self._items_table()

    def _version_table(self) -> Table:
        prefix = self.prefix
        return Table(
            f"{prefix}version",
            self._tables,
            Column("id", Integer, primary_key=True, autoincrement=False),
            Column("version", Integer, nullable=False),
        )

    def _checkpoints_table(self) -> Table:
        prefix = self.prefix
        return Table(
            f"{prefix}checkpoints",
            self._tables,
            self._key("thread_id"),
            self._key("checkpoint_ns"),
            self._key("checkpoint_id"),
            self._text("parent_id"),
            self._text("run_id"),
            Column("created", BigInteger, nullable=False),  # milliseconds since 1970, UTC
            *self._proof(),
            Column("metadata", self.dialect.text_type(), nullable=False),
            Column("body", self.dialect.blob_type(), nullable=False),
            Index(f"{prefix}checkpoints_newest", "checkpoint_ns", "checkpoint_id"),
            Index(
                f"{prefix}checkpoints_run",
                "run_id",
                sqlite_where=text("run_id IS NOT NULL"),
                postgresql_where=text("run_id IS NOT NULL"),
            ),
            **self.dialect.table_options(),
        )

    def _values_table(self) -> Table:
        prefix = self.prefix
        value_key = ("thread_id", "checkpoint_ns", "channel")
        return Table(
            f"{prefix}values",
            self._tables,
            *(self._key(name) for name in value_key),
            self._key("version"),
            self._text("base"),  # the version this one is a delta of
            Column("depth", Integer, nullable=False),  # how many deltas are applied to get the value
            Column("size", BigInteger, nullable=False),  # of the value, in bytes
            *self._proof(),
            Column("value", self.dialect.blob_type(), nullable=False),
            # So that no base can vanish under a delta, whichever process deletes or adds.
            ForeignKeyConstraint(
                [*value_key, "base"],
                [f"{schema_dot(self.name)}{prefix}values.{name}" for name in (*value_key, "version")],
                name=f"{prefix}values_base",
            ),
            Index(
                f"{prefix}values_deltas",
                *value_key,
                "base",
                sqlite_where=text("base IS NOT NULL"),
                postgresql_where=text("base IS NOT NULL"),
            ),
            **self.dialect.table_options(),
        )

    def _writes_table(self) -> Table:
        prefix = self.prefix
        return Table(
            f"{prefix}writes",
            self._tables,
            self._key("thread_id"),
            self._key("checkpoint_ns"),
            self._key("checkpoint_id"),
            self._key("task_id"),
            Column("idx", Integer, primary_key=True, autoincrement=False),
            self._text("task_path", nullable=False),
            self._text("channel", nullable=False),
            *self._proof(),
            Column("value", self.dialect.blob_type(), nullable=False),
            **self.dialect.table_options(),
        )

    def _leases_table(self) -> Table:
        prefix = self.prefix
        return Table(
            f"{prefix}leases",
            self._tables,
            self._key("thread_id"),
            self._text("owner", nullable=False),
            Column("epoch", BigInteger, nullable=False),
            Column("expires", Double, nullable=False),
        )

    def _items_table(self) -> Table:
        prefix = self.prefix
        return Table(
            f"{prefix}items",
            self._tables,
            self._key("namespace"),
            self._key("item_key"),
            Column("created", BigInteger, nullable=False),  # milliseconds since 1970, UTC, as the next two
            Column("updated", BigInteger, nullable=False),
            Column("expires", BigInteger),
            Column("ttl", BigInteger),  # milliseconds from a use of the item to when it expires
            *self._proof(),
            Column("value", self.dialect.blob_type(), nullable=False),
            Index(f"{prefix}items_expires", "expires"),
        )

    def _key(self, name: str) -> Column[str]:
        return self._text(name, primary_key=True)

    def _text(self, name: str, *, nullable: bool = True, primary_key: bool = False) -> Column[str]:
        stored = Key(self.dialect.key_type(LIMITS[name]), self.dialect.key, self.dialect.unkey)
        return Column(name, stored, nullable=nullable and not primary_key, primary_key=primary_key)

    @staticmethod
    def _proof() -> tuple[Column[Any], ...]:
        return (
            Column("type", String(64), nullable=False),  # the serializer's name for what the bytes are
            Column("key_id", String(16)),  # of the key the bytes are encrypted with
            Column("checksum", BigInteger, nullable=False),  # CRC-32 of the row
        )

    def ensure(self, engine: Engine) -> None:
        """Create the tables unless they are there. Safe when several processes do so at once.

        Raises:
            SchemaTooNew: The tables were made by a newer version of this package.
            SchemaTooOld: They were made by an older one.
        """
        if not self._ready:
            with self._lock:
                if not self._ready:
                    self._retry(engine, self._create)
                    self._ready = True

    def upgrade(self, engine: Engine) -> tuple[int, int]:
        """Bring the tables to this package's version, one transaction a version.

        Returns:
            The version they had, and the one they have now.

        Raises:
            SchemaTooNew: The tables were made by a newer version of this package.
            SchemaTooOld: There is no way from the version they have.
        """
        before = self._retry(engine, self._found) or VERSION
        while (self._retry(engine, self._found) or VERSION) < VERSION:
            self._retry(engine, self._step)
        self.ensure(engine)
        return before, VERSION

    def found(self, engine: Engine) -> int | None:
        """The version of the tables in a database; None if there are none."""
        return self._retry(engine, self._found)

    def _retry(self, engine: Engine, work: Callable[[Engine], Any]) -> Any:
        for attempt in range(_ATTEMPTS):
            try:
                return work(engine)
            except Exception as error:
                # SQLite does not wait for the lock when it switches to the write-ahead log.
                if not self.dialect.is_transient(error) or attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - spreads retries
        raise AssertionError

    def _create(self, engine: Engine) -> None:
        self.dialect.prepare_database(engine)
        if self._found(engine) is None:
            with self.dialect.creating(engine, f"{self.name}.{self.prefix}") as connection:
                if self._version(connection) is None:  # unless another process was quicker
                    if self.name is not None:
                        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {self.name}"))
                    self._tables.create_all(connection)
                    for table in self._tables.sorted_tables:
                        self.dialect.after_create(connection, table)
                    connection.execute(insert(self.version), {"id": 1, "version": VERSION})
        found = self._found(engine)
        if found is not None and found < VERSION:
            raise SchemaTooOld(
                f"{self.place} has version {found} of the tables {self.prefix}*, this package needs {VERSION}: stop "
                f"what uses them, make a backup, and run: orchestra db upgrade --db '{self.place}'"
            )

    def _step(self, engine: Engine) -> None:
        with self.dialect.creating(engine, f"{self.name}.{self.prefix}") as connection:
            found = self._version(connection)
            if found is None or found >= VERSION:  # another process was quicker
                return
            if found not in MIGRATIONS:
                raise SchemaTooOld(f"there is no way from version {found} of the tables {self.prefix}* to {VERSION}")
            MIGRATIONS[found](connection, self)
            connection.execute(update(self.version).values(version=found + 1))

    def _found(self, engine: Engine) -> int | None:
        with engine.connect() as connection:
            return self._version(connection)

    def _version(self, connection: Connection) -> int | None:
        if not inspect(connection).has_table(self.version.name, schema=self.name):
            return None
        version = connection.scalar(select(self.version.c.version))
        if version is not None and version > VERSION:
            raise SchemaTooNew(
                f"{self.place} has version {version} of the tables {self.prefix}*, "
                f"this package knows {VERSION}: upgrade the package, or use another database or table prefix"
            )
        return version


def schema_dot(name: str | None) -> str:
    """What stands before a table's name."""
    return "" if name is None else f"{name}."
