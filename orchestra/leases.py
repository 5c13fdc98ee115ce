"""One run per thread at a time."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncIterator
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from orchestra.errors import ThreadBusy

_held: weakref.WeakKeyDictionary[BaseCheckpointSaver[Any], set[str]] = weakref.WeakKeyDictionary()


@contextlib.asynccontextmanager
async def hold(saver: BaseCheckpointSaver[Any], thread: str) -> AsyncIterator[None]:
    """Keep a thread to oneself while a run is on it.

    Raises:
        ThreadBusy: Another run has it.
    """
    held = _held.setdefault(saver, set())
    if thread in held:
        raise ThreadBusy(f"Another run is on thread {thread!r}; wait for it, or use another thread.")
    held.add(thread)
    try:
        yield
    finally:
        held.discard(thread)
