"""The state of every task of a run, followed from its events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self

from orchestra.events import (
    AttemptFailed,
    DraftReviewed,
    Event,
    FellBack,
    PlanReady,
    TaskAdded,
    TaskDeferred,
    TaskEnded,
    TaskStarted,
    TaskWaiting,
    TokensArrived,
    WorkReviewed,
)
from orchestra.tasks import Result, Task

_LONGEST_LINE = 160
"""Characters of what a model says that are kept: its end."""


@dataclass(slots=True)
class Bar:
    """One attempt on one task.

    Attributes:
        agent: Who worked.
        number: Which try of this agent it was, from 1.
        started: When the work began.
        ended: When it ended; `None` while it goes on.
        outcome: "running", "suspended" (the task waits for a person or a date), "stopped" (the run was cut off), or as
            `Attempt.outcome` says.
        error: What went wrong, in one line.
    """

    agent: str
    number: int
    started: datetime
    ended: datetime | None = None
    outcome: str = "running"
    error: str = ""


@dataclass(slots=True)
class Row:
    """One task as it stands.

    Attributes:
        path: The teams it is in, outermost first.
        task: The task.
        state: "pending", "running", "retrying", "waiting", "deferred", "succeeded", "failed" or "skipped".
        agent: Who works on it, or worked last.
        started: When its work began.
        ended: When it was settled.
        note: What a person should know besides.
        said: The last line of what its model is saying.
        restored: Whether it was finished before this run.
        planned: When its plan was made.
        attempts: Every attempt so far, a reviewer's included, in the order they began.
    """

    path: tuple[str, ...]
    task: Task
    state: str = "pending"
    agent: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    note: str = ""
    said: str = ""
    restored: bool = False
    planned: datetime | None = None
    attempts: list[Bar] = field(default_factory=list[Bar])

    @property
    def name(self) -> str:
        """The task's id with the teams around it."""
        return "/".join((*self.path, self.task.id))

    def seconds(self, at: datetime) -> float | None:
        """How long it has worked, or did; `None` if it has not begun."""
        if self.started is None:
            return None
        return max(0.0, ((self.ended or at) - self.started).total_seconds())


@dataclass(slots=True)
class Progress:
    """All tasks of a run. Feed it events; read `rows`.

    Attributes:
        said: The last line of what the supervisor's model is saying, while it plans or reviews.
    """

    said: str = ""
    _rows: dict[tuple[tuple[str, ...], str], Row] = field(default_factory=dict[tuple[tuple[str, ...], str], Row])

    @classmethod
    def of(cls, events: Iterable[Event]) -> Self:
        """Follow all of some events."""
        made = cls()
        for event in events:
            made.apply(event)
        return made

    @property
    def rows(self) -> list[Row]:
        """The tasks in the plan's order, a team's own tasks below the team."""
        inside: dict[tuple[str, ...], list[Row]] = {}
        for row in self._rows.values():
            inside.setdefault(row.path, []).append(row)
        listed: list[Row] = []

        def below(path: tuple[str, ...]) -> None:
            for row in inside.get(path, ()):
                listed.append(row)
                below((*path, row.task.id))

        below(())
        return listed

    def waits_for(self, row: Row) -> list[str]:
        """The unsettled tasks that a pending task needs."""
        return [other.task.id for other in self.needs(row) if other.ended is None]

    def needs(self, row: Row) -> list[Row]:
        """The tasks that a task needs."""
        return [other for need in row.task.needs if (other := self._rows.get((row.path, need))) is not None]

    def ready(self, row: Row) -> datetime | None:
        """When the last of a task's inputs was there, or its plan was made; `None` while one is missing."""
        moments = [row.planned, *(other.ended for other in self.needs(row))]
        known = [moment for moment in moments if moment is not None]
        return max(known) if len(known) == len(moments) else None

    def stop(self, at: datetime) -> None:
        """Take in that the run is over: what still went on was cut off."""
        for row in self._rows.values():
            if row.state in ("running", "retrying"):
                row.state = "stopped"
                _cut(row, at, "stopped")

    def apply(self, event: Event) -> Row | None:
        """Take in an event and return the row it changed, if it is about one task."""
        match event:
            case PlanReady():
                self.said = ""
                self._add(event)
                return None
            case WorkReviewed():
                self.said = ""
                return None
            case TokensArrived(task=""):
                self.said = _last_line(self.said, event.text)
                return None
            case TaskAdded():
                self._insert(event)
            case _:
                pass
        row = self._rows.get((event.path, getattr(event, "task", "").removesuffix(".review")))
        return row if row is not None and _changed(row, event) else None

    def _insert(self, event: TaskAdded) -> None:
        """Put a task that was handed on before the one that waits for it."""
        rows: dict[tuple[tuple[str, ...], str], Row] = {}
        for key, row in self._rows.items():
            if key == (event.path, event.task):
                rows.setdefault((event.path, event.added.id), Row(event.path, event.added, planned=event.at))
            rows[key] = row
        self._rows = rows

    def _add(self, event: PlanReady) -> None:
        for task in event.plan.order:
            row = self._rows.setdefault((event.path, task.id), Row(event.path, task, planned=event.at))
            if (result := event.finished.get(task.id)) is not None and row.ended is None:
                row.state, row.agent, row.restored = str(result.status), result.agent or "", True
                row.started, row.ended = result.started, result.ended
                row.attempts = _bars(result)


def _changed(row: Row, event: Event) -> bool:
    """Change a row by an event; whether the event is one that does."""
    match event:
        case TokensArrived():
            row.said = _last_line(row.said, event.text)
        case TaskAdded():
            row.note = f"waits for {event.added.id}"
        case TaskStarted():
            _cut(row, event.at, "ok")  # a reviewer begins when the draft is there
            row.attempts.append(Bar(event.agent, event.attempt, event.at))
            if event.task != row.task.id:
                row.note = f"under review by {event.agent}"
            else:
                row.state, row.agent, row.said = "running", event.agent, ""
                row.note = "" if event.attempt == 1 else f"try {event.attempt}"
                row.started = row.started or event.at
        case AttemptFailed():
            row.note = event.attempt.error or event.attempt.outcome
            _end(row, event.attempt.agent, event.at, event.attempt.outcome, event.attempt.error or "")
            row.state = "running" if event.retry_in is None else "retrying"
        case FellBack():
            row.note = f"{event.from_agent} gave up: {event.reason}"
        case DraftReviewed():
            verdict = "approved" if event.review.approved else "rejected: " + "; ".join(event.review.reasons)
            row.note = f"round {event.round} {verdict}"
            _end(row, event.reviewer, event.at, "ok")
        case TaskWaiting():
            row.state = "waiting"
            _cut(row, event.at, "suspended")
        case TaskDeferred():
            row.state, row.note = "deferred", "left for resume"
        case TaskEnded():
            row.state, row.agent = str(event.result.status), event.result.agent or row.agent
            row.started = row.started or (event.result.started if event.result.attempts else None)
            row.ended, row.note = event.result.ended, event.result.error or row.note
            row.attempts = _bars(event.result)
        case _:
            return False
    return True


def _last_line(before: str, text: str) -> str:
    """The last line of a text that goes on; the line before it, as long as that one is empty."""
    lines = f"{before}{text}".rstrip("\n").split("\n")
    return lines[-1][-_LONGEST_LINE:]


def _bars(result: Result) -> list[Bar]:
    return [
        Bar(a.agent, a.number, a.started, a.started + timedelta(seconds=a.seconds), a.outcome, a.error or "")
        for a in result.attempts
    ]


def _end(row: Row, agent: str, at: datetime, outcome: str, error: str = "") -> None:
    """Close the agent's last open attempt."""
    for bar in reversed(row.attempts):
        if bar.agent == agent and bar.ended is None:
            bar.ended, bar.outcome, bar.error = at, outcome, error
            return


def _cut(row: Row, at: datetime, outcome: str) -> None:
    """Close what is open."""
    for bar in row.attempts:
        if bar.ended is None:
            bar.ended, bar.outcome = at, outcome
