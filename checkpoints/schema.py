"""The tables, and the row that tells which version of them a database has."""

from __future__ import annotations

import random
import re
import threading
import time
from typing import TYPE_CHECKING

from sqlalchemy import (
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    insert,
    inspect,
    select,
)

from checkpoints import sqlite
from checkpoints.errors import SchemaTooNew

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

VERSION = 1
"""The version of the tables below. Raise it with every change, and add a migration."""

_ATTEMPTS = 5

# Keys are compared byte by byte and may hold any character, NUL included. SQLite's TEXT does both.
_Key = Text


def _key(name: str) -> Column[str]:
    return Column(name, _Key, primary_key=True)


class Schema:
    """The tables under one prefix.

    Args:
        prefix: What every table name begins with, so that the tables can live beside those of an application.

    Raises:
        ValueError: The prefix is not made of letters, digits and underscores.
    """

    def __init__(self, prefix: str) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,30}", prefix):
            raise ValueError(f"table prefix {prefix!r}: use 1-31 letters, digits and underscores")
        self.prefix = prefix
        self._tables = MetaData()
        self._ready = False
        self._lock = threading.Lock()
        self._make_tables()
        # One statement object each: the writer gathers rows by statement.
        self.put_checkpoint = sqlite.upsert(self.checkpoints)
        self.put_value = sqlite.upsert(self.values)
        self.put_write = sqlite.upsert(self.writes)
        self.add_write = sqlite.insert_or_ignore(self.writes)
        self.put_lease = sqlite.upsert(self.leases)

    def _make_tables(self) -> None:
        prefix = self.prefix
        self.version = Table(
            f"{prefix}version",
            self._tables,
            Column("id", Integer, primary_key=True, autoincrement=False),
            Column("version", Integer, nullable=False),
        )
        self.checkpoints = Table(
            f"{prefix}checkpoints",
            self._tables,
            _key("thread_id"),
            _key("checkpoint_ns"),
            _key("checkpoint_id"),
            Column("parent_id", _Key),
            Column("run_id", _Key),
            Column("metadata", Text, nullable=False),
            Column("type", Text, nullable=False),
            Column("body", LargeBinary, nullable=False),
            Index(f"{prefix}checkpoints_newest", "checkpoint_ns", "checkpoint_id"),
            Index(f"{prefix}checkpoints_run", "run_id"),
        )
        # The key is most of these rows, so they live in the key's own tree rather than in a second one.
        self.values = Table(
            f"{prefix}values",
            self._tables,
            _key("thread_id"),
            _key("checkpoint_ns"),
            _key("channel"),
            _key("version"),
            Column("type", Text, nullable=False),
            Column("value", LargeBinary, nullable=False),
            sqlite_with_rowid=False,
        )
        self.writes = Table(
            f"{prefix}writes",
            self._tables,
            _key("thread_id"),
            _key("checkpoint_ns"),
            _key("checkpoint_id"),
            _key("task_id"),
            Column("idx", Integer, primary_key=True, autoincrement=False),
            Column("task_path", _Key, nullable=False),
            Column("channel", _Key, nullable=False),
            Column("type", Text, nullable=False),
            Column("value", LargeBinary, nullable=False),
            sqlite_with_rowid=False,
        )
        self.leases = Table(
            f"{prefix}leases",
            self._tables,
            _key("thread_id"),
            Column("owner", _Key, nullable=False),
            Column("expires", Float, nullable=False),
        )

    def ensure(self, engine: Engine) -> None:
        """Create the tables unless they are there. Safe when several processes do so at once.

        Raises:
            SchemaTooNew: The tables were made by a newer version of this package.
        """
        if self._ready:
            return
        with self._lock:
            if not self._ready:
                for attempt in range(_ATTEMPTS):
                    try:
                        self._create(engine)
                        break
                    except Exception as error:
                        # SQLite does not wait for the lock when it switches to the write-ahead log.
                        if not sqlite.is_busy(error) or attempt == _ATTEMPTS - 1:
                            raise
                        time.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - spreads retries
                self._ready = True

    def _create(self, engine: Engine) -> None:
        sqlite.prepare_database(engine)
        with engine.begin() as connection:
            if self._found(connection):
                return
        with engine.execution_options(**sqlite.WRITES).begin() as connection:
            if not self._found(connection):  # unless another process was quicker
                self._tables.create_all(connection)
                connection.execute(insert(self.version), {"id": 1, "version": VERSION})

    def _found(self, connection: Connection) -> bool:
        if not inspect(connection).has_table(self.version.name):
            return False
        version = connection.scalar(select(self.version.c.version))
        if version is not None and version > VERSION:
            raise SchemaTooNew(
                f"{connection.engine.url} has version {version} of the tables {self.prefix}*, "
                f"this package knows {VERSION}: upgrade the package, or use another database or table prefix"
            )
        return version is not None
