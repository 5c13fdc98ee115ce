"""One run per thread at a time, in this process and across processes that share a database."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from checkpoints import CheckpointsError, Fenced, LeaseHeld, LeaseLost, SQLAlchemySaver, process_owner
from orchestra.errors import ThreadBusy
from orchestra.threaded import ThreadedSaver

_TTL = 15.0
"""Seconds a lease lasts. A process that dies is recognised at once on its own host; elsewhere after this time."""

_held: weakref.WeakKeyDictionary[BaseCheckpointSaver[Any], set[str]] = weakref.WeakKeyDictionary()


@contextlib.asynccontextmanager
async def hold(saver: BaseCheckpointSaver[Any], thread: str) -> AsyncGenerator[BaseCheckpointSaver[Any]]:
    """Keep a thread to oneself while a run is on it: by a lease in the database with our saver, else in this process.

    Yields:
        The saver to run with. Ours writes only while the lease is in force.

    Raises:
        ThreadBusy: Another run has it.
    """
    if isinstance(saver, SQLAlchemySaver):
        async with _leased(saver, thread) as fenced:
            yield fenced
        return
    held = _held.setdefault(saver.inner if isinstance(saver, ThreadedSaver) else saver, set())
    if thread in held:
        raise ThreadBusy(f"Another run is on thread {thread!r}; wait for it, or use another thread.")
    held.add(thread)
    try:
        yield saver
    finally:
        held.discard(thread)


@contextlib.asynccontextmanager
async def _leased(saver: SQLAlchemySaver, thread: str) -> AsyncGenerator[SQLAlchemySaver]:
    owner = process_owner()
    runner = asyncio.current_task()
    lost: list[Exception] = []

    async def renew() -> None:
        """Keep the lease. Without it another process may take over, and two writers are worse than none."""
        clock = asyncio.get_running_loop().time
        until = clock() + _TTL
        while not lost:
            await asyncio.sleep(_TTL / 3)
            try:
                await saver.arenew_lease(thread, owner=owner, ttl=_TTL)
                until = clock() + _TTL
            except LeaseLost as error:
                lost.append(error)
            except CheckpointsError as error:  # a busy database may recover in time
                if clock() > until - _TTL / 3:
                    lost.append(error)
        if runner is not None:
            runner.cancel(f"the lease on thread {thread!r} was lost")

    renewing: asyncio.Task[None] | None = None
    try:
        try:
            lease = await saver.aacquire_lease(thread, owner=owner, ttl=_TTL)
        except LeaseHeld as error:
            raise ThreadBusy(
                f"Another run is on thread {thread!r} ({error.owner}); wait for it, cancel it (orchestra runs cancel), "
                "or use another thread."
            ) from error
        renewing = asyncio.create_task(renew(), name=f"lease {thread}")
        yield saver.fenced(lease)
    except Fenced as error:
        raise ThreadBusy(
            f"This run lost thread {thread!r}: it was cancelled from elsewhere, or another run took its expired lease."
        ) from error
    except asyncio.CancelledError as error:
        if lost:
            raise ThreadBusy(
                f"This run lost thread {thread!r}: it was cancelled from elsewhere, or its lease ran out."
            ) from error
        raise
    finally:
        if renewing is not None:
            renewing.cancel()
        # Also when the acquisition was cancelled: it may have gone through. Releasing what one has not got is nothing.
        await asyncio.shield(saver.arelease_lease(thread, owner=owner))
