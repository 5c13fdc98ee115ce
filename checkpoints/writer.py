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
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from checkpoints.dialects import Row, Statement
from checkpoints.errors import (
    CheckpointsError,
    DatabaseBusy,
    Fenced,
    SaverClosed,
    SchemaTooNew,
    SchemaTooOld,
    WriteFailed,
)
from checkpoints.frames import Frames, Framing, Value

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from checkpoints.schema import Schema

Fence = tuple[str, str, int]
"""Thread, owner and epoch of a lease that must be in force."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to insert. Those of many callers under the same statement go to the database together.

    Attributes:
        rows: By statement.
        values: Channel values, which are inserted before these.
        fence: The lease without which nothing is written.
    """

    rows: Sequence[tuple[Statement, Sequence[Row]]]
    values: Sequence[Value] = field(default=())
    fence: Fence | None = None

    @property
    def size(self) -> int:
        """Roughly, in bytes."""
        inline = sum(len(row[-1]) for _, rows in self.rows for row in rows if isinstance(row[-1], bytes))
        return inline + sum(len(value.content) for value in self.values)


Call = Callable[[Connection], Any]
"""Anything else to do in the transaction. It runs again if another caller's part makes that fail."""

_LARGEST_TRANSACTION = 32 << 20  # bytes; a single call's rows may be more
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0  # seconds between tries


class Job:
    """What one caller wants committed, and the future that tells it so."""

    __slots__ = ("error", "future", "loop", "result", "size", "work")

    def __init__(
        self,
        work: Rows | Call,
        future: asyncio.Future[Any] | Future[Any],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.work = work
        self.size = work.size if isinstance(work, Rows) else 0
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
        frames: What makes rows of values.
        timeout: Seconds to keep trying while the database is locked, restarting or out of reach.
        limit: How many jobs one transaction takes, and how many wait for the next. Callers beyond it stand
            in line; one that is cancelled there has written nothing, whereas a queued job is committed even
            if its caller has gone.
    """

    def __init__(self, engine: Engine, schema: Schema, frames: Frames, timeout: float, limit: int) -> None:
        self._engine = engine
        self._dialect = schema.dialect
        self._writing = self._dialect.writing(engine)
        self._schema = schema
        self._frames = frames
        self._timeout = timeout
        self._limit = limit
        self._queue: deque[Job] = deque()
        self._line: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._turning: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
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
        # A superstep ends with a call for its writes and, at once, one for its checkpoint: an idle writer lets the
        # loop turn before it begins, so that they share a transaction.
        self._submit(Job(work, future, loop), notify=False)
        if loop not in self._turning:
            self._turning.add(loop)
            loop.call_soon(self._begin, loop)
        return await future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turning.discard(loop)
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Commit all that is queued, then stop. Further calls do nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not threading.current_thread():  # the last owner may be collected in any thread
            self._thread.join()

    def _submit(self, job: Job, *, notify: bool = True) -> None:
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
                if notify:
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
        """Wait for work and take what is queued, up to a size; nothing means the writer was closed."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            jobs: list[Job] = []
            size = 0
            while self._queue and (not jobs or size + self._queue[0].size <= _LARGEST_TRANSACTION):
                size += self._queue[0].size
                jobs.append(self._queue.popleft())
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
            if len(jobs) == 1 or self._concerns_all(error):
                for job in jobs:
                    job.error = self._explain(error)
            else:
                middle = len(jobs) // 2
                self._commit(jobs[:middle])
                self._commit(jobs[middle:])

    def _concerns_all(self, error: Exception) -> bool:
        return isinstance(error, (SchemaTooNew, SchemaTooOld)) or self._dialect.is_fatal(error)

    def _explain(self, error: Exception) -> Exception:
        if isinstance(error, CheckpointsError):
            return error
        kind = DatabaseBusy if self._dialect.is_transient(error) else WriteFailed
        explained = kind(f"nothing of this call is stored in {self._schema.place}: {self._dialect.explain(error)}")
        explained.__cause__ = error
        return explained

    def _transact(self, jobs: list[Job]) -> None:
        """One transaction, tried again while that may help: rows have keys, so that repeating does no harm."""
        give_up = time.monotonic() + self._timeout
        pause = _FIRST_PAUSE
        remember = True
        while True:
            framing = self._frames.begin()
            try:
                self._schema.ensure(self._engine)
                self._execute(jobs, framing)
            except Exception as error:
                if self._dialect.is_orphan(error) and remember:
                    remember = False  # another process deleted what these values would be deltas of
                    self._frames.forget({value.thread_id for job in jobs for value in _values(job)})
                    continue
                if not self._dialect.is_transient(error) or time.monotonic() + pause > give_up:
                    raise
                if self._dialect.is_contention(error) and len(jobs) > 1:
                    raise  # alone, each is kept waiting by its own rows only
                time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads retries
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                framing.commit()
                return

    def _execute(self, jobs: list[Job], framing: Framing) -> None:
        if all(isinstance(job.work, Rows) and job.work.fence is None for job in jobs):
            gathered: dict[Statement, list[Row]] = {}
            for job in jobs:
                self._gather(job, framing, gathered)
            self._dialect.commit_rows(self._writing, gathered)
            return
        with self._writing.begin() as connection:
            self._dialect.begin(connection)
            self._check_fences(connection, jobs)
            gathered = {}
            for job in jobs:
                if isinstance(job.work, Rows):
                    self._gather(job, framing, gathered)
                else:
                    self._insert(connection, gathered)  # a call sees everything that was queued before it
                    job.result = job.work(connection)
            self._insert(connection, gathered)

    def _gather(self, job: Job, framing: Framing, gathered: dict[Statement, list[Row]]) -> None:
        work = job.work
        if isinstance(work, Rows):
            if work.values:
                gathered.setdefault(self._schema.put_value, []).extend(framing.rows(work.values))
            for statement, rows in work.rows:
                gathered.setdefault(statement, []).extend(rows)

    def _insert(self, connection: Connection, gathered: dict[Statement, list[Row]]) -> None:
        for statement, rows in gathered.items():
            self._dialect.insert(connection, statement, rows)
        gathered.clear()

    def _check_fences(self, connection: Connection, jobs: list[Job]) -> None:
        """Refuse writes of an owner whose lease is no longer in force; others can't take it until the commit."""
        fences = {job.work.fence for job in jobs if isinstance(job.work, Rows) and job.work.fence is not None}
        if not fences:
            return
        held = self._dialect.held_leases(connection, self._schema.leases, list(fences))
        for thread_id, owner, _ in fences - held:
            raise Fenced(thread_id, owner)


def _values(job: Job) -> Sequence[Value]:
    return job.work.values if isinstance(job.work, Rows) else ()


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
