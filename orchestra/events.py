"""What happens in a run, as frozen values, told when it really happens.

Events reach `Run.events()` and LangGraph's custom stream. They are news, not the record: the record is the
checkpoints. `path` tells the team they come from: `()` is the workflow itself, `("operations", "fraud")` a team in a
team. Times are in UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from orchestra.claims import Resolution
from orchestra.tasks import Attempt, Judgement, Plan, Result, Review, Task, now
from orchestra.vitals import Change

Sink = Callable[[Any], None]
"""Takes one event. Must return at once and must not raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        path: The teams it comes from, outermost first.
        at: When it happened.
    """

    path: tuple[str, ...] = ()
    at: datetime = field(default_factory=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReady(Event):
    """The plan of a turn is made, or taken up again by a resumed run; `finished` tells what is already done."""

    plan: Plan
    finished: dict[str, Result] = field(default_factory=dict[str, Result])


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted(Event):
    """A task has its inputs and a place, and its agent begins to work."""

    task: str
    agent: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensArrived(Event):
    """A model has said some more; `task` is empty while the supervisor plans or reviews."""

    task: str
    agent: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Event):
    """A try of a task failed; `retry_in` is the pause in seconds before the next try on the same agent, if any."""

    task: str
    attempt: Attempt
    retry_in: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FellBack(Event):
    """A task goes on to another agent."""

    task: str
    from_agent: str
    to_agent: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChanged(Event):
    """An agent's health became another, by attempts or by probes, here or in another process."""

    agent: str
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialAwaited(Event):
    """All agents that can do a task are open: it waits until one may be tried again."""

    task: str
    agents: tuple[str, ...]
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsSettled(Event):
    """Claims contradicted each other; `task` is the one whose inputs they are, or empty at the end of a turn."""

    task: str
    resolution: Resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftReviewed(Event):
    """A reviewer has judged a draft."""

    task: str
    reviewer: str
    round: int
    review: Review


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAdded(Event):
    """An agent has handed on work, which makes a task of its own."""

    task: str
    added: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkReviewed(Event):
    """The finished work of a turn was judged; tasks may have been added."""

    judgement: Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWaiting(Event):
    """A task waits for a person's answer, or for a date."""

    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDeferred(Event):
    """A task was left for the next run because this one is draining."""

    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded(Event):
    """A task succeeded, failed or was skipped."""

    task: str
    result: Result


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded(Event):
    """The plan is settled and the answer composed."""

    answer: str
