"""One run per thread at a time, in this process and across processes that share a database."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from checkpoints import LeaseHeld, LeaseLost, SQLAlchemySaver, process_owner
from orchestra.errors import ThreadBusy

_TTL = 15.0
"""Seconds a lease lasts. A process that dies is recognised at once on its own host; elsewhere after this time."""

_held: weakref.WeakKeyDictionary[BaseCheckpointSaver[Any], set[str]] = weakref.WeakKeyDictionary()


@contextlib.asynccontextmanager
async def hold(saver: BaseCheckpointSaver[Any], thread: str) -> AsyncGenerator[None]:
    """Keep a thread to oneself while a run is on it: by a lease in the database with our saver, else in this process.

    Raises:
        ThreadBusy: Another run has it.
    """
    if isinstance(saver, SQLAlchemySaver):
        async with _leased(saver, thread):
            yield
        return
    held = _held.setdefault(saver, set())
    if thread in held:
        raise ThreadBusy(f"Another run is on thread {thread!r}; wait for it, or use another thread.")
    held.add(thread)
    try:
        yield
    finally:
        held.discard(thread)


@contextlib.asynccontextmanager
async def _leased(saver: SQLAlchemySaver, thread: str) -> AsyncGenerator[None]:
    owner = process_owner()
    try:
        await saver.aacquire_lease(thread, owner=owner, ttl=_TTL)
    except LeaseHeld as error:
        raise ThreadBusy(
            f"Another run is on thread {thread!r} ({error.owner}); wait for it, or use another thread."
        ) from error
    runner = asyncio.current_task()

    async def renew() -> None:
        while True:
            await asyncio.sleep(_TTL / 3)
            try:
                await saver.arenew_lease(thread, owner=owner, ttl=_TTL)
            except LeaseLost:  # this process was frozen so long that another took over: two writers are worse than none
                if runner is not None:
                    runner.cancel(f"the lease on thread {thread!r} was lost")
                return

    renewing = asyncio.create_task(renew(), name=f"lease {thread}")
    try:
        yield
    finally:
        renewing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewing
        await saver.arelease_lease(thread, owner=owner)
