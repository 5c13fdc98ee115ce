"""The only place where agent code is called: timeout, retry, validation, breaker, fallback, work handed on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from orchestra.agents import Agent, Binding, bind
from orchestra.assignments import Assignment, Memo
from orchestra.claims import Held, Resolution
from orchestra.dataflow import Updates
from orchestra.decisions import Decision
from orchestra.errors import (
    AgentError,
    AttemptTimeout,
    BudgetExceeded,
    MalformedOutput,
    NoCapableAgent,
    PersonRefused,
    WorkflowError,
)
from orchestra.events import AttemptFailed, Event, FellBack, TaskStarted, TrialAwaited
from orchestra.health import order
from orchestra.invoking import Declined, Returned, arguments, failure_of, invoke, told_apart
from orchestra.metering import Scope
from orchestra.outputs import decode, deliver, encode
from orchestra.places import first_free, has_place, place_of
from orchestra.questions import Question
from orchestra.retrying import describe, pause_before, wait, worth_another
from orchestra.tasks import Added, Attempt, Delegate, Result, Review, Task, Usage, now
from orchestra.vitals import Change, Condition

PATIENCE = 60.0
"""Seconds that a task waits for the trial of agents that are open, where nobody else can do it."""

MOST_HANDED_ON = 4
"""How often one task may hand on work: an agent that goes on doing so has no answer of its own."""


class Journal(Protocol):
    """Durable record beside the results: of attempts, for agents that ask for it, and of what came half-way."""

    async def started(self, attempt: Attempt) -> None:
        """Return when the start of an attempt is stored."""
        ...

    async def ended(self, attempt: Attempt) -> None:
        """Return when the end of an attempt is stored."""
        ...

    def crashed(self, agent: str) -> Sequence[Attempt]:
        """Attempts of this task on this agent that started in an earlier process and never ended."""
        ...

    async def spent(self, attempt: Attempt, usage: Usage) -> None:
        """Return when it is stored what an attempt that goes on has used so far."""
        ...

    def cut_off(self) -> Sequence[Attempt]:
        """Attempts of this task that used models for a budget, and were cut off or suspended before their end."""
        ...

    async def keep(self, event: str, number: int, what: Mapping[str, Any]) -> None:
        """Return when something is stored that must not be done again for what comes after it.

        Args:
            event: What it is: "draft", which a reviewer asks a person about, or "delegate", work handed on.
            number: The round it belongs to.
            what: As JSON.
        """
        ...

    def kept(self, event: str, number: int) -> Mapping[str, Any] | None:
        """What was stored so before this task was suspended or cut off."""
        ...

    async def skip_answers(self, event: str, number: int) -> None:
        """Pass over the answers that LangGraph's `interrupt` gave to what is kept and not done again."""
        ...


@dataclass(slots=True, kw_only=True)
class Job:
    """Everything one task needs to be carried out.

    Attributes:
        task: The task.
        candidates: Agents that may do it, best first.
        available: The output types of its inputs, by task id.
        draft: The task whose draft is to be reviewed, if this is a review.
        assignment: What agents receive; attempts and rejections are filled in.
        config: LangGraph's config of the node, handed on to Runnables and teams.
        emit: Takes the events. Their `path` is already known to it.
        ready: Called when an attempt has its place and is about to begin; may raise to defer the task.
        left: The seconds that the run's budget leaves, if it has one.
        call_team: Runs a team once.
        scope: Makes the scope of an attempt, by the assignment, the agent and the attempt's number.
        others: Who else may do a task, given those who found it out of their scope.
        hand_on: Has a part of the work done by another agent, or says why not.
        equals: How many of the first candidates are as good as the first: the one with a free place gets the task.
        hurried: Whether there is nothing to wait for between tries, because a recording is played back.
        patient: Whether to wait for the trial of agents that are open where nobody else can do it.
        decide: Asks a person, by the number of the question about this task, and returns the answer; the function
            that it is given raises for one that can't be used.
        may_ask: Whether a person may be asked about work that nobody could do: not after the run was given up, nor
            where a budget is what it lacks.
        abort: Gives the whole run up, with the reason.
        stand_ins: Who else delivers what an agent does.
        tell_health: Tells that an agent's condition has changed.
        settle: Settles what contradicts among some claims.
        journal: The durable record of attempts.
        check_updates: Raises for updates of the state that can't be made.
        updates: What the task, and a review of it, write to the user's own keys of the state, by task.
        memos: What is to be remembered of the user, by task like the updates.
        added: Tasks that this one added to the plan.
        decisions: What persons have decided of it.
        resolutions: How contradictions among its replicas were settled.
    """

    task: Task
    candidates: Sequence[Agent]
    available: Mapping[str, Any]
    assignment: Assignment
    config: RunnableConfig
    emit: Callable[[type[Event], Mapping[str, Any]], None]
    ready: Callable[[], None]
    left: Callable[[], float | None]
    call_team: Callable[[Agent, Assignment, Mapping[str, Any], Scope], Awaitable[Any]]
    scope: Callable[[Assignment, Agent, int], Scope]
    others: Callable[[Task, Collection[str]], Sequence[Agent]]
    hand_on: Callable[[Job, Agent, Delegate], Awaitable[tuple[Task, Result]]]
    decide: Callable[[Job, int, Question, Callable[[Any], None]], Awaitable[Any]]
    may_ask: Callable[[], bool]
    abort: Callable[[str], None]
    stand_ins: Callable[[Agent | None], Sequence[Agent]]
    tell_health: Callable[[Agent, Change], None]
    settle: Callable[[Sequence[Held]], Awaitable[Sequence[Resolution]]]
    journal: Journal
    check_updates: Callable[[Updates], None]
    draft: str = ""
    hurried: bool = False
    patient: bool = True
    equals: int = 1
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    reviews: list[Review] = field(default_factory=list[Review])
    updates: dict[str, Updates] = field(default_factory=dict[str, Updates])
    memos: dict[str, Sequence[Memo]] = field(default_factory=dict[str, Sequence[Memo]])
    added: list[Added] = field(default_factory=list[Added])
    decisions: list[Decision] = field(default_factory=list[Decision])
    resolutions: list[Resolution] = field(default_factory=list[Resolution])


def beside(job: Job, name: str) -> dict[str, Any]:
    """What a task wrote beside its output so far, as JSON."""
    return {
        "updates": [[key, value] for key, value in job.updates.get(name, ())],
        "memos": [memo.model_dump(mode="json") for memo in job.memos.get(name, ())],
    }


def restore(job: Job, name: str, stored: Mapping[str, Any]) -> None:
    """Take up again what a task wrote beside its output before it was cut off."""
    job.updates[name] = [(key, value) for key, value in stored["updates"]]
    job.memos[name] = [Memo.model_validate(memo) for memo in stored["memos"]]


def named(job: Job, name: str) -> Agent:
    """The agent of this name that may do the task, or may have done it."""
    first = job.candidates[0]
    return next((agent for agent in (*job.candidates, *job.stand_ins(first)) if agent.name == name), first)


async def delivered(job: Job) -> tuple[Agent, Any]:
    """The first validated output and whose it is; what an agent hands on is done by another meanwhile.

    Raises:
        AgentError: Nobody delivered.
    """
    number = 0
    while True:
        number += 1
        agent, returned = await _asked(job, number)
        if returned.handed_on is None:
            return agent, returned.output
        if number > MOST_HANDED_ON:
            raise AgentError(f"{agent.name} handed on work {MOST_HANDED_ON} times and still had no output of its own")
        task, result = await job.hand_on(job, agent, returned.handed_on)
        job.added.append(Added(task=task, for_asker=not returned.finished))
        if returned.finished:
            return agent, returned.output
        job.assignment = replace(job.assignment, delegated=(*job.assignment.delegated, result))


async def _asked(job: Job, number: int) -> tuple[Agent, Returned]:
    """What an agent returned; what it returned before the task was cut off, if it handed on work then."""
    key = f"delegate{job.assignment.idempotency_key.rpartition('/')[2]}"
    if (stored := job.journal.kept(key, number)) is not None:
        agent = named(job, stored["agent"])
        restore(job, job.task.id, stored)
        add(job, (Attempt.model_validate(attempt) for attempt in stored["attempts"]))
        output = decode(agent, stored["output"]) if stored["finished"] else None
        return agent, Returned(output, (), Delegate(**stored["delegate"]), stored["finished"])
    before = len(job.attempts)
    agent, returned = await _first_success(job)
    if returned.handed_on is not None:
        what = {
            "agent": agent.name,
            "delegate": asdict(returned.handed_on),
            "finished": returned.finished,
            "output": encode(agent, returned.output) if returned.finished else None,
            "attempts": [attempt.model_dump(mode="json") for attempt in job.attempts[before:]],
        }
        await job.journal.keep(key, number, {**what, **beside(job, job.task.id)})
    return agent, returned


def add(job: Job, attempts: Iterable[Attempt]) -> None:
    """Put attempts of an earlier process on record, each once, in the form that tells more."""
    known = {(attempt.agent, attempt.started): at for at, attempt in enumerate(job.attempts)}
    for attempt in attempts:
        at = known.get((attempt.agent, attempt.started))
        if at is None:
            job.attempts.append(attempt)
        else:
            usage = max(attempt.usage, job.attempts[at].usage, key=lambda used: used.calls)
            job.attempts[at] = attempt.model_copy(update={"usage": usage})


async def _first_success(job: Job) -> tuple[Agent, Returned]:
    """Try agents, the best in health first; return what the first one returned whose output is valid.

    An agent that is open gets nothing; where no other is left, its trial is waited for.

    Raises:
        AgentError: Nobody delivered.
    """
    reasons: list[str] = []
    tries: dict[str, int] = {}
    declined = False
    queue = [*job.candidates]
    previous: Agent | None = None
    while queue:
        agent = await first_free(partial(_next, job, queue), job.ready) or await _recovered(job, queue)
        if agent is None:
            reasons += [f"{sick.name} gets no work: {'; '.join(sick.health.reasons)}" for sick in queue]
            break
        queue.remove(agent)
        tries.setdefault(agent.name, 0)
        try:
            bindings = bind(agent, job.available, first=job.draft)
        except WorkflowError as error:  # an agent of another signature can't stand in here
            reasons.append(f"{agent.name} can't take these inputs ({error})")
            continue
        if previous is not None and previous is not agent:
            told = {"from_agent": previous.name, "to_agent": agent.name, "reason": reasons[-1]}
            job.emit(FellBack, {"task": job.task.id, **told})
        before, previous = previous, agent
        try:
            return agent, await _attempts_on(job, agent, bindings, tries[agent.name])
        except Closed as closed:
            if closed.tries and queue:
                reasons.append(str(closed))
                continue
            previous = agent if closed.tries else before  # it was closed between the choice and the attempt
            tries[agent.name] = closed.tries
            queue.append(agent)
        except PersonRefused:
            raise
        except AgentError as error:
            reasons.append(str(error))
            declined = declined or isinstance(error.__cause__, Declined)
        if declined and not queue:  # whoever was named can't do it: see who else could
            queue = [other for other in job.others(job.task, tries) if other.name not in tries]
    if not reasons:
        raise NoCapableAgent(f"no agent on the roster can do task {job.task.id!r}")
    raise AgentError("; then ".join(reasons))


def _next(job: Job, queue: Sequence[Agent]) -> list[Agent]:
    """Who may try next: the best in health, and those that are as good."""
    if job.hurried:  # played back: as it was
        return [queue[0]]
    if len(queue) == 1:  # nothing to choose: the usual case
        return [*queue] if queue[0].health.admits() else []
    by_name = {agent.name: agent for agent in queue}
    names = order([*by_name], {name: agent.health for name, agent in by_name.items()})
    # Nobody waits in line for a trial while others are free.
    names.sort(key=lambda name: by_name[name].health.condition is Condition.HALF_OPEN and not has_place(by_name[name]))
    first = [by_name[name] for name in names[:1]]
    equals = [agent for agent in job.candidates[: job.equals] if agent.name in names]
    best = [agent for agent in equals if agent.health.condition is first[0].health.condition]
    return best if first and first[0] in best else first


async def _recovered(job: Job, queue: Sequence[Agent]) -> Agent | None:
    """Wait until an agent that is open may be tried again; `None` if that takes too long."""
    clock = asyncio.get_running_loop().time
    end = clock() + (PATIENCE if job.patient else 0)
    if job.patient:
        until = min((at for agent in queue if (at := agent.health.opens_until) is not None), default=None)
        told = {"task": job.task.id, "agents": tuple(agent.name for agent in queue), "until": until}
        job.emit(TrialAwaited, told)
    while clock() < end:
        await wait(0.05, job.ready)
        if able := _next(job, queue):
            return able[0]
        trials = [agent.health.opens_until for agent in queue]
        if all(at is not None and (at - now()).total_seconds() > end - clock() for at in trials):
            return None
    return None


async def _attempts_on(job: Job, agent: Agent, bindings: Sequence[Binding], done: int) -> Returned:
    """Try one agent until it delivers, its retries are used up, or the failure is not worth a retry.

    Raises:
        Closed: It gets no work just now.
    """
    policy = agent.retry
    # A team is called once: what failed inside has been retried inside.
    tries = 1 if agent.is_team else policy.max_attempts
    if agent.max_crashes is not None:
        crashed = job.journal.crashed(agent.name)
        add(job, crashed)
        if len(crashed) >= agent.max_crashes:
            raise AgentError(f"{agent.name} went down with the process {len(crashed)} times on this task")
    failed = ""
    for number in range(done + 1, tries + 1):
        try:
            returned, attempt, error = await _one_attempt(job, agent, bindings, number)
        except Closed:
            raise Closed(failed, number - 1) from None
        job.attempts.append(attempt)
        if error is None:
            return returned
        failed = f"{agent.name} failed at try {number}: {attempt.error}; now it gets no work"
        again = number < tries and not isinstance(error, Declined) and worth_another(policy, error)
        closed = again and not job.hurried and not agent.health.admits()
        pause = pause_before(policy, number, error) if again and not closed else None
        job.emit(AttemptFailed, {"task": job.task.id, "attempt": attempt, "retry_in": pause})
        if closed:
            raise Closed(failed, number) from error
        if pause is None:
            times = "" if number == 1 else f" at try {number}"
            how = "finds the task" if isinstance(error, Declined) else f"failed{times}:"
            if isinstance(error, PersonRefused):
                raise PersonRefused(attempt.error) from error
            raise AgentError(f"{agent.name} {how} {attempt.error}") from error
        await wait(0 if job.hurried else pause, job.ready)
    raise AssertionError("unreachable: the last try returns or raises")


class Closed(AgentError):
    """An agent gets no work just now; so many of its tries were made."""

    def __init__(self, why: str = "", tries: int = 0) -> None:
        super().__init__(why)
        self.tries = tries


async def _one_attempt(
    job: Job, agent: Agent, bindings: Sequence[Binding], number: int
) -> tuple[Returned, Attempt, Exception | None]:
    """One try, timed from the moment it has its place. What suspends or cancels the node passes through."""
    async with place_of(agent):
        job.ready()
        ticket = None if job.hurried else agent.health.admit()
        if ticket is None and not job.hurried:
            raise Closed
        outcome, why, clock = "cancelled", "", asyncio.get_running_loop().time
        began = clock()
        try:
            if ticket is not None and ticket.change is not None:
                job.tell_health(agent, ticket.change)
            returned, attempt, error = await _worked(job, agent, bindings, number)
            outcome, why = _counts(attempt.outcome, error), attempt.error or ""
        finally:
            if ticket is not None:
                change = agent.health.record(ticket, outcome, clock() - began, why)
                if change is not None:
                    job.tell_health(agent, change)
    return returned, attempt, error


def _counts(outcome: str, error: Exception | None) -> Any:
    """How an attempt counts for its agent's health: a budget that is used up says nothing of the agent."""
    return "cancelled" if isinstance(error, BudgetExceeded | PersonRefused) else outcome


async def _worked(
    job: Job, agent: Agent, bindings: Sequence[Binding], number: int
) -> tuple[Returned, Attempt, Exception | None]:
    started = now()
    if agent.max_crashes is not None:
        await job.journal.started(Attempt(agent=agent.name, number=number, started=started, seconds=0.0))
    job.emit(TaskStarted, {"task": job.task.id, "agent": agent.name, "attempt": number})
    assignment = replace(job.assignment, attempt=number, notes=[])  # what a failed try noted is forgotten
    scope = job.scope(assignment, agent, number)
    scope.spent = partial(job.journal.spent, Attempt(agent=agent.name, number=number, started=started, seconds=0.0))
    clock = asyncio.get_running_loop().time
    began = clock()
    returned = Returned(None)
    error: Exception | None = None
    try:
        returned = told_apart(await _timed(job, agent, bindings, assignment, scope))
        if returned.finished:
            returned = replace(returned, output=deliver(agent, returned.output))
        if returned.updates:
            job.check_updates(returned.updates)
        job.updates[job.task.id] = returned.updates
        job.memos[job.task.id] = [*assignment.notes]
    except BaseException as caught:
        if (error := failure_of(caught)) is None:  # the node is suspended or cancelled: no failure, and no crash
            if agent.max_crashes is not None:
                ended = Attempt(agent=agent.name, number=number, started=started, seconds=clock() - began)
                await asyncio.shield(job.journal.ended(ended))
            raise
    attempt = Attempt(
        agent=agent.name,
        number=number,
        started=started,
        seconds=clock() - began,
        outcome=_outcome(error),
        error=error and describe(error),
        notes=tuple(scope.notes),
        usage=scope.usage,
    )
    if agent.max_crashes is not None:
        await job.journal.ended(attempt)
    return returned, attempt, error


def _outcome(error: Exception | None) -> Literal["ok", "error", "timeout", "malformed", "declined"]:
    if error is None:
        return "ok"
    if isinstance(error, AttemptTimeout):
        return "timeout"
    if isinstance(error, Declined):
        return "declined"
    return "malformed" if isinstance(error, MalformedOutput) else "error"


async def _timed(job: Job, agent: Agent, bindings: Sequence[Binding], assignment: Assignment, scope: Scope) -> Any:
    left = job.left()
    seconds = min((each for each in (agent.timeout, left) if each is not None), default=None)
    if seconds is None:
        return await _call(job, agent, bindings, assignment, scope)
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await _call(job, agent, bindings, assignment, scope)
    except TimeoutError as error:
        if not limit.expired():
            raise
        if seconds == agent.timeout:
            raise AttemptTimeout(f"no output within {seconds:g} s") from error
        raise BudgetExceeded("the run's budget of time was used up while it worked") from error


async def _call(job: Job, agent: Agent, bindings: Sequence[Binding], assignment: Assignment, scope: Scope) -> Any:
    if agent.is_team:  # what is called inside belongs to the attempts inside
        return await job.call_team(agent, assignment, arguments(bindings, assignment), scope)
    config: RunnableConfig = {**job.config, "metadata": scope.labels(job.config)}
    token = var_child_runnable_config.set(config)  # what models are called with in the agent's own code
    try:
        with scope:
            return await invoke(agent, bindings, assignment, config)
    finally:
        var_child_runnable_config.reset(token)
