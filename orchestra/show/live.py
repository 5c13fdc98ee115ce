"""A run while it goes on: in a notebook's cell, renewed in place; elsewhere in the terminal."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console

from orchestra.run import Run
from orchestra.show.notebook import bundle
from orchestra.show.terminal import display
from orchestra.snapshots import Outcome

_PAUSE = 0.25
"""Seconds between two pictures at least: four a second are enough for a person."""

_SHARE = 50
"""The pause is at least so many times as long as a picture took to draw: the agents share the interpreter."""


async def watch(run: Run) -> Outcome:
    """Show a run to its end and return how it ended."""
    if (show := _cell()) is None:
        with display(Console()) as shown:
            async for event in run.events():
                shown.show(event)
        return await run
    pause = _PAUSE
    while not await run.over(within=pause):
        began = time.perf_counter()
        show(await asyncio.to_thread(bundle, run))  # the agents go on meanwhile
        pause = max(_PAUSE, (time.perf_counter() - began) * _SHARE)
    show(bundle(run))
    return await run


def _cell() -> Callable[[dict[str, Any]], None] | None:
    """What shows formats in the current notebook cell, each time in place of the last; `None` outside a notebook."""
    # Never imported here: where a notebook is, IPython is there already.
    ipython: Any = sys.modules.get("IPython")
    if ipython is None or not hasattr(ipython.get_ipython(), "kernel"):
        return None
    handle: Any = None

    def show(formats: dict[str, Any]) -> None:
        nonlocal handle
        if handle is None:
            handle = ipython.display.display(formats, raw=True, display_id=True)
        else:
            handle.update(formats, raw=True)

    return show
