"""One open database: its engine, its tables, its writer thread and its reader threads."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from checkpoints.dialects import Settings, open_dialect
from checkpoints.errors import CorruptCheckpoint, ReadFailed, SaverClosed
from checkpoints.frames import Frames
from checkpoints.rows import Sealer
from checkpoints.schema import Schema
from checkpoints.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sqlalchemy import URL, Connection, Engine

    from checkpoints.dialects import Synchronous
    from checkpoints.encryption import Encryption
    from checkpoints.writer import Call, Rows

T = TypeVar("T")

Step = tuple[Literal["read", "snapshot", "write"], Any]
"""Something to do in the database, with the method of that name."""

_READERS = 4
_READER = "checkpoints-reader"


@dataclass(frozen=True, slots=True)
class Options:
    """How to open a database; `SQLAlchemySaver` tells what each means."""

    prefix: str
    schema: str | None
    encryption: Encryption | None
    synchronous: Synchronous
    timeout: float
    max_queued: int
    memory: int


class Database:
    """What a saver and its clones share. Closed by hand, or when the last of them is gone, or at exit."""

    def __init__(self, url: str | URL, options: Options) -> None:
        self.dialect, parsed = open_dialect(url)
        self.place = parsed.render_as_string(hide_password=True)
        self.schema = Schema(self.dialect, self.place, options.prefix, options.schema)
        self.sealer = Sealer(options.encryption)
        self.frames = Frames(self.schema, self.sealer, options.memory)
        self.engine = self.dialect.make_engine(
            parsed, Settings(options.timeout, options.synchronous, connections=_READERS + 1)
        )
        self._timeout = options.timeout
        self._reading = self.dialect.reading(self.engine)
        self._snapshot = self.dialect.snapshot(self.engine)
        # Our own threads: an event loop's default executor may be full of agents that block.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix=_READER)
        self._writer = Writer(self.engine, self.schema, self.frames, options.timeout, options.max_queued)
        self.close = weakref.finalize(self, _close, self._writer, self._readers, self.engine)

    async def aclose(self) -> None:
        """Close without blocking the event loop."""
        if self.close.alive:
            closer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints-close")  # closing waits for the readers
            closing = closer.submit(self.close)
            closer.shutdown(wait=False)
            await asyncio.wrap_future(closing)

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run a few queries, in this thread; again if the connection breaks.

        They are not in one transaction, which would take two more round trips to a server. What another process
        deletes between two of them may look damaged; so then they are run again, in a snapshot.

        Raises:
            ReadFailed: The database can't be read.
            SaverClosed: The saver is closed.
        """
        try:
            return self._read(self._reading, query)
        except CorruptCheckpoint:
            return self.snapshot(query)

    def snapshot(self, query: Callable[[Connection], T]) -> T:
        """`read`, with queries that see one state of the database."""
        return self._read(self._snapshot, query)

    def _read(self, engine: Engine, query: Callable[[Connection], T]) -> T:
        give_up = time.monotonic() + self._timeout
        pause = 0.01
        while True:
            self._check_open()
            try:
                self.schema.ensure(self.engine)
                with engine.connect() as connection:
                    return query(connection)
            except self.dialect.error as error:
                if not self.dialect.is_transient(error) or time.monotonic() + pause > give_up:
                    raise ReadFailed(f"can't read {self.place}: {self.dialect.explain(error)}") from error
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads retries
            pause = min(2 * pause, 1.0)

    async def aread(self, query: Callable[[Connection], T]) -> T:
        """`read` in a reader thread."""
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read, query)

    async def asnapshot(self, query: Callable[[Connection], T]) -> T:
        """`snapshot` in a reader thread."""
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.snapshot, query)

    def write(self, work: Rows | Call) -> Any:
        """Commit rows, or what a call does; return the call's result when it is on the disk."""
        return self._writer.write(work)

    async def awrite(self, work: Rows | Call) -> Any:
        """`write` without blocking the event loop."""
        return await self._writer.awrite(work)

    def run(self, steps: Generator[Step, Any, T]) -> T:
        """Do what a generator yields, one step after the other, and send it what each gave; return what it returns."""
        ways = {"read": self.read, "snapshot": self.snapshot, "write": self.write}
        result: Any = None
        while True:
            try:
                way, work = steps.send(result)
            except StopIteration as end:
                return end.value
            result = ways[way](work)

    async def arun(self, steps: Generator[Step, Any, T]) -> T:
        """`run` without blocking the event loop."""
        ways: dict[str, Callable[[Any], Any]] = {
            "read": self.aread,
            "snapshot": self.asnapshot,
            "write": self.awrite,
        }
        result: Any = None
        while True:
            try:
                way, work = steps.send(result)
            except StopIteration as end:
                return end.value
            result = await ways[way](work)

    def _check_open(self) -> None:
        if not self.close.alive:
            raise SaverClosed("this saver was closed: open a new SQLAlchemySaver")


def _close(writer: Writer, readers: ThreadPoolExecutor, engine: Engine) -> None:
    writer.close()
    # The last user of a forgotten saver may be one of the readers, which can't wait for itself.
    readers.shutdown(wait=not threading.current_thread().name.startswith(_READER))
    engine.dispose()
