"""Where agents work: so many at once as each allows, and in threads those that block."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from orchestra.agents import Agent
from orchestra.processes import OVER

_THREADS = 128
"""Threads for one blocking agent without a limit of its own; more would cost more than they gain."""

_UNLIMITED = contextlib.nullcontext()


class _Places(asyncio.Semaphore):
    """An agent's places. Work that other agents could do as well waits in no line: it hears of a place that is free."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.hopeful: dict[asyncio.Future[None], None] = {}
        self.guest: asyncio.Task[Any] | None = None

    async def acquire(self) -> Any:
        """Take a place, when there is one."""
        self.clear()
        return await super().acquire()

    def clear(self) -> None:
        """Have a probe make place for work."""
        if self.guest is not None and self.locked():
            self.guest.cancel()

    def release(self) -> None:
        """Leave a place."""
        super().release()
        if self.hopeful and not self.locked():
            first = next((each for each in self.hopeful if not each.done()), None)
            if first is not None:
                first.set_result(None)


_limits: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.WeakKeyDictionary[Agent, _Places]] = (
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
        places[agent] = _Places(limit)
    return places[agent]


def has_place(agent: Agent) -> bool:
    """Whether the agent could begin at once."""
    places = place_of(agent)
    return not isinstance(places, asyncio.Semaphore) or not places.locked()


@contextlib.asynccontextmanager
async def as_guest(agent: Agent) -> AsyncGenerator[None]:
    """A place for a probe: the task is cancelled as soon as work wants it.

    One that works in a thread can't be stopped, so there work waits: or more than the agent allows would go on at once.
    """
    places = place_of(agent)
    async with places:
        if isinstance(places, _Places) and not agent.blocking:
            places.guest = asyncio.current_task()
        try:
            yield
        finally:
            if isinstance(places, _Places):
                places.guest = None


async def first_free(able: Callable[[], Sequence[Agent]], ready: Callable[[], None]) -> Agent | None:
    """The first of several agents that has a free place, once there is one; the only one, if there is one only.

    Args:
        able: Tells who could work just now, best first; asked again after each wait.
        ready: Called now and then; may raise to end the waiting.
    """
    while len(agents := able()) > 1:
        for agent in agents:
            if has_place(agent):
                return agent
        await _a_place_of(agents, ready)
    return agents[0] if agents else None


async def _a_place_of(agents: Sequence[Agent], ready: Callable[[], None]) -> None:
    """Return when one of several agents that are all busy may have a free place."""
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    busy = [places for agent in agents if isinstance(places := place_of(agent), _Places)]
    for places in busy:
        places.hopeful[told] = None
        places.clear()
    try:
        while not told.done() and not any(has_place(agent) for agent in agents):
            await asyncio.wait([told], timeout=1.0)  # whoever was told before may have left without taking the place
            ready()
    finally:
        for places in busy:
            places.hopeful.pop(told, None)


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run blocking work in a daemon thread of its own, with the caller's context.

    Not in an executor: its threads are joined when the interpreter ends, so one stuck agent would keep the process,
    and its pool is shared with LangGraph, so many slow agents would keep checkpoints from being written.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    over = threading.Event()
    context = contextvars.copy_context()
    context.run(OVER.set, over)

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
    try:
        return await done
    finally:
        over.set()  # the work may go on in its thread: nobody waits for it any more
