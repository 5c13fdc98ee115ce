"""Group commit: one thread writes everything that all callers have queued, in one transaction.

A commit costs a disk flush, whatever it holds. While one transaction is being flushed the next callers
queue up, and share the next flush. Each caller is answered only when its own rows are on the disk.

Order is first come, first committed, for all threads of LangGraph together and so for each of them.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Executable

from checkpoints import sqlite
from checkpoints.codec import Row
from checkpoints.errors import CheckpointsError, DatabaseBusy, SaverClosed, SchemaTooNew, WriteFailed

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from checkpoints.schema import Schema

Rows = Sequence[tuple[Executable, Sequence[Row]]]
"""Rows to insert, by statement. Rows of many callers under the same statement go to the database together."""

Call = Callable[[Connection], Any]
"""Anything else to do in the transaction. It runs again if another caller's part makes that fail."""

_BUSY_ATTEMPTS = 3


class Job:
    """What one caller wants committed, and the future that tells it so."""

    __slots__ = ("error", "future", "loop", "result", "work")

    def __init__(
        self,
        work: Rows | Call,
        future: asyncio.Future[Any] | Future[Any],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.work = work
        self.future = future
        self.loop = loop
        self.result: Any = None
        self.error: Exception | None = None

    def settle(self) -> None:
        """Answer the caller, unless it is gone."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Writer:
    """The thread that commits, and the queue in front of it.

    Args:
        engine: Where to write.
        schema: Created in the database before the first transaction.
        limit: How many jobs one transaction takes, and how many wait for the next. Callers beyond it stand
            in line; one that is cancelled there has written nothing, whereas a queued job is committed even
            if its caller has gone.
    """

    def __init__(self, engine: Engine, schema: Schema, limit: int) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**sqlite.WRITES)
        self._schema = schema
        self._limit = limit
        self._queue: deque[Job] = deque()
        self._line: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        # A daemon, so that a saver nobody closed can't keep the interpreter from leaving.
        self._thread = threading.Thread(target=self._run, name="checkpoints-writer", daemon=True)
        self._thread.start()

    def write(self, work: Rows | Call) -> Any:
        """Commit, and wait for it in this thread."""
        future: Future[Any] = Future()
        self._submit(Job(work, future))
        return future.result()

    async def awrite(self, work: Rows | Call) -> Any:
        """Commit, and wait for it without blocking the event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._submit(Job(work, future, loop))
        return await future

    def close(self) -> None:
        """Commit all that is queued, then stop. Further calls do nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not threading.current_thread():  # the last owner may be collected in any thread
            self._thread.join()

    def _submit(self, job: Job) -> None:
        if not self._closed and not self._thread.is_alive():  # before the lock, which may not survive either
            raise SaverClosed(
                "this saver belongs to another process (its writer thread did not survive the fork): "
                "open a SQLAlchemySaver in each process"
            )
        with self._changed:
            if self._closed:
                raise SaverClosed("this saver was closed: open a new SQLAlchemySaver")
            if self._line or len(self._queue) >= self._limit:
                self._line.append(job)
            else:
                self._queue.append(job)
                self._changed.notify()

    def _run(self) -> None:
        while self._work():
            pass

    def _work(self) -> bool:
        """Commit and answer what is queued; its values are not kept alive while waiting for more."""
        jobs = self._take()
        if jobs:
            self._commit(jobs)
            _answer(jobs)
        return bool(jobs)

    def _take(self) -> list[Job]:
        """Wait for work and take all that is queued; nothing means the writer was closed."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            jobs = list(self._queue)
            self._queue.clear()
            while self._line and len(self._queue) < self._limit:
                job = self._line.popleft()
                if not job.future.cancelled():
                    self._queue.append(job)
            return jobs

    def _commit(self, jobs: list[Job]) -> None:
        """Commit jobs in one transaction; if one of them spoils it, halve until it stands alone."""
        try:
            self._transact(jobs)
        except Exception as error:  # noqa: BLE001 - it is a caller's; the thread must live on
            if len(jobs) == 1 or isinstance(error, SchemaTooNew) or sqlite.is_fatal(error):
                for job in jobs:
                    job.error = self._explain(error)
            else:
                middle = len(jobs) // 2
                self._commit(jobs[:middle])
                self._commit(jobs[middle:])

    def _explain(self, error: Exception) -> Exception:
        if isinstance(error, CheckpointsError):
            return error
        kind = DatabaseBusy if sqlite.is_busy(error) else WriteFailed
        explained = kind(f"nothing of this call is stored in {self._engine.url}: {sqlite.reason(error)}")
        explained.__cause__ = error
        return explained

    def _transact(self, jobs: list[Job]) -> None:
        for attempt in range(_BUSY_ATTEMPTS):
            try:
                self._schema.ensure(self._engine)
                with self._writing.begin() as connection:
                    _execute(connection, jobs)
            except Exception as error:
                if not sqlite.is_busy(error) or attempt == _BUSY_ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - spreads retries
            else:
                return


def _execute(connection: Connection, jobs: list[Job]) -> None:
    gathered: dict[Executable, list[Row]] = {}

    def flush() -> None:
        for statement, rows in gathered.items():
            connection.execute(statement, rows)
        gathered.clear()

    for job in jobs:
        if callable(job.work):
            flush()  # a call sees everything that was queued before it
            job.result = job.work(connection)
        else:
            for statement, rows in job.work:
                gathered.setdefault(statement, []).extend(rows)
    flush()


def _answer(jobs: list[Job]) -> None:
    """Wake the callers: each event loop once, however many of its coroutines wait."""
    loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        if job.loop is None:
            job.settle()
        else:
            loops.setdefault(job.loop, []).append(job)
    for loop, waiting in loops.items():
        try:
            loop.call_soon_threadsafe(_settle, waiting)
        except RuntimeError:  # the loop was closed: nobody waits there any more
            continue


def _settle(jobs: list[Job]) -> None:
    for job in jobs:
        job.settle()
