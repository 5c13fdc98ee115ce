"""What can be read of runs: how one stands, how it came there, and where two branches differ. Frozen values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, overload

from langgraph.types import Interrupt

from orchestra.events import AttemptFailed, Event, PlanReady, TaskEnded, TaskStarted, TaskWaiting, TurnEnded
from orchestra.questions import Question
from orchestra.shown import Shown
from orchestra.tasks import Plan, Result, Status, Usage, used


class RunState(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    WAITING = "waiting"
    STOPPED = "stopped"


def state_of(plan: Plan | None, results: Mapping[str, Any], *, answered: bool, asking: bool) -> RunState:
    """Tell how a turn stands that nobody works on now.

    Args:
        plan: Its plan, if it has one.
        results: Its results by task id, also as JSON.
        answered: Whether the answer is composed.
        asking: Whether a question or a timer is open.
    """
    if asking:
        return RunState.WAITING
    if not answered or plan is None:
        return RunState.STOPPED

    def ok(task: str) -> bool:
        result: Any = results.get(task) or {}
        return (result.status if isinstance(result, Result) else result.get("status")) == Status.SUCCEEDED

    return RunState.DONE if all(ok(task.id) for task in plan.sinks) else RunState.FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Shown):
    """How a run ended, for now.

    Attributes:
        thread_id: Its thread.
        state: done; failed, if a task the answer rests on did not succeed; waiting for a person or a date; or stopped,
            if it was drained with work left. Waiting and stopped runs can be resumed.
        answer: What was answered; `None` unless done or failed.
        results: Results by task id.
        plan: The plan, once there is one.
        questions: Open questions.
        due: When the first timer or deadline of a waiting run is due, if it has one.
    """

    thread_id: str
    state: RunState
    answer: str | None
    results: Mapping[str, Result]
    plan: Plan | None = None
    questions: tuple[Question, ...] = ()
    due: datetime | None = None

    @property
    def usage(self) -> Usage:
        """The calls of language models that the turn has made so far."""
        return used(self.plan, self.results.values())


@dataclass(frozen=True, kw_only=True)
class RunInfo(Shown):
    """One line of the list of runs: the newest turn of a thread.

    Attributes:
        thread_id: The thread.
        workflow: The workflow's name.
        reference: Where the workflow lives; empty if that is not known.
        user: Whose preferences the run uses; empty if nobody's.
        recorded: Whether its model calls are recorded, so that it can be replayed.
        state: How it stands. "stopped" was cut off or drained and can be resumed.
        request: What was asked.
        turn: The number of the turn.
        asked: When the turn's first checkpoint was written; `None` in a list.
        since: When its newest checkpoint was written.
        plan: The plan, once there is one.
        raw: Results by task id, as JSON.
        answer: The answer, once there is one.
        questions: Open questions.
        timers: What waits for a date alone.
        waiting: The tasks that wait for a person or a date, themselves or in their team; empty in a list.
        due: When the first timer or deadline of a waiting run is due, if it has one.
        teams: The same of each team's newest call, by the id of the task that called it; empty in a list.
    """

    thread_id: str
    workflow: str
    reference: str = ""
    user: str = ""
    recorded: bool = False
    state: RunState
    request: str
    turn: int
    asked: datetime | None = None
    since: datetime
    plan: Plan | None
    raw: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    answer: str | None = None
    questions: tuple[Question, ...] = ()
    timers: tuple[Interrupt[Any], ...] = ()
    waiting: tuple[str, ...] = ()
    due: datetime | None = None
    teams: Mapping[str, RunInfo] = field(default_factory=dict[str, "RunInfo"])

    @property
    def usage(self) -> Usage:
        """The calls of language models that the turn has made so far."""
        return used(self.plan, self.results.values())

    def state_of(self, task: str) -> str:
        """How a task stands, in a word. One that has its inputs is running, if the run is."""
        if (result := self.raw.get(task)) is not None:
            return str(result["status"])
        if task in self.waiting:
            return "waiting"
        needs = self.plan.by_id[task].needs if self.plan else ()
        begun = self.state is RunState.RUNNING and all(need in self.raw for need in needs)
        return "running" if begun else "pending"

    @cached_property
    def results(self) -> dict[str, Result]:
        """Results by task id; outputs are plain JSON, since reading them does not need the workflow's code."""
        return {task: Result.model_validate(raw) for task, raw in self.raw.items()}


class RunList(Shown, Sequence[RunInfo]):
    """Runs, as a sequence that shows itself as a table.

    Args:
        infos: The runs.
    """

    # Not a list: a notebook would print it as one.

    def __init__(self, infos: Iterable[RunInfo]) -> None:
        self._infos = tuple(infos)

    @overload
    def __getitem__(self, index: int) -> RunInfo: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RunInfo]: ...
    def __getitem__(self, index: int | slice) -> RunInfo | Sequence[RunInfo]:
        """One of them, or some."""
        return self._infos[index]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._infos)

    def __repr__(self) -> str:
        """Show the threads."""
        return f"RunList({', '.join(f'{info.thread_id}: {info.state}' for info in self._infos)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment(Shown):
    """A moment of a thread that a branch can start from.

    Attributes:
        number: Its place among the thread's moments, from 1, oldest first, all branches counted together.
        branch: The number of its branch; the first is 1.
        turn: The number of the turn.
        wave: How often the turn's open tasks had been sent out: at "finished" 1, and one more after each drain.
        what: "asked" (the request is stored), "planned" (so is the plan), "finished" (one task ended), "answered",
            "forked" (the branch begins, with the tasks that it keeps settled).
        task: The task that ended, at "finished".
        status: How it ended.
        at: When.
        request: The turn's request.
        settled: The tasks of the turn that had ended by then.
        tip: Whether its branch ends here.
        note: At "forked", what is done differently on the branch.
        checkpoint_id: The checkpoint it belongs to. A task that ended belongs to the one it was sent from.
    """

    number: int
    branch: int
    turn: int
    wave: int
    what: Literal["asked", "planned", "finished", "answered", "forked"]
    task: str | None = None
    status: Status | None = None
    at: datetime
    request: str
    settled: frozenset[str] = frozenset()
    tip: bool = False
    note: str = ""
    checkpoint_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class History(Shown):
    """The moments of a thread, oldest first.

    Attributes:
        thread_id: The thread.
        moments: All of them, on all branches.
        current: The number of the branch that a resumed run goes on with, and a new request follows.
    """

    thread_id: str
    moments: tuple[Moment, ...]
    current: int = 1

    def __iter__(self) -> Iterator[Moment]:
        """The moments."""
        return iter(self.moments)

    def __len__(self) -> int:
        """How many moments there are."""
        return len(self.moments)

    def __getitem__(self, number: int) -> Moment:
        """A moment by its number, from 1; -1 is the last.

        Raises:
            IndexError: There is none with this number.
        """
        index = number - 1 if number > 0 else len(self.moments) + number
        if not 0 <= index < len(self.moments):
            raise IndexError(f"Thread {self.thread_id!r} has moments 1 to {len(self.moments)}, not {number}.")
        return self.moments[index]

    @property
    def branches(self) -> dict[int, Moment]:
        """The last moment of each branch, by the branch's number."""
        return {moment.branch: moment for moment in self.moments if moment.tip}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """One task at two moments.

    Attributes:
        task: Its id.
        kind: "kept" (the very same result), "same" (it ran again, to the same end), "changed" (to another end),
            "added" (only the second moment has it), "removed" (only the first).
        before: Its result at the first moment.
        after: Its result at the second.
    """

    task: str
    kind: Literal["kept", "same", "changed", "added", "removed"]
    before: Result | None
    after: Result | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueChange:
    """One key of the state that differs between two moments: the request, the answer, or a key of the user's own.

    Keys of the user's own are as the moment's checkpoint has them: what tasks write is in it when all that was sent out
    together has ended.

    Attributes:
        key: The key.
        before: Its value at the first moment, `None` if it had none.
        after: Its value at the second.
    """

    key: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Shown):
    """Where two moments of a thread differ.

    Attributes:
        before: The first moment.
        after: The second moment.
        tasks: Every task of either, in the order of the plan.
        values: The keys of the state that differ.
    """

    before: Moment
    after: Moment
    tasks: tuple[TaskChange, ...]
    values: tuple[ValueChange, ...] = ()

    @property
    def different(self) -> list[str]:
        """The tasks whose results differ in more than when they ran."""
        return [change.task for change in self.tasks if change.kind in ("changed", "added", "removed")]


def past_events(info: RunInfo) -> list[Event]:
    """What has happened in a turn, told again from its results, in the order of the clock.

    Attempts that were cut off by a crash or a cancellation left no result, so they are not among it.
    """
    told = sorted(_told(info, ()), key=lambda event: event.at)
    if info.answer is not None:
        told.append(TurnEnded(answer=info.answer, at=info.since))
    return told


def _told(info: RunInfo, path: tuple[str, ...]) -> Iterator[Event]:
    if info.plan is None:
        return
    results = info.results.values()
    begun = min((result.started for result in results), default=info.since)
    yield PlanReady(path=path, plan=info.plan, at=info.asked or begun)
    for result in results:
        for attempt in result.attempts:
            task = result.task
            yield TaskStarted(path=path, task=task, agent=attempt.agent, attempt=attempt.number, at=attempt.started)
            if attempt.outcome != "ok":
                at = attempt.started + timedelta(seconds=attempt.seconds)
                yield AttemptFailed(path=path, task=task, attempt=attempt, at=at)
        yield TaskEnded(path=path, task=result.task, result=result, at=result.ended)
    last = max([info.since, *(result.ended for result in results)])
    for task in info.waiting:
        yield TaskWaiting(path=path, task=task, at=last)
    for task, team in info.teams.items():
        yield from _told(team, (*path, task))
