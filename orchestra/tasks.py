"""Tasks, plans, assignments and results: frozen values without behaviour of their own.

A plan is an acyclic graph of tasks. It is checked when it is made, so that whoever holds a `Plan` may rely on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, Self

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from orchestra.claims import Resolution
from orchestra.decisions import Decision
from orchestra.errors import PlanError, TaskUnsuccessful
from orchestra.shown import Shown


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


def text_of(output: Any) -> str:
    """An output as a person, or a model, can read it: text as it is, anything else as JSON."""
    return output if isinstance(output, str) else pydantic_core.to_json(output, indent=2, fallback=str).decode()


class Task(BaseModel):
    """One unit of work in a plan.

    Attributes:
        id: Unique within its plan.
        instruction: What is to be done, in words; empty where the agent's own description says it all.
        agent: The agent that must do it, by name; `None` leaves the choice to routing.
        capability: The capability wanted, by name; `None` lets routing judge by the instruction.
        needs: Ids of the tasks whose outputs this one receives.
        optional: Those of `needs` it can do without; their failure leaves the input out.
        replicas: How many agents are to do it, each on its own; what they claim is compared.
        quorum: How many of them must deliver; by default more than half.
        added_by: The task whose agent handed this one on; `None` for all others.
        wait: Not before this moment, or this long after its inputs are there. A task that waits holds nothing; the run
            ends as waiting and `tick` continues it. A moment without a timezone is in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1, max_length=200)
    instruction: str = ""
    agent: str | None = None
    capability: str | None = None
    needs: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    replicas: int = Field(default=1, ge=1, le=9)
    quorum: int | None = Field(default=None, ge=1)
    added_by: str | None = None
    wait: timedelta | datetime | None = None

    @model_validator(mode="after")
    def _quorum_is_possible(self) -> Self:
        if self.quorum is not None and self.quorum > self.replicas:
            raise ValueError(f"quorum {self.quorum} of {self.replicas} replicas can't be reached")
        return self


class Usage(BaseModel):
    """What language models were used for something.

    Attributes:
        calls: Calls of models.
        input_tokens: Tokens of prompts.
        output_tokens: Tokens of answers.
        money: What that cost, in the currency of the price table; 0 where no price is known.
        estimated: Whether part of the tokens is an upper bound, because an endpoint did not report them.
    """

    model_config = ConfigDict(frozen=True)

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    money: float = 0.0
    estimated: bool = False

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            money=self.money + other.money,
            estimated=self.estimated or other.estimated,
        )


class Judgement(BaseModel):
    """What a review of the finished work says.

    Attributes:
        answered: Whether the request is answered; `None` if nobody could judge.
        missing: What is missing, in words.
        contradictions: What contradicts, in words.
        added: Ids of the tasks that were added for it.
        by: Who judged.
    """

    model_config = ConfigDict(frozen=True)

    answered: bool | None
    missing: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    by: str = ""


class Plan(Shown, BaseModel):
    """An acyclic graph of tasks.

    Attributes:
        tasks: The tasks, in any order; `order` gives them so that every task follows what it needs.
        made_by: Who made it: "edges", "types", or a planner's name.
        repairs: What had to be changed in a model's draft to make a plan of it.
        notes: What had to be asked again while it was made, and while the work was reviewed.
        judgements: What reviews of the finished work said, in order; see `ModelReviewer`.
        resolutions: How contradictions were settled that came to light at the end.
        raised: By how much persons have raised the turn's budget: "tokens", "money", "calls", "seconds".
        capped: Whether a person has said that the budget stays as it is.
        usage: The calls of models that planning and reviewing took.

    Raises:
        PlanError: Two tasks share an id, a need names no task, or tasks need each other in a cycle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[Task, ...]
    made_by: str = "planner"
    repairs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    resolutions: tuple[Resolution, ...] = ()
    raised: Mapping[str, float] = {}
    capped: bool = False
    usage: Usage = Usage()

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen: set[str] = set()
        for task in self.tasks:
            if task.id in seen:
                raise PlanError(f"Two tasks of the plan are called {task.id!r}; task ids are unique.")
            seen.add(task.id)
        for task in self.tasks:
            for need in (*task.needs, *task.optional):
                if need not in seen:
                    raise PlanError(f"Task {task.id!r} needs {need!r}, which is not a task of the plan.")
            if stray := task.optional - set(task.needs):
                raise PlanError(f"Task {task.id!r} marks {sorted(stray)} as optional but does not need them.")
        _ = self.order
        return self

    def checked(self) -> Plan:
        """The same plan, validated anew: a copy with other tasks has not been yet."""
        return Plan.model_validate(self.model_dump())

    @cached_property
    def by_id(self) -> Mapping[str, Task]:
        """The tasks by their ids."""
        return {task.id: task for task in self.tasks}

    @cached_property
    def order(self) -> tuple[Task, ...]:
        """The tasks in topological order: every task after all that it needs; ties keep the plan's order."""
        waiting = {task.id: len(set(task.needs)) for task in self.tasks}
        dependants: dict[str, list[str]] = {task.id: [] for task in self.tasks}
        for task in self.tasks:
            for need in dict.fromkeys(task.needs):
                dependants[need].append(task.id)
        ready = [task.id for task in self.tasks if not waiting[task.id]]
        for task_id in ready:  # grows while it is walked
            for dependant in dependants[task_id]:
                waiting[dependant] -= 1
                if not waiting[dependant]:
                    ready.append(dependant)
        if len(ready) < len(self.tasks):
            raise PlanError(f"Tasks need each other in a cycle: {' -> '.join(_cycle(self.tasks, waiting))}.")
        return tuple(self.by_id[task_id] for task_id in ready)

    @cached_property
    def sinks(self) -> tuple[Task, ...]:
        """The tasks that no other task needs: what the plan is for."""
        needed = {need for task in self.tasks for need in task.needs}
        return tuple(task for task in self.tasks if task.id not in needed)


def _cycle(tasks: Sequence[Task], waiting: Mapping[str, int]) -> list[str]:
    """Walk backwards among the tasks that could not be ordered until one comes up twice."""
    stuck = {task.id: next(n for n in task.needs if waiting[n]) for task in tasks if waiting[task.id]}
    walk = [next(iter(stuck))]
    while walk.count(walk[-1]) == 1:
        walk.append(stuck[walk[-1]])
    return list(reversed(walk[walk.index(walk[-1]) :]))


class Review(BaseModel):
    """What a reviewer says of a draft.

    Attributes:
        approved: Whether the draft may pass as it is.
        reasons: Why not; they go back to the author word for word.
        revised: A version of the draft that the reviewer could approve. It is used when the author has no round
            left; without it a draft that is still rejected is a failure.
    """

    model_config = ConfigDict(frozen=True)

    approved: bool
    reasons: tuple[str, ...] = ()
    revised: Any = None


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class OutOfScope:
    """What an agent returns in place of its output if a task is beyond it: another agent gets it.

    Attributes:
        reason: Why, in words. If nobody can do the task, this is its result.
    """

    reason: str = Field(min_length=1, max_length=500)


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Delegate:
    """What an agent returns, beside its output or in place of it, to have a part of the work done by another.

    In place of an output, the agent gets the task again with what came of it in `Assignment.delegated`. Beside one
    (`return output, Delegate(...)`), what came of it goes to whoever needs the agent's own task.

    Attributes:
        instruction: What is to be done, in words.
        capability: The capability wanted, by name; `None` lets routing judge by the instruction.
    """

    instruction: str = Field(min_length=1, max_length=4000)
    capability: str | None = None


class Status(StrEnum):
    """How a task stands."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    WAITING = "waiting"


class Attempt(BaseModel):
    """One try of a task on one agent.

    Attributes:
        agent: Who tried.
        number: Which try of this agent it was, from 1.
        started: When the work began, inputs in hand.
        seconds: How long the work took.
        outcome: How it ended: "ok", "error" (the agent raised), "timeout", "malformed" (the output is not of the
            declared type), or "crashed" (the process ended while it ran; known only where attempts are recorded).
        error: What went wrong, in one line.
        notes: What had to be cut to fit into a model's prompt, and what was wrong with each answer that could not be
            used as it was, with what was done about it.
        usage: The calls of language models it made.
    """

    model_config = ConfigDict(frozen=True)

    agent: str
    number: int
    started: datetime
    seconds: float
    outcome: Literal["ok", "error", "timeout", "malformed", "declined", "crashed"] = "ok"
    error: str | None = None
    notes: tuple[str, ...] = ()
    usage: Usage = Usage()


class Added(BaseModel):
    """A task that an agent added to the plan by handing work on.

    Attributes:
        task: The task.
        for_asker: Whether the agent itself needed what came of it; else whoever needs the agent's own task does.
    """

    model_config = ConfigDict(frozen=True)

    task: Task
    for_asker: bool


class Result(Shown, BaseModel):
    """How a task ended.

    Attributes:
        task: The task's id.
        status: succeeded, failed, skipped or waiting.
        output: What the agent produced, of its declared type; `None` unless succeeded.
        agent: Who produced the output, or `None`.
        error: Why there is no output, in one line.
        attempts: Every try, in order.
        reviews: Every review of a draft, in order.
        added: The tasks it added to the plan by handing work on.
        decisions: What persons have decided of it, in order.
        resolutions: How contradictions among its inputs were settled.
        edited: Whether a person put this output in place of an agent's.
        started: When the first attempt began; for a task that never began, when that was clear.
        ended: When it was settled.
    """

    model_config = ConfigDict(frozen=True)

    task: str
    status: Status
    output: Any = None
    agent: str | None = None
    error: str | None = None
    attempts: tuple[Attempt, ...] = ()
    reviews: tuple[Review, ...] = ()
    added: tuple[Added, ...] = ()
    decisions: tuple[Decision, ...] = ()
    resolutions: tuple[Resolution, ...] = ()
    edited: bool = False
    started: datetime
    ended: datetime

    @property
    def usage(self) -> Usage:
        """The calls of language models that all its attempts made."""
        return sum((attempt.usage for attempt in self.attempts), Usage())

    @property
    def ok(self) -> bool:
        """Whether there is an output."""
        return self.status is Status.SUCCEEDED

    def unwrap(self) -> Any:
        """Return the output.

        Raises:
            TaskUnsuccessful: The task did not succeed; the message says why.
        """
        if not self.ok:
            raise TaskUnsuccessful(failure(self))
        return self.output


def added_by(results: Iterable[Mapping[str, Any]]) -> list[Added]:
    """The tasks that agents have added to a plan, from their results as JSON."""
    return [Added.model_validate(each) for raw in results for each in raw.get("added", ())]


def grown(plan: Plan, added: Iterable[Added]) -> Plan:
    """A plan with the tasks that agents have added to it by handing work on; the same plan if there are no others."""
    new = [each for each in added if each.task.id not in plan.by_id]
    if not new:
        return plan
    tasks = {task.id: task for task in plan.tasks}
    for each in sorted(new, key=lambda each: (len(each.task.id), each.task.id)):
        asker, one = each.task.added_by or "", each.task
        for task in list(tasks.values()):
            if task.id == asker if each.for_asker else asker in task.needs and task.added_by is None:
                needs, optional = (*task.needs, one.id), task.optional | {one.id}
                tasks[task.id] = task.model_copy(update={"needs": needs, "optional": optional})
        tasks[one.id] = one
    return plan.model_copy(update={"tasks": tuple(tasks.values())}).checked()


def unlike(plan: Plan | None, results: Iterable[Result]) -> list[Resolution]:
    """How all contradictions of a turn were settled, each once."""
    found: list[Resolution] = []
    for each in (*(plan.resolutions if plan else ()), *(one for result in results for one in result.resolutions)):
        if all(each.conflict != other.conflict for other in found):
            found.append(each)
    return found


def aborted(results: Iterable[Result]) -> str:
    """Why a person gave the whole run up; empty if nobody did."""
    for result in results:
        if any(decision.do == "abort" for decision in result.decisions):
            return f"the run was aborted at {result.task!r}: {result.error}"
    return ""


def used(plan: Plan | None, results: Iterable[Result]) -> Usage:
    """The calls of language models that a turn has made so far."""
    return sum((result.usage for result in results), plan.usage if plan is not None else Usage())


def failure(result: Result) -> str:
    """Say of a task without output how it ended and why, in one line."""
    why = result.error or "no reason recorded"
    return why if why.startswith(f"{result.task} ") else f"{result.task} {result.status}: {why}"
