"""What is worth another try, when, and how a failure is told."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from typing import Any

from langgraph.types import RetryPolicy

from orchestra.errors import AgentError, AttemptTimeout, Irreparable, MalformedOutput, UnstorableOutput
from orchestra.rates import retry_after
from orchestra.secrets import keep_secrets_of, strike_out

_LINKS = re.compile(r"\s*For further information visit \S+")
"""What pydantic adds to each of its errors."""

_LANGGRAPH_DEFAULT = RetryPolicy().retry_on

_LONGEST_PAUSE = 3600.0
"""Seconds that an endpoint may ask to be left alone at most: beyond it, another agent gets the task."""


def describe(error: BaseException) -> str:
    """An exception in one line."""
    keep_secrets_of(error)
    try:
        text = " ".join(_LINKS.sub("", str(error)).split()) or "no message"
    except Exception:  # noqa: BLE001 -- an exception that can't even say what it is must not hide that there is one
        text = "an exception without a readable message"
    return strike_out(text if isinstance(error, AgentError) else f"{type(error).__name__}: {text}")[:500]


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: lost connections, timeouts, overload, malformed output.

    HTTP errors are recognised by a `status_code`, on the exception or its response, so that no client library needs
    to be known here; connection errors of httpx and openai by their class names.
    """
    if isinstance(error, UnstorableOutput | Irreparable):
        return False
    if isinstance(error, ConnectionError | TimeoutError | AttemptTimeout | MalformedOutput):
        return True
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status in (408, 425, 429) or status >= 500
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"TransportError", "APIConnectionError", "APITimeoutError"})


def worth_another(policy: RetryPolicy, error: Exception) -> bool:
    """Ask the policy; LangGraph has three ways to say what is retried: a class, several, or a function."""
    if (retry_after(error) or 0.0) > _LONGEST_PAUSE:
        return False
    retry_on: Any = is_transient if policy.retry_on is _LANGGRAPH_DEFAULT else policy.retry_on
    if isinstance(retry_on, type):
        return isinstance(error, retry_on)
    if not callable(retry_on):
        return isinstance(error, tuple(retry_on))
    try:
        return bool(retry_on(error))
    except Exception as failed:
        raise AgentError(f"retry_on failed on {describe(error)}: {describe(failed)}") from failed


async def wait(seconds: float, ready: Callable[[], None]) -> None:
    """Sleep before a retry; a run that drains meanwhile does not wait for the end of it."""
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    while (left := end - clock()) > 0:
        await asyncio.sleep(min(left, 0.2))
        ready()


def pause_before(policy: RetryPolicy, number: int, error: Exception) -> float:
    """Exponential backoff; jitter spreads it by half, so that tasks that failed together don't come back together.

    An endpoint that says when to come back is obeyed.
    """
    asked = retry_after(error) or 0.0
    pause = min(policy.max_interval, policy.initial_interval * policy.backoff_factor ** (number - 1))
    return max(asked, pause * random.uniform(0.5, 1.5) if policy.jitter else pause)  # noqa: S311 -- no secret is made of it
