"""The tasks of a run and of its teams, followed from its events: what `orchestra.standing` is told from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Self, cast

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
)
from orchestra.tasks import Result, Task

TaskState = Literal["pending", "running", "waiting", "succeeded", "failed", "skipped", "deferred"]
"""How a task stands."""

OPEN = frozenset[TaskState]({"pending", "running", "waiting", "deferred"})
"""The states of an unfinished task."""

Path = tuple[str, ...]
"""Task ids: the teams around a task, outermost first, or tasks that one needs."""


def name_of(path: Path, task: str) -> str:
    """A task's id with the teams around it: "operations/fraud/score"."""
    return "/".join((*path, task)) if path else task


@dataclass(slots=True)
class Row:
    """One task, followed.

    Attributes:
        path: The teams it is in, outermost first.
        task: The task.
        id: Its id.
        name: Its id with the teams around it.
        needs: What it needs: as planned, and what its agent has handed on.
        agent: Who works on it, worked last, or is to.
        since: Since when it is in its state.
        state: How it stands.
        attempts: Tries so far, a reviewer's and the one that goes on included.
        error: What went wrong last.
        worker: Who works on it right now: its agent, or a reviewer.
        began: When this try began.
        seconds: How long all tries took, once it has ended.
    """

    path: Path
    task: Task
    id: str
    name: str
    needs: Path
    agent: str
    since: datetime
    state: TaskState = "pending"
    attempts: int = 0
    error: str = ""
    worker: str = ""
    began: datetime | None = None
    seconds: float = 0.0

    @classmethod
    def of(cls, path: Path, task: Task, at: datetime) -> Self:
        """A task that has just been planned."""
        return cls(path, task, task.id, name_of(path, task.id), task.needs, task.agent or "", at)

    def enter(self, state: TaskState, at: datetime) -> None:
        """Take on a state in which nobody works."""
        if self.state != state:
            self.state, self.since = state, at
        self.pause()

    def pause(self) -> None:
        """Take in that a try has ended."""
        self.worker, self.began = "", None

    def start(self, agent: str, at: datetime) -> None:
        """Take in that a try begins."""
        self.enter("running", at)
        self.worker, self.began = agent, at
        self.attempts += 1

    def settle(self, result: Result) -> None:
        """Take in how it ended."""
        self.enter(cast("TaskState", str(result.status)), result.ended)
        self.agent, self.error = result.agent or self.agent, result.error or ""
        self.attempts = len(result.attempts)
        self.seconds = sum([attempt.seconds for attempt in result.attempts])


class Followed:
    """The plans of a run and of its teams, each in an order in which its tasks can be done."""

    def __init__(self) -> None:
        self.plans: dict[Path, dict[str, Row]] = {}

    def rows(self, path: Path = (), prefix: str = "") -> Iterator[tuple[Row, str]]:
        """All tasks, a team's own below it; with each what comes before its agent's name."""
        for row in self.plans.get(path, {}).values():
            yield row, prefix
            if len(self.plans) == 1:
                continue
            for inner, agent in ((row.id, row.agent), (f"{row.id}.review", row.worker)):
                if (*path, inner) in self.plans:
                    below = self.rows((*path, inner), f"{prefix}{agent or inner}/")
                    # What a team left undone when its own task ended, nobody does any more.
                    yield from (each for each in below if row.state in OPEN or each[0].state not in OPEN)

    def stop(self) -> None:
        """Take in that nobody works any more."""
        for rows in self.plans.values():
            for row in rows.values():
                if row.state == "running":
                    row.enter("deferred", row.since)

    def apply(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, PlanReady):
            self._plan(event)
        elif (row := self._row(event)) is not None:
            self._change(row, event)

    def _row(self, event: Event) -> Row | None:
        rows, task = self.plans.get(event.path), getattr(event, "task", "")
        if rows is None:
            return None
        return rows.get(task) or rows.get(task.removesuffix(".review"))

    def _plan(self, event: PlanReady) -> None:
        before, path = self.plans.get(event.path, {}), event.path
        rows = {task.id: before.get(task.id) or Row.of(path, task, event.at) for task in event.plan.order}
        for name in before:
            if (row := rows.get(name)) is not None:
                row.needs = event.plan.by_id[name].needs  # a plan grows
                if row.state in ("waiting", "deferred"):  # taken up again
                    row.enter("pending", event.at)
        for name, result in event.finished.items():
            if (row := rows.get(name)) is not None:
                row.settle(result)
        self.plans[path] = rows

    def _change(self, row: Row, event: Event) -> None:
        match event:
            case TaskEnded():
                row.settle(event.result)
            case TaskStarted():
                row.start(event.agent, event.at)
                if event.task == row.id:
                    row.agent = event.agent or row.agent
            case AttemptFailed():
                row.error = event.attempt.error or event.attempt.outcome
                row.pause()
            case DraftReviewed():
                row.pause()
            case FellBack():
                if event.task == row.id:
                    row.agent = event.to_agent
                    self._forget((*event.path, event.task))
            case TaskAdded():
                self._insert(row, event)
            case TaskWaiting():
                self._wait(row, event.at)
            case TaskDeferred():
                row.enter("deferred", event.at)
            case _:
                pass

    def _wait(self, row: Row, at: datetime) -> None:
        """Take in that a task can't go on: by itself, by what it handed on, or because a task that it needs can't."""
        rows = self.plans[row.path]
        needed = [other for need in row.needs if (other := rows[need]).state in OPEN]
        handed = [other for other in needed if other.task.added_by == row.id]
        for other in handed:
            self._wait(other, at)
        row.enter("waiting" if len(handed) == len(needed) else "pending", at)

    def _forget(self, path: Path) -> None:
        """Forget a team that gave up its task: whoever gets it now may be a team with another plan."""
        self.plans = {each: rows for each, rows in self.plans.items() if each[: len(path)] != path}

    def _insert(self, asker: Row, event: TaskAdded) -> None:
        """Put work that was handed on before the task that waits for it."""
        task, path = event.added, event.path
        added = Row.of(path, task, event.at)
        rows: dict[str, Row] = {}
        for name, row in self.plans[path].items():
            if row is asker:
                rows[task.id] = added
            rows[name] = row
        self.plans[path] = rows
        asker.needs = (*asker.needs, task.id)
        asker.pause()
