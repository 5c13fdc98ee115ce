"""Waiting for a date without holding anything: the run ends as waiting, and `tick` continues it.

It rests on LangGraph's `interrupt`: when the run goes on, the agent runs again from its beginning, and the call
returns. What was done before the call is done again, so wait first.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from langgraph.types import Interrupt, interrupt

from orchestra.tasks import now

_TIMER, QUESTION = "orchestra_timer", "orchestra_question"


def wait_until(moment: datetime) -> None:
    """Go on at a moment, in this process or another. Call it inside an agent.

    Args:
        moment: When; without a timezone it is in UTC.
    """
    interrupt({"kind": _TIMER, "due": in_utc(moment).isoformat()})


def wait_for(delay: timedelta | float) -> None:
    """Go on after a while, counted from the first time that this is called. Call it inside an agent.

    Args:
        delay: How long; a number is in seconds.
    """
    wait_until(now() + (delay if isinstance(delay, timedelta) else timedelta(seconds=delay)))


def in_utc(moment: datetime) -> datetime:
    """A moment with its timezone; without one it is in UTC."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def is_timer(asked: Interrupt[Any]) -> bool:
    """Whether it waits for a date alone, so that there is nothing to answer."""
    return ours(asked).get("kind") == _TIMER


def due_of(asked: Interrupt[Any]) -> datetime | None:
    """When it is over by itself; `None` if never."""
    due = ours(asked).get("due")
    return datetime.fromisoformat(due) if due else None


def overdue(asked: Interrupt[Any], at: datetime) -> Any:
    """The answer that the passing of time has given, in a tuple; empty if there is none yet."""
    due = due_of(asked)
    return () if due is None or due > at else (ours(asked).get("otherwise", due.isoformat()),)


def ours(asked: Interrupt[Any]) -> Mapping[str, Any]:
    """What Orchestra put into an interrupt; empty if it is somebody else's."""
    value: Mapping[str, Any] = cast("Mapping[str, Any]", asked.value) if isinstance(asked.value, dict) else {}
    return value if value.get("kind") in (_TIMER, QUESTION) else {}


def moment_of(checkpoint_id: str) -> datetime:
    """When a checkpoint was made: LangGraph's ids are UUIDs of version 6, whose first 60 bits tell (RFC 9562)."""
    digits = checkpoint_id.replace("-", "")
    ticks = int(digits[:12] + digits[13:16], 16)  # of 100 nanoseconds, since the Gregorian calendar began
    return datetime(1582, 10, 15, tzinfo=UTC) + timedelta(microseconds=ticks // 10)
