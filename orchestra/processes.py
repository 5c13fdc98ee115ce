"""Programs that agents start: ended, with all that they started themselves, when the attempt is over.

An attempt that is cancelled or times out leaves nothing behind: an async agent is cancelled where it waits; a sync one
runs in a thread, which Python can't stop, so its program is ended, and the next `safe_point` raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestra.errors import AttemptOver

OVER: ContextVar[threading.Event | None] = ContextVar("orchestra_over", default=None)
"""Set when nobody waits any more for what a thread does."""

_LOOK = 0.02
"""Seconds between two looks at a program from a thread."""

_GRACE = 2.0
"""Seconds that a program gets to end by itself when it is told to."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended.

    Attributes:
        returncode: Its exit code; negative if a signal ended it.
        stdout: What it wrote, as UTF-8; what is none is replaced.
        stderr: The same of its errors.
    """

    returncode: int
    stdout: str
    stderr: str


def safe_point() -> None:
    """End here if the attempt is over. Call it now and then in a sync agent that works for long.

    Raises:
        AttemptOver: It is.
    """
    over = OVER.get()
    if over is not None and over.is_set():
        raise AttemptOver("the attempt is over: it was cancelled, or has timed out")


async def run_process(
    command: Sequence[str | Path],
    *,
    input: str = "",  # noqa: A002 -- subprocess's name
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run a program to its end. If the attempt is cancelled or times out, it is ended with all that it has started.

    Args:
        command: The program and its arguments; no shell.
        input: What it reads from its standard input.
        cwd: Where it works.
        env: Its environment; this process's by default.

    Raises:
        OSError: It can't be started.
    """
    # Shielded: asyncio, cancelled while it starts a program, ends that one only, and waits for what it has started.
    starting = asyncio.create_task(asyncio.create_subprocess_exec(*command, **_how(cwd, env)))
    try:
        process = await asyncio.shield(starting)
        out, err = await process.communicate(input.encode())
    except asyncio.CancelledError:
        await asyncio.shield(_end(starting))
        raise
    return Finished(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))


def run_process_sync(
    command: Sequence[str | Path],
    *,
    input: str = "",  # noqa: A002 -- subprocess's name
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """The same for sync agents.

    Raises:
        OSError: It can't be started.
        AttemptOver: The attempt is over; the program is ended.
    """
    safe_point()
    made: Any = subprocess.Popen([*command], **_how(cwd, env))  # noqa: S603 -- what to run is the agent's business
    with made as process:
        results: list[tuple[bytes, bytes]] = []
        reader = threading.Thread(target=lambda: results.append(process.communicate(input.encode())), daemon=True)
        reader.start()
        try:
            while reader.is_alive():
                reader.join(_LOOK)
                safe_point()
        except BaseException:
            _signal(process.pid, signal.SIGTERM)
            reader.join(_GRACE)
            _signal(process.pid, signal.SIGKILL)
            raise
    out, err = results[0]
    return Finished(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def _how(cwd: str | Path | None, env: Mapping[str, str] | None) -> dict[str, Any]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A session of its own makes a group of it and all that it starts, which can be ended together.
    return {**pipes, "cwd": cwd, "env": None if env is None else dict(env), "start_new_session": True}


async def _end(starting: asyncio.Task[asyncio.subprocess.Process]) -> None:
    """Ask a group to end, then make it."""
    process = await starting
    _signal(process.pid, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GRACE):
            await process.wait()
    _signal(process.pid, signal.SIGKILL)
    await process.wait()


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all of it is gone
        os.killpg(group, number)
