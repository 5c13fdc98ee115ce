"""Where agents work: so many at once as each allows, and in threads those that block."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from collections.abc import Callable
from typing import Any

from orchestra.agents import Agent

_THREADS = 128
"""Threads for one blocking agent without a limit of its own; more would cost more than they gain."""

_UNLIMITED = contextlib.nullcontext()

_limits: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.WeakKeyDictionary[Agent, asyncio.Semaphore]] = (
    weakref.WeakKeyDictionary()
)


def place_of(agent: Agent) -> contextlib.AbstractAsyncContextManager[Any]:
    """The agent's places in this event loop; entering waits for a free one."""
    limit = agent.max_concurrency or (_THREADS if agent.blocking else None)
    if limit is None:
        return _UNLIMITED
    loop = asyncio.get_running_loop()
    if loop not in _limits:
        for ended in [
            other for other in _limits if other.is_closed()
        ]:  # a semaphore that was waited for holds its loop
            del _limits[ended]
    places = _limits.setdefault(loop, weakref.WeakKeyDictionary())
    if agent not in places:
        places[agent] = asyncio.Semaphore(limit)
    return places[agent]


def has_place(agent: Agent) -> bool:
    """Whether the agent could begin at once."""
    places = place_of(agent)
    return not isinstance(places, asyncio.Semaphore) or not places.locked()


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run blocking work in a daemon thread of its own, with the caller's context.

    Not in an executor: its threads are joined when the interpreter ends, so one stuck agent would keep the process,
    and its pool is shared with LangGraph, so many slow agents would keep checkpoints from being written.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if done.done():  # cancelled or timed out: nobody waits any more
            return
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(RuntimeError(str(error)) if isinstance(error, StopIteration) else error)

    def target() -> None:
        value, error = None, None
        try:
            value = context.run(work)
        except BaseException as caught:  # noqa: BLE001 -- carried over to the caller
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: the run is gone, and so is whoever asked
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=target, daemon=True, name="orchestra-agent").start()
    return await done
