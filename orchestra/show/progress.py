"""The state of every task of a run, followed from its events."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from orchestra.events import (
    AttemptFailed,
    DraftReviewed,
    Event,
    FellBack,
    PlanReady,
    TaskDeferred,
    TaskEnded,
    TaskStarted,
    TaskWaiting,
)
from orchestra.tasks import Task


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
        restored: Whether it was finished before this run.
    """

    path: tuple[str, ...]
    task: Task
    state: str = "pending"
    agent: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    note: str = ""
    restored: bool = False

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
    """All tasks of a run. Feed it events; read `rows`."""

    _rows: dict[tuple[tuple[str, ...], str], Row] = field(default_factory=dict[tuple[tuple[str, ...], str], Row])

    @property
    def rows(self) -> list[Row]:
        """The tasks in the plan's order, a team's own tasks below the team."""
        listed: list[Row] = []

        def below(path: tuple[str, ...]) -> None:
            for (where, task), row in self._rows.items():
                if where == path:
                    listed.append(row)
                    below((*path, task))

        below(())
        return listed

    def waits_for(self, row: Row) -> list[str]:
        """The unsettled tasks that a pending task needs."""
        needed = (self._rows.get((row.path, need)) for need in row.task.needs)
        return [other.task.id for other in needed if other is not None and other.ended is None]

    def apply(self, event: Event) -> Row | None:
        """Take in an event and return the row it changed, if it is about one task."""
        if isinstance(event, PlanReady):
            self._add(event)
            return None
        row = self._rows.get((event.path, getattr(event, "task", "").removesuffix(".review")))
        if row is None:
            return None
        match event:
            case TaskStarted() if event.task != row.task.id:
                row.note = f"under review by {event.agent}"
            case TaskStarted():
                row.state, row.agent = "running", event.agent
                row.note = "" if event.attempt == 1 else f"try {event.attempt}"
                row.started = row.started or event.at
            case AttemptFailed():
                row.note = event.attempt.error or event.attempt.outcome
                row.state = "running" if event.retry_in is None else "retrying"
            case FellBack():
                row.note = f"{event.from_agent} gave up: {event.reason}"
            case DraftReviewed():
                verdict = "approved" if event.review.approved else "rejected: " + "; ".join(event.review.reasons)
                row.note = f"round {event.round} {verdict}"
            case TaskWaiting():
                row.state = "waiting"
            case TaskDeferred():
                row.state, row.note = "deferred", "left for resume"
            case TaskEnded():
                row.state, row.agent = str(event.result.status), event.result.agent or row.agent
                row.started = row.started or (event.result.started if event.result.attempts else None)
                row.ended, row.note = event.result.ended, event.result.error or row.note
            case _:
                return None
        return row

    def _add(self, event: PlanReady) -> None:
        for task in event.plan.order:
            row = self._rows.setdefault((event.path, task.id), Row(event.path, task))
            if (result := event.finished.get(task.id)) is not None and row.ended is None:
                row.state, row.agent, row.restored = str(result.status), result.agent or "", True
                row.started, row.ended = result.started, result.ended
