"""The databases a saver can use: all that differs between them is in this folder."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from checkpoints.dialects.base import Dialect, Key, Row, Settings, Statement, Synchronous
from checkpoints.errors import UnsupportedDatabase

if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = ["Dialect", "Key", "Row", "Settings", "Statement", "Synchronous", "open_dialect"]

_BACKENDS = {
    "sqlite": ("sqlite", "pysqlite"),
    "postgresql": ("postgresql", "psycopg"),
    "postgres": ("postgresql", "psycopg"),
    "mysql": ("mysql", "pymysql"),
    "mariadb": ("mysql", "pymysql"),
}
_EXTRAS = {"postgresql": "postgres", "mysql": "mysql"}


def open_dialect(url: str | URL) -> tuple[Dialect, URL]:
    """The dialect for a URL, and the URL with the driver that is used.

    Raises:
        UnsupportedDatabase: The URL names a database or a driver that can't be used, or one that is not installed.
    """
    try:
        parsed = make_url("sqlite://" if url == ":memory:" else url)
    except ArgumentError as error:
        raise UnsupportedDatabase(
            f"{url!r} is not the URL of a database; for a file next to you, use 'sqlite:///runs.db'"
        ) from error
    backend, _, driver = parsed.drivername.partition("+")
    if backend not in _BACKENDS:
        raise UnsupportedDatabase(
            f"{backend!r} is not a database this package knows: use 'sqlite:///runs.db', "
            "'postgresql://user@host/database' or 'mysql://user@host/database'"
        )
    module, wanted = _BACKENDS[backend]
    if driver not in {"", wanted}:
        raise UnsupportedDatabase(
            f"the driver {driver!r} is not supported: leave it out, and {wanted!r} is used "
            "(one synchronous driver serves both the sync and the async methods)"
        )
    name = "postgresql" if module == "postgresql" else backend
    return _load(module, is_mariadb=backend == "mariadb"), parsed.set(drivername=f"{name}+{wanted}")


def _load(module: str, *, is_mariadb: bool) -> Dialect:
    try:
        found = importlib.import_module(f"checkpoints.dialects.{module}")
    except ImportError as error:
        raise UnsupportedDatabase(
            f"the driver for {module} is not installed: pip install 'orchestra-engine[{_EXTRAS[module]}]'"
        ) from error
    match module:
        case "sqlite":
            return found.SQLite()
        case "postgresql":
            return found.PostgreSQL()
        case _:
            return found.MySQL(is_mariadb=is_mariadb)
