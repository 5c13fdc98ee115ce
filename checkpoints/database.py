"""One open database: its engine, its tables, its writer thread and its reader threads."""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from checkpoints import sqlite
from checkpoints.errors import ReadFailed, SaverClosed
from checkpoints.schema import Schema
from checkpoints.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Connection, Engine

    from checkpoints.writer import Call, Rows

T = TypeVar("T")

_READERS = 4
_READER = "checkpoints-reader"


class Database:
    """What a saver and its clones share. Closed by hand, or when the last of them is gone, or at exit."""

    def __init__(
        self,
        url: str | URL,
        *,
        prefix: str,
        synchronous: sqlite.Synchronous,
        busy_timeout: float,
        max_queued: int,
    ) -> None:
        self.schema = Schema(prefix)
        self._engine = sqlite.make_engine(
            sqlite.parse_url(url),
            synchronous=synchronous,
            busy_timeout=busy_timeout,
            connections=_READERS + 1,
        )
        self.url = self._engine.url
        # Our own threads: an event loop's default executor may be full of agents that block.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix=_READER)
        self._writer = Writer(self._engine, self.schema, max_queued)
        self.close = weakref.finalize(self, _close, self._writer, self._readers, self._engine)

    async def aclose(self) -> None:
        """Close without blocking the event loop."""
        if self.close.alive:
            closer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints-close")  # closing waits for the readers
            closing = closer.submit(self.close)
            closer.shutdown(wait=False)
            await asyncio.wrap_future(closing)

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run queries that see one state of the database, in this thread."""
        if not self.close.alive:
            raise SaverClosed("this saver was closed: open a new SQLAlchemySaver")
        try:
            self.schema.ensure(self._engine)
            with self._engine.connect() as connection:
                return query(connection)
        except sqlite.ERRORS as error:
            raise ReadFailed(f"can't read {self.url}: {sqlite.reason(error)}") from error

    async def aread(self, query: Callable[[Connection], T]) -> T:
        """Run queries that see one state of the database, in a reader thread."""
        if not self.close.alive:
            raise SaverClosed("this saver was closed: open a new SQLAlchemySaver")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read, query)

    def write(self, work: Rows | Call) -> Any:
        """Commit rows, or what a call does; return the call's result when it is on the disk."""
        return self._writer.write(work)

    async def awrite(self, work: Rows | Call) -> Any:
        """`write` without blocking the event loop."""
        return await self._writer.awrite(work)


def _close(writer: Writer, readers: ThreadPoolExecutor, engine: Engine) -> None:
    writer.close()
    # The last user of a forgotten saver may be one of the readers, which can't wait for itself.
    readers.shutdown(wait=not threading.current_thread().name.startswith(_READER))
    engine.dispose()
